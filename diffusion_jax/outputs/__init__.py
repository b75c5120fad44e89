"""Outputs: files for people to look at, written from host arrays."""
