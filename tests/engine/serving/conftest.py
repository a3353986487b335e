"""A finished run of the embedded model after two steps, and services on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import uvicorn

from so8t_engine.config import Config
from so8t_engine.config.serving import ServingConfig
from so8t_engine.serving.app import make_app
from so8t_engine.serving.audit import AuditLog
from so8t_engine.serving.decision import HeadReading, decide
from so8t_engine.serving.generate import Answerer, Job
from so8t_engine.serving.grammar import ThinkStream
from so8t_engine.serving.loading import Speaker, load_speaker
from so8t_engine.serving.service import Service
from so8t_engine.serving.worker import Worker

TOKEN = "test-token-0123456789"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
SURE = HeadReading((0.97, 0.01, 0.01, 0.01), (0.99, 0.01), ((0.99, 0.01), (0.99, 0.01)))


@pytest.fixture(scope="session")
def embedded_run(tmp_path_factory: pytest.TempPathFactory, few_rows: Path) -> Path:
    from so8t_engine.training.run import run_training
    from so8t_engine.training.run_directory import RunDirectory

    config = Config.model_validate(
        {
            "name": "served",
            "model": {"path": "embedded", "device": "cpu"},
            "data": {"train": str(few_rows), "max_length": 96},
            "so8t": {"alpha_start": 0.5},
            "training": {"batch_size": 2, "accumulation": 1, "max_steps": 2, "optimizer": "adamw"},
            "run": {"cpu_threads": 1},
        }
    )
    run = RunDirectory.create(config, tmp_path_factory.mktemp("served") / "run")
    assert run_training(run, handle_signals=False) == 0
    return run.path


@pytest.fixture(scope="session")
def speaker(embedded_run: Path) -> Speaker:
    """The embedded model. Two steps teach its heads nothing, so they are set to say ALLOW."""
    import torch

    found = load_speaker(embedded_run, merge=True)
    with torch.no_grad():
        found.so8t.heads.task_head.bias[0] += 30.0
        for head in (found.so8t.heads.safety_head, *found.so8t.heads.dual_heads):
            head.bias[0] += 30.0
    return found


class Scripted:
    """An answerer that writes given generations; everything around it is the real thing."""

    def __init__(self) -> None:
        self.say: Callable[[Job], list[str]] = lambda _job: [
            "<think-task>a</think-task><think-safety>b</think-safety>",
            "<think-policy>c</think-policy><think-final>d</think-final><final>Fine.</final>",
        ]
        self.heads = SURE
        self.settings = ServingConfig()
        self.pause_s = 0.0

    def answer(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.prompt = [1, 2, 3]
            job.heads = self.heads
            job.decision = decide(job.heads, self.settings)
            if job.decision.label != "ALLOW":
                continue
            job.stream = ThinkStream(query=job.query)
            for piece in self.say(job):
                if job.cancelled.is_set():
                    return
                time.sleep(self.pause_s)
                text = job.stream.feed(piece)
                if text and job.on_text is not None:
                    job.on_text(text)
            text = job.stream.finish()
            if text and job.on_text is not None:
                job.on_text(text)


@contextmanager
def serving(
    answerer: Any,  # noqa: ANN401
    folder: Path,
    **settings: Any,  # noqa: ANN401
) -> Iterator[tuple[str, Service]]:
    """A real server on a free port; yields its address and the service."""
    chosen = ServingConfig(**{"requests_per_minute": 1_000_000, **settings})
    audit = AuditLog(folder / "audit.sqlite", "file", folder / "keys")
    service = Service(
        Worker(answerer, chosen.batch or 8, chosen.queue), audit, chosen, run="served", digest="0" * 64
    )
    config = uvicorn.Config(
        make_app(service, TOKEN), host="127.0.0.1", port=0, log_level="warning", access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        thread.join(20)
        service.close()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[str, Service, Scripted]]:
    answerer = Scripted()
    with serving(answerer, tmp_path) as (url, service):
        yield url, service, answerer


@pytest.fixture(scope="session")
def answerer(speaker: Speaker) -> Answerer:
    return Answerer(speaker, ServingConfig(thinking_tokens=12))
