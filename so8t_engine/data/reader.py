"""Rows from a file, a folder, a Hub data set or the embedded data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from so8t_engine.data.formats import ENDINGS, READERS, TEXT_ENDINGS
from so8t_engine.data.rows import Row, parse_record
from so8t_engine.data.textfile import check_start
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.paths import resources_dir
from so8t_engine.plain_text import visible
from so8t_engine.safe_paths import is_folder, is_hub_id, is_there, leaves

EMBEDDED = "embedded:"
HUB = "hub:"
SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "eval"),
}


def embedded_path(name: str) -> Path:
    """The folder of the embedded data set ``name``."""
    folder = resources_dir() / "data" / name
    known = sorted(path.name for path in (resources_dir() / "data").glob("*") if path.is_dir())
    if name not in known:
        raise DataError(
            _("There is no embedded data set '%(name)s'.") % {"name": name},
            _("The embedded data sets are: %(names)s.") % {"names": ", ".join(known)},
        )
    return folder


def split_file(folder: Path, split: str) -> Path | None:
    """The file of ``folder`` that holds ``split`` (train.jsonl, val.csv …), or None.

    Raises:
        DataError: several files could be meant.
    """
    stems = SPLIT_NAMES.get(split, (split,))
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.stem.lower() in stems and path.suffix.lower() in ENDINGS
    )
    if len(found) > 1:
        raise DataError(
            _("%(folder)s holds several files for the split '%(split)s': %(names)s.")
            % {"folder": folder, "split": split, "names": ", ".join(path.name for path in found)},
            _("Leave one of them, or name the file."),
        )
    return found[0] if found else None


def _rows_of(records: Iterable[tuple[int, object]], source: str) -> list[Row]:
    rows: list[Row] = []
    for line, record in records:
        try:
            rows.append(parse_record(record, source, line))
        except RecursionError as error:
            raise DataError(
                _("%(source)s, line %(line)d: the record is nested too deeply to be read.")
                % {"source": source, "line": line}
            ) from error
    if not rows:
        raise DataError(_("%(path)s holds no rows.") % {"path": source}, _("Choose a file with rows."))
    return rows


def _kind(path: Path, fmt: str) -> str:
    """The format of ``path``. Raises `DataError` where it is not known, or there is no such file."""
    kind = ENDINGS.get(path.suffix.lower()) if fmt == "auto" else fmt
    if kind is None or kind not in READERS:
        if fmt == "auto" and not is_there(path):
            raise DataError(
                _("There is no file %(path)s.") % {"path": path}, _("Check the path of the rows.")
            )
        raise DataError(
            _("%(path)s has no ending that tells its format.") % {"path": path}
            if fmt == "auto"
            else _("There is no format '%(format)s'.") % {"format": fmt},
            _("Set data.format to one of: auto, %(names)s.") % {"names": ", ".join(READERS)},
        )
    return kind


def read_file(path: Path, fmt: str = "auto") -> list[Row]:
    """The rows of one file. ``fmt`` is auto (by ending), jsonl, csv, parquet or text."""
    return _rows_of(READERS[_kind(path, fmt)](path), str(path))


def _files_of(folder: Path, fmt: str, split: str | None) -> list[tuple[Path, str]]:
    """What is read of a folder, each file with its format."""
    chosen = split_file(folder, split or "train")
    if chosen is not None:
        _refuse_link(folder, chosen)
        return [(chosen, fmt)]
    if split not in (None, "train"):
        raise DataError(
            _("%(folder)s holds no file for the split '%(split)s'.") % {"folder": folder, "split": split},
            _("Name a file such as %(name)s.jsonl there.") % {"name": split},
        )
    texts = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in TEXT_ENDINGS
    )
    for path in texts:
        _refuse_link(folder, path)
    filled = [path for path in texts if path.stat().st_size > 0]
    if not filled:
        raise DataError(
            _("%(folder)s holds neither a train file nor texts (.txt, .md).") % {"folder": folder},
            _("Put train.jsonl, train.csv or train.parquet there, or text files."),
        )
    return [(path, "text") for path in filled]


def _files(path_or_id: str, fmt: str, split: str | None) -> list[tuple[Path, str]]:
    """The files of a source on this computer, each with its format."""
    if path_or_id.startswith(EMBEDDED):
        return _files_of(embedded_path(path_or_id.removeprefix(EMBEDDED)), "auto", split)
    if "\x00" in path_or_id:
        raise DataError(_("The path of the rows holds a NUL character."), _("Check the path of the rows."))
    path = Path(path_or_id).expanduser()
    return _files_of(path, fmt, split) if is_folder(path) else [(path, fmt)]


def check_source(path_or_id: str, fmt: str = "auto", split: str | None = None) -> None:
    """Raise the `DataError` that `read_rows` would, as far as it is seen without reading rows.

    The network is not asked. Takes milliseconds, but for a folder of very many texts or a slow share.
    """
    if path_or_id.startswith(HUB):
        _check_hub_id(path_or_id.removeprefix(HUB))
        return
    try:
        for path, kind in _files(path_or_id, fmt, split)[:1]:
            _kind(path, kind)
            check_start(path)
    except OSError as error:
        raise DataError(
            _("%(path)s cannot be read: %(why)s.") % {"path": path_or_id, "why": error.strerror or error},
            _("Check that it is a file and that you may read it."),
        ) from error


def _check_hub_id(name: str) -> None:
    """A name such as ``../x`` would be read as a folder of this computer."""
    if not is_hub_id(name):
        raise DataError(
            _("'%(name)s' is no Hub data set.") % {"name": visible(name, 120)}, _("Write hub:owner/name.")
        )


def _refuse_link(folder: Path, path: Path) -> None:
    """A link in somebody's data folder must not bring this person's other files into the training."""
    if path.is_symlink() and leaves(folder, path):
        raise DataError(
            _("%(path)s is a link that leads out of the data folder.") % {"path": visible(str(path))},
            _("Put the file itself there, or name it as the training rows."),
        )


def _hub_rows(name: str, split: str | None, revision: str | None) -> list[Row]:
    _check_hub_id(name)
    import datasets

    wanted = split or "train"
    try:
        loaded: Any = datasets.load_dataset(name, split=wanted, revision=revision)
        rows = _rows_of(enumerate((dict(record) for record in loaded), start=1), f"hub:{name}/{wanted}")
    except DataError:
        raise
    except Exception as error:  # the library raises its own, huggingface_hub's, pyarrow's and OS errors
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            _("The Hub data set %(name)s (split %(split)s) cannot be loaded: %(why)s.")
            % {"name": name, "split": wanted, "why": first.rstrip(".")},
            _("Check the name, the split and the network; offline, download it and give the folder's path."),
        ) from error
    return rows


def read_rows(
    path_or_id: str, *, fmt: str = "auto", split: str | None = None, revision: str | None = None
) -> list[Row]:
    """All rows of one source.

    Args:
        path_or_id: a file (JSON lines, JSON, CSV, TSV, Parquet, text), a folder (with files named for
            their split, or with texts), ``hub:owner/name``, or ``embedded:four_class``.
        fmt: auto, jsonl, csv, parquet or text.
        split: which split of a folder or data set; train where none is named. A single file has none,
            and the argument is then without effect.
        revision: the Hub revision.

    Raises:
        DataError: with file, line and field where a record cannot be used.
    """
    if path_or_id.startswith(HUB):
        return _hub_rows(path_or_id.removeprefix(HUB), split, revision)
    return [row for path, kind in _files(path_or_id, fmt, split) for row in read_file(path, kind)]


def has_split(path_or_id: str, split: str) -> bool:
    """Whether the source itself brings ``split`` along (a Hub data set is asked over the network)."""
    if path_or_id.startswith(HUB):
        _check_hub_id(path_or_id.removeprefix(HUB))
        import datasets

        try:
            names = datasets.get_dataset_split_names(path_or_id.removeprefix(HUB))
        except Exception as error:  # as in _hub_rows
            raise DataError(
                _("The splits of the Hub data set %(name)s cannot be listed: %(why)s.")
                % {"name": path_or_id.removeprefix(HUB), "why": (str(error).splitlines() or [""])[0][:200]},
                _("Check the name and the network; offline, download it and give the folder's path."),
            ) from error
        return split in names
    if path_or_id.startswith(EMBEDDED):
        return split_file(embedded_path(path_or_id.removeprefix(EMBEDDED)), split) is not None
    path = Path(path_or_id).expanduser()
    return is_folder(path) and split_file(path, split) is not None
