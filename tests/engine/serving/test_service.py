"""The service over real HTTP: answers, errors, limits, cancellation, OpenAI's client, and no leaks."""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from so8t_engine.serving.audit import read_rows
from so8t_engine.serving.audit_verify import verify
from so8t_engine.serving.decision import HeadReading
from so8t_engine.serving.generate import Job
from so8t_engine.serving.service import Service
from tests.engine.serving.conftest import AUTH, SURE, TOKEN, Scripted, serving
from tests.engine.serving.redteam import cases, chunkings, leaked, runs_of, tagged

CLIENT = httpx.Client()
Live = tuple[str, Service, Scripted]


def think(url: str, query: str = "Hello?", **more: Any) -> httpx.Response:  # noqa: ANN401
    return CLIENT.post(f"{url}/think", json={"query": query, **more}, headers=AUTH, timeout=60)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def whole(folder: Path) -> list[dict[str, Any]]:
    """The rows of a verified log."""
    found = verify(folder / "audit.sqlite", "file", folder / "keys")
    assert found.valid, found
    return read_rows(folder / "audit.sqlite")


def test_an_answer_and_its_row(scripted: Live, tmp_path: Path) -> None:
    url, service, _answerer = scripted
    answer = think(url, "What is it?").json()
    assert (answer["final"], answer["decision"], answer["domain"]) == ("Fine.", "ALLOW", None)
    assert answer["heads"]["task"]["label"] == "ALLOW"
    assert answer["latency_ms"] % 10 == 0
    (row,) = whole(tmp_path)
    assert answer["audit_id"] == f"{row['seq']}-{row['mac'][:16]}"
    assert row["outcome"] == "answered"
    assert row["query"] == service.audit.hash_text("What is it?")
    stored = (tmp_path / "audit.sqlite").read_bytes() + (tmp_path / "audit.sqlite-wal").read_bytes()
    assert b"What is it?" not in stored
    assert b"Fine." not in stored


@pytest.mark.parametrize(
    ("task", "danger", "dual", "expected"),
    [
        ((0.69, 0.31, 0.0, 0.0), 0.0, 0.0, ("ESCALATION", "low_confidence")),
        ((0.70, 0.30, 0.0, 0.0), 0.0, 0.0, ("ALLOW", "head")),
        ((0.99, 0.01, 0.0, 0.0), 0.6, 0.0, ("ESCALATION", "danger")),
        ((0.99, 0.01, 0.0, 0.0), 0.0, 0.9, ("ESCALATION", "heads_disagree")),
        ((0.1, 0.5, 0.2, 0.2), 0.0, 0.0, ("ESCALATION", "head")),
        ((0.1, 0.2, 0.5, 0.2), 0.0, 0.0, ("DENY", "head")),
        ((0.1, 0.2, 0.2, 0.5), 0.0, 0.0, ("REFUSE", "head")),
        ((float("nan"), 0.2, 0.2, 0.5), 0.0, 0.0, ("REFUSE", "no_reading")),
    ],
)
def test_the_decision_rule(
    task: tuple[float, ...], danger: float, dual: float, expected: tuple[str, str]
) -> None:
    from so8t_engine.config.serving import ServingConfig
    from so8t_engine.serving.decision import decide

    reading = HeadReading(task, (1 - danger, danger), ((1.0, 0.0), (1 - dual, dual)))
    found = decide(reading, ServingConfig())
    assert (found.label, found.reason) == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("これを送ってください", "これは人の判断が必要です。"),
        ("Bitte sag mir, wie ich das für die Leute mache", "Das muss ein Mensch entscheiden."),
        ("Пожалуйста, отправь это", "Это должен решить человек."),
        ("Send this", "This needs a person to decide."),
        ("请把这个发给他", "此事需要由人来决定"),
    ],
)
def test_escalations_are_told_in_the_askers_language(scripted: Live, query: str, said: str) -> None:
    url, _service, answerer = scripted
    answerer.heads = HeadReading((0.6, 0.4, 0.0, 0.0), SURE.safety, SURE.dual)
    answer = think(url, query).json()
    assert answer["final"].startswith(said)
    assert answer["escalated"]


