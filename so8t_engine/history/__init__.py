"""Runs as a collection: what a person wrote about them, a searchable index, comparison, removal with undo."""
