"""The short version of `pipeline_kills`: collection, preprocessing and cleanup of the demonstration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.pipeline_kills import measure

OFF = [f"{name}.enabled=false" for name in ("soul", "train", "integrate", "evaluate", "upload")]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_in_each_step_it_ends_the_same(tmp_path: Path) -> None:
    sources = (
        "collect.sources=[{name: site, kind: web, location: demo-site, max_pages: 20},"
        " {name: hub, kind: hub, location: demo-hub}]"
    )
    found = measure(Path("pipeline_demo"), [*OFF, sources, "workers=1"], 1, tmp_path)
    assert found["killed"] == {"collect": 1, "preprocess": 1, "cleanup": 1} or set(found["killed"]) >= {
        "collect", "preprocess",
    }  # fmt: skip
    assert all(found["identical"].values()), found
    assert set(found["call_after"].values()) == {"skipped", "off"}
