"""Decoding: how sequences of tokens are drawn from a model of the next token."""
