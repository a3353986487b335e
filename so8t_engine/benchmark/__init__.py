"""Benchmarks that people can run: `so8t bench`. Figures are printed, never asserted in tests."""
