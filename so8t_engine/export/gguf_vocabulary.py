"""A transformers tokenizer as GGUF's vocabulary: tokens, types, scores or merges, special tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _

_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Regular expressions that llama.cpp knows by name (llama-vocab.cpp); others are told as a limit.
_KNOWN_PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    # Mistral's Tekken and o200k (Phi-4-mini)
    rf"{_WORDS}*{_LOWER}+|{_WORDS}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+":
        "tekken",
    rf"{_WORDS}*{_LOWER}+{_CONTRACTIONS}?|{_WORDS}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "gpt-4o",
}  # fmt: skip
# Regular expressions beside which a known one hardly changes a token.
_NEAR_PATTERNS = {
    # The embedded tokenizer's: it also cuts between scripts, but has few merges across such a cut.
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[A-Za-z\u00c0-\u024f]+|\p{N}|\p{Han}+|\p{Hiragana}+"
    r"|[\p{Katakana}ー]+|\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}  # fmt: skip
#: Added tokens after which llama.cpp's rule for Phi-3 keeps spaces; the rule needs them and "</s>".
_PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")


def add_vocabulary(writer: Any, folder: Path, vocabulary: int, name: str) -> list[str]:  # noqa: ANN401
    """Write the vocabulary of ``folder``'s tokenizer and return what it cannot express, as sentences.

    SentencePiece-like BPE (byte fallback, Phi-3's) becomes ``llama``: a piece's score is minus the rank of
    the first merge that makes it, which gives llama.cpp's greedy merging the same order. Byte-level BPE
    becomes ``gpt2`` with its merges. The model's ``name`` is written here, since llama.cpp reads from it
    which tokens take the spaces that follow.

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
    added = content.get("added_tokens", [])
    tokens, types = _tokens(model["vocab"], added, vocabulary, byte_fallback)
    ids = {token: i for i, token in enumerate(tokens)}
    limits: list[str] = []
    if byte_fallback:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        rank: dict[str, int] = {}
        for place, (left, right) in enumerate(merges):
            rank.setdefault(left + right, place)
        writer.add_token_scores([-float(rank.get(token, len(merges))) for token in tokens])
    else:
        writer.add_tokenizer_model("gpt2")
        pre, limit = _pre_tokenizer(content.get("pre_tokenizer"))
        limits += limit
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    stated, limit = _name(name, added, ids)
    writer.add_name(stated)
    _special(writer, folder, ids)
    return limits + limit + _beginnings(writer, folder, added, byte_fallback)


def _name(name: str, added: list[dict[str, Any]], ids: dict[str, int]) -> tuple[str, list[str]]:
    """A name with which llama.cpp treats the spaces after added tokens as the tokenizer does.

    It drops them where the name holds "phi-3" or "phi3" (and cannot load such a file at all without Phi-3's
    tokens), and keeps them everywhere else.
    """
    dropping = {entry["content"] for entry in added if entry.get("rstrip")}
    keeping = {entry["content"] for entry in added} - dropping
    rule = keeping <= set(_PHI3_KEEPS) and "</s>" in dropping and ids.keys() >= set(_PHI3_KEEPS)
    if rule:
        named = re.search("phi-?3", name, re.IGNORECASE)
        return (name if named else f"{name} (Phi-3)"), []
    limits = (
        [_("llama.cpp keeps spaces and line ends after special tokens where this tokenizer drops them.")]
        if dropping
        else []
    )
    return re.sub("phi-?3", "Phi 3", name, flags=re.IGNORECASE), limits


def _beginnings(writer: Any, folder: Path, added: list[dict[str, Any]], byte_fallback: bool) -> list[str]:  # noqa: ANN401
    """What the tokenizer puts before a text, asked of itself: tokenizers state it in many ways."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    mark = "▁" if byte_fallback else "Ġ"

    def marked(text: str, place: int) -> bool:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        return len(pieces) > place and str(pieces[place]).startswith(mark)

    first = marked("a", 0)
    special = next((entry["content"] for entry in added if entry.get("special")), None)
    later = marked(f"{special}a", 1) if special else first
    # Byte-level vocabularies have no such prefix in llama.cpp; the others have it after special tokens too.
    writer.add_add_space_prefix(later and byte_fallback)
    plain, whole = (tokenizer("a", add_special_tokens=wanted)["input_ids"] for wanted in (False, True))
    begins = len(whole) > len(plain) and whole[0] == tokenizer.bos_token_id
    writer.add_add_bos_token(begins)
    if first == later and (byte_fallback or not first):
        return []
    return [_("llama.cpp puts a space before a text in other places than this tokenizer.")]


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


def _pre_tokenizer(found: dict[str, Any] | None) -> tuple[str, list[str]]:
    """The name llama.cpp has for it, or the nearest, and what differs."""
    parts = (found or {}).get("pretokenizers", [found] if found else [])
    for part in parts:
        if part.get("type") == "ByteLevel" and part.get("use_regex", True):
            return "gpt-2", []
        if part.get("type") == "Split":
            pattern = part.get("pattern", {}).get("Regex", "")
            if pattern in _KNOWN_PATTERNS:
                return _KNOWN_PATTERNS[pattern], []
            if pattern in _NEAR_PATTERNS:
                return _NEAR_PATTERNS[pattern], [
                    _("llama.cpp cuts text into words nearly as this tokenizer does: tokens differ rarely.")
                ]
    # Its "default" cuts far more than today's tokenizers do.
    return "qwen2", [
        _("llama.cpp does not know how this tokenizer cuts text into words: its tokens may differ.")
    ]


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
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.exists() else config.get("chat_template")
    if isinstance(text, str):
        writer.add_chat_template(text)
