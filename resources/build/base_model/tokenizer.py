"""Train the tokenizer and pack the corpus: ``python tokenizer.py CACHE MODEL_FOLDER CARRY_FOLDER``.

A byte-level BPE of 4,096 entries with Phi-3's special tokens and Phi-3.5's chat template.  Text is split
before merging into words, single digits and runs of one Japanese script.  The packed corpus goes to
``CARRY_FOLDER``: ``train.npy`` (uint16 tokens), ``held_out <slice>.npy`` and ``corpus.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

Tokens = npt.NDArray[np.uint16]

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
# The order of Phi-3's own added tokens, ids 32000 to 32010 there.
ADDED = (
    END_OF_TEXT,
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    "<|end|>",
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
)
SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[A-Za-z\u00c0-\u024f]+|\p{N}|\p{Han}+|\p{Hiragana}+"
    r"|[\p{Katakana}ー]+|\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# microsoft/Phi-3.5-mini-instruct, tokenizer_config.json
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def read_documents(path: Path) -> Iterator[dict[str, str]]:
    """Documents of a corpus file, in order."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A byte-level BPE of ``VOCABULARY`` entries; ``<unk>`` is 0, Phi-3's added tokens are the last ids."""
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(ADDED),
        special_tokens=["<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ADDED])
    return tokenizer


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The generic fast class: transformers 5 rebuilds the tokenizers of Llama's classes, not this one."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token="<unk>",
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def pack(tokenizer: Tokenizer, path: Path) -> Iterator[tuple[str, int, Tokens]]:
    """``(slice, bytes, uint16 tokens)`` of each document in order, ``<|endoftext|>`` at its end."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    documents = list(read_documents(path))
    for start in range(0, len(documents), 2000):
        batch = documents[start : start + 2000]
        encodings = tokenizer.encode_batch([document["text"] for document in batch])
        for document, encoding in zip(batch, encodings, strict=True):
            tokens = np.array([*encoding.ids, end], dtype=np.uint16)
            yield f"{document['language']} {document['kind']}", len(document["text"].encode()), tokens


def pack_slices(tokenizer: Tokenizer, path: Path) -> dict[str, tuple[Tokens, int]]:
    """``{"en prose": (tokens of all its documents, bytes), …}``."""
    parts: dict[str, list[Tokens]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for key, size, tokens in pack(tokenizer, path):
        parts[key].append(tokens)
        sizes[key] += size
    return {key: (np.concatenate(parts[key]), sizes[key]) for key in sorted(parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("carry_folder", type=Path)
    arguments = parser.parse_args()
    corpus: Path = arguments.cache / "corpus"
    # Every third document is enough to choose the merges; the template's marks are tokens anyway.
    sample = (
        re.sub(r"<\|\w+\|>", "", document["text"])
        for index, document in enumerate(read_documents(corpus / "train.jsonl"))
        if index % 3 == 0
    )
    tokenizer = train_tokenizer(sample)
    wrap(tokenizer).save_pretrained(arguments.model_folder)
    carry: Path = arguments.carry_folder
    carry.mkdir(parents=True, exist_ok=True)
    train = np.concatenate([tokens for _, _, tokens in pack(tokenizer, corpus / "train.jsonl")])
    np.save(carry / "train.npy", train)
    counts = np.bincount(train, minlength=VOCABULARY)
    (arguments.model_folder / "token_counts.json").write_text(
        json.dumps(counts.tolist(), separators=(",", ":"))
    )
    held = pack_slices(tokenizer, corpus / "held_out.jsonl")
    for key, (tokens, _) in held.items():
        np.save(carry / f"held_out {key}.npy", tokens)
    (carry / "held_out_bytes.json").write_text(json.dumps({key: size for key, (_, size) in held.items()}))
    shutil.copy(corpus / "corpus.json", carry / "corpus.json")


if __name__ == "__main__":
    main()
