"""Where a learned α will arrive if it goes on as it does: an extrapolation, and called one. No Qt."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 100
FEWEST = 20
NEAR = 0.01
#: Part of the variance of log distance that a straight line must explain for a prediction.
GOOD_FIT = 0.8
Array = npt.NDArray[np.floating[Any]]


def predicted_arrival(steps: Array, distance: Array) -> int | None:
    """The step at which ``distance`` = |α − target| falls to 0.01 if its logarithm goes on along its line.

    None where it is there already, grows, wanders, or has too few values.
    """
    steps, distance = steps[-WINDOW:].astype(np.float64), distance[-WINDOW:].astype(np.float64)
    known = np.isfinite(distance) & (distance > 0)
    steps, distance = steps[known], distance[known]
    if len(steps) < FEWEST or distance[-1] <= NEAR:
        return None
    logs = np.log(distance)
    slope, start = np.polyfit(steps - steps[-1], logs, 1)
    left = logs - (slope * (steps - steps[-1]) + start)
    spread = float(((logs - logs.mean()) ** 2).sum())
    if slope >= 0 or spread <= 0 or 1 - float((left**2).sum()) / spread < GOOD_FIT:
        return None
    return int(np.ceil(steps[-1] + (np.log(NEAR) - start) / slope))
