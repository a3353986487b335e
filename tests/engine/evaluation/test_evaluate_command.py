"""``so8t evaluate`` on a real, tiny run: its figures are those of the run and of transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from so8t_engine.data.reader import read_rows
from so8t_engine.data.tokenize import Collator, encode_row
from so8t_engine.evaluation.outputs import load_tuned, row_outputs
from so8t_engine.model.loading import load_tokenizer
from so8t_engine.so8t.attach import attach_from_placement
from so8t_engine.training.run_directory import RunDirectory
from tests.engine.command_line import so8t_forked


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
