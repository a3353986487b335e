"""What can be found wrong before a run folder exists: the model's place and layers, the rows. No torch."""

from __future__ import annotations

from so8t_engine.config import Config
from so8t_engine.data.dataset import load_splits
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.memory.geometry import UnknownModelError, model_geometry
from so8t_engine.model.source import model_source
from so8t_engine.so8t.placement import resolve_layers


def preflight(config: Config) -> None:
    """Raise `SO8TError` if the model's folder, a layer of the gate or the rows cannot be found or read."""
    model_source(config.model)
    if config.so8t.gate_layers:
        try:
            count = model_geometry(config.model.path, config.model.revision).layers
        except UnknownModelError:
            count = None  # not downloaded yet: found when it is loaded
        if count is not None:
            resolve_layers(config.so8t.gate_layers, count)
    data = config.data
    splits = load_splits(
        data.train,
        data.validation,
        fmt=data.format,
        validation_fraction=data.validation_fraction,
        seed=config.training.seed,
        max_rows=data.max_rows,
    )
    if not splits.train:
        raise DataError(
            _("There are no training rows in %(path)s.") % {"path": data.train},
            _("Choose a file with rows, or 'embedded:four_class'."),
        )
