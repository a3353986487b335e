"""Records of one file: JSON lines, JSON, CSV, TSV, Parquet or plain text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from so8t_engine.data.rows import FIELDS
from so8t_engine.data.textfile import MAX_LINE_BYTES, read_text
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_engine.safe_paths import is_there

Numbered = tuple[int, object]
TEXT_ENDINGS = (".txt", ".md")


def _too_deep(path: Path, line: int) -> DataError:
    return DataError(
        _("%(path)s, line %(line)d: the record is nested too deeply to be read.")
        % {"path": path, "line": line},
        _("Rows are flat: text fields, or one list of messages."),
    )


class _TwiceError(ValueError):
    """A JSON object names a field twice."""


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object; JSON's parser would keep the last of two values and say nothing."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _value in pairs]
        raise _TwiceError(min(name for name in names if names.count(name) > 1))
    return found


def _twice(path: Path, name: object, line: int | None = None) -> DataError:
    what = {"path": path, "line": line, "name": visible(str(name), 60)}
    return DataError(
        _("%(path)s holds an object that names the field '%(name)s' twice.") % what
        if line is None
        else _("%(path)s, line %(line)d names the field '%(name)s' twice.") % what,
        _("Remove one of them."),
    )


def _object(text: str, path: Path, line: int, last: bool) -> object:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        # A record cut off inside a string, or after which something still had to come.
        if last and (error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()) - 1):
            shown = text.strip()[:60]
            raise DataError(
                _("%(path)s, line %(line)d ends in the middle of a record: %(text)s")
                % {"path": path, "line": line, "text": shown},
                _("The file was cut off while it was written; delete the line or copy the file again."),
            ) from error
        raise DataError(
            _("%(path)s, line %(line)d, column %(column)d is not JSON: %(why)s.")
            % {"path": path, "line": line, "column": error.colno, "why": error.msg},
            _("Write one JSON object on each line."),
        ) from error
    except RecursionError as error:
        raise _too_deep(path, line) from error
    except _TwiceError as error:
        raise _twice(path, error, line) from error
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise DataError(
            _("%(path)s, line %(line)d holds a number that cannot be read.") % {"path": path, "line": line},
            _("Correct or remove the number."),
        ) from error


def json_records(path: Path) -> Iterator[Numbered]:
    """Lines of JSON, or one JSON array (or object holding one, as in ``{"data": [...]}``)."""
    text = read_text(path)
    stripped = text.lstrip()
    whole: object = None
    if stripped.startswith("[") or (stripped.startswith("{") and path.suffix.lower() == ".json"):
        try:
            whole = json.loads(text, object_pairs_hook=_distinct)
        except RecursionError as error:
            raise _too_deep(path, 1) from error
        except json.JSONDecodeError as error:
            # "Extra data" after a first object means lines of JSON under the ending .json.
            if stripped.startswith("[") or error.msg != "Extra data":
                raise DataError(
                    _("%(path)s, line %(line)d, column %(column)d is not JSON: %(why)s.")
                    % {"path": path, "line": error.lineno, "column": error.colno, "why": error.msg},
                    _("Write one JSON array of objects, or one object on each line."),
                ) from error
        except _TwiceError as error:
            raise _twice(path, error) from error
        except ValueError as error:
            raise DataError(
                _("%(path)s holds a number that cannot be read.") % {"path": path},
                _("Correct or remove the number."),
            ) from error
    if isinstance(whole, dict):
        held = [value for value in whole.values() if isinstance(value, list)]
        rows_inside = len(held) == 1 and all(isinstance(one, dict) for one in held[0])
        # One chat record alone is a row, not a table of messages.
        whole = held[0] if rows_inside and not {"messages", "conversations"} & whole.keys() else [whole]
    if isinstance(whole, list):
        yield from enumerate(whole, start=1)
        return
    # Not splitlines(): U+2028 may stand unescaped inside a JSON string.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    for number in filled:
        yield number, _object(lines[number - 1], path, number, number == filled[-1])


def _twice_column(path: Path, name: str) -> DataError:
    return DataError(
        _("%(path)s, line 1 names the column '%(name)s' twice.") % {"path": path, "name": visible(name, 60)},
        _("Give each column a name of its own."),
    )


def table_records(path: Path, separator: str | None = None) -> Iterator[Numbered]:
    """CSV or TSV with a header line; the separator is a tab for .tsv, else a comma or semicolon."""
    text = read_text(path)
    head = text.split("\n", 1)[0]
    if separator is None:
        separator = "\t" if path.suffix.lower() == ".tsv" or "\t" in head else ","
        if separator == "," and head.count(";") > head.count(","):
            separator = ";"
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        doubled = {name for name in header if header.count(name) > 1}
        if doubled:
            raise _twice_column(path, min(doubled))
        for cells in reader:
            line = reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    _("%(path)s, line %(line)d has %(found)d fields, the header has %(wanted)d.")
                    % {"path": path, "line": line, "found": len(cells), "wanted": len(header)},
                    _("Put text that holds a separator or a line break in double quotes."),
                )
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            _("%(path)s, line %(line)d is not a table: %(why)s.")
            % {"path": path, "line": reader.line_num, "why": error},
            _("Check the quotes on that line."),
        ) from error


def parquet_records(path: Path) -> Iterator[Numbered]:
    """Rows of a Parquet file, by pyarrow."""
    if not is_there(path):
        raise DataError(_("There is no file %(path)s.") % {"path": path}, _("Check the path of the rows."))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            fields = list(file.schema_arrow)
            names = [field.name for field in fields]
            if doubled := {name for name in names if names.count(name) > 1}:
                raise _twice_column(path, min(doubled))
            # Times have no use here, and some have no counterpart in Python.
            wanted = [f.name for f in fields if f.name in FIELDS or not pa.types.is_temporal(f.type)]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise DataError(
            _("%(path)s is not a readable Parquet file: %(why)s.")
            % {"path": path, "why": str(error).splitlines()[0] if str(error) else type(error).__name__},
            _("Write or copy the file again."),
        ) from error


def text_record(path: Path) -> Iterator[Numbered]:
    """A text file is one row: language without a prompt."""
    yield 1, {"text": read_text(path).strip()}


READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    "jsonl": json_records,
    "csv": table_records,
    "parquet": parquet_records,
    "text": text_record,
}
ENDINGS: dict[str, str] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet", ".txt": "text", ".md": "text",
}  # fmt: skip
