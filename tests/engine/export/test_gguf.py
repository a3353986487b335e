"""GGUF files: read by an independent loader they give the model's own logits."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from so8t_engine.commands.export import export_run, write_checked
from so8t_engine.config import Config
from so8t_engine.errors import ModelError, SO8TError
from so8t_engine.export.gguf_check import LIMITS, check_gguf
from so8t_engine.export.gguf_file import write_gguf
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from tests.engine.command_line import so8t_forked, so8t_here
from tests.engine.export.phi3 import make_phi3

gguf = pytest.importorskip("gguf")
IDS = torch.arange(4, 60)[None]


def _logits(model: Any) -> torch.Tensor:  # noqa: ANN401
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
        return found


def _llama(folder: Path, tokenizer: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder / name)
    return folder


@pytest.mark.parametrize("architecture", ["phi3", "llama"])
def test_transformers_own_gguf_loader_gives_the_models_logits(
    architecture: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tiny_model if architecture == "phi3" else _llama(tmp_path / "llama", tiny_model)
    exact = _logits(AutoModelForCausalLM.from_pretrained(folder))
    for kind, limit in (("f16", 5e-3), ("q8_0", 5e-2)):
        (tmp_path / kind).mkdir()
        write_gguf(folder, tmp_path / kind / "model.gguf", kind)  # type: ignore[arg-type]
        check = check_gguf(tmp_path / kind / "model.gguf", folder, kind)
        assert check.tensors == len(list(AutoModelForCausalLM.from_pretrained(folder).state_dict()))
        again = _logits(
            AutoModelForCausalLM.from_pretrained(tmp_path / kind, gguf_file="model.gguf", dtype=torch.float32)
        )
        assert (again - exact).abs().max() < limit * exact.abs().max()
        assert (again - exact).abs().max() > 0


def test_the_check_finds_one_changed_block(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(tiny_model, file, "q8_0")
    check_gguf(file, tiny_model, "q8_0")
    tensor = next(t for t in gguf.GGUFReader(str(file)).tensors if t.name == "blk.1.ffn_down.weight")
    data = bytearray(file.read_bytes())
    start = int(tensor.data_offset)
    for place in range(start + 2, start + 34):
        data[place] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_down"):
        check_gguf(file, tiny_model, "q8_0")


def test_the_vocabulary_is_the_tokenizers(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    limits = write_gguf(tiny_model, file, "f16")
    assert len(limits) == 1  # llama.cpp's way of cutting words is near the embedded tokenizer's, not the same
    fields = gguf.GGUFReader(str(file)).fields
    content = json.loads((tiny_model / "tokenizer.json").read_text("utf-8"))
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 4096
    for token, index in list(content["model"]["vocab"].items())[::97]:
        assert tokens[index] == token
    assert tokens[fields["tokenizer.ggml.eot_token_id"].contents()] == "<|end|>"
    assert len(fields["tokenizer.ggml.merges"].contents()) == len(content["model"]["merges"])
    assert "<|assistant|>" in fields["tokenizer.chat_template"].contents()


def test_a_byte_fallback_tokenizer_gets_scores_in_the_order_of_its_merges(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "spm"
    shutil.copytree(tiny_model, folder)
    vocab = {"<unk>": 0, "<0x41>": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "abc": 6, "bc": 7}
    end = {"id": 8, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False}  # fmt: skip
    merges = [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]
    content = {"model": {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": merges},
               "added_tokens": [end]}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    file = tmp_path / "model.gguf"
    assert write_gguf(folder, file, "f16") == []
    fields = gguf.GGUFReader(str(file)).fields
    scores = fields["tokenizer.ggml.scores"].contents()
    assert scores[7] > scores[5] > scores[6]  # bc before ab before abc
    types = fields["tokenizer.ggml.token_type"].contents()
    assert types[:3] == [2, 6, 1]  # unknown, byte, normal
    assert types[8] == 3


def test_phi3s_kind_of_tokenizer_says_where_spaces_go(tiny_model: Path, tmp_path: Path) -> None:
    """llama.cpp drops the line end after "<|user|>" by the model's name; a space precedes texts."""
    folder = make_phi3(tmp_path / "phi", tiny_model)
    for name, stated in (("run", "run (Phi-3)"), ("phi35_8gb", "phi35_8gb"), ("Phi-3 x", "Phi-3 x")):
        file = tmp_path / f"{stated}.gguf"
        assert write_gguf(folder, file, "q8_0", name=name) == []
        fields = gguf.GGUFReader(str(file)).fields
        assert fields["general.name"].contents() == stated
        assert fields["tokenizer.ggml.add_space_prefix"].contents() is True
        assert fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_a_name_promises_llama_cpp_no_tokens_of_phi3(tiny_model: Path, tmp_path: Path) -> None:
    """By a name with "phi3" llama.cpp looks for "</s>", and cannot load the file without it."""
    write_gguf(tiny_model, tmp_path / "m.gguf", "q8_0", name="my-phi3-run")
    fields = gguf.GGUFReader(str(tmp_path / "m.gguf")).fields
    assert fields["general.name"].contents() == "my-Phi 3-run"
    assert fields["tokenizer.ggml.pre"].contents() == "qwen2"


