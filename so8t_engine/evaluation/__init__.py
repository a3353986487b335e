"""Held-out results: computed on rows that were not trained on, beside a baseline."""
