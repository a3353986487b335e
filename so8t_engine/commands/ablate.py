"""``so8t ablate``: SO8T against itself without a part, several seeds each, as one resumable command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from so8t_engine.config import load_config
from so8t_engine.evaluation.ablation import arm_config, arms_asked, held_out_of, run_arm, table
from so8t_engine.evaluation.ablation_report import findings, markdown, picture
from so8t_engine.files import write_atomically
from so8t_engine.plotting import svg
from so8t_engine.training.events import Event, StepEvent
from so8t_engine.training.preflight import preflight


def ablate(
    config_path: Path,
    overrides: Sequence[str],
    out: Path,
    seeds: int,
    arms: Sequence[str] | None,
    jobs: int,
    console: Console,
) -> tuple[str, dict[str, Any]]:
    """Run every arm with every seed below ``out``, then compare; runs that are finished are not repeated.

    Raises:
        SO8TError: bad configuration, or a run that failed; the ones before it stay.
    """
    config = load_config(config_path, overrides)
    preflight(config)
    names = arms_asked(arms)
    results: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in names}
    first = config.training.seed
    # Seeds outside, arms inside: whoever stops early has complete pairs.
    wanted = [(arm, seed) for seed in range(first, first + seeds) for arm in names]

    def one(arm: str, seed: int) -> None:
        name = f"{arm}-seed{seed}"
        found = run_arm(arm_config(config, arm, seed), out / "runs" / name, _Progress(name, console))
        results[arm][seed] = found
        split, after = held_out_of(found)
        shown = "  ".join(f"{k} {v:.3f}" for k, v in after.items() if isinstance(v, float))
        console.print(f"{name}  {split}: {shown}")

    with ThreadPoolExecutor(jobs) as pool:  # each waits for a process of its own
        pending = [pool.submit(one, arm, seed) for arm, seed in wanted]
        try:
            for future in pending:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    report = _report(results, overrides, config_path, names, seeds)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "ablation.json", json.dumps(report, indent=1, ensure_ascii=False))
    text = markdown(report)
    write_atomically(out / "ablation.md", text + "\n![](ablation.svg)\n")
    write_atomically(out / "ablation.svg", svg(picture(report)))
    return text, report


class _Progress:
    """A line every tenth of a run."""

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._next = 1

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEvent) and event.step * 10 >= self._next * event.of:
            self._next += 1
            self._console.print(f"{self._name}  {event.step}/{event.of}  loss {event.loss:.4f}")


def _report(
    results: dict[str, dict[int, dict[str, Any]]],
    overrides: Sequence[str],
    config_path: Path,
    names: list[str],
    seeds: int,
) -> dict[str, Any]:
    found = table(results)
    any_result = next(iter(results["full"].values()))
    split, after = held_out_of(any_result)
    steps = sorted({str(r.get("steps", "?")) for per in results.values() for r in per.values()})
    command = f"so8t ablate {config_path.name} --seeds {seeds}" + "".join(f" --set {o}" for o in overrides)
    return {
        "arms": names,
        "seeds": seeds,
        "steps": ", ".join(steps),
        "split": split,
        "rows": after.get("rows"),
        "command": command,
        "findings": findings(found),
        "table": found,
    }
