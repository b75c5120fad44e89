"""Denoising diffusion: the method, its tasks and its config."""
