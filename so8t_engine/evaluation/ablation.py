"""Ablations: the same run without a part of SO8T, several seeds each, on the same rows. Imports no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from so8t_engine.config import Config, validate_config
from so8t_engine.errors import ConfigError, RunError
from so8t_engine.evaluation.intervals import holm, paired_t, t_interval
from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import newest_usable, verify_folder
from so8t_engine.training.events import EndEvent, ErrorEvent, Event
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession

#: Arm → what its run sets below ``so8t``. Everything else is the same, the seed included.
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    # Heads read h, the gate is the identity whatever α, no inertia, no pair of heads that must agree.
    "no_so8t": {
        "variant": "no_rotation",
        "pet_weights": [0.0, 0.0, 0.0],
        "consistency_weight": 0.0,
        "dual_weight": 0.0,
    },
    "safe_only": {"variant": "safe_only"},
    "cmd_only": {"variant": "cmd_only"},
    "swapped": {"variant": "swapped"},
}
#: Metric → whether more is better.
METRICS = {
    "task_accuracy": True,
    "task_macro_f1": True,
    "safety_accuracy": True,
    "danger_to_allow": False,
    "loss": False,
}


def arm_config(config: Config, arm: str, seed: int) -> Config:
    """The run's configuration of one arm and seed. Raises `ConfigError`."""
    values = config.model_dump(mode="json")
    values["name"] = f"{arm}-seed{seed}"
    values["training"]["seed"] = seed
    values["so8t"] |= ARMS[arm]
    found = validate_config(values)
    if not isinstance(found, Config):
        raise ConfigError(found[0].sentence, found[0].mend, field=found[0].path)
    return found


def run_arm(config: Config, folder: Path, told: Callable[[Event], None]) -> dict[str, Any]:
    """Train in a process of its own, or take what an earlier call finished, and return ``results.json``.

    A run that broke off goes on from its newest checkpoint; one of another configuration is made anew.

    Raises:
        RunError: the run failed or was stopped.
    """
    run = RunDirectory(folder)
    if run.events.exists():
        same = run.config_file.exists() and run.config().digest() == config.digest()
        if same and run.final.is_dir():
            verify_folder(run.final)
            return _results(run)
        if same and newest_usable(run.checkpoints)[0] is not None:
            return _follow(EngineSession(run, resume=True), run, told)
        shutil.rmtree(folder)
    return _follow(EngineSession.create(config, folder), run, told)


def _follow(session: EngineSession, run: RunDirectory, told: Callable[[Event], None]) -> dict[str, Any]:
    seen: list[ErrorEvent] = []
    ends: list[str] = []

    def take(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, ErrorEvent):
                seen.append(event)
            elif isinstance(event, EndEvent):
                ends.append(event.status)
            told(event)

    try:
        status = session.follow(take)
    except BaseException:
        session.kill()
        raise
    if status or not run.final.is_dir() or ends[-1:] != ["finished"]:
        sentence = (
            seen[-1].sentence if seen else _("The run in %(path)s did not finish.") % {"path": run.path}
        )
        raise RunError(sentence, _("Give the same command again: finished runs are not repeated."))
    return _results(run)


def _results(run: RunDirectory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.final / "results.json").read_text(encoding="utf-8"))
    return found


def held_out_of(results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The split that figures are of, the test split where there is one, and its evaluation after the run."""
    every = results.get("evaluation", {})
    for split in ("test", "validation"):
        if split in every and every[split].get("after"):
            return split, every[split]["after"]
    raise RunError(_("The run has no held-out results."), _("Give it held-out rows with labels."))


def table(results: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Per arm and metric: mean over seeds with interval, and the paired difference to ``full``.

    Args:
        results: arm → seed → ``results.json``.

    Returns:
        ``arms``: arm → metric → value, low, high, seeds; ``differences`` (arm − full, same seeds): value,
        low, high, p (paired t), p_holm (over arms and metrics together), better (True, False, None where
        the interval holds 0).
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    split = ""
    for arm, seeds in results.items():
        for seed, result in seeds.items():
            split, after = held_out_of(result)
            for metric in METRICS:
                value = after.get(metric)
                found = float("nan") if value is None else float(value)
                values.setdefault(arm, {}).setdefault(metric, {})[seed] = found
    arms = {
        arm: {m: asdict(t_interval(list(per.values()))) | {"seeds": per} for m, per in metrics.items()}
        for arm, metrics in values.items()
    }
    differences: dict[str, dict[str, Any]] = {}
    for arm, metrics in values.items():
        if arm == "full" or "full" not in values:
            continue
        for metric, per in metrics.items():
            common = sorted(set(per) & set(values["full"][metric]))
            interval, p = paired_t([per[s] for s in common], [values["full"][metric][s] for s in common])
            differences.setdefault(arm, {})[metric] = asdict(interval) | {"p": p}
    flat = [(metric, entry) for found in differences.values() for metric, entry in found.items()]
    for (metric, entry), adjusted in zip(flat, holm([e["p"] for _m, e in flat]), strict=True):
        entry["p_holm"] = adjusted
        entry["better"] = _verdict(entry, METRICS[metric])
    return {"split": split, "arms": arms, "differences": differences}


def _verdict(entry: dict[str, Any], more_is_better: bool) -> bool | None:
    low, high = entry["low"], entry["high"]
    if low is None or low <= 0.0 <= high:
        return None
    return bool((low > 0.0) == more_is_better)


def arms_asked(names: Sequence[str] | None) -> list[str]:
    """The arms to run, ``full`` always among them. Raises `ConfigError` for an unknown name."""
    for name in names or ():
        if name not in ARMS:
            raise ConfigError(
                _("There is no ablation %(name)s.") % {"name": repr(name)},
                _("Choose among %(names)s.") % {"names": ", ".join(ARMS)},
            )
    return [arm for arm in ARMS if not names or arm in names or arm == "full"]
