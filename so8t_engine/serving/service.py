"""One request from its arrival to its audit row: the policy that /think and the chat API share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from so8t_engine.config.serving import ServingConfig
from so8t_engine.serving.audit import AuditError, AuditLog
from so8t_engine.serving.decision import fixed_answer
from so8t_engine.serving.generate import Job
from so8t_engine.serving.metrics import Metrics
from so8t_engine.serving.worker import QueueFullError, Worker

#: How often a waiting request looks whether its caller is still there.
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, checked: the conversation as (role, content), the question last."""

    endpoint: str
    messages: list[tuple[str, str]]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None

    @property
    def query(self) -> str:
        return self.messages[-1][1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What may leave of a request that was decided."""

    final: str
    decision: str
    reason: str
    escalated: bool
    withdrawn: bool
    cut: bool
    heads: dict[str, Any]
    latency_ms: int
    audit_id: str
    prompt_tokens: int
    tokens: int


class RequestFailed(Exception):  # noqa: N818
    """A request that got no decision. Args: HTTP status, code, message, mend, seconds to wait."""

    def __init__(self, status: int, code: str, message: str, mend: str = "", retry_s: int = 0) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.mend, self.retry_s = status, code, message, mend, retry_s


FAILURES: dict[str, tuple[int, str, str]] = {
    "too_long": (422, "The question is longer than the model's context.", "Ask something shorter."),
    "failed": (500, "The model could not answer.", "The service's log names the place."),
    "timeout": (504, "The answer took longer than the time limit.", "Ask for fewer tokens, or later."),
    "queue_full": (503, "Too many requests are waiting.", "Come again later."),
    "cancelled": (499, "The caller left.", ""),
}


class Service:
    """Decides, answers and records.

    Args:
        worker: runs the model. audit: every outcome goes there before an answer leaves.
        digest: of the model, for the audit.
    """

    def __init__(
        self, worker: Worker, audit: AuditLog, settings: ServingConfig, *, run: str, digest: str
    ) -> None:
        self.worker, self.audit, self.settings = worker, audit, settings
        self.run, self.digest = run, digest
        self.metrics = Metrics(lambda: worker.waiting, lambda: worker.busy, lambda: audit.rows)
        self.created = int(time.time())

    async def answer(self, ask: Ask, gone: Callable[[], Awaitable[bool]]) -> Answer:
        """The whole answer. Raises `RequestFailed`; a caller who left is recorded as cancelled."""
        flow = self._flow(ask, gone)
        async for item in flow:
            if isinstance(item, Answer):
                return item
        raise AssertionError("a flow ends with its answer")

    async def stream(
        self, ask: Ask, gone: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[str | Answer, None]:
        """Text as it may leave, then the `Answer`. Raises `RequestFailed`, at any time."""
        async for item in self._flow(ask, gone, streaming=True):
            yield item

    async def _flow(
        self, ask: Ask, gone: Callable[[], Awaitable[bool]], *, streaming: bool = False
    ) -> AsyncGenerator[str | Answer, None]:
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def put(piece: str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = Job(
            ask.messages,
            ask.query,
            min(ask.max_new_tokens, self.settings.max_new_tokens),
            ask.temperature,
            ask.top_p,
            ask.seed,
            on_text=put if streaming else None,
        )
        sent = False
        recorded = False
        try:
            try:
                self.worker.submit(job, lambda: put(None))
            except QueueFullError:
                recorded = True
                raise await self._failed(ask, job, "queue_full", began) from None
            while True:
                left = self.settings.timeout_s - (time.monotonic() - began)
                if left <= 0:
                    job.cancelled.set()
                    recorded = True
                    raise await self._failed(ask, job, "timeout", began)
                try:
                    piece = await asyncio.wait_for(pieces.get(), min(left, LOOK_EVERY_S))
                except TimeoutError:
                    if await gone():
                        job.cancelled.set()
                        recorded = True
                        raise await self._failed(ask, job, "cancelled", began) from None
                    continue
                if piece is None:
                    break
                if not sent:  # on the disk before the first word leaves
                    await self._record(ask, job, "streaming", began)
                sent = True
                yield piece
            recorded = True
            if job.problem:
                raise await self._failed(ask, job, job.problem, began)
            answer = await self._finish(ask, job, began, sent)
            if streaming and (not sent or answer.withdrawn) and answer.final:
                yield answer.final
            yield answer
        finally:
            job.cancelled.set()
            if not recorded:  # cancelled from outside: the caller closed the stream
                self._append(ask, job, "cancelled", began)

    async def _finish(self, ask: Ask, job: Job, began: float, sent: bool) -> Answer:
        assert job.decision is not None
        assert job.heads is not None
        label, reason, final = job.decision.label, job.decision.reason, job.final
        if label == "ALLOW" and final is None:
            label, reason = "REFUSE", "grammar"
        text = final if label == "ALLOW" and final is not None else fixed_answer(label, ask.query)
        outcome = {"ALLOW": "answered", "ESCALATION": "escalated", "DENY": "denied", "REFUSE": "refused"}[
            label
        ]
        latency = self._latency(began)
        number, mac = await self._record(ask, job, outcome, began, decision=label, reason=reason)
        self.metrics.decisions.labels(label).inc()
        self.metrics.seconds.observe(time.monotonic() - began)
        if label == "ALLOW":
            self.metrics.tokens.inc(job.tokens)
        return Answer(
            final=text,
            decision=label,
            reason=reason,
            escalated=label == "ESCALATION",
            withdrawn=sent and label != "ALLOW",
            cut=job.cut and label == "ALLOW",
            heads=job.heads.to_json(),
            latency_ms=latency,
            audit_id=f"{number}-{mac[:16]}",
            prompt_tokens=len(job.prompt),
            tokens=job.tokens if label == "ALLOW" else 0,
        )

    @staticmethod
    def _latency(began: float) -> int:
        return round((time.monotonic() - began) * 100) * 10

    async def _failed(self, ask: Ask, job: Job, code: str, began: float) -> RequestFailed:
        await self._record(ask, job, {"failed": "error", "cancelled": "cancelled"}.get(code, code), began)
        status, message, mend = FAILURES[code]
        return RequestFailed(status, code, message, mend, retry_s=5 if status == 503 else 0)

    async def _record(
        self,
        ask: Ask,
        job: Job,
        outcome: str,
        began: float,
        **more: Any,  # noqa: ANN401
    ) -> tuple[int, str]:
        try:
            return await asyncio.shield(asyncio.wrap_future(self._append(ask, job, outcome, began, **more)))
        except AuditError as error:
            # What cannot be recorded is not answered.
            raise RequestFailed(503, "audit", "The audit log cannot be written.", error.mend) from error

    def _append(self, ask: Ask, job: Job, outcome: str, began: float, **more: Any) -> Any:  # noqa: ANN401
        if outcome != "streaming":
            self.metrics.requests.labels(ask.endpoint, outcome).inc()
        thinking = "\n".join(f"{name}: {text}" for name, text in job.stream.thinking.items())
        return self.audit.append(
            {
                "endpoint": ask.endpoint,
                "outcome": outcome,
                "query": self.audit.hash_text(ask.query),
                "thinking": self.audit.hash_text(thinking) if any(job.stream.thinking.values()) else None,
                "heads": job.heads.to_json() if job.heads is not None else None,
                "fault": str(job.fault) if job.fault is not None else None,
                "model": self.digest,
                "latency_ms": self._latency(began),
                **more,
            }
        )

    def reject(self, endpoint: str, code: str, count: int = 1) -> None:
        """Record requests that were turned away before they were looked at."""
        self.metrics.requests.labels(endpoint, "rejected").inc(count)
        self.audit.append(
            {
                "endpoint": endpoint,
                "outcome": "rejected",
                "reason": code,
                "count": count,
                "model": self.digest,
            }
        )

    def close(self) -> None:
        """End the worker, then the log."""
        self.worker.close()
        self.audit.close()
