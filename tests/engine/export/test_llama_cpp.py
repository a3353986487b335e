"""The real llama.cpp reads what is exported: the tokenizer's tokens and the model's logits.

Needs the package llama-cpp-python (or its Python part and LLAMA_CPP_LIB_PATH), and for q4_k_m llama-quantize.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from so8t_engine.commands.export import _quantise, write_checked
from so8t_engine.errors import SO8TError
from so8t_engine.export.gguf_file import write_gguf
from tests.engine.export.phi3 import lines, make_phi3

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp's Python binding is not installed")


@contextmanager
def _opened(file: Path, **settings: Any) -> Iterator[Any]:  # noqa: ANN401
    stated = {"n_ctx": 256, "n_batch": 1024, "n_threads": 1, "verbose": False} | settings
    model = llama_cpp.Llama(str(file), **stated)
    try:
        yield model
    finally:
        model.close()


def _logits(file: Path, ids: list[int], **settings: Any) -> Any:  # noqa: ANN401
    with _opened(file, logits_all=True, **settings) as model:
        model.eval(ids)
        return np.array(model.scores[: len(ids)])


def _same(folder: Path, file: Path, ids: list[int], limit: float = 0.01, **settings: Any) -> None:  # noqa: ANN401
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        exact = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    found = _logits(file, ids, **settings)
    assert np.abs(found - exact).max() < limit * np.abs(exact).max()


def _random(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(one) for one in torch.randint(300, 1000, (count,), generator=generator)]


@pytest.mark.parametrize("tokenizer", ["embedded", "Phi-3's kind"])
@pytest.mark.parametrize("name", ["run", "phi3-run"])
def test_tokens_are_the_tokenizers_own(tokenizer: str, name: str, tiny_model: Path, tmp_path: Path) -> None:
    """``name``: llama.cpp treats white space by the model's name."""
    folder = tiny_model if tokenizer == "embedded" else make_phi3(tmp_path / "phi", tiny_model)
    file = tmp_path / "model.gguf"
    write_gguf(folder, file, "q8_0", name=name)
    own = AutoTokenizer.from_pretrained(folder)
    texts = [
        *lines()[::3],
        "  two  spaces",
        "\ttab\n\nnew line",
        "naïve 日本語 🎉",
        "12345 67890",
        "a</s> b",
        "x<s> y",
    ]
    texts += [
        own.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        for text in texts[::5]
    ]
    with _opened(file, vocab_only=True) as model:
        differing = [
            text for text in texts if model.tokenize(text.encode(), True, True) != own(text)["input_ids"]
        ]
        assert differing == []
        ids = own(texts[-1])["input_ids"]
        assert own.decode([model.token_eos()]) == "<|endoftext|>"
        assert model.detokenize(ids, special=True).decode().strip() == own.decode(ids).strip()


def test_logits_of_every_type_are_the_models(tiny_model: Path, tmp_path: Path) -> None:
    """q8_0: llama.cpp also rounds what it multiplies with to 8 bits."""
    for kind, limit in (("f16", 0.005), ("q8_0", 0.1)):
        file = tmp_path / f"{kind}.gguf"
        write_gguf(tiny_model, file, kind)  # type: ignore[arg-type]
        _same(tiny_model, file, _random(100), limit)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.75])
def test_phi3_with_long_rope_below_and_above_its_original_length(
    share: float, tied: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """Grouped heads, partial rotation (Phi-4-mini's), a tied head; llama.cpp takes n_ctx for the length."""
    half = int(32 * share) // 2
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": share,
        "original_max_position_embeddings": 256, "short_factor": [1 + 0.05 * i for i in range(half)],
        "long_factor": [1 + 0.3 * i for i in range(half)],
    }  # fmt: skip
    folder = make_phi3(
        tmp_path / "phi", tiny_model, rope_parameters=rope, original_max_position_embeddings=256,
        sliding_window=262144, tie_word_embeddings=tied,
    )  # fmt: skip
    file = tmp_path / "model.gguf"
    write_gguf(folder, file, "f16")
    _same(folder, file, _random(100), n_ctx=256)
    _same(folder, file, _random(400), n_ctx=512)


LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    "changes", [{}, {"head_dim": 32}, {"attention_bias": True}, {"rope_parameters": LINEAR}]
)
def test_llama_and_its_variants(changes: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, initializer_range=0.2, **changes,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "llama")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_model / name, tmp_path / "llama" / name)
    write_gguf(tmp_path / "llama", tmp_path / "model.gguf", "f16")
    _same(tmp_path / "llama", tmp_path / "model.gguf", _random(100))


@pytest.mark.skipif(shutil.which("llama-quantize") is None, reason="llama-quantize is not on the PATH")
def test_the_real_llama_quantize(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    report = write_checked(tiny_model, file, "q4_k_m", "tiny", None, None)
    assert 0.01 < report["check"]["max_relative"] < 0.15
    assert report["check"]["types"].keys() & {"Q4_K", "Q5_0", "Q6_K"}
    _same(tiny_model, file, _random(100), 0.5)
    half = tmp_path / "half.gguf"
    half.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(SO8TError, match=r"failed: llama_model_loader: .*half\.gguf"):
        _quantise(str(shutil.which("llama-quantize")), half, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
