"""A step's folder: partial work, published output, and the manifest that says what the output is.

``<work>/steps/<n>-<name>/`` holds ``partial/`` (being written), ``output/`` (published, with
``manifest.json``), ``scratch/`` (no result) and ``state.json`` (which digest partial and scratch belong to).
An output is published by a rename after its manifest was written and synced: it is whole or it is not there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t_engine.files import move, write_atomically

MANIFEST = "manifest.json"
STATE = "state.json"
Files = dict[str, dict[str, Any]]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of plain JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows cannot sync a folder; NTFS journals the rename
    handle = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def content_digest(files: Mapping[str, Mapping[str, Any]], volatile: Iterable[str]) -> str:
    """SHA-256 over names and SHA-256 of ``files``, those that match a glob of ``volatile`` left out."""
    globs = list(volatile)
    kept = {
        name: entry["sha256"]
        for name, entry in files.items()
        if not any(fnmatch.fnmatch(name, glob) for glob in globs)
    }
    return sha256_json(kept)


@dataclass(frozen=True, slots=True)
class StepStore:
    """Paths and state of one step on disk. Making an instance touches nothing."""

    root: Path

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def _superseded(self) -> Path:
        return self.root / "superseded"

    def manifest(self) -> dict[str, Any] | None:
        """Of the published output; None where there is none."""
        return _read_json(self.output / MANIFEST)

    def state(self) -> dict[str, Any]:
        """``digest`` and ``open`` (work was begun and not published); empty before the first call."""
        return _read_json(self.root / STATE) or {}

    def recover(self) -> None:
        """Finish a publication that a kill interrupted."""
        manifest = _read_json(self.partial / MANIFEST)
        if manifest is not None:
            self._swap(str(manifest.get("digest")))
        shutil.rmtree(self._superseded, ignore_errors=True)

    def begin(self, digest: str, keep_scratch: bool = False) -> bool:
        """Make partial and scratch ready for ``digest``; True where earlier work goes on."""
        state = self.state()
        goes_on = bool(state.get("open")) and state.get("digest") == digest
        if not goes_on:
            shutil.rmtree(self.partial, ignore_errors=True)
            if not keep_scratch:
                shutil.rmtree(self.scratch, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / STATE, json.dumps({"digest": digest, "open": True}))
        return goes_on and any(self.partial.iterdir() or self.scratch.iterdir())

    def publish(
        self, digest: str, manifest: Mapping[str, Any], volatile: Iterable[str], content: str | None
    ) -> dict[str, Any]:
        """Publish partial as output.

        Args:
            digest: of the step's inputs, settings and code.
            manifest: what else the manifest says.
            volatile: globs of files that the content digest leaves out.
            content: the content digest, where the step computes its own.

        Returns:
            The manifest as written.
        """
        for path in sorted(self.partial.rglob("*"), reverse=True):
            if path.name.startswith(".") or path.name.endswith(".tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        files: Files = {}
        for path in sorted(path for path in self.partial.rglob("*") if path.is_file()):
            name = path.relative_to(self.partial).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            _sync(path)
        record = {
            **manifest,
            "digest": digest,
            "content": content or content_digest(files, volatile),
            "files": files,
            "volatile": list(volatile),
        }
        write_atomically(self.partial / MANIFEST, json.dumps(record, indent=1, ensure_ascii=False))
        _sync(self.partial)
        self._swap(digest)
        return record

    def _swap(self, digest: str) -> None:
        shutil.rmtree(self._superseded, ignore_errors=True)
        if self.output.exists():
            move(self.output, self._superseded)
        move(self.partial, self.output)
        _sync(self.root)
        write_atomically(self.root / STATE, json.dumps({"digest": digest, "open": False}))
        shutil.rmtree(self._superseded, ignore_errors=True)

    def problem(self, *, deep: bool) -> str | None:
        """The first published file that is missing or changed, or None; ``deep`` compares SHA-256 too.

        Files that the cleanup step removed count as present unless ``deep``: nobody reads them then.
        """
        manifest = self.manifest()
        if manifest is None:
            return MANIFEST
        cleaned = set(manifest.get("cleaned", ()))
        files: Files = manifest["files"]
        for name, entry in files.items():
            path = self.output / name
            if name in cleaned and not deep:
                continue
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return name
            if deep and sha256_file(path) != entry["sha256"]:
                return name
        return None

    def mark_cleaned(self, names: Iterable[str]) -> None:
        """Record in the manifest that files of the output were removed on purpose."""
        manifest = self.manifest()
        if manifest is not None:
            manifest["cleaned"] = sorted({*manifest.get("cleaned", ()), *names})
            write_atomically(self.output / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
