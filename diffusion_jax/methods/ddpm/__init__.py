"""Denoising diffusion: the method, its tasks, and how it is built from a config."""