def test_streaming_sends_nothing_before_final_opens(scripted: Live) -> None:
    url, _service, answerer = scripted
    text = tagged({}, "The archive opens at nine and closes at five on weekdays. " * 8)
    opens = text.index("<final>")
    answerer.pause_s = 0.4
    answerer.say = lambda _job: [text[:opens], text[opens : opens + 300], text[opens + 300 :]]
    began, arrived, joined = time.monotonic(), [], ""
    with httpx.stream(
        "POST", f"{url}/think", json={"query": "x", "stream": True}, headers=AUTH, timeout=60
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                arrived.append(time.monotonic() - began)
                event = json.loads(line[6:])
                joined += event.get("text", "")
    assert arrived[0] >= 0.8  # thinking and the first piece of the answer took that long
    assert len(arrived) >= 3
    assert joined.strip() == event["final"] == text[opens + 7 : -8].strip()


@pytest.mark.parametrize("stream", [False, True])
def test_red_team_over_http(
    scripted: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """The whole corpus through the service: bodies, headers, logs, metrics, audit file."""
    url, _service, answerer = scripted
    corpus = cases()
    generations = {f"{i}: {case.query}": case for i, case in enumerate(corpus)}

    def say(job: Job) -> list[str]:
        case = generations[job.query]
        return list(chunkings(case.text, len(case.text)).values())[hash(case.name) % 4]

    answerer.say = say
    caplog.set_level(logging.DEBUG)

    def ask(query: str) -> str:
        response = think(url, query, stream=stream)
        assert response.status_code == 200
        return (
            str(response.headers) + response.text.encode().decode("unicode_escape", "replace") + response.text
        )

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(ask, generations))
    elsewhere = caplog.text + httpx.get(f"{url}/metrics", headers=AUTH).text
    elsewhere += (tmp_path / "audit.sqlite").read_bytes().decode("utf-8", "replace")
    elsewhere += (tmp_path / "audit.sqlite-wal").read_bytes().decode("utf-8", "replace")
    leaks = [case.name for case, output in zip(corpus, outputs, strict=True) if leaked(output, case.forms)]
    found = runs_of(elsewhere)
    leaks += [case.name for case in corpus if leaked(found, case.forms)]
    assert len(corpus) >= 300
    assert leaks == []
    rows = [row for row in whole(tmp_path) if row["outcome"] != "streaming"]
    assert len(rows) == len(corpus)
    assert sum(row["outcome"] == "answered" for row in rows) == sum(case.whole for case in corpus)


def test_an_exception_tells_neither_caller_nor_log_what_was_thought(
    scripted: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, _service, answerer = scripted

    def fail(_job: Job) -> list[str]:
        raise ValueError("the secret thought of amber and basalt")

    answerer.say = fail
    response = think(url)
    assert response.status_code == 500
    assert "amber" not in response.text + caplog.text
    assert "ValueError" in caplog.text
    assert [row["outcome"] for row in whole(tmp_path)] == ["error"]


def test_who_may_ask_and_how_much(scripted: Live) -> None:
    url, _service, _answerer = scripted
    assert httpx.post(f"{url}/think", json={"query": "x"}).status_code == 401
    assert httpx.get(f"{url}/metrics").status_code == 401
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    for query in ("", "x" * 10_001):
        assert think(url, query).status_code == 422
    assert think(url, "x" * 10_000).status_code == 200
    echoed = think(url, "x", temperature="hot sauce")
    assert echoed.status_code == 422
    assert "sauce" not in echoed.text
    large = httpx.post(f"{url}/think", content=b"{" + b" " * 200_000 + b"}", headers=AUTH)
    assert large.status_code == 413
    pieces = (b" " * 10_000 for _i in range(30))
    assert httpx.post(f"{url}/think", content=pieces, headers=AUTH).status_code == 413


def test_a_full_queue_and_too_many_requests_turn_callers_away(tmp_path: Path) -> None:
    answerer = Scripted()
    answerer.pause_s = 0.5
    with serving(answerer, tmp_path, queue=2, batch=1, requests_per_minute=30) as (url, _service):
        with ThreadPoolExecutor(8) as pool:
            codes = [r.status_code for r in pool.map(lambda _i: think(url), range(8))]
        assert codes.count(503) >= 4
        assert codes.count(200) >= 2
        answerer.pause_s = 0.0
        later = [think(url) for _i in range(30)]
    limited = [r for r in later if r.status_code == 429]
    assert limited
    assert int(limited[0].headers["retry-after"]) >= 1
    outcomes = [row["outcome"] for row in whole(tmp_path)]
    assert outcomes.count("queue_full") == codes.count(503)
    assert "rejected" in outcomes


def test_the_time_limit_holds(tmp_path: Path) -> None:
    answerer = Scripted()
    answerer.pause_s = 1.0
    with serving(answerer, tmp_path, timeout_s=0.6) as (url, _service):
        assert think(url).status_code == 504
    assert [row["outcome"] for row in whole(tmp_path)] == ["timeout"]


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_caller_leaves_the_work_stops_and_is_recorded(tmp_path: Path, stream: bool) -> None:
    answerer = Scripted()
    answerer.pause_s = 0.05
    long = tagged({}, "The archive opens at nine. " * 200)
    answerer.say = lambda _job: [long[i : i + 40] for i in range(0, len(long), 40)]
    with serving(answerer, tmp_path) as (url, service):
        body = {"query": "x", "stream": stream}
        if stream:
            with httpx.stream("POST", f"{url}/think", json=body, headers=AUTH, timeout=30) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/think", json=body, headers=AUTH, timeout=0.7)
        began = time.monotonic()
        while service.worker.busy and time.monotonic() - began < 5:
            time.sleep(0.02)
        assert time.monotonic() - began < 3  # the whole answer would take longer than 6 s
        while not any(row["outcome"] == "cancelled" for row in read_rows(tmp_path / "audit.sqlite")):
            assert time.monotonic() - began < 5
            time.sleep(0.05)
    assert whole(tmp_path)[-1]["outcome"] == "cancelled"


def test_the_official_client(scripted: Live) -> None:
    url, _service, answerer = scripted
    import openai  # 1.6 s, which only this test needs

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN)
    assert [model.id for model in client.models.list()] == ["served"]
    chat: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    answer = client.chat.completions.create(model="served", messages=chat, temperature=0, max_tokens=20)
    assert answer.choices[0].message.content == "Fine."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    said = "The archive opens at nine and closes at five on weekdays only. " * 8
    text = tagged({"think-task": "secret"}, said)
    answerer.say = lambda _job: list(text)
    chunks = list(
        client.chat.completions.create(
            model="served", messages=chat, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(pieces) == said
    assert len(pieces) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    answerer.heads = HeadReading((0.0, 0.0, 0.0, 1.0), SURE.safety, SURE.dual)
    refused = client.chat.completions.create(model="served", messages=chat)
    assert refused.choices[0].finish_reason == "content_filter"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="served", messages=[{"role": "assistant", "content": "x"}])
