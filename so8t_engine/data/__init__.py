"""Rows: reading, splitting and encoding them. Imports neither torch nor pyarrow nor datasets."""
