"""Tasks of lm-evaluation-harness: refused where more than data; the real one gives our own figures."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from so8t_engine.errors import ConfigError, SO8TError
from so8t_engine.evaluation import lm_eval_files
from so8t_engine.evaluation.lm_eval_files import read_task, require_tasks
from so8t_engine.evaluation.lm_eval_tasks import harness
from so8t_engine.evaluation.outputs import TunedModel, load_tuned
from so8t_engine.model.loading import load_tokenizer
from so8t_engine.so8t.attach import attach_from_placement
from so8t_engine.training.run_directory import RunDirectory
from tests.engine.command_line import so8t_forked

QUESTIONS = [f"{n} and one more is" for n in range(12)]


def _task(folder: Path, name: str, rows: list[dict[str, str]], body: str) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    file = folder / f"{name}.yml"  # the harness itself looks for .yaml only
    head = f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
    file.write_text(f"{head}test_split: test\n{body}", "utf-8")
    return file


CHOICE = (
    "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{[right, wrong]}}'\n"
    "doc_to_target: 0\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
)
ROLLING = (
    "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{q}}'\nmetric_list:\n"
    "  - metric: byte_perplexity\n    aggregation: weighted_perplexity\n    higher_is_better: false\n"
)
ANSWERS = (
    "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{said}}'\ngeneration_kwargs:\n"
    "  until: ['<|end|>']\n  max_gen_toks: 6\n  do_sample: false\nmetric_list:\n  - metric: exact_match\n"
    "    aggregation: mean\n    higher_is_better: true\n"
)
LIKELIHOOD = (
    "output_type: loglikelihood\ndoc_to_text: '{{q}}'\ndoc_to_target: ' {{right}}'\nmetric_list:\n"
    "  - metric: perplexity\n    aggregation: perplexity\n    higher_is_better: false\n"
)


@pytest.mark.parametrize(
    "text",
    [
        "task: x\ninclude: y.yaml\n", "doc_to_text: !function utils.run\ntask: x\n", "[1, 2]", "task: 3\n",
        "task: x\nclass: os.system\n", "task: x\ngroup: y\n", "task: x\nuse_prompt: 'a.yaml:b'\n",
        "task: x\nmetric_list:\n  - metric: ./mine\n    hf_evaluate: true\n",
        "task: x\ndataset_path: pandas\n",
    ],
)  # fmt: skip
def test_a_task_file_that_would_run_code_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError):
        read_task(file)


def test_files_are_judged_before_the_harness_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_files, "find_spec", lambda _name: None)
    files = [tmp_path / name for name in ("a.yaml", "b.yaml")]
    for file in files:
        file.write_text("task: same\n", "utf-8")
    assert require_tasks([]) == []
    with pytest.raises(ConfigError, match="declare the task same"):
        require_tasks(files)
    with pytest.raises(SO8TError, match=r"not installed.*\n?") as caught:
        require_tasks(files[:1])
    assert "so8t-control-panel[lm-eval]" in str(caught.value.mend)


def test_a_harness_that_cannot_be_imported_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval up to 0.4.9 beside transformers 5: it is there, and names what is gone from transformers."""
    monkeypatch.setattr(lm_eval_files, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "lm_eval", ModuleType("lm_eval"))
    file = tmp_path / "a.yaml"
    file.write_text("task: a\n", "utf-8")
    with pytest.raises(SO8TError, match="cannot be used: cannot import name 'simple_evaluate'"):
        harness(None, None, [file])  # type: ignore[arg-type]


def _mean_nll(model: Any, ids: list[int], first: int) -> float:  # noqa: ANN401
    """Summed negative log-likelihood of ``ids[first:]``."""
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return -sum(float(scores[i - 1, ids[i]]) for i in range(first, len(ids)))


def _said(model: Any, tokenizer: Any, question: str) -> str:  # noqa: ANN401
    ids = tokenizer(question)["input_ids"]
    start = len(ids)
    for _step in range(6):
        with torch.no_grad():
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True)).split("<|end|>")[0]


