"""Forms drawn from the typed configuration."""
