"""Training: state, step, optimisers, checkpoints and logs, for every family."""
