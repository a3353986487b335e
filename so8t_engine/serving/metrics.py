"""Prometheus metrics. Nothing in them depends on what was asked or thought."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one service, in a registry of their own.

    Args:
        waiting, busy, rows: read when the metrics are.
    """

    def __init__(self, waiting: Callable[[], int], busy: Callable[[], int], rows: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "so8t_requests",
            "Requests by endpoint and outcome",
            ["endpoint", "outcome"],
            registry=self._registry,
        )
        self.decisions = Counter("so8t_decisions", "Decisions", ["decision"], registry=self._registry)
        self.seconds = Histogram(
            "so8t_request_seconds", "From arrival to answer", buckets=SECONDS, registry=self._registry
        )
        self.tokens = Counter("so8t_answer_tokens", "Tokens of answers", registry=self._registry)
        for name, text, read in (
            ("so8t_queue_waiting", "Requests that wait", waiting),
            ("so8t_answering", "Requests that the model answers now", busy),
            ("so8t_audit_rows", "Number of the audit log's newest row: it never falls", rows),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
