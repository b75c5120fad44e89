"""Denoising diffusion models in JAX and Flax: train, resume, sample, measure."""
