"""Machinery: state, step, optimisers, checkpoints, logs; it knows no family."""
