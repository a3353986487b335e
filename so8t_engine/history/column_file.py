"""Named columns of numbers in one file, read by few plain calls and only as far as they are wanted.

A zip of arrays (npz) takes a millisecond of the interpreter for each array and reads it in small pieces;
a long run has thousands. Here a column is one seek and one read straight into its memory, without the
interpreter's lock, so that several files are read at the same time.

Layout: ``MAGIC``, length and CRC-32 of the head, the head as JSON, then the columns, each at a multiple of 64
bytes and with its own CRC-32 in the head.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC = b"SO8TCOL1"
ALIGNED = 64
AT_ONCE_BYTES = 4_000_000
#: What a column may consist of; nothing else is made from a file.
KINDS = {"<f8", "<f4", "<i8", "<i2", "|u1"}
Array = npt.NDArray[Any]
Head = dict[str, Any]
_PREFIX = struct.Struct("<8sQI")


def write(out: BinaryIO, head: Mapping[str, Any], columns: Mapping[str, Array]) -> None:
    """Write ``columns``, each one-dimensional, with what ``head`` tells of them. Raises `OSError`."""
    found: dict[str, tuple[str, int, int, int]] = {}
    place = 0
    arrays = []
    for name, column in columns.items():
        array = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
        found[name] = (array.dtype.str, place, len(array), zlib.crc32(array.data))
        arrays.append(array)
        place += -(-array.nbytes // ALIGNED) * ALIGNED
    text = json.dumps({**head, "stored": found}).encode()
    out.write(_PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text)
    out.write(bytes(_start(len(text)) - _PREFIX.size - len(text)))
    for array in arrays:
        out.write(array.data)
        out.write(bytes(-array.nbytes % ALIGNED))


def read(path: Path, wanted: Callable[[str], bool] = lambda _name: True) -> tuple[Head, dict[str, Array]]:
    """The head, and the columns whose name is ``wanted``.

    Raises `OSError`; `ValueError`, `KeyError` or `TypeError` for a damaged file.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise ValueError(path)
        magic, length, crc = _PREFIX.unpack(prefix)
        if magic != MAGIC or length > size:
            raise ValueError(path)
        text = file.read(length)
        if zlib.crc32(text) != crc:
            raise ValueError(path)
        head: Head = json.loads(text)
        start = _start(length)
        # In one go where all is wanted: each call may have to wait for the interpreter's lock. A large file
        # is not: one column that is kept would keep all of them.
        body = None
        if 0 <= size - start <= AT_ONCE_BYTES and all(wanted(name) for name in head["stored"]):
            body = np.empty(size - start, np.uint8)
            _fill(file, start, body)
        columns = {}
        for name, (kind, place, count, sum_) in head["stored"].items():
            if not wanted(name):
                continue
            if kind not in KINDS or not 0 <= place <= size - start or not 0 <= count <= size:
                raise ValueError(path)
            if body is None:
                column = np.empty(count, kind)
                _fill(file, start + place, column)
            else:
                column = body[place : place + count * np.dtype(kind).itemsize].view(kind)
            if len(column) != count:
                raise ValueError(path)
            if zlib.crc32(column.data) != sum_:
                raise ValueError(path)
            columns[name] = column
    return head, columns


def _start(length: int) -> int:
    """Where the columns begin behind a head of ``length`` bytes."""
    return -(-(_PREFIX.size + length) // ALIGNED) * ALIGNED


def _fill(file: Any, place: int, column: Array) -> None:  # noqa: ANN401  (an unbuffered binary file)
    """Read a column's bytes; a system call may hand over fewer than were asked for. Raises `ValueError`."""
    file.seek(place)
    rest = column.data.cast("B") if column.nbytes else memoryview(b"")
    while len(rest):
        got = file.readinto(rest)
        if not got:
            raise ValueError(place)
        rest = rest[got:]
