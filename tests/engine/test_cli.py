"""The command line as a person uses it: sentences, exit statuses, clean output, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.config import Config
from tests.engine.command_line import so8t_here

Make = Callable[..., Config]


def so8t(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "so8t_engine.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"SO8T_LANG": "en"} | environment,
        timeout=300,
    )


GOOD = '{"prompt": "May I come in?", "response": "Yes.", "task": "ALLOW", "safety": "safe"}\n'

#: name → (file content of rows.jsonl or None, settings, exit status, parts of the sentence)
BAD: dict[str, tuple[str | None, list[str], int, list[str]]] = {
    "missing model folder": (GOOD, ["model.path=./nowhere"], 1, ["./nowhere", "model folder"]),
    "not a model folder": (GOOD, ["model.path=."], 1, ["config.json"]),
    "unknown key": (GOOD, ["training.learning_rat=1"], 2, ["training.learning_rate?"]),
    "batch 0": (GOOD, ["training.batch_size=0"], 2, ["training.batch_size", "at least 1"]),
    "learning rate abc": (GOOD, ["training.learning_rate=abc"], 2, ["training.learning_rate", "'abc'"]),
    "a gate in no layer": (GOOD, ["so8t.gate_layers=[9]"], 1, ["no decoder layer 9", "0 to 3"]),
    "empty data": ("", [], 1, ["rows.jsonl", "empty"]),
    "a row without text": (GOOD + '{"task": "ALLOW"}\n', [], 1, ["rows.jsonl", "line 2"]),
    "a torn line": (GOOD + '{"prompt": "May I', [], 1, ["rows.jsonl", "line 2", "ends in the middle"]),
    "wrong label": (GOOD.replace("ALLOW", "MAYBE"), [], 1, ["rows.jsonl", "line 1", "task", "ALLOW"]),
    "contradicting labels": (GOOD.replace("ALLOW", "REFUSE"), [], 1, ["line 1", "contradicts"]),
    "missing data": (None, [], 1, ["rows.jsonl"]),
}
#: One for each exit status is a process of its own; the others spare its start.
AS_PROCESSES = {"batch 0", "a torn line"}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_a_sentence_with_a_mend_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    content, settings, status, parts = BAD[name]
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    run = tmp_path / "run"
    options = [option for setting in ["data.train=rows.jsonl", *settings] for option in ("--set", setting)]
    call = so8t if name in AS_PROCESSES else so8t_here
    done = call("train", "demo", *options, "--run-dir", str(run), "--json", cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["sentence"]
    assert error["mend"]
    assert not run.exists()


def test_a_run_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD * 1, encoding="utf-8")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file stands where the folder should be")
    done = so8t_here("train", "demo", "--run-dir", str(blocked / "run"), "--max-steps", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "--run-dir" in done.stderr
    assert blocked.read_text() == "a file stands where the folder should be"


def test_a_broken_config_file_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training:\n  epochs: 1\n  batch_size: many\n", encoding="utf-8")
    done = so8t_here("train", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine.yaml:3" in done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_errors_come_in_japanese(tmp_path: Path) -> None:
    done = so8t("train", "nowhere.yaml", cwd=tmp_path, SO8T_LANG="ja")
    assert done.returncode == 2
    assert "設定" in done.stderr


def test_unknown_arguments_exit_with_2(tmp_path: Path) -> None:
    assert so8t("train", "demo", "--wibble", cwd=tmp_path).returncode == 2
    assert so8t_here("wibble", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["estimate", "fit"])
def test_estimate_and_fit_print_one_json_object_without_loading_torch(command: str, tmp_path: Path) -> None:
    script = (
        "import sys, so8t_engine.cli as c; sys.argv = ['so8t', sys.argv[1], 'phi35_8gb', '--json']\n"
        "try: c.main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, command],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["fits"] is True
    assert {"estimate": "terms", "fit": "longest_sequence"}[command] in result


@pytest.mark.slow
def test_train_prints_one_object_and_the_history_knows_the_run(tiny_config: Make, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_config().to_yaml(), encoding="utf-8")
    done = so8t("train", str(file), "--max-steps", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["step"], result["of"]) == ("finished", 2, 2)
    validation = result["evaluation"]["validation"]
    assert validation["before"]["rows"] == validation["after"]["rows"] == 8
    assert set(validation["bag_of_words"]) >= {"task_accuracy", "ngram_task_accuracy"}
    listed = json.loads(so8t_here("runs", "list", "runs", "--json", cwd=tmp_path).stdout)["runs"]
    assert [(run["id"], run["state"], run["step"]) for run in listed] == [(result["run"], "finished", 2)]
    assert so8t_here("runs", "verify", result["path"], cwd=tmp_path).returncode == 0
    soul = Path(result["path"]) / "final" / "soul.safetensors"
    data = bytearray(soul.read_bytes())
    data[-1] ^= 1
    soul.write_bytes(bytes(data))
    damaged = so8t_here("runs", "verify", result["path"], "--json", cwd=tmp_path)
    assert damaged.returncode == 1
    assert "soul.safetensors" in json.loads(damaged.stdout)["files"]["final"]
    again = so8t_here("train", str(file), "--run-dir", result["path"], cwd=tmp_path)
    assert again.returncode == 1
    assert "already holds a run" in again.stderr


def test_the_benchmark_of_the_window_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    help_text = so8t_here("bench", "ui", "--help", cwd=tmp_path, COLUMNS="200").stdout
    assert all(option in help_text for option in ("--steps", "--seconds", "--hours", "--json"))
    assert so8t_here("bench", "ui", "--stops", "3", cwd=tmp_path).returncode == 2
    asked: list[list[str]] = []

    def child(command: list[str], **_how: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[3:])
        return subprocess.CompletedProcess(command, 0, '{"a": 1}', "")

    monkeypatch.setattr("so8t_engine.commands.bench.subprocess.run", child)
    done = so8t_here("bench", "ui", "--steps", "9", "--seconds", "1.5", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"a": 1})
    assert asked == [["--steps", "9", "--seconds", "1.5", "--hours", "8.0"]]
