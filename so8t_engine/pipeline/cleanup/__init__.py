"""Cleanup: only what this pipeline made, by manifest, after saying what and how much."""
