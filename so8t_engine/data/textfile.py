"""Bytes to text: UTF-8 with or without mark, or cp932; and what makes a file unreadable."""

from __future__ import annotations

from pathlib import Path

from so8t_engine.errors import DataError
from so8t_engine.i18n import _

MAX_LINE_BYTES = 32 * 1024 * 1024
START_BYTES = 1 << 16
_UNASSIGNED = set("\x80\xa0\uf8f0\uf8f1\uf8f2\uf8f3")
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        DataError: it does not exist, cannot be read, is empty or is compressed.
    """
    return _refused(_read(path), path)


def check_start(path: Path) -> None:
    """Raise what `read_bytes` would, as far as the file's beginning tells."""
    data = _read(path, START_BYTES)
    if len(data) < START_BYTES or data.strip():
        _refused(data, path)


def _read(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as error:
        raise DataError(
            _("There is no file %(path)s.") % {"path": path}, _("Check the path of the rows.")
        ) from error
    except OSError as error:
        raise DataError(
            _("%(path)s cannot be read: %(why)s.") % {"path": path, "why": error.strerror or error},
            _("Check that it is a file and that you may read it."),
        ) from error


def _refused(data: bytes, path: Path) -> bytes:
    if not data.strip():
        raise DataError(_("%(path)s is empty.") % {"path": path}, _("Choose a file with rows."))
    if data[:2] == b"\x1f\x8b" or data[:4] in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd"):
        raise DataError(_("%(path)s is compressed.") % {"path": path}, _("Unpack it first."))
    return data


def decode(data: bytes, path: Path) -> str:
    """``data`` as text: UTF-8 (a mark is dropped), else cp932.

    cp932 is taken only when the whole file decodes as it and holds kana. A file that is UTF-8 up to one bad
    byte is reported rather than guessed.

    Raises:
        DataError: names the line and the byte that fits neither, or the NUL.
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            raise DataError(
                _("%(path)s is written in %(encoding)s.") % {"path": path, "encoding": name},
                _("Save it as UTF-8."),
            )
    if b"\x00" in data:
        at = data.index(b"\x00")
        raise DataError(
            _("%(path)s, line %(line)d: byte %(byte)d of the line is NUL.") % _place(data, at, path),
            _("The file is damaged or no text file; write it again as UTF-8."),
        )
    longest = max(data.split(b"\n"), key=len)
    if len(longest) > MAX_LINE_BYTES:
        raise DataError(
            _("%(path)s, line %(line)d is %(size)d MB long; at most %(limit)d MB are read.")
            % {
                "path": path,
                "line": data[: data.index(longest)].count(b"\n") + 1,
                "size": len(longest) // 2**20,
                "limit": MAX_LINE_BYTES // 2**20,
            },
            _("Put one record on each line."),
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = error.start
    # Valid multi-byte UTF-8 before the bad byte: a damaged UTF-8 file, not cp932.
    if not any(byte >= 0x80 for byte in data[:bad]):
        try:
            text = data.decode("cp932")
        except UnicodeDecodeError as error:
            bad = max(bad, error.start)
        else:
            # Western single-byte text often decodes as rare kanji; Japanese prose has kana. Python maps the
            # bytes 0x80, 0xa0 and 0xfd to 0xff, which cp932 leaves free, to code points of their own.
            if any("\u3041" <= letter <= "\u30fa" for letter in text) and not _UNASSIGNED & set(text):
                return text
    place = _place(data, bad, path)
    raise DataError(
        _("%(path)s, line %(line)d: byte %(byte)d of the line (0x%(value)02x) is neither UTF-8 nor cp932.")
        % {**place, "value": data[bad]},
        _("Save the file as UTF-8."),
    )


def _place(data: bytes, at: int, path: Path) -> dict[str, object]:
    line_start = data.rfind(b"\n", 0, at) + 1
    return {"path": path, "line": data.count(b"\n", 0, at) + 1, "byte": at - line_start + 1}


def read_text(path: Path) -> str:
    """The text of ``path``; see `read_bytes` and `decode` for what is refused."""
    return decode(read_bytes(path), path)
