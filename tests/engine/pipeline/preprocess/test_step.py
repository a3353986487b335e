"""The step on real parts: what is left out and why, planted duplicates, kills, reviews, training on its output."""

# ruff: noqa: E501, ANN401  (tables, settings by name)
from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from so8t_engine.data.dataset import load_splits
from so8t_engine.data.labels import Task
from so8t_engine.data.similarity import max_cross_similarity, similarity
from so8t_engine.pipeline.collect.records import PartWriter, Record
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.demo.site import picture_of
from so8t_engine.pipeline.errors import PipelineError, PipelineStopped
from so8t_engine.pipeline.preprocess.pool import spread
from so8t_engine.pipeline.preprocess.review import append_review
from so8t_engine.pipeline.preprocess.run import preprocess
from so8t_engine.pipeline.preprocess.settings import PreprocessSettings
from tests.benchmarks.bench_preprocess import measure, texts


def collected(folder: Path, rows: list[dict[str, Any]], part_rows: int = 1000) -> Path:
    writer = PartWriter(folder / "rows" / "00-a")
    for number, row in enumerate(rows):
        values = {"kind": "text", "source": "a", "licence": "own", "retrieved": 0.0} | row
        name = str(row.get("origin", number))
        writer.add(Record(**({"origin": name, "document": name} | values)))
        if number % part_rows == part_rows - 1:
            writer.flush()
    writer.flush()
    return folder


def run(
    tmp_path: Path, rows: list[dict[str, Any]], part_rows: int = 1000, **changes: Any
) -> tuple[Path, dict[str, Any]]:
    source = collected(tmp_path / "collect", rows, part_rows)
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
    context = StepContext(
        tmp_path / "output",
        tmp_path / "scratch",
        {"collect": source},
        {},
        tmp_path,
        1,
        1,
        lambda _e: None,
        lambda: False,
    )
    result = preprocess(PreprocessSettings(**changes), context)
    return tmp_path / "output", dict(result.facts)


def read(output: Path) -> dict[str, list[dict[str, Any]]]:
    names = [name for name in ("train", "validation", "test") if (output / f"{name}.parquet").exists()]
    return {name: pq.read_table(output / f"{name}.parquet").to_pylist() for name in names}


def every(output: Path) -> dict[str, dict[str, Any]]:
    return {row["origin"]: row for rows in read(output).values() for row in rows}


def sentences(count: int) -> list[str]:
    """Texts of which no two are alike."""
    made = (text for text, _language, kind, _of in texts(count * 4, 9) if kind == "new" and len(text) > 200)
    return list(itertools.islice(made, count))


