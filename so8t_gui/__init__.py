"""SO8T Control Panel: the window. Never imports torch."""
