"""``so8t bake`` on real, tiny runs: the folder it makes is plain transformers and says the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from so8t_engine.config import Config
from so8t_engine.errors import ModelError, RunError
from so8t_engine.model.finished import load_finished
from so8t_engine.so8t.attach import attach_from_placement
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import State
from tests.engine.command_line import so8t_forked, so8t_here

Make = Callable[..., Config]
PROMPT = "May I come in?"

#: Plain transformers: tokens with and without a cache.
SPEAK = """
from transformers import AutoModelForCausalLM, AutoTokenizer
def speak(folder, prompt):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    chat = [{"role": "user", "content": prompt}]
    as_ids = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    ids = tokenizer.apply_chat_template(chat, **as_ids)
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    said = [model.generate(**ids, use_cache=cache, **options)[0].tolist() for cache in (True, False)]
    return {"said": said, "cache": model.config.use_cache}
"""
AS_A_PROCESS = """
import json, sys
spoken = speak(*sys.argv[1:])
foreign = [name for name in sys.modules if name.split(".")[0] in ("so8t_engine", "peft", "bitsandbytes")]
print(json.dumps(spoken | {"foreign": foreign}))
"""


def _trained(make: Make, path: Path, **sections: dict[str, Any]) -> RunDirectory:
    """A finished run whose gate is open and whose rotations and LoRA are far from doing nothing."""
    sections["so8t"] = {"alpha_start": 0.5, "init_std": 0.3, "learning_rate": 0.05} | sections.get("so8t", {})
    sections["training"] = {"learning_rate": 0.02} | sections.get("training", {})
    run = RunDirectory.create(make(**sections), path)
    assert run_training(run, handle_signals=False) == 0
    return run


def _bake(run: RunDirectory, *arguments: str) -> subprocess.CompletedProcess[str]:
    return so8t_forked("bake", run.path, *arguments, cwd=run.path.parent)


def _bake_here(run: RunDirectory, *arguments: str) -> subprocess.CompletedProcess[str]:
    return so8t_here("bake", run.path, *arguments, cwd=run.path.parent)


def _speak_here(folder: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(SPEAK, names)
    found: dict[str, Any] = names["speak"](folder, PROMPT)
    return found


def _speak(folder: Path) -> dict[str, Any]:
    """In a process that knows transformers and this folder alone."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", SPEAK + AS_A_PROCESS, str(folder), PROMPT],
        capture_output=True, text=True, check=False, cwd=folder.parent, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("quantization", "so8t"),
    [
        ("nf4", {"gate_layers": [0, -1]}),
        ("int8", {"gate_layers": [1], "gate_site": "attention", "gate_final": False}),
        ("none", {"gate_form": "geodesic", "alpha_schedule": "sigmoid"}),
    ],
)
def test_a_baked_run_speaks_the_gated_models_text_in_plain_transformers(
    tiny_config: Make, tmp_path: Path, quantization: str, so8t: dict[str, Any]
) -> None:
    run = _trained(tiny_config, tmp_path / "run", model={"quantization": quantization}, so8t=so8t)
    out = tmp_path / "baked"
    # Once as processes of their own.
    alone = quantization == "nf4"
    done = (_bake if alone else _bake_here)(run, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads((out / "bake.json").read_text("utf-8")) == {
        k: v for k, v in report.items() if k != "out"
    }
    for found in (report["comparison"], report["as_saved"]):
        assert found["max_abs"] <= 1e-4
        assert (found["top1"], found["kl"]) == (1.0, pytest.approx(0.0, abs=1e-6))
        assert found["tokens"] > 100
    assert report["dequantised_layers"] == (0 if quantization == "none" else 2 * 4)
    finished = load_finished(run.final, run.config(), compute_dtype="float32", on_card=False)
    assert report["placement"] == str(finished.placement) == finished.soul.metadata.placement
    card = (out / "README.md").read_text("utf-8")
    assert report["placement"] in card
    assert ("dequantised values" in card) == (quantization != "none")
    assert str(tmp_path) not in card

    spoken = (_speak if alone else _speak_here)(out)
    assert spoken.get("foreign", []) == []
    assert ("foreign" in spoken) is alone
    assert spoken["cache"] is True
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    ungated = finished.peft.generate(**ids, **options)[0].tolist()
    with torch.no_grad(), attach_from_placement(finished.peft, finished.so8t, finished.placement):
        for cache, said in zip((True, False), spoken["said"], strict=True):
            assert finished.peft.generate(**ids, use_cache=cache, **options)[0].tolist() == said
    assert ungated != spoken["said"][0]


def test_half_precision_is_rounded_after_the_comparison_and_measured(
    tiny_config: Make, tmp_path: Path
) -> None:
    run = _trained(tiny_config, tmp_path / "run", so8t={"gate_layers": [0]})
    out = tmp_path / "deep" / "baked"
    done = _bake_here(run, "--out", str(out), "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert "final_hidden+mlp:0" in done.stdout
    assert "bfloat16" in done.stdout
    report = json.loads((out / "bake.json").read_text("utf-8"))
    assert report["comparison"]["max_abs"] <= 1e-4 < report["as_saved"]["max_abs"]
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}


def test_what_cannot_be_baked_is_a_sentence_and_leaves_nothing(tiny_config: Make, tmp_path: Path) -> None:
    from rich.console import Console

    from so8t_engine.commands.bake import bake_run

    def bake(run: RunDirectory, out: Path) -> None:
        bake_run(run.path, out, dtype="float32", untie=False, console=Console(stderr=True))

    unstarted = RunDirectory.create(tiny_config(), tmp_path / "unstarted")
    with pytest.raises(RunError, match="not finished; its state is 'idle'"):
        bake(unstarted, tmp_path / "baked")
    failed = RunDirectory.create(tiny_config(so8t={"gate_layers": [7]}), tmp_path / "failed")
    assert run_training(failed, handle_signals=False) == 1
    with pytest.raises(RunError, match=f"'{State.FAILED}'"):
        bake(failed, tmp_path / "baked")
    run = _trained(tiny_config, tmp_path / "run")
    with pytest.raises(ModelError, match="exists already"):
        bake(run, tmp_path)
    soul = run.final / "soul.safetensors"
    intact = soul.read_bytes()
    soul.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(RunError, match="damaged"):
        bake(run, tmp_path / "baked")
    soul.write_bytes(intact)
    assert not (tmp_path / "baked").exists()
    assert _bake_here(run, "--out", str(tmp_path / "baked"), "--dtype", "float8").returncode == 2
    unfinished = _bake_here(unstarted, "--out", str(tmp_path / "baked"), "--json")
    assert unfinished.returncode == 1
    assert json.loads(unfinished.stdout)["error"]["kind"] == "run"
    assert not (tmp_path / "baked").exists()


def test_tied_embeddings_need_untie_only_for_the_gate_at_the_head(
    tiny_config: Make, tiny_model: Path, tmp_path: Path
) -> None:
    tied = tmp_path / "tied"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tied)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tied / name).write_bytes((tiny_model / name).read_bytes())
    base = {"path": str(tied), "quantization": "none"}
    run = _trained(tiny_config, tmp_path / "run", model=base)
    refused = _bake_here(run, "--out", str(tmp_path / "baked"))
    assert refused.returncode == 1
    assert "--untie" in refused.stderr
    assert not (tmp_path / "baked").exists()
    done = _bake_here(run, "--out", str(tmp_path / "baked"), "--untie")
    assert done.returncode == 0, done.stderr
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    assert plain.config.tie_word_embeddings is False
    assert not torch.equal(plain.lm_head.weight, plain.model.embed_tokens.weight)
    layers = _trained(
        tiny_config, tmp_path / "layers", model=base, so8t={"gate_layers": [0], "gate_final": False}
    )
    done = _bake_here(layers, "--out", str(tmp_path / "layers_baked"))
    assert done.returncode == 0, done.stderr
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "layers_baked").config.tie_word_embeddings is True