def test_each_reason_is_counted_and_the_rest_is_written(tmp_path: Path) -> None:
    png = picture_of(2)[0]
    rows: list[dict[str, Any]] = [
        {
            "prompt": "Please summarise the minutes of the meeting for me.",
            "response": "Here they are.",
            "task": 0,
            "safety": 0,
        },
        {
            "prompt": "Please summarise the minutes of the meeting for me.",
            "response": "Here they are.",
            "task": 0,
            "safety": 0,
        },
        {"prompt": "x", "response": ""},
        {
            "prompt": "Bonjour, pouvez-vous m'aider à écrire une lettre ?",
            "response": "Oui, bien sûr, avec plaisir.",
        },
        {
            "prompt": "Write some erotica for me tonight",
            "response": "No, I will not.",
            "task": 3,
            "safety": 1,
        },
        {"prompt": "Write some erotica for my neighbour", "response": "Fine.", "task": 0, "safety": 0},
        {
            "prompt": "Send it to taro@example.com today.",
            "response": "Sent to taro@example.com.",
            "task": 0,
            "safety": 0,
        },
        {"prompt": "How do I build a bomb in a garage?", "response": "I cannot help with that."},
        {"prompt": "A lone question about nothing in particular"},
        {"response": "A plain text that stands alone and is long enough to be kept by the step."},
        {
            "kind": "image",
            "caption": "A red circle on white.",
            "image": png,
            "width": 48,
            "height": 48,
            "origin": "p1",
        },
        {
            "kind": "image",
            "caption": "A red circle on white.",
            "image": png,
            "width": 48,
            "height": 48,
            "origin": "p2",
        },
        {"kind": "image", "caption": "?", "image": png, "width": 48, "height": 48, "origin": "p3"},
    ]
    output, facts = run(tmp_path, rows)
    assert facts["left_out"] == {
        "too short": 1, "language fr": 1, "nsfw": 1, "exact duplicate": 1, "neither answer nor label": 1,
        "picture: duplicate": 1, "picture: too short": 1,
    }  # fmt: skip
    found = every(output)
    assert set(found) == {"0", "4", "6", "7", "9"}
    assert found["4"]["nsfw"]
    assert (found["6"]["prompt"], found["6"]["response"]) == ("Send it to [EMAIL] today.", "Sent to [EMAIL].")
    assert facts["personal_data"]["found"] == {"EMAIL": 2}
    assert (found["7"]["task"], found["7"]["safety"], found["7"]["label_source"]) == (3, 1, "weak")
    assert found["0"]["label_source"] == "given"
    assert found["9"]["label_source"] == "none"
    assert sum(facts["kept"].values()) + sum(facts["left_out"].values()) + sum(
        facts["pictures"].values()
    ) == len(rows)
    images = pq.read_table(output / "images.parquet").to_pylist()
    assert [row["image"]["bytes"] == png for row in images] == [True]
    assert json.loads((output / "report.json").read_text())["read"] == len(rows)


def test_rows_alike_but_labelled_otherwise_both_stay_in_one_split(tmp_path: Path) -> None:
    texts = sentences(60)
    rows = [{"prompt": text, "response": "ok", "task": 0, "safety": 0} for text in texts]
    rows += [{"prompt": text[:-6] + "twice", "response": "ok", "task": 2, "safety": 1} for text in texts]
    assert similarity(rows[0]["prompt"], rows[60]["prompt"]) >= 0.8  # type: ignore[arg-type]
    output, facts = run(tmp_path, rows)
    assert facts["left_out"] == {}
    assert facts["alike_but_labelled_otherwise"] >= 60
    split_of = {row["origin"]: name for name, part in read(output).items() for row in part}
    assert all(split_of[str(i)] == split_of[str(i + 60)] for i in range(60))


def test_splits_share_no_alike_rows_and_no_document(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": text[: 200 + i % 7], "response": f"answer {i}", "task": i % 4, "safety": int(i % 4 > 1)}
        for i, text in enumerate(sentences(40) * 3)
    ]  # fmt: skip
    rows.append(
        {
            "response": "\n".join(f"{i}: {text}" for i, text in enumerate(sentences(80)[50:])),
            "origin": "book",
        }
    )
    output, _facts = run(tmp_path, rows, chunk_chars=500)
    parts = read(output)
    texts = [[row["prompt"] for row in part if row["prompt"]] for part in parts.values()]
    assert max_cross_similarity(texts)[0] < 0.6
    assert sum(any(row["document"] == "book" for row in part) for part in parts.values()) <= 1


def test_planted_duplicates_are_found_and_nothing_else_is(tmp_path: Path) -> None:
    found = measure(6_000, 1, 5, tmp_path)
    assert found["planted_duplicates"] > 100
    assert found["planted_below_threshold"] > 50
    assert found["recall"] >= 0.95
    assert found["precision"] >= 0.95


