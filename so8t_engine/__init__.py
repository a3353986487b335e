"""SO8T training engine: knows nothing of Qt or of the window."""
