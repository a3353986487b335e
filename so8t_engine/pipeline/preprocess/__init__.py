"""Preprocessing: rows that people can trust, with a count and a reason for each that is left out."""
