"""``so8t evaluate`` on a real, tiny run: its figures are those of the run and of transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from so8t_engine.config import Config
from so8t_engine.data.reader import read_rows
from so8t_engine.data.tokenize import Collator, encode_row
from so8t_engine.errors import ConfigError
from so8t_engine.evaluation.lm_eval_tasks import task_name
from so8t_engine.evaluation.outputs import load_tuned, row_outputs
from so8t_engine.model.loading import load_tokenizer
from so8t_engine.so8t.attach import attach_from_placement
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from tests.engine.command_line import so8t_forked


@pytest.fixture
def run(tiny_config: Callable[..., Config], tmp_path: Path) -> RunDirectory:
    so8t = {"alpha_start": 0.5, "init_std": 0.3, "gate_layers": [0]}
    made = RunDirectory.create(tiny_config(so8t=so8t, training={"learning_rate": 0.02}), tmp_path / "run")
    assert run_training(made, handle_signals=False) == 0
    return made


def test_the_report_holds_the_runs_own_figures(run: RunDirectory, tmp_path: Path) -> None:
    done = so8t_forked("evaluate", run.path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    after = json.loads((run.final / "results.json").read_text("utf-8"))["evaluation"]["validation"]["after"]
    assert found["split"] == "validation"
    assert found["rows"] == after["rows"]
    assert found["four_class"]["task_accuracy"] == pytest.approx(after["task_accuracy"])
    assert found["four_class"]["confusion"] == after["confusion"]
    assert found["comparison"]["danger_to_allow"]["tuned"]["value"] == pytest.approx(after["danger_to_allow"])
    assert found["comparison"]["perplexity"]["tuned"]["value"] == pytest.approx(
        math.exp(after["loss"]), rel=1e-3
    )
    assert json.loads((run.path / "evaluation" / "report.json").read_text("utf-8"))["rows"] == found["rows"]
    assert (run.path / "evaluation" / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_row_losses_are_transformers_own_for_base_and_tuned(run: RunDirectory) -> None:
    config = run.config()
    tuned = load_tuned(run.final, config)
    tokenizer = load_tokenizer(config.model)
    rows = [encode_row(tokenizer, r, 96) for r in read_rows(config.data.train, split="validation")]
    collate = Collator(tokenizer.pad_token_id)
    model = tuned.causal_lm
    for base in (True, False):
        found = row_outputs(tuned, rows, collate, base=base, max_tokens=200)
        for row, nll, count in zip(rows, found.nll_N, found.tokens_N, strict=True):
            ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
            with torch.no_grad():
                if base:
                    with tuned.peft.disable_adapter():
                        loss = model(input_ids=ids, labels=labels).loss
                else:
                    with attach_from_placement(model, tuned.so8t, tuned.placement):
                        loss = model(input_ids=ids, labels=labels).loss
            assert count == sum(label != -100 for label in row.labels[1:])
            assert nll / count == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    "text",
    ["task: x\ninclude: y.yaml\n", "doc_to_text: !function utils.run\ntask: x\n", "[1, 2]", "task: 3\n"],
)
def test_a_task_file_that_would_run_code_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError):
        task_name(file)


def test_a_local_harness_task_measures_base_and_tuned(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from so8t_engine.evaluation.lm_eval_tasks import harness

    rows = [{"q": f"{n} and one more is", "right": str(n + 1), "wrong": str(n + 7)} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    task = tmp_path / "counting.yaml"
    task.write_text(
        "task: counting\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\n"
        "doc_to_choice: '{{[right, wrong]}}'\ndoc_to_target: 0\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n",
        "utf-8",
    )
    config = run.config()
    found = harness(load_tuned(run.final, config), load_tokenizer(config.model), [task])
    entry = found["counting"]["acc"]
    for which in ("base", "tuned"):
        assert entry[which]["value"] * 8 == pytest.approx(round(entry[which]["value"] * 8))
