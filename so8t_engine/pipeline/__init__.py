"""The eight-step pipeline: a resumable graph from sources to an uploaded, tested model."""
