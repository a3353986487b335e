"""What a person wrote about a run: tags, a note, a pin, put away. Kept in the run's own folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from so8t_engine.files import write_atomically

FILE = "notes.json"
MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class RunNotes:
    """Attributes: ``tags`` in the order they were given; ``archived``: left out of lists unless asked for."""

    tags: tuple[str, ...] = ()
    note: str = ""
    pinned: bool = False
    archived: bool = False

    @classmethod
    def read(cls, run: Path) -> RunNotes:
        """Those of a run folder; empty where nobody wrote any or the file is none of ours."""
        file = run / FILE
        try:
            if file.stat().st_size > MAX_BYTES:
                return cls()
            held = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return cls()
        if not isinstance(held, dict):
            return cls()
        tags = held.get("tags")
        return cls(
            tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
            note=str(held.get("note", "")),
            pinned=held.get("pinned") is True,
            archived=held.get("archived") is True,
        )

    def write(self, run: Path) -> None:
        """Keep them in the run folder. Raises `OSError`."""
        write_atomically(run / FILE, json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")


def parse_tags(text: str) -> tuple[str, ...]:
    """Tags from a text with commas, each once."""
    return tuple(dict.fromkeys(tag for part in text.replace("、", ",").split(",") if (tag := part.strip())))
