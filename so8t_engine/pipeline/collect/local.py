"""Local files and folders: rows in any format that training reads, texts, and pictures with captions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from so8t_engine.data.formats import ENDINGS, READERS
from so8t_engine.data.reader import EMBEDDED, embedded_path, split_file
from so8t_engine.data.rows import PROMPT_FIELDS, parse_record
from so8t_engine.data.textfile import MAX_LINE_BYTES
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.pipeline.collect import pictures
from so8t_engine.pipeline.collect.licences import licence_name
from so8t_engine.pipeline.collect.records import Record
from so8t_engine.pipeline.collect.settings import SourceSettings

#: A record, or the reason for which one was refused.
Taken = tuple[Record | None, str]
_CAPTION_FIELDS = ("caption", "text", "description")
_PICTURE_FIELDS = ("file_name", "image", "path")
_LISTS = {"metadata.jsonl", "captions.jsonl"}


def place(location: str) -> Path:
    """The file or folder that ``location`` names.

    Raises:
        DataError: there is none.
    """
    if location.startswith(EMBEDDED):
        folder = embedded_path(location.removeprefix(EMBEDDED))
        return split_file(folder, "train") or folder
    path = Path(location).expanduser()
    if not path.exists():
        raise DataError(
            _("There is no file or folder %(path)s.") % {"path": location}, _("Correct the source's place.")
        )
    return path


def files_of(location: str) -> list[Path]:
    """All files of a local source, sorted; hidden ones are left out."""
    root = place(location)
    if root.is_file():
        return [root]
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def local_records(source: SourceSettings) -> Iterator[Taken]:
    """Every record of a local source, in an order that is always the same."""
    root = place(source.location)
    base = root if root.is_dir() else root.parent
    used: set[Path] = set()
    files = files_of(source.location)
    for path in files:
        if path.name in _LISTS:
            used |= {path, *(base_picture for base_picture, _c, _l in _listed(path))}
    captions = {path.with_suffix(".txt") for path in files if path.suffix.lower() in pictures.ENDINGS}
    for path in files:
        name = path.relative_to(base).as_posix()
        if path.name in _LISTS:
            for picture, caption, licence in _listed(path):
                if source.images:
                    yield _picture(source, base, picture, caption, licence)
        elif path in used:
            continue
        elif path.suffix.lower() in pictures.ENDINGS:
            if source.images:
                yield _picture(source, base, path, _side_caption(path), "")
        elif path not in captions:
            yield from _rows(source, path, name)


def _side_caption(path: Path) -> str:
    try:
        return path.with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _listed(path: Path) -> list[tuple[Path, str, str]]:
    found = []
    for record in _json_lines(path):
        if not isinstance(record, Mapping):
            continue
        name = next((str(record[key]) for key in _PICTURE_FIELDS if record.get(key)), "")
        caption = next((str(record[key]) for key in _CAPTION_FIELDS if record.get(key)), "")
        try:
            inside = (path.parent / name).resolve().is_relative_to(path.parent.resolve())
        except ValueError:  # a NUL or half of a surrogate pair
            continue
        if name and inside:
            found.append(
                (path.parent / name, caption, str(record.get("licence") or record.get("license") or ""))
            )
    return found


def _picture(source: SourceSettings, base: Path, path: Path, caption: str, licence: str) -> Taken:
    try:
        data = path.read_bytes()
        when = path.stat().st_mtime
    except OSError:
        return None, "unreadable"
    return picture_record(
        source.name, path.relative_to(base).as_posix(), data, caption,
        licence_name(licence) or licence_name(source.licence), when,
    )  # fmt: skip


def picture_record(
    source: str, origin: str, data: bytes, caption: str, licence: str, retrieved: float
) -> Taken:
    """A picture with its caption, or why it is refused."""
    if not caption.strip():
        return None, "picture without a caption"
    size = pictures.size_of(data)
    if size is None:
        return None, "no readable picture"
    record = Record(
        kind="image",
        source=source,
        origin=origin,
        document=origin,
        licence=licence,
        retrieved=retrieved,
        caption=caption.strip(),
        width=size[0],
        height=size[1],
        image=data,
        image_path=origin.rpartition("/")[2],
    )
    return record, ""


def _json_lines(path: Path) -> Iterator[object]:
    """Lines of JSON one at a time; an unreadable line comes as the error it raised."""
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            if len(line) > MAX_LINE_BYTES:
                yield ValueError("line too long")
                continue
            try:
                yield json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield error


def _rows(source: SourceSettings, path: Path, name: str) -> Iterator[Taken]:
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        yield None, "no known format"
        return
    when = path.stat().st_mtime
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        for number, record in enumerate(_json_lines(path), start=1):
            if isinstance(record, Exception):
                yield None, "unreadable record"
            else:
                yield text_record(source, record, f"{name}:{number}", f"{name}:{number}", when)
        return
    try:
        for number, record in READERS[kind](path):
            document = name if kind == "text" else f"{name}:{number}"
            yield text_record(source, record, f"{name}:{number}", document, when)
    except DataError:
        yield None, "unreadable file"


def text_record(
    source: SourceSettings, record: object, origin: str, document: str, retrieved: float
) -> Taken:
    """One record of a file or data set as a row, or why it is refused."""
    if not isinstance(record, Mapping):
        return None, "no object"
    fields: Mapping[str, Any] = record
    unlabelled = not any(fields.get(key) not in (None, "") for key in ("task", "safety"))
    # A prompt alone is worth collecting: preprocessing may label it.
    lone = unlabelled and any(fields.get(key) for key in PROMPT_FIELDS)
    try:
        row = parse_record({**fields, "safety": "safe"} if lone else fields, origin, 1)
    except (DataError, RecursionError):
        return None, "no usable row"
    licence = licence_name(str(fields.get("licence") or fields.get("license") or "")) or licence_name(
        source.licence
    )
    taken = Record(
        kind="text",
        source=source.name,
        origin=origin,
        document=document,
        licence=licence,
        retrieved=retrieved,
        prompt=row.prompt,
        response=row.response,
        system=row.system,
        task=row.task,
        safety=None if lone else row.safety,
        language=row.language,
    )
    return taken, ""


def file_marks(location: str) -> dict[str, str]:
    """Path → size and time of change, for noticing a changed source without reading it."""
    marks = {}
    for path in files_of(location):
        stat = path.stat()
        marks[path.as_posix()] = f"{stat.st_size}/{stat.st_mtime_ns}"
    return marks