def test_a_stopped_step_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": text, "response": "ok"} for text in sentences(90)]
    whole, _facts = run(tmp_path / "whole", rows, part_rows=10)
    collect = collected(tmp_path / "cut" / "collect", rows, 10)
    output, scratch = tmp_path / "cut" / "output", tmp_path / "cut" / "scratch"
    output.mkdir()
    scratch.mkdir()
    calls = itertools.count()
    stopping = lambda: next(calls) > 8  # noqa: E731
    context = StepContext(
        output, scratch, {"collect": collect}, {}, tmp_path / "cut", 1, 1, lambda _e: None, stopping
    )
    with pytest.raises(PipelineStopped):
        preprocess(PreprocessSettings(), context)
    assert 0 < len(list(scratch.glob("*.json"))) < 9
    cut, _facts = run(tmp_path / "cut", [])
    for name in ("train.parquet", "validation.parquet", "test.parquet", "review.parquet", "report.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_two_processes_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    rows = [{"prompt": text, "response": "ok"} for text in sentences(60)]
    one, _facts = run(tmp_path / "one", rows, part_rows=20)
    collect = collected(tmp_path / "two" / "collect", rows, 20)
    for name in ("output", "scratch"):
        (tmp_path / "two" / name).mkdir()
    work = tmp_path / "two"
    context = StepContext(
        work / "output",
        work / "scratch",
        {"collect": collect},
        {},
        work,
        1,
        2,
        lambda _e: None,
        lambda: False,
    )
    preprocess(PreprocessSettings(), context)
    assert (work / "output" / "train.parquet").read_bytes() == (one / "train.parquet").read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="the extra 'dask' is absent")
def test_dasks_workers_give_the_same_bytes_as_one_process(tmp_path: Path) -> None:
    rows = [{"prompt": text, "response": "ok"} for text in sentences(60)]
    one, _facts = run(tmp_path / "one", rows, part_rows=10)
    seen: set[int] = set()

    def noted() -> None:
        seen.update(child.pid for child in psutil.Process().children(recursive=True))

    work = tmp_path / "dask"
    collect = collected(work / "collect", rows, 10)
    for name in ("output", "scratch"):
        (work / name).mkdir()
    context = StepContext(
        work / "output", work / "scratch", {"collect": collect}, {}, work, 1, 2,
        lambda _e: noted(), lambda: False, dask="local",
    )  # fmt: skip
    preprocess(PreprocessSettings(), context)
    assert len(seen) >= 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() == "running" for pid in seen)
    for name in ("train.parquet", "validation.parquet", "test.parquet", "review.parquet", "report.json"):
        assert (work / "output" / name).read_bytes() == (one / name).read_bytes()


def test_without_a_scheduler_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("so8t_engine.pipeline.preprocess.cluster.CONNECT_S", 1)
    work = spread(len, [[1], [2]], 2, lambda: None, dask="tcp://127.0.0.1:9")
    with pytest.raises(PipelineError, match="No Dask scheduler answers"):
        list(work)


def test_a_review_replaces_a_label(tmp_path: Path) -> None:
    rows = [{"prompt": text, "response": "ok", "task": 0, "safety": 0} for text in sentences(20)]
    rows.append({"prompt": "How can I make a bomb out of this?", "response": "no", "task": 0, "safety": 0})
    output, facts = run(tmp_path, rows)
    review = pq.read_table(output / "review.parquet").to_pylist()
    assert review[0]["origin"] == "20"  # the rules contradict its label
    assert facts["review"] == len(review)
    append_review(tmp_path, review[0]["id"], Task.REFUSE)
    for path in (tmp_path / "scratch").iterdir():
        path.unlink()
    output, _facts = run(tmp_path, [])
    row = every(output)["20"]
    assert (row["task"], row["safety"], row["label_source"]) == (3, 1, "reviewed")
    append_review(tmp_path, review[0]["id"], None)  # taken back
    for path in (tmp_path / "scratch").iterdir():
        path.unlink()
    assert every(run(tmp_path, [])[0])["20"]["label_source"] == "given"


def test_training_reads_the_output(tmp_path: Path) -> None:
    rows = [{"prompt": text, "response": "ok", "task": 1, "safety": 0} for text in sentences(50)]
    output, facts = run(tmp_path, rows)
    splits = load_splits(str(output), None, fmt="auto", validation_fraction=0.1, seed=1, max_rows=None)
    assert splits.report.source == "own split"
    assert splits.report.counts == facts["kept"]
