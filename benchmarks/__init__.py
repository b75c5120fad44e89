"""Benchmarks; see docs/performance.md. Run from the repository's root."""
