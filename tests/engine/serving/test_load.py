"""``so8t serve`` as a real process: many callers at once, and kill -9 under load."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bench_serve import (
    TOKEN,
    burst,
    kill_under_load,
    kill_while_asked,
    outcomes,
    service,
)

pytestmark = pytest.mark.slow
CALLERS = 24


@pytest.mark.usefixtures("warm_starts")
def test_many_callers_lose_nothing_and_kill_9_leaves_a_whole_chain(
    embedded_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(embedded_run, tmp_path / "run"))
    # Two steps teach the heads nothing: with these thresholds most requests are generated.
    with service(run, "serving.allow_threshold=0", "serving.danger_threshold=1") as (process, url):
        load = burst(url, CALLERS, 1, process)
        assert load.statuses == {"200": CALLERS}
        assert load.rss_peak - load.rss_before < 500_000_000
        found = outcomes(run)
        assert sum(count for name, count in found.items() if name != "streaming") == CALLERS
        with capsys.disabled():
            sys.stdout.write(
                f"\n{CALLERS} callers: p50 {load.quantile(0.5):.2f} s, p99 {load.quantile(0.99):.2f} s\n"
            )
        assert TOKEN not in (run / "serve.log").read_text("utf-8")
        if sys.platform == "win32":
            return  # no SIGKILL there
        answers = kill_while_asked(process, url, 8, 1.0)
    rows = sum(outcomes(run).values())
    assert answers > 0
    assert rows >= CALLERS + answers  # an answer leaves after its row
    more, later = kill_under_load(run, 8, 1.0)  # the service starts again on the same log
    assert later >= rows + more
