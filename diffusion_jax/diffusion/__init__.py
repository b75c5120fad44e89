"""Diffusion mathematics: arrays in, arrays out."""
