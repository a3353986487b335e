"""Decoder layers that keep little memory: see `so8t_engine.model.lean.body`."""
