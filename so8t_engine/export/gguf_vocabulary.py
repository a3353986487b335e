"""A transformers tokenizer as GGUF's vocabulary: tokens, types, scores or merges, special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _

# Regular expressions that llama.cpp knows by name (llama-vocab.cpp); others are told as a limit.
_KNOWN_PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}


def add_vocabulary(writer: Any, folder: Path, vocabulary: int) -> list[str]:  # noqa: ANN401
    """Write the vocabulary of ``folder``'s tokenizer.json and return what it cannot express, as sentences.

    SentencePiece-like BPE (byte fallback, Phi-3's) becomes ``llama``: a piece's score is minus the rank of
    the first merge that makes it, which gives llama.cpp's greedy merging the same order. Byte-level BPE
    becomes ``gpt2`` with its merges.

    Args:
        vocabulary: rows of the embedding; ids without a token are filled.

    Raises:
        ModelError: no tokenizer.json, or one that is no BPE.
    """
    try:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        model = content["model"]
        merges = [m if isinstance(m, list) else m.split(" ", 1) for m in model["merges"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            _("%(path)s is no BPE tokenizer that GGUF can hold.") % {"path": str(folder / "tokenizer.json")},
            _("Export models with Phi-3's or Llama's kind of tokenizer."),
        ) from error
    byte_fallback = bool(model.get("byte_fallback"))
    tokens, types = _tokens(model["vocab"], content.get("added_tokens", []), vocabulary, byte_fallback)
    limits: list[str] = []
    if byte_fallback:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        rank: dict[str, int] = {}
        for place, (left, right) in enumerate(merges):
            rank.setdefault(left + right, place)
        writer.add_token_scores([-float(rank.get(token, 0)) for token in tokens])
    else:
        writer.add_tokenizer_model("gpt2")
        name = _pre_tokenizer(content.get("pre_tokenizer"))
        if name is None:
            limits.append(
                _("llama.cpp does not know how this tokenizer cuts text into words: its tokens may differ.")
            )
        writer.add_tokenizer_pre(name or "default")
        writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _special(writer, folder, {token: i for i, token in enumerate(tokens)})
    return limits


def _tokens(
    vocab: dict[str, int], added: list[dict[str, Any]], count: int, byte_fallback: bool
) -> tuple[list[str], list[int]]:
    from gguf import TokenType

    by_id = {index: token for token, index in vocab.items()}
    control = {entry["id"] for entry in added if entry.get("special")}
    user = {entry["id"] for entry in added if not entry.get("special")}
    by_id |= {entry["id"]: entry["content"] for entry in added}
    tokens: list[str] = []
    types: list[int] = []
    for index in range(count):
        token = by_id.get(index)
        if token is None:
            tokens.append(f"[UNUSED{index}]")
            types.append(int(TokenType.UNUSED))
            continue
        tokens.append(token)
        if token == "<unk>":
            kind = TokenType.UNKNOWN
        elif index in control:
            kind = TokenType.CONTROL
        elif index in user:
            kind = TokenType.USER_DEFINED
        elif byte_fallback and len(token) == 6 and token.startswith("<0x"):
            kind = TokenType.BYTE
        else:
            kind = TokenType.NORMAL
        types.append(int(kind))
    return tokens, types


def _pre_tokenizer(found: dict[str, Any] | None) -> str | None:
    """The name llama.cpp has for it; None where it has none."""
    parts = (found or {}).get("pretokenizers", [found] if found else [])
    for part in parts:
        if part.get("type") == "ByteLevel" and part.get("use_regex", True):
            return "gpt-2"
        if part.get("type") == "Split":
            return _KNOWN_PATTERNS.get(part.get("pattern", {}).get("Regex", ""))
    return None


def _special(writer: Any, folder: Path, ids: dict[str, int]) -> None:  # noqa: ANN401
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def id_of(name: str) -> int | None:
        token = config.get(name)
        return ids.get(token["content"] if isinstance(token, dict) else token or "")

    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        if (index := id_of(name)) is not None:
            add(index)
    if "<|end|>" in ids:
        writer.add_eot_token_id(ids["<|end|>"])
    writer.add_add_bos_token(bool(config.get("add_bos_token", False)))
    writer.add_add_space_prefix(bool(config.get("add_prefix_space", config.get("legacy", False) or False)))
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.exists() else config.get("chat_template")
    if isinstance(text, str):
        writer.add_chat_template(text)
