"""Objectives of GANs and autoencoders: pure functions of arrays."""
