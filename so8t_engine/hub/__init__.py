"""Uploading a finished run to the Hugging Face Hub, and a local stand-in for it."""
