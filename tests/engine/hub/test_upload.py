"""Uploads against a local server that speaks the Hub's protocol: private, resumable, verified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.commands.upload import LOCAL, upload_run
from so8t_engine.config import Config
from so8t_engine.errors import ConfigError, SO8TError
from so8t_engine.hub.card import model_card
from so8t_engine.hub.staging import listing, stage, strip_paths
from so8t_engine.hub.stand_in import TOKEN, StandIn, serving
from so8t_engine.hub.upload import UploadError, upload_folder
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files the Hub takes as LFS, one that goes into the commit, one empty."""
    made = tmp_path / "folder"
    (made / "deep").mkdir(parents=True)
    for number in range(3):
        (made / "deep" / f"{number}.safetensors").write_bytes(os.urandom(200_000) + bytes([number]))
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n", "utf-8")
    (made / "empty.txt").write_bytes(b"")
    return made


@pytest.fixture
def hub(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path / "hub")


@pytest.fixture
def address(hub: StandIn) -> Iterator[str]:
    with serving(hub) as found:
        yield found


def _send(folder: Path, address: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    wanted = {"repo": "me/model", "token": TOKEN, "endpoint": address, "message": "test"} | options
    return upload_folder(folder, **wanted)


def test_a_folder_arrives_whole_and_private(folder: Path, hub: StandIn, address: str) -> None:
    stages: list[str] = []
    done = _send(folder, address, told=stages.append)
    assert stages == ["repository", "files", "check"]
    assert (done["private"], done["missing"]) == (True, [])
    repo = hub.repo("me/model")
    assert repo is not None
    assert repo["private"] is True
    assert repo["head"] == done["commit"]
    held = {name: entry["sha256"] for name, entry in repo["files"].items()}
    assert held == {file.name: file.sha256 for file in listing(folder)}
    for file in listing(folder):
        assert (hub.objects / file.sha256).read_bytes() == (folder / file.name).read_bytes()
    # Again: nothing is sent, nothing changes.
    sent = len(hub.received)
    assert _send(folder, address)["commit"] == done["commit"]
    assert len(hub.received) == sent


def test_an_upload_that_broke_off_goes_on_where_it_was(folder: Path, hub: StandIn, address: str) -> None:
    hub.fail_after = 1
    with pytest.raises(UploadError, match="failed"):
        _send(folder, address)
    repo = hub.repo("me/model")
    assert repo is not None
    assert repo["files"] == {}
    first = list(hub.received)
    assert len(first) == 1
    hub.fail_after = None
    assert _send(folder, address)["missing"] == []
    assert len(hub.received) == len(set(hub.received)) == 3  # the first was not sent again


def test_what_the_hub_lost_is_noticed(
    folder: Path, hub: StandIn, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StandIn.commit

    def losing(self: StandIn, name: str, lines: list[dict[str, Any]]) -> str:
        return kept(self, name, [line for line in lines if "1.safetensors" not in str(line)])

    monkeypatch.setattr(StandIn, "commit", losing)
    with pytest.raises(UploadError, match=r"deep/1\.safetensors"):
        _send(folder, address)


def test_refusals_are_sentences_and_keep_the_token_to_themselves(
    folder: Path, hub: StandIn, address: str
) -> None:
    with pytest.raises(UploadError, match="refused the token") as refused:
        _send(folder, address, token="hf_wrong_secret")
    assert "hf_wrong_secret" not in str(refused.value)
    assert not refused.value.transient
    hub.save("me/model", {"private": False, "files": {}, "head": "0" * 40})
    with pytest.raises(UploadError, match="public"):
        _send(folder, address)
    assert _send(folder, address, private=False)["private"] is False

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        _send(folder, address, check=stop)
    with pytest.raises(UploadError) as unreachable:
        _send(folder, "http://127.0.0.1:9")
    assert unreachable.value.transient


def test_a_run_goes_up_with_a_card_of_measured_figures(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    before = {p: p.read_bytes() for p in run.final.rglob("*") if p.is_file()}
    text, planned = upload_run(run.path, "me/model", dry_run=True, endpoint=LOCAL)
    assert "would go" in text
    assert not (run.path / "uploaded.json").exists()
    assert not (run.path / "local-hub").exists()
    names = {file["name"] for file in planned["files"]}
    assert {"README.md", "so8t/soul.safetensors", "adapter/adapter_model.safetensors"} <= names
    _text, found = upload_run(run.path, "me/model", endpoint=LOCAL, licence="apache-2.0")
    assert [f["sha256"] for f in found["files"] if f["name"] != "README.md"] == [
        f["sha256"] for f in planned["files"] if f["name"] != "README.md"
    ]
    assert found["really_private"] is True
    assert json.loads((run.path / "uploaded.json").read_text("utf-8"))["commit"] == found["commit"]
    hub = StandIn(run.path / "local-hub")
    repo = hub.repo("me/model")
    assert repo is not None
    for entry in repo["files"].values():  # nothing of this computer's folders
        assert str(tmp_path).encode() not in (hub.objects / entry["sha256"]).read_bytes()
    results = json.loads((run.final / "results.json").read_text("utf-8"))
    accuracy = results["evaluation"]["validation"]["after"]["task_accuracy"]
    assert f"task_accuracy {accuracy:.4f}" in found["card"]
    assert "license: apache-2.0" in found["card"]
    assert "were not recorded" in found["card"]  # the rows' licences
    assert {p: p.read_bytes() for p in run.final.rglob("*") if p.is_file()} == before
    assert [p.name for p in run.path.iterdir() if p.name.startswith(".so8t")] == []


def test_the_card_says_missing_where_nothing_was_measured_and_regressions_first() -> None:
    config = Config().model_dump(mode="json")
    options: dict[str, Any] = {"run": "r", "config": config, "bake": None, "ggufs": [], "data": None}
    empty = model_card(**options, results={}, evaluation=None, licence=None, pipeline=False)
    assert "Not measured." in empty
    assert "Data policy" not in empty
    assert "α =" not in empty
    entry = {"value": 0.5, "low": 0.4, "high": 0.6}
    report = {
        "rows": 10, "split": "test", "probe": None, "four_class": None,
        "comparison": {"perplexity": {"base": entry, "tuned": entry, "difference": entry, "better": False}},
    }  # fmt: skip
    full = model_card(
        **options, results={"alpha": 1.6, "alpha_source": "scheduled"}, evaluation=report,
        licence=None, pipeline=True,
    )  # fmt: skip
    assert full.index("Worse than the base") < full.index("| figure |")
    assert "proves nothing" in full
    assert "Data policy" in full


def test_paths_are_cut_down_to_names() -> None:
    found = strip_paths({"a": "/home/me/x/", "b": ["C:\\Users\\me\\y.json", "hub:o/n", "3 / 4"], "c": 1})
    assert found == {"a": "x", "b": ["y.json", "hub:o/n", "3 / 4"], "c": 1}


def test_the_token_comes_from_the_keyring_and_its_absence_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keyring = pytest.importorskip("keyring")
    from so8t_engine.hub.token import find_token

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(keyring, "get_password", lambda service, user: None)
    with pytest.raises(SO8TError, match="no token"):
        find_token()
    monkeypatch.setattr(keyring, "get_password", lambda service, user: f"{service}|{user}")
    assert find_token("https://hub.example") == ("so8t|https://hub.example", "keyring")


def test_a_bad_name_is_a_bad_argument(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        upload_run(tmp_path, "no-owner")
    done = subprocess.run(
        [sys.executable, "-m", "so8t_engine.cli", "upload", str(tmp_path), "--repo", "../x", "--json"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "config"


def test_staging_never_writes_through_into_the_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    (run.final / "adapter").mkdir(parents=True)
    config = run.final / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "model")}), "utf-8")
    before = config.read_bytes()
    (tmp_path / "stage").mkdir()
    stage(tmp_path / "stage", run, baked=None, ggufs=[], report=None, card="# x")
    assert config.read_bytes() == before
    staged = json.loads((tmp_path / "stage" / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert staged == {"base_model_name_or_path": "model"}
