"""Metrics: numbers computed from NumPy arrays of samples, features or likelihoods."""
