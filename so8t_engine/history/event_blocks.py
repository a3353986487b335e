"""Long event files as arrays: the frequent events column by column, the rare ones as lines. No Qt.

A million steps are three million lines. pyarrow reads their numbers in parallel; what it cannot take (a loss
that is written as "NaN") goes line by line through `json`, with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 16_000_000
STEP = ("step", "time", "loss", "lr", "grad_norm", "tokens_per_s", "step_s", "of")
GATE = ("step", "time", "alpha", "target", "final_target", "g")
MEMORY = (
    "step", "time", "allocated", "reserved", "device_used", "device_total", "process_rss",
    "temperature_c", "power_w", "utilisation",
)  # fmt: skip
FREQUENT = {"step": STEP, "gate": GATE, "memory": MEMORY}
NUMBERS = tuple(dict.fromkeys(name for names in FREQUENT.values() for name in names))
TERMS, CARDS = "terms.", "cards."
#: Fields that hold a number by name, with the type of the event and the prefix of their columns.
GROUPS = {"terms": ("step", TERMS), "cards": ("memory", CARDS)}
WIDTHS = dict.fromkeys(("step", "time", "of"), np.float64)
PHASE = "phase"
#: Different words of a column that are looked for in all rows at once.
MOST_WORDS = 64
Array = npt.NDArray[Any]
Columns = dict[str, Array]


@dataclass
class EventBlocks:
    """What an event file holds up to ``offset``.

    Attributes:
        frequent: for ``step``, ``gate`` and ``memory`` a list of blocks, each a mapping of columns of equal
            length; ``line`` is the event's place in the file, ``phase`` an index into ``phases``.
        rare: place and text of every other line, and of each gate event at which α has arrived.
        newest: text of the newest event of each frequent type.
    """

    offset: int = 0
    lines: int = 0
    frequent: dict[str, list[Columns]] = field(default_factory=lambda: {name: [] for name in FREQUENT})
    rare: list[tuple[int, bytes]] = field(default_factory=list)
    newest: dict[str, bytes] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)
    arrived: bool = False

    def read(self, file: BinaryIO, limit: int | None = None) -> Iterator[int]:
        """Take in complete lines from ``offset`` on, block by block; yields the offset after each."""
        while True:
            file.seek(self.offset)
            data = file.read(BLOCK_BYTES if limit is None else min(BLOCK_BYTES, limit - self.offset))
            end = data.rfind(b"\n") + 1
            if end == 0:
                if len(data) < BLOCK_BYTES:
                    return
                data += file.readline()
                end = len(data)
            self._take(data[:end])
            self.offset += end
            yield self.offset

    def _take(self, data: bytes) -> None:
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        # A blank line would shift pyarrow's rows against the lines.
        rows = None if bool((ends == starts).any()) else self._columns(data, starts, ends)
        if rows is None:
            rows = _columns_by_json([data[a:b] for a, b in zip(starts, ends, strict=True)])
        kinds, table, phases = rows
        self._split(data, starts, ends, kinds, table, phases)
        self.lines += len(ends)

    def _columns(self, data: bytes, starts: Array, ends: Array) -> tuple[Array, Columns, Array] | None:
        import pyarrow as pa
        from pyarrow import json as reader

        names: dict[str, dict[str, None]] = {}
        for group, (kind, _prefix) in GROUPS.items():
            mark = f'"type":"{kind}"'.encode()
            for last in (False, True):
                line = _line_with(data, mark, last=last)
                names.setdefault(group, {}).update(dict.fromkeys(_names_in(line, group)))
        fields = [("type", pa.string()), (PHASE, pa.string()), ("converged_at", pa.float64())]
        fields += [(name, pa.float64()) for name in NUMBERS]
        fields += [
            (group, pa.struct([(name, pa.float64()) for name in own])) for group, own in names.items() if own
        ]
        try:
            table = reader.read_json(
                pa.BufferReader(data),
                read_options=reader.ReadOptions(block_size=1 << 21),
                parse_options=reader.ParseOptions(
                    explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
                ),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(ends):
            return None
        columns = {name: _numbers(table.column(name)) for name in (*NUMBERS, "converged_at")}
        for group, own in names.items():
            if own:
                # NaN, too, where the event has no such field at all.
                for name, column in zip(own, table.column(group).flatten(), strict=True):
                    columns[GROUPS[group][1] + name] = _numbers(column)
        return _words(table.column("type")), columns, _words(table.column(PHASE))

    def _split(
        self, data: bytes, starts: Array, ends: Array, kinds: Array, table: Columns, phases: Array
    ) -> None:
        rare = np.ones(len(ends), bool)
        for kind, names in FREQUENT.items():
            chosen = np.flatnonzero(kinds == kind)
            if kind == "step":
                # A line that is no whole event counts for nothing, as with the careful reader.
                chosen = chosen[np.isfinite(table["step"][chosen]) & np.isfinite(table["of"][chosen])]
            if not len(chosen):
                continue
            rare[chosen] = False
            # Values as the charts hold them; what rows ascend along and sizes in bytes stay exact.
            block = {name: table[name][chosen].astype(WIDTHS.get(name, np.float32)) for name in names}
            block["line"] = chosen + self.lines
            for own, prefix in GROUPS.values():
                if kind == own:
                    block |= {
                        name: table[name][chosen].astype(np.float32)
                        for name in table
                        if name.startswith(prefix)
                    }
            if kind == "gate":
                block[PHASE] = self._phase_numbers(phases[chosen])
                reached = chosen[np.isfinite(table["converged_at"][chosen])]
                if len(reached) and not self.arrived:
                    self.rare.append(
                        (int(reached[0]) + self.lines, data[starts[reached[0]] : ends[reached[0]]])
                    )
                    self.arrived = True
            self.frequent[kind].append(block)
            self.newest[kind] = data[starts[chosen[-1]] : ends[chosen[-1]]]
        self.rare += [(int(i) + self.lines, data[starts[i] : ends[i]]) for i in np.flatnonzero(rare)]
        self.rare.sort(key=lambda pair: pair[0])

    def _phase_numbers(self, names: Array) -> Array:
        numbers = np.zeros(len(names), np.int16)
        for name in dict.fromkeys(names.tolist()):
            if name not in self.phases:
                self.phases.append(str(name))
            numbers[names == name] = self.phases.index(name)
        return numbers

    def joined(self, kind: str) -> Columns:
        """All blocks of a frequent type as one; a column that a block lacks is NaN there."""
        blocks = self.frequent[kind]
        if len(blocks) == 1:
            return blocks[0]
        names = dict.fromkeys(name for block in blocks for name in block)
        return {
            name: np.concatenate([block.get(name, np.full(len(block["line"]), np.nan)) for block in blocks])
            for name in names
        }


# Not with pyarrow's own `to_numpy`, which imports pandas: half a second of whoever opens a run.


def _there(chunk: Any) -> Array:  # noqa: ANN401
    """Which entries of a pyarrow array are not null."""
    valid = chunk.buffers()[0]
    if not chunk.null_count or valid is None:
        return np.full(len(chunk), not chunk.null_count)
    end = chunk.offset + len(chunk)
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), count=end, bitorder="little")
    return bits[chunk.offset :].astype(bool)


def _numbers(column: Any) -> Array:  # noqa: ANN401
    """A chunked column of float64; NaN where there is nothing."""
    parts = [np.empty(0)]
    for chunk in column.chunks:
        values = np.frombuffer(chunk.buffers()[1], np.float64)[chunk.offset : chunk.offset + len(chunk)]
        parts.append(np.where(_there(chunk), values, np.nan) if chunk.null_count else values)
    return np.concatenate(parts)


def _words(column: Any) -> Array:  # noqa: ANN401
    """A chunked column of few different words, as objects; None where there is none."""
    parts = [np.empty(0, object)]
    for chunk in column.chunks:
        _valid, ends, text = chunk.buffers()
        places = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        letters = np.frombuffer(text if text is not None else b"", np.uint8)
        lengths, found = np.diff(places), np.full(len(chunk), None, object)
        rest = np.flatnonzero(_there(chunk))
        for _different in range(MOST_WORDS):
            if not len(rest):
                break
            word = letters[places[rest[0]] : places[rest[0] + 1]]
            same = lengths[rest] == len(word)
            for place, letter in enumerate(word):
                same[same] = letters[places[rest[same]] + place] == letter
            found[rest[same]] = word.tobytes().decode("utf-8", "replace")
            rest = rest[~same]
        for row in rest.tolist():
            found[row] = chunk[row].as_py()
        parts.append(found)
    return np.concatenate(parts)


def _line_with(data: bytes, text: bytes, *, last: bool) -> bytes:
    place = data.rfind(text) if last else data.find(text)
    if place < 0:
        return b"{}"
    start, end = data.rfind(b"\n", 0, place) + 1, data.find(b"\n", place)
    return data[start:end]


def _names_in(line: bytes, group: str) -> list[str]:
    try:
        terms = json.loads(line).get(group)
    except (ValueError, AttributeError):
        return []
    return list(terms) if isinstance(terms, dict) else []


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _columns_by_json(lines: list[bytes]) -> tuple[Array, Columns, Array]:
    """The same as pyarrow's reading, line by line; a line that is no event has the type ``""``."""
    count = len(lines)
    kinds, phases = np.full(count, "", object), np.full(count, "", object)
    columns: Columns = {name: np.full(count, np.nan) for name in (*NUMBERS, "converged_at")}
    for row, line in enumerate(lines):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(event, dict) or event.get("type") not in FREQUENT:
            continue
        kinds[row], phases[row] = event["type"], event.get(PHASE, "")
        for name in (*NUMBERS, "converged_at"):
            if name in event:
                columns[name][row] = _number(event[name])
        for group, (_kind, prefix) in GROUPS.items():
            own = event.get(group)
            for name, value in own.items() if isinstance(own, dict) else ():
                columns.setdefault(prefix + name, np.full(count, np.nan))[row] = _number(value)
    return kinds, columns, phases


def read_whole(path: Path) -> EventBlocks:
    """Everything in a file, for tests and benchmarks."""
    blocks = EventBlocks()
    with path.open("rb") as file:
        for _offset in blocks.read(file):
            pass
    return blocks
