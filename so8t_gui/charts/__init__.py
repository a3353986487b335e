"""Charts and instruments that draw a `RunModel`."""
