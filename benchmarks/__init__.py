"""Measure this project beside its peers; see ``python -m benchmarks --help``."""
