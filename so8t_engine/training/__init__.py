"""Runs: states, events, run directory, session, trainer. Importing this package imports no torch."""
