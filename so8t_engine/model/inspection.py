"""A model folder from a stranger, looked at before anything of it is loaded. No torch.

Refused are weights that are pickles (loading one runs its code), names in the index and links that lead out
of the folder, and safetensors headers that claim more than the file holds.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from so8t_engine.errors import ModelError, SO8TError
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_engine.safe_paths import inside, leaves

#: Endings under which weights are stored as pickles.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
INDEX = "model.safetensors.index.json"
#: Real headers hold some hundred bytes a tensor; an index lists as many names.
MAX_HEADER_BYTES = 16 * 2**20
MAX_INDEX_BYTES = 64 * 2**20


def check_model_folder(folder: Path) -> None:
    """Raise `ModelError` unless ``folder`` may be loaded."""
    # The Hub's cache keeps the contents beside its snapshots and links to them.
    also = (folder.parent.parent / "blobs",) if folder.parent.name == "snapshots" else ()
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() or path.is_symlink())
    except OSError as error:
        raise ModelError(
            _("%(path)s cannot be read: %(reason)s.")
            % {"path": str(folder), "reason": error.strerror or str(error)},
            _("Check the path and its permissions."),
        ) from error
    for path in files:
        if path.is_symlink() and leaves(folder, path, also):
            raise ModelError(
                _("%(path)s is a link that leads out of the model's folder.") % {"path": visible(str(path))},
                _("Put the file itself there, or name the folder that it lies in."),
            )
    weights = [path for path in files if path.suffix == ".safetensors"]
    pickled = [path for path in files if path.suffix.lower() in PICKLED]
    if pickled and not weights:
        raise ModelError(
            _("%(path)s is a pickle, which could run any code; it is not loaded.")
            % {"path": visible(str(pickled[0]))},
            _("Take the model's safetensors files."),
        )
    if (folder / INDEX).exists():
        _check_index(folder)
    for path in weights:
        check_safetensors(path)


def _check_index(folder: Path) -> None:
    index = folder / INDEX
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(_("it is too large"))
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) for name in names):
            raise TypeError(_("a name is no text"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            _("%(path)s is no index of weights: %(reason)s.")
            % {"path": str(index), "reason": visible(str(error), 120)},
            _("Download the model again."),
        ) from error
    for name in sorted(names):
        try:
            inside(folder, name)
        except SO8TError as error:
            raise ModelError(error.sentence, _("Do not use this model.")) from error
        if not name.endswith(".safetensors"):
            raise ModelError(
                _("%(path)s names weights that are no safetensors file: %(name)s.")
                % {"path": str(index), "name": visible(name, 120)},
                _("Take the model's safetensors files."),
            )


def check_safetensors(path: Path) -> None:
    """Raise `ModelError` if a file's header is no header, or claims more than the file holds."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            (length,) = struct.unpack("<Q", start) if len(start) == 8 else (-1,)
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise _claims(path, length if length >= 0 else 0, size)
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise TypeError
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
                raise TypeError
            if end > size - 8 - length:
                raise _claims(path, end, size)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(
            _("%(path)s cannot be read: %(reason)s.")
            % {"path": str(path), "reason": error.strerror or str(error)},
            _("Check the path and its permissions."),
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            _("%(path)s is no safetensors file: its header cannot be read.") % {"path": str(path)},
            _("Download the file again."),
        ) from error


def _claims(path: Path, claimed: int, size: int) -> ModelError:
    return ModelError(
        _("%(path)s claims %(claimed)s bytes and is a file of %(size)s.")
        % {"path": str(path), "claimed": f"{claimed:,}", "size": f"{size:,}"},
        _("It was cut off or made to mislead; download the file again."),
    )
