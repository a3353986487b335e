"""``so8t bench ui``: every measure in a process of its own, and whether it meets its target."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

#: As the program starts, and then a measure instead of it.
MEASURES = (
    "import sys; from so8t_gui.entry import prepare; prepare(); "
    "from so8t_gui.benchmark.measures import main; main(sys.argv[1:])"
)
#: Key of a result, and the largest value that is good.
TARGETS = {
    "startup.seconds": 1.5,
    "latency.p50_ms": 8.0,
    "latency.p99_ms": 20.0,
    "latency.max_ms": 100.0,
    "memory.after_mib": 400 * 1e6 / 2**20,
    "opening.again_seconds": 2.0,
    "overlay.seconds": 3.0,
}


def measure(name: str, *arguments: str) -> dict[str, Any]:
    """One measure's result; its error in words where it failed."""
    sys.stderr.write(f"{name}…\n")
    if "DISPLAY" not in os.environ and "WAYLAND_DISPLAY" not in os.environ and sys.platform == "linux":
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    # As a person starts the program: Python keeps what it has compiled, which some test machines forbid it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURES, name, *arguments],
        env=environment, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"error": f"exit status {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> int:
    """Print one JSON object; 1 where a measure could not be taken."""
    parser = argparse.ArgumentParser(prog="so8t bench ui")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--hours", type=float, required=True)
    options = parser.parse_args()
    starts = [measure("startup", f"{time.time()}") for _ in range(3)]
    steps = str(options.steps)
    results = {
        "startup": min(starts, key=lambda one: one.get("seconds", 1e9)),
        "latency": measure("latency", steps, str(options.seconds)),
        "memory": measure("memory", str(options.hours)),
        "opening": measure("opening", steps),
        "overlay": measure("overlay", steps, "10"),
    }
    missed = []
    for key, limit in TARGETS.items():
        name, _dot, figure = key.partition(".")
        value = results[name].get(figure)
        if value is None or value > limit:
            missed.append({"figure": key, "value": value, "target": round(limit, 1)})
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    out = {**results, "missed": missed, "load_average": load, "cores": os.cpu_count()}
    sys.stdout.write(json.dumps(out) + "\n")
    return int(any("error" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
