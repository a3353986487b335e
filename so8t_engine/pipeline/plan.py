"""What would run and why: a step's digest against that of its published output."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from so8t_engine.i18n import _
from so8t_engine.pipeline.step import Estimate, Step
from so8t_engine.pipeline.store import StepStore, sha256_json

Action = Literal["run", "resume", "skip", "off"]
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Planned:
    """One step of a plan.

    Args:
        digest: None where it depends on a step that will run first.
        parts: what the digest is made of, for saying what changed.
        inputs: steps whose outputs it reads. outputs: globs of what it publishes.
        stale: an output of an earlier call is there, and no longer what this call would give.
    """

    number: int
    name: str
    title: str
    action: Action
    reason: str
    digest: str | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    estimate: Estimate = field(default_factory=Estimate)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stale: bool = False


def _place(module: str) -> Path:
    """Where a module of the engine stands, or one from elsewhere that is imported already."""
    if module.startswith("so8t_engine."):
        return _PACKAGE.joinpath(*module.split(".")[1:])
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file or module).with_suffix("")


@cache
def code_version(modules: tuple[str, ...]) -> str:
    """SHA-256 over the sources of modules and packages; nothing is imported for it.

    Raises:
        ValueError: a name that is no module here.
    """
    seen: dict[str, str] = {}
    for module in modules:
        place = _place(module)
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        if not files or not files[0].is_file():
            raise ValueError(f"no module {module}")
        for file in files:
            name = file.relative_to(_PACKAGE if file.is_relative_to(_PACKAGE) else file.parent)
            seen[name.as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return sha256_json(seen)


def digest_parts(step: Step[Any], seed: int, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What the step's result depends on: settings, seed, code, inputs and what lies outside."""
    return {
        "settings": dict(step.digest_settings()),
        "seed": seed,
        "code": code_version((type(step).__module__, *step.code)),
        "inputs": dict(inputs),
        "external": dict(step.external_inputs()),
    }


def what_changed(old: Mapping[str, Any], new: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The first difference between two steps' parts, in a few words; ``titles`` of the steps by name."""
    changed = _first_difference(old.get("settings", {}), new["settings"])
    if changed is not None:
        return _("the setting %(name)s changed") % {"name": changed}
    if old.get("seed") != new["seed"]:
        return _("the seed changed")
    for name in sorted({*old.get("inputs", {}), *new["inputs"]}):
        if old.get("inputs", {}).get(name) != new["inputs"].get(name):
            return _("the output of %(name)s changed") % {"name": titles.get(name, name)}
    for name in sorted({*old.get("external", {}), *new["external"]}):
        if old.get("external", {}).get(name) != new["external"].get(name):
            return _("%(name)s changed") % {"name": name}
    return _("the program changed")


def _first_difference(old: Any, new: Any, at: str = "") -> str | None:  # noqa: ANN401
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            found = _first_difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
            if found is not None:
                return found
        return None
    return None if old == new else at


def estimate_of(step: Step[Any], store: StepStore, inputs: Mapping[str, Path]) -> Estimate:
    """What an earlier call here measured, or else what the step expects."""
    manifest = store.manifest()
    if manifest is not None and isinstance(manifest.get("seconds"), int | float):
        size = sum(entry["bytes"] for entry in manifest["files"].values())
        return Estimate(float(manifest["seconds"]), manifest.get("peak_rss"), size, "measured")
    return step.estimate(inputs)


def size_text(size: int) -> str:
    """Bytes with the unit that suits them."""
    for unit, value in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= value:
            return f"{size / value:.1f} {unit}" if size < 10 * value else f"{size / value:.0f} {unit}"
    return f"{size} B"
