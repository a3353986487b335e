"""The embedded base model: Phi-3's architecture, really trained, small enough to ship."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3ForCausalLM
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

FOLDER = Path(__file__).parents[2] / "resources" / "base_model"

# Public-domain prose that is not in the training corpus.
TEXTS = {
    # Jane Austen, Pride and Prejudice (1813), chapter 1.
    "en": (
        "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be "
        "in want of a wife. However little known the feelings or views of such a man may be on his first "
        "entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families, "
        "that he is considered the rightful property of some one or other of their daughters."
    ),
    # 夏目漱石『吾輩は猫である』(1905), 第一章.
    "ja": (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー"
        "泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。しかもあとで聞くとそれは書生という"
        "人間中で一番獰悪な種族であったそうだ。この書生というのは時々我々を捕えて煮て食うという話である。"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(FOLDER))
    return loaded


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    loaded = AutoModelForCausalLM.from_pretrained(str(FOLDER), dtype=torch.float32)
    assert type(loaded) is Phi3ForCausalLM
    return loaded.eval()


def perplexity(model: Phi3ForCausalLM, ids_T: list[int]) -> float:
    tokens_1T = torch.tensor([ids_T])
    with torch.no_grad():
        logits_1TV = model(input_ids=tokens_1T).logits
    return math.exp(float(functional.cross_entropy(logits_1TV[0, :-1], tokens_1T[0, 1:])))


def with_end(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens after the document separator, as in pretraining."""
    assert tokenizer.eos_token_id is not None
    return [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]


def test_the_folder_fits_the_repository() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 12_000_000
    weights = [name for name in sizes if Path(name).suffix in (".bin", ".pt", ".pth", ".pkl", ".safetensors")]
    assert weights == ["model.safetensors"]


def test_the_architecture_is_phi3s(model: Phi3ForCausalLM) -> None:
    config = model.config
    hidden, intermediate, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    assert hidden % 64 == 0
    assert intermediate % 64 == 0  # nf4 quantises blocks of 64 input features
    assert hidden // config.num_attention_heads == 64
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        assert shapes[prefix + "self_attn.qkv_proj.weight"] == (3 * hidden, hidden)
        assert shapes[prefix + "self_attn.o_proj.weight"] == (hidden, hidden)
        assert shapes[prefix + "mlp.gate_up_proj.weight"] == (2 * intermediate, hidden)
        assert shapes[prefix + "mlp.down_proj.weight"] == (hidden, intermediate)
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (vocabulary, hidden)


def test_the_head_is_untied_and_the_file_holds_bfloat16(model: Phi3ForCausalLM) -> None:
    assert model.config.tie_word_embeddings is False
    head_VH, embedding_VH = model.lm_head.weight, model.model.embed_tokens.weight
    assert head_VH.data_ptr() != embedding_VH.data_ptr()
    assert not torch.equal(head_VH, embedding_VH)
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= names


def test_every_id_of_the_configuration_is_the_tokenizers(
    model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert len(tokenizer) == model.config.vocab_size == 4096
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.pad_token_id != end, "the end token is trained, padding is not"
    assert tokenizer.eos_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == [end, tokenizer.eos_token_id]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=60)
    | st.text(st.characters(min_codepoint=0x3040, max_codepoint=0x9FFF), max_size=60)
    | st.text(st.sampled_from("aあア亜 \n\t0１，、.<|end|>é️😀"), max_size=60)
)
def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < len(tokenizer) for i in ids)
    assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_prose_survives_the_tokenizer_and_gets_shorter(
    tokenizer: PreTrainedTokenizerBase, language: str
) -> None:
    text = TEXTS[language]
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(ids) < 0.5 * len(text.encode())


def test_the_chat_template_has_phi3s_form(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "猫とは何ですか。"},
        {"role": "assistant", "content": "動物です。"},
    ]
    turns = "<|system|>\nBe brief.<|end|>\n<|user|>\n猫とは何ですか。<|end|>\n"
    answer = "<|assistant|>\n動物です。<|end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == turns + answer + "<|endoftext|>"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == turns + "<|assistant|>\n"
    assert isinstance(prompt, str)
    ids = tokenizer(prompt)["input_ids"]
    marks = [
        tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("system", "end", "user", "end", "assistant")
    ]
    assert [i for i in ids if i in marks] == marks


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_it_predicts_unseen_prose(
    model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerBase, language: str
) -> None:
    ids_T = with_end(tokenizer, TEXTS[language])
    torch.manual_seed(0)
    untrained = perplexity(Phi3ForCausalLM(model.config).float().eval(), ids_T)
    counts = [c + 1 for c in json.loads((FOLDER / "token_counts.json").read_text())]
    unigram = math.exp(-sum(math.log(counts[i] / sum(counts)) for i in ids_T[1:]) / (len(ids_T) - 1))
    trained = perplexity(model, ids_T)
    assert trained < untrained / 4
    assert trained < 0.6 * unigram


def test_word_order_matters_to_it(model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    ids_T = with_end(tokenizer, TEXTS["en"])
    shuffled_T = [ids_T[0], *(ids_T[1 + i] for i in torch.randperm(len(ids_T) - 1).tolist())]
    assert perplexity(model, ids_T) < 0.5 * perplexity(model, shuffled_T)


def test_the_card_reports_what_was_measured() -> None:
    report = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, row in report["held_out"].items():
        assert f"| {name} |" in card
        assert f"{row['perplexity']:.2f}" in card
        assert row["perplexity"] < row["unigram_perplexity"]
    for row in report["corpus"]:
        assert f"| {row['package']} | {row['version']} |" in card


@pytest.mark.parametrize("question", ["What does “river” mean?", "「川」の意味を教えてください。"])
def test_it_answers_a_question_and_stops(
    model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str
) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    batch = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=96, do_sample=False)
    answer_T = output[0, batch["input_ids"].shape[1] :].tolist()
    assert answer_T[-1] == tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.decode(answer_T)
    text = tokenizer.decode(answer_T[:-1]).strip()
    assert len(text) >= 4
    assert "\ufffd" not in text
    triples = list(zip(answer_T, answer_T[1:], answer_T[2:], strict=False))
    assert len(set(triples)) > 0.5 * len(triples), text
