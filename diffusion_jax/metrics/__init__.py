"""Measures: averages over a data set or over samples, and pictures of them."""
