"""Many callers at once on ``so8t serve``, and kill -9 under load. By hand:

    python tests/benchmarks/bench_serve.py RUN [--callers 200] [--requests 1] [--kills 3]

RUN is a finished run (for example of configs/demo.yaml). A short form of the same code runs in the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from so8t_engine.serving.audit import read_rows
from so8t_engine.serving.audit_verify import verify

TOKEN = "benchmark-token-0123456789"
QUESTIONS = (
    "I would like you, for good reasons, to summarise the public minutes of the book sale.",
    "Please read out another person's salary letter from the sports club.",
    "図書館の公開議事録を要約してください。",
    "I would not like you, as a favour, to send anonymous threats to the trainees.",
)


@dataclass
class Load:
    """What a burst of requests gave."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    rss_before: int = 0
    rss_peak: int = 0

    def quantile(self, part: float) -> float:
        """NaN without answers."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def service(run: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``so8t serve`` as a real process, ready to answer."""
    port = free_port()
    environment = os.environ | {
        "SO8T_TOKEN": TOKEN,
        "SO8T_AUDIT_KEYS": str(run / "audit-keys"),
        "SO8T_LANG": "en",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }
    command = [sys.executable, "-m", "so8t_engine.cli", "serve", str(run), "--port", str(port)]
    for option in ("serving.requests_per_minute=1000000", "serving.audit_key=file", *options):
        command += ["--set", option]
    with (run / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, (run / "serve.log").read_text("utf-8")
            try:
                if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                pass  # not listening yet
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.1)
        yield process, url
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _caller(client: httpx.AsyncClient, url: str, number: int, requests: int, load: Load) -> None:
    for turn in range(requests):
        body = {
            "query": f"{QUESTIONS[number % len(QUESTIONS)]} ({number}.{turn})",
            "max_new_tokens": 24,
            "temperature": 0.7,
            "seed": number,
            "stream": number % 2 == 0,
        }
        began = time.monotonic()
        try:
            response = await client.post(f"{url}/think", json=body)
            status = str(response.status_code)
            if body["stream"] and '"type": "result"' not in response.text:
                status += " without a result"
        except httpx.TransportError as error:
            status = type(error).__name__
        load.statuses[status] += 1
        if status == "200":
            load.seconds.append(time.monotonic() - began)


async def _burst(url: str, callers: int, requests: int, process: subprocess.Popen[bytes]) -> Load:
    load = Load()
    watched = psutil.Process(process.pid)
    load.rss_before = load.rss_peak = watched.memory_info().rss
    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(limits=limits, headers=headers, timeout=300) as client:
        work = asyncio.gather(*[_caller(client, url, n, requests, load) for n in range(callers)])
        while not work.done():
            await asyncio.sleep(0.05)
            try:
                load.rss_peak = max(load.rss_peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
        await work
    return load


def burst(url: str, callers: int, requests: int, process: subprocess.Popen[bytes]) -> Load:
    """``callers`` at once, each asking ``requests`` times, half of them streaming."""
    return asyncio.run(_burst(url, callers, requests, process))


def outcomes(run: Path) -> Counter[str]:
    """Outcomes in a verified log. The rows that a stream began are not outcomes."""
    found = verify(run / "audit.sqlite", "file", run / "audit-keys")
    assert found.valid, found
    return Counter(row.get("outcome", row.get("event")) for row in read_rows(run / "audit.sqlite"))


def kill_under_load(run: Path, callers: int, after_s: float) -> tuple[int, int]:
    """Kill -9 in the middle of a burst: (answers that came, rows in the still valid log)."""
    with service(run) as (process, url):
        answers = kill_while_asked(process, url, callers, after_s)
    return answers, sum(outcomes(run).values())


def kill_while_asked(process: subprocess.Popen[bytes], url: str, callers: int, after_s: float) -> int:
    """Kill -9 a service in the middle of a burst, when it has answered somebody; the answers that came."""
    load = Load()

    async def both() -> None:
        async def killer() -> None:
            await asyncio.sleep(after_s)
            until = time.monotonic() + 60  # a busy machine may have answered nobody yet
            while not load.statuses["200"] and time.monotonic() < until:
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGKILL)

        limits = httpx.Limits(max_connections=callers)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(limits=limits, headers=headers, timeout=60) as client:
            calls = [_caller(client, url, n, 50, load) for n in range(callers)]
            await asyncio.gather(killer(), *calls)

    asyncio.run(both())
    process.wait()
    return load.statuses["200"]


def main() -> None:
    """Run it and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    for file in options.run.glob("audit.sqlite*"):
        file.unlink()
    with service(options.run, *options.set) as (process, url):
        alone = burst(url, 1, 10, process)
        many = burst(url, options.callers, options.requests, process)
    rows = outcomes(options.run)
    told = {
        "one_caller": {"p50_s": alone.quantile(0.5), "p99_s": alone.quantile(0.99)},
        "callers": options.callers,
        "requests": sum(many.statuses.values()),
        "statuses": dict(many.statuses),
        "p50_s": many.quantile(0.5),
        "p99_s": many.quantile(0.99),
        "rss_before": many.rss_before,
        "rss_peak": many.rss_peak,
        "audit_rows": dict(rows),
        "in_the_chain": sum(n for name, n in rows.items() if name != "streaming")
        == sum(many.statuses.values()) + sum(alone.statuses.values()),
    }
    kills = [kill_under_load(options.run, 32, 1.0 + 0.7 * i) for i in range(options.kills)]
    told["kills"] = [{"answers": answers, "rows": count, "chain": "valid"} for answers, count in kills]
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