def test_what_the_tokenizer_puts_first_is_asked_of_itself(tiny_model: Path, tmp_path: Path) -> None:
    """Llama 3's way: the beginning's token stands in the post-processor, not in the configuration."""
    folder = tmp_path / "begins"
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    start = "<|endoftext|>"
    number = next(one["id"] for one in content["added_tokens"] if one["content"] == start)
    text = {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": start, "type_id": 0}}, text],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {start: {"id": start, "ids": [number], "tokens": [start]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    write_gguf(folder, tmp_path / "m.gguf", "f16")
    assert gguf.GGUFReader(str(tmp_path / "m.gguf")).fields["tokenizer.ggml.add_bos_token"].contents() is True


def test_long_rope_keeps_its_factors(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "long"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    config["rope_parameters"] = {
        "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [2.0] * 16, "short_factor": [1.5] * 16,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    write_gguf(folder, tmp_path / "m.gguf", "f16")
    reader = gguf.GGUFReader(str(tmp_path / "m.gguf"))
    stored = {t.name: t for t in reader.tensors}
    assert np.allclose(stored["rope_factors_long.weight"].data, 2.0)
    # sqrt(1 + ln 32 / ln 4096), the figure of Phi-3.5-mini
    assert reader.fields["phi3.rope.scaling.attn_factor"].contents() == pytest.approx(1.19024, abs=1e-5)


def test_a_run_is_exported_with_its_gate_folded_in(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    so8t = {"alpha_start": 0.5, "init_std": 0.3}
    run = RunDirectory.create(
        tiny_config(so8t=so8t, training={"learning_rate": 0.02}, model={"quantization": "none"}),
        tmp_path / "run",
    )
    assert run_training(run, handle_signals=False) == 0
    file = tmp_path / "model.gguf"
    done = so8t_forked("export", run.path, "--gguf", "f16", "--out", file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["check"]["max_relative"] < 5e-4
    from so8t_engine.model.finished import load_finished
    from so8t_engine.so8t.bake import gated_logits

    finished = load_finished(run.final, run.config(), compute_dtype="float32", on_card=False)
    gated = gated_logits(finished.peft, finished.so8t, IDS, finished.placement)
    again = _logits(
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    )
    assert (again - gated).abs().max() < 5e-3 * gated.abs().max()
    twice = so8t_here("export", run.path, "--gguf", "f16", "--out", file, cwd=tmp_path)
    assert twice.returncode == 1
    assert [p.name for p in tmp_path.iterdir() if "export" in p.name] == []


def test_q4_k_m_without_llama_quantize_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SO8TError, match="llama-quantize"):
        export_run(tmp_path, "q4_k_m", None, untie=False, console=Console(stderr=True))


@pytest.mark.skipif(os.name == "nt", reason="a script that stands for a program")
def test_q4_k_m_is_llama_quantizes_file_read_back(tiny_model: Path, tmp_path: Path) -> None:
    """The stand-in for llama-quantize writes q8_0: calling, reading back and refusing are tested."""
    program = tmp_path / "llama-quantize"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
        "from so8t_engine.export.gguf_file import write_gguf\n"
        "assert sys.argv[3] == 'Q4_K_M' and Path(sys.argv[1]).stat().st_size > 0\n"
        f"write_gguf(Path({str(tiny_model)!r}), Path(sys.argv[2]), 'q8_0', name='tiny')\n"
    )
    program.chmod(0o755)
    report = write_checked(tiny_model, tmp_path / "m.gguf", "q4_k_m", "tiny", None, str(program))
    assert 5e-4 < report["check"]["max_relative"] <= LIMITS["q8_0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama-quantize", "m.gguf"]
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no room')\n")
    with pytest.raises(SO8TError, match="llama-quantize failed: no room"):
        write_checked(tiny_model, tmp_path / "n.gguf", "q4_k_m", "tiny", None, str(program))
