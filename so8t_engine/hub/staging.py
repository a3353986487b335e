"""What an upload holds, gathered in one folder, without this computer's paths in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from so8t_engine.training.run_directory import RunDirectory

#: Of ``final/``; the manifest is of the run folder and would not fit changed files.
_FINAL = ("soul.safetensors", "results.json", "config.yaml")
_REPORT = (".json", ".md", ".html", ".svg")


@dataclass(frozen=True)
class StagedFile:
    """One file of an upload: its name there, bytes, SHA-256."""

    name: str
    bytes: int
    sha256: str


def stage(
    folder: Path, run: RunDirectory, *, baked: Path | None, ggufs: list[Path], report: Path | None, card: str
) -> list[StagedFile]:
    """Fill ``folder`` and list it.

    Args:
        baked: a folder that ``so8t bake`` made; its files come to the top, so that transformers loads the
            repository as it is. ggufs: below ``gguf/``. report: an evaluation's folder, below
            ``evaluation/``.
        card: the README.md.
    """
    adapter = run.final / "adapter"
    for source in sorted(adapter.iterdir()) if adapter.is_dir() else ():
        if source.is_file() and source.name != "README.md":
            _link(source, folder / "adapter" / source.name)
    for name in _FINAL:
        if (run.final / name).is_file():
            _link(run.final / name, folder / "so8t" / name)
    if baked is not None:
        for source in sorted(baked.iterdir()):
            if source.is_file() and source.name not in {"README.md", "MANIFEST.json"}:
                _link(source, folder / source.name)
    for source in ggufs:
        _link(source, folder / "gguf" / source.name)
    if report is not None:
        for source in sorted(report.iterdir()):
            # A pipeline's own record of the step tells of this computer, not of the model.
            if source.is_file() and source.suffix in _REPORT and source.name != "manifest.json":
                _link(source, folder / "evaluation" / source.name)
    _without_paths(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return listing(folder)


def listing(folder: Path) -> list[StagedFile]:
    """Every file of a staged folder, by name."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(StagedFile(path.relative_to(folder).as_posix(), path.stat().st_size, digest))
    return found


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)


def _without_paths(folder: Path) -> None:
    """Absolute paths are this computer's affair: only the last part of each stays."""
    for path in folder.rglob("*"):
        if path.suffix == ".json" and path.stat().st_size < 10_000_000 and "tokenizer" not in path.name:
            before = json.loads(path.read_text(encoding="utf-8"))
            after = strip_paths(before)
            if after != before:
                _rewrite(path, json.dumps(after, indent=1, ensure_ascii=False))
        elif path.suffix == ".yaml":
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
            _rewrite(path, yaml.safe_dump(strip_paths(before), sort_keys=False, allow_unicode=True))


def _rewrite(path: Path, text: str) -> None:
    path.unlink()  # never through a hard link into the run
    path.write_text(text, encoding="utf-8")


def strip_paths(value: Any) -> Any:  # noqa: ANN401
    """The same value with every absolute path cut down to its last part."""
    if isinstance(value, dict):
        return {key: strip_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [strip_paths(entry) for entry in value]
    if isinstance(value, str) and _is_local(value):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value


def _is_local(text: str) -> bool:
    if "\n" in text or len(text) > 4096:
        return False
    return text.startswith(("/", "~/", "\\\\")) or (len(text) > 2 and text[1] == ":" and text[2] in "\\/")
