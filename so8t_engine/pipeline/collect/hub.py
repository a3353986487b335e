"""Hub data sets through ``datasets``: streamed, at a pinned revision; or a data set's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from so8t_engine.i18n import _
from so8t_engine.pipeline.collect.licences import licence_name
from so8t_engine.pipeline.collect.local import Taken, picture_record, text_record
from so8t_engine.pipeline.collect.settings import SourceSettings
from so8t_engine.pipeline.errors import PipelineError, TransientError

_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
_CAPTION_FIELDS = ("caption", "text", "description", "sentence")


def hub_records(source: SourceSettings, start: int, retrieved: float) -> Iterator[Taken]:
    """Records of a Hub data set from number ``start`` on.

    Raises:
        PipelineError: no revision, an unknown name, or a data set that would need code of its own.
        TransientError: the Hub cannot be reached.
    """
    local = Path(source.location).expanduser()
    is_folder = local.is_dir()
    if not is_folder and not _NAME.fullmatch(source.location):
        raise PipelineError(
            _("'%(name)s' is no Hub data set.") % {"name": source.location}, _("Write owner/name.")
        )
    if not is_folder and not source.revision:
        raise PipelineError(
            _("The Hub data set %(name)s has no revision.") % {"name": source.location},
            _("Set the source's revision to the commit shown on the data set's page."),
        )
    licence = licence_name(source.licence) or _card_licence(source, local if is_folder else None)
    source = source.model_copy(update={"licence": licence})
    base = f"hub:{local.name if is_folder else source.location}@{source.revision or 'folder'}/{source.split}"
    with _without_torch():
        stream = _open(source, is_folder)
        features = getattr(stream, "features", None) or {}
        picture = next((name for name, kind in features.items() if type(kind).__name__ == "Image"), None)
        if picture is not None:
            import datasets

            stream = stream.cast_column(picture, datasets.Image(decode=False))
        try:
            for number, record in enumerate(stream.skip(start), start=start + 1):
                if picture is None:
                    yield text_record(source, dict(record), f"{base}:{number}", f"{base}:{number}", retrieved)
                else:
                    yield _picture(source, record, picture, f"{base}:{number}", retrieved)
        except (OSError, ConnectionError, TimeoutError) as error:
            raise _unreachable(source, error) from error


@contextmanager
def _without_torch() -> Iterator[None]:
    """Streams of ``datasets`` import torch, for loaders that nobody uses here: 200 MB that would stay."""
    import datasets

    before = datasets.config.TORCH_AVAILABLE
    datasets.config.TORCH_AVAILABLE = False
    try:
        yield
    finally:
        datasets.config.TORCH_AVAILABLE = before


def _open(source: SourceSettings, is_folder: bool) -> Any:  # noqa: ANN401  (datasets is untyped)
    import datasets

    try:
        return datasets.load_dataset(
            source.location,
            revision=None if is_folder else source.revision,
            split=source.split,
            streaming=True,
        )
    except (ConnectionError, TimeoutError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise PipelineError(
                _("The data set %(name)s holds no rows that can be read.") % {"name": source.location},
                _("Check its name, revision and split."),
            ) from error
        raise _unreachable(source, error) from error
    except (ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PipelineError(
            _("The data set %(name)s cannot be read: %(why)s.")
            % {"name": source.location, "why": first.rstrip(".")},
            _("Check its name, revision and split."),
        ) from error


def _unreachable(source: SourceSettings, error: Exception) -> TransientError:
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return TransientError(
        _("The data set %(name)s cannot be reached: %(why)s.")
        % {"name": source.location, "why": first.rstrip(".")},
        _("Check the network, or download it and give the folder's path."),
    )


def _picture(
    source: SourceSettings, record: Mapping[str, Any], column: str, origin: str, retrieved: float
) -> Taken:
    value = record.get(column)
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if data is None and isinstance(value, Mapping) and value.get("path"):
        path = Path(str(value["path"]))
        data = path.read_bytes() if path.is_file() else None
    if data is None:
        return None, "no readable picture"
    caption = next((str(record[key]) for key in _CAPTION_FIELDS if record.get(key)), "")
    row_licence = licence_name(str(record.get("licence") or record.get("license") or ""))
    return picture_record(source.name, origin, data, caption, row_licence or source.licence, retrieved)


def _card_licence(source: SourceSettings, folder: Path | None) -> str:
    """The licence that the data set's card names; empty where it names none or several."""
    if folder is None:
        from huggingface_hub import HfApi

        try:
            card = HfApi().dataset_info(source.location, revision=source.revision).card_data
        except (OSError, ValueError) as error:
            raise _unreachable(source, error) from error
        value = card.get("license") if card is not None else None
    else:
        try:
            front = _FRONT.match((folder / "README.md").read_text(encoding="utf-8"))
            value = (yaml.safe_load(front.group(1)) or {}).get("license") if front else None
        except (OSError, ValueError, yaml.YAMLError, AttributeError):
            value = None
    return licence_name(value) if isinstance(value, str) else ""
