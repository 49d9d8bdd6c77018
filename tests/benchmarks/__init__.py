"""Benchmarks: each prints ratios to a floor in the same run. ``python -m tests.benchmarks.NAME``."""
