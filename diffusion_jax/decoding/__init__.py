"""Decoding from autoregressive models: sampling, greedy and beam search."""
