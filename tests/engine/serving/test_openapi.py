"""Schemathesis against the OpenAPI document: no 5xx, no answer that the document does not describe."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from so8t_engine.config.serving import ServingConfig
from so8t_engine.serving.app import make_app
from so8t_engine.serving.audit import AuditLog
from so8t_engine.serving.service import Service
from so8t_engine.serving.worker import Worker
from tests.engine.serving.conftest import AUTH, TOKEN, Scripted

#: What it calls wrong may be an unknown parameter, which is ignored. A chat that does not end with the
#: user's message fits the schema and is no question yet.
EXCLUDED = [checks.negative_data_rejection, checks.positive_data_acceptance]


@pytest.fixture(scope="module")
def application() -> Any:  # noqa: ANN401
    with tempfile.TemporaryDirectory() as folder:
        chosen = ServingConfig(requests_per_minute=1_000_000)
        audit = AuditLog(Path(folder) / "audit.sqlite", "file", Path(folder) / "keys")
        worker = Worker(Scripted(), chosen.batch or 8, chosen.queue)
        service = Service(worker, audit, chosen, run="served", digest="0" * 64)
        yield make_app(service, TOKEN)
        service.close()


OPERATIONS = (
    ("POST", "/think"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("GET", "/metrics"),
)

KNOWN: dict[str, Any] = {
    "/think": {"query": "Good morning"},
    "/v1/chat/completions": {"model": "served", "messages": [{"role": "user", "content": "Good morning"}]},
}


def test_every_operation_is_tested(application: FastAPI) -> None:
    described = application.openapi()["paths"]
    assert {(verb.upper(), path) for path, verbs in described.items() for verb in verbs} == set(OPERATIONS)


@pytest.mark.parametrize(("verb", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_interface_keeps_its_word(
    application: FastAPI, verb: str, path: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", application)
    operation = schema[path][verb]
    if mode is GenerationMode.NEGATIVE and verb == "GET":
        pytest.skip("a request without parameters cannot be wrong")
    seen: Counter[int] = Counter()

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        response = case.call(headers=AUTH)
        seen[response.status_code] += 1
        assert response.status_code < 500
        case.validate_response(response, headers=AUTH, excluded_checks=EXCLUDED)

    check()
    assert seen
    if mode is GenerationMode.POSITIVE:
        # What is drawn need not hold a question (see EXCLUDED): one that does is asked by hand.
        body = {"json": KNOWN[path]} if path in KNOWN else {}
        answer = TestClient(application).request(verb, path, headers=AUTH, **body)
        assert answer.status_code == 200, answer.text
