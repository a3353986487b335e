"""The step: files, data sets and pages in one layout, licences filtered, failures told, kills survived."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.pipeline.collect.licences import licence_name, taken
from so8t_engine.pipeline.collect.records import batches, row_files
from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.demo.hub import demo_hub
from so8t_engine.pipeline.demo.site import picture_of
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.steps.collect import CollectStep
from so8t_engine.training.events import ErrorEvent, Event, PipelineStepEvent, WarningEvent


def run(tmp_path: Path, sources: list[dict[str, Any]], **changes: Any) -> tuple[Pipeline, list[Event], int]:  # noqa: ANN401
    config = PipelineConfig.model_validate(
        {
            "name": "t",
            "directory": str(tmp_path / "p"),
            "collect": {"sources": sources, "delay_s": 0.0, **changes},
        }
    )
    pipeline = Pipeline(config, [CollectStep(config)])
    pipeline.back_off_s = 0.01
    events: list[Event] = []
    return pipeline, events, pipeline.run(on_event=events.append)


def rows(pipeline: Pipeline) -> list[dict[str, Any]]:
    files = row_files(pipeline.store("collect").output)
    return [row for batch in batches(files) for row in batch.to_pylist()]


def test_a_folder_with_everything(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    lines = [
        {"prompt": "q1", "response": "a1", "task": "DENY"},
        {"prompt": "q2", "licence": "CC-BY-NC-4.0", "response": "no"},
        {"prompt": "alone"},
        {"nothing": 1},
    ]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n", encoding="utf-8")
    (folder / "b.csv").write_text("prompt,response\nq3,a3\n", encoding="utf-8")
    (folder / "c.txt").write_text("plain text 日本語", encoding="utf-8")
    (folder / "d.bin").write_bytes(b"\0")
    (folder / ".hidden.jsonl").write_text('{"text": "x"}')
    png = picture_of(1)[0]
    for name in ("one", "two", "three"):
        (folder / "pictures" / f"{name}.png").write_bytes(png)
    (folder / "pictures" / "one.txt").write_text("side caption")
    listed = [{"file_name": "two.png", "text": "listed"}, {"file_name": "../../etc/passwd", "text": "no"}]
    listed += [{"file_name": "a\0.png", "text": "NUL"}, {"file_name": "\ud800.png", "text": "half a pair"}]
    (folder / "pictures" / "metadata.jsonl").write_text("\n".join(map(json.dumps, listed)))
    pipeline, _events, status = run(tmp_path, [{"name": "mine", "location": str(folder), "licence": "own"}])
    assert status == 0
    found = rows(pipeline)
    texts = {
        (row["prompt"], row["response"], row["task"], row["safety"]) for row in found if row["kind"] == "text"
    }
    assert texts == {
        ("q1", "a1", 2, 1), ("alone", "", None, None), ("q3", "a3", None, None),
        ("", "plain text 日本語", None, None),
    }  # fmt: skip
    assert {row["caption"]: row["width"] for row in found if row["kind"] == "image"} == {
        "side caption": 48,
        "listed": 48,
    }
    assert {row["licence"] for row in found} == {"own"}
    assert len({row["id"] for row in found}) == len(found) == 6
    report = json.loads((pipeline.store("collect").output / "sources.json").read_text())[0]
    assert report["refused"] == {
        "licence cc-by-nc-4.0": 1, "no usable row": 1, "unreadable record": 1, "no known format": 1,
        "picture without a caption": 1,
    }  # fmt: skip


def test_datasets_reads_the_layout(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p.png").write_bytes(picture_of(5)[0])
    (tmp_path / "data" / "p.txt").write_text("caption")
    (tmp_path / "data" / "t.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
    pipeline, _events, _status = run(
        tmp_path, [{"name": "a", "location": str(tmp_path / "data"), "licence": "own"}]
    )
    import datasets

    files = [str(path) for path in row_files(pipeline.store("collect").output)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert type(loaded.features["image"]).__name__ == "Image"
    found = list(loaded)
    assert [row["image"].size for row in found if row["image"] is not None] == [(48, 48)]


def test_a_hub_data_set_needs_a_revision_and_its_folder_does_not(tmp_path: Path) -> None:
    folder = demo_hub(tmp_path / "hub", rows=50)
    sources = [
        {"name": "pinned", "kind": "hub", "location": "nobody/nothing"},
        {"name": "folder", "kind": "hub", "location": str(folder), "max_rows": 20},
    ]
    pipeline, events, status = run(tmp_path, sources)
    assert status == 0
    assert [event.sentence for event in events if isinstance(event, WarningEvent)] == [
        "The source pinned failed: The Hub data set nobody/nothing has no revision."
    ]
    found = rows(pipeline)
    assert len(found) == 20
    assert found[0]["licence"] == "cc0-1.0"
    assert found[19]["origin"] == "hub:hub@folder/train:20"


def test_nothing_but_failures_is_a_failure(tmp_path: Path) -> None:
    _pipeline, events, status = run(tmp_path, [{"name": "x", "kind": "hub", "location": "a/b"}])
    assert status == 1
    error = next(event for event in events if isinstance(event, ErrorEvent))
    assert error.sentence == "No source gave a single row: The Hub data set a/b has no revision."
    _pipeline, events, status = run(tmp_path / "b", [{"name": "x", "location": str(tmp_path / "missing")}])
    assert status == 1
    assert any(
        "There is no file or folder" in event.sentence for event in events if isinstance(event, ErrorEvent)
    )


def test_a_source_cut_in_the_middle_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from so8t_engine.pipeline.collect import records
    from so8t_engine.pipeline.collect import run as collect_run

    monkeypatch.setattr(records, "PART_ROWS", 7)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{i}", "response": "a"}) + "\n" for i in range(50)))
    sources = [{"name": "a", "location": str(data), "licence": "own"}]
    whole, _events, _status = run(tmp_path / "whole", sources)
    real = collect_run.local_records

    def breaks(source: Any) -> Any:  # noqa: ANN401
        for number, one in enumerate(real(source)):
            if number == 30:
                raise ConnectionError("gone")
            yield one

    monkeypatch.setattr(collect_run, "local_records", breaks)
    attempts: list[int] = []

    def heal(event: Event) -> None:
        if isinstance(event, PipelineStepEvent) and event.status == "retrying":
            attempts.append(len(list((tmp_path / "cut").rglob("part-*.parquet"))))
            monkeypatch.setattr(collect_run, "local_records", real)

    config = whole.config.model_copy(update={"directory": str(tmp_path / "cut")})
    cut = Pipeline(config, [CollectStep(config)])
    cut.back_off_s = 0.01
    assert cut.run(on_event=heal) == 0
    assert attempts == [4]
    assert [row["id"] for row in rows(cut)] == [row["id"] for row in rows(whole)]
    assert cut.store("collect").manifest()["content"] == whole.store("collect").manifest()["content"]  # type: ignore[index]


def test_the_demonstration_site_and_data_set(tmp_path: Path) -> None:
    sources = [
        {"name": "site", "kind": "web", "location": "demo-site", "max_pages": 40},
        {"name": "hub", "kind": "hub", "location": "demo-hub"},
    ]
    first, events, status = run(tmp_path / "a", sources)
    assert status == 0
    facts = next(e.facts for e in events if isinstance(e, PipelineStepEvent) and e.status == "done")
    assert facts["pictures"] == 160
    assert facts["refused"] == {
        "forbidden by robots.txt": 1,
        "the page asks not to be kept": 1,
        "status 404": 1,
    }
    second, _events, _status = run(tmp_path / "b", sources)  # on another port, at another time
    assert first.store("collect").manifest()["content"] == second.store("collect").manifest()["content"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://creativecommons.org/licenses/by-sa/4.0/deed.ja", "cc-by-sa-4.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "public-domain"),
        ("Apache License 2.0", "apache-2.0"), ("MIT", "mit"), ("other", ""), ("unknown", ""), (None, ""),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
    ],
)  # fmt: skip
def test_names_of_licences(text: str | None, name: str) -> None:
    assert licence_name(text) == name


def test_a_licence_nobody_names_is_refused_unless_asked_for() -> None:
    assert not taken("", ["mit"], unknown=False)
    assert taken("", ["mit"], unknown=True)
    assert taken("mit", ["MIT"], unknown=False)
    assert not taken("cc-by-nc-4.0", ["MIT"], unknown=True)


def test_web_sources_need_a_contact() -> None:
    with pytest.raises(ValueError, match="web sources need a contact"):
        PipelineConfig.model_validate(
            {"collect": {"sources": [{"name": "w", "kind": "web", "location": "https://example.org/"}]}}
        )


def test_streaming_a_data_set_does_not_import_torch(tmp_path: Path) -> None:
    """What the collection leaves in memory stays there while preprocessing works."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "a row of some words"}\n')
    code = (
        "import sys\nfrom so8t_engine.pipeline.collect.hub import hub_records\n"
        "from so8t_engine.pipeline.collect.settings import SourceSettings\n"
        f"source = SourceSettings(name='a', kind='hub', location={str(tmp_path / 'data')!r}, licence='own')\n"
        "print(len(list(hub_records(source, 0, 0.0))), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
