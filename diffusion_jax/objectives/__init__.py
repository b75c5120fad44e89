"""Objectives of the families other than diffusion: pure functions of arrays."""