def _own(tuned: TunedModel, tokenizer: Any, rows: list[dict[str, str]]) -> dict[str, Any]:  # noqa: ANN401
    """The figures of the attached model, computed here."""
    model = tuned.causal_lm.eval()
    right = 0
    nll = 0.0
    for row in rows:
        context = tokenizer(row["q"])["input_ids"]
        scores = []
        for choice in ("right", "wrong"):
            whole = tokenizer(f"{row['q']} {row[choice]}")["input_ids"]
            scores.append(_mean_nll(model, whole, len(context)))
        right += scores[0] < scores[1]
        nll += _mean_nll(model, [tokenizer.eos_token_id, *context], 1)
    size = sum(len(row["q"].encode()) for row in rows)
    said = [_said(model, tokenizer, row["q"]) for row in rows]
    return {"acc": right / len(rows), "byte_perplexity": math.exp(nll / size), "said": said}


def test_the_real_harness_gives_the_figures_computed_here(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra 'lm-eval')")
    config = run.config()
    tuned, tokenizer = load_tuned(run.final, config), load_tokenizer(config.model)
    rows = [{"q": q, "right": str(n + 1), "wrong": str(n + 7)} for n, q in enumerate(QUESTIONS)]
    with tuned.peft.disable_adapter():
        base = _own(tuned, tokenizer, rows)
    with attach_from_placement(tuned.causal_lm, tuned.so8t, tuned.placement):
        after = _own(tuned, tokenizer, rows)
    answers = [{"q": q, "said": said} for q, said in zip(QUESTIONS, base["said"], strict=True)]
    files = [
        _task(tmp_path, "choice", rows, CHOICE),
        _task(tmp_path, "rolling", rows, ROLLING),
        _task(tmp_path, "answers", answers, ANSWERS),
    ]
    marker = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\nrun = str\n", "utf-8")
    (tmp_path / "a.yaml").write_text("task: choice\ndoc_to_text: !function code.run\n", "utf-8")
    found = harness(tuned, tokenizer, files)
    assert not marker.exists()  # a neighbour of the same name
    for which, own in (("base", base), ("tuned", after)):
        assert found["choice"]["acc"][which]["value"] == pytest.approx(own["acc"])
        assert found["choice"]["acc"][which]["stderr"] >= 0
        assert found["rolling"]["byte_perplexity"][which]["value"] == pytest.approx(
            own["byte_perplexity"], rel=1e-4
        )
        assert found["rolling"]["byte_perplexity"][which]["stderr"] is None
    assert found["answers"]["exact_match"]["base"]["value"] == 1.0
    same = sum(one == other for one, other in zip(base["said"], after["said"], strict=True))
    assert found["answers"]["exact_match"]["tuned"]["value"] == pytest.approx(same / len(QUESTIONS))
    assert base["byte_perplexity"] != pytest.approx(after["byte_perplexity"], rel=1e-2)

    escape = CHOICE.replace("{{q}}", "{{ q.__class__.__mro__ }}")
    with pytest.raises(SO8TError, match="failed: access to attribute '__class__'"):
        harness(tuned, tokenizer, [_task(tmp_path, "escape", rows, escape)])
    metric = CHOICE.replace("metric: acc", "metric: ./mine")
    with pytest.raises(SO8TError, match=r"no metric of its own named \./mine"):
        harness(tuned, tokenizer, [_task(tmp_path, "metric", rows, metric)])
    undefined = CHOICE.replace("{{q}}", "{{nothing}}")
    with pytest.raises(SO8TError, match="failed: 'nothing' is undefined"):
        harness(tuned, tokenizer, [_task(tmp_path, "undefined", rows, undefined)])


def test_what_the_real_harness_prints_stays_out_of_json(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra 'lm-eval')")
    rows = [{"q": q, "right": str(n + 1)} for n, q in enumerate(QUESTIONS)]
    file = _task(tmp_path, "likely", rows, LIKELIHOOD)
    done = so8t_forked("evaluate", run.path, "--lm-eval", file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bootstrapping" in done.stderr  # what it prints: on standard output it broke --json
    entry = json.loads(done.stdout)["lm_eval"]["likely"]["perplexity"]
    assert entry["base"]["value"] != entry["tuned"]["value"]
    assert entry["base"]["stderr"] > 0
    assert "lm-eval: likely" in (run.path / "evaluation" / "report.md").read_text("utf-8")
