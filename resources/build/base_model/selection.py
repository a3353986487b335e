"""Second stage of pretraining: conversations in which only one of two questions is to be answered.

``python selection.py CORPUS TOKENIZER CARRY OUT`` takes the dictionary conversations of the corpus in
pairs. The user asks for one and names the other without wanting it now; the answer is the dictionary's to
the one that is wanted. Which one it is depends on the words around the question, so the model has to bind
and to copy over a distance, which ordinary text teaches a small model only after far more tokens. The
corpus's own documents are mixed in. Nothing of the four-class rows is used.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

TURN = re.compile(r"<\|user\|>\n(.*?)<\|end\|>\n<\|assistant\|>\n(.*?)<\|end\|>\n", re.DOTALL)
#: language → (what surrounds the wanted question, what surrounds the other one)
FRAMES = {
    "en": (
        ("Please answer this: {0}", "What I need today: {0}", "I ask you: {0}", "Now my question is: {0}",
         "This one matters to me: {0}", "Answer me: {0}"),
        ("Do not answer this: {0}", "I do not need this today: {0}", "A friend once asked me: {0}",
         "Earlier my question was: {0}", "This one does not matter: {0}", "Leave this out: {0}"),
    ),
    "ja": (
        ("次に答えてください。{0}", "今日知りたいのはこれです。{0}", "お尋ねします。{0}", "今の質問です。{0}",
         "{0}これが大事です。", "{0}これに答えてください。"),
        ("次には答えないでください。{0}", "今日は知らなくてよいことです。{0}", "友人が昔尋ねました。{0}",
         "前の質問です。{0}", "{0}これは大事ではありません。", "{0}これには答えなくてよいです。"),
    ),
}  # fmt: skip
EXTRA = {
    "en": ("", "", "Hello. ", "Thank you in advance. ", "It is getting late. ", "I am at the office. "),
    "ja": ("", "", "こんにちは。", "よろしくお願いします。", "もう遅い時間です。", "事務所にいます。"),
}


def short(answer: str, language: str) -> str:
    """The beginning of an answer, cut at a word."""
    flat = " ".join(answer.split())
    limit = 70 if language == "en" else 36
    return flat if len(flat) <= limit else flat[:limit].rsplit(" ", 1)[0]


def conversations(documents: list[dict[str, str]], rng: random.Random, rounds: int) -> Iterator[str]:
    """Selection conversations from the turns of the corpus's chat documents."""
    turns: dict[str, list[tuple[str, str]]] = {"en": [], "ja": []}
    for document in documents:
        if document["kind"] == "chat":
            found = TURN.findall(document["text"])
            turns[document["language"]] += [(q, a) for q, a in found if len(q) <= 60]
    for language, known in turns.items():
        wanted_frames, other_frames = FRAMES[language]
        for _round in range(rounds):
            rng.shuffle(known)
            for (question, answer), (other, _unused) in zip(known[::2], known[1::2], strict=False):
                parts = [
                    rng.choice(wanted_frames).format(question),
                    rng.choice(other_frames).format(other),
                ]
                rng.shuffle(parts)
                gap = " " if language == "en" else ""
                prompt = rng.choice(EXTRA[language]) + gap.join(parts)
                reply = short(answer, language)
                # The wanted question comes back first, so that the very first token depends on the choice.
                yield f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n{question} {reply}<|end|>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("corpus", "tokenizer", "carry", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--own", type=float, default=0.25, help="part of the tokens from the corpus itself")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with (arguments.corpus / "train.jsonl").open(encoding="utf-8") as stream:
        documents = [json.loads(line) for line in stream]
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    texts = list(conversations(documents, rng, arguments.rounds))
    rng.shuffle(texts)
    pieces: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    selected = sum(map(len, pieces))
    stream_T = np.load(arguments.carry / "train.npy")
    own = int(selected * arguments.own / (1 - arguments.own))
    for start in rng.sample(range(0, len(stream_T) - 256, 256), own // 256):
        pieces.append(stream_T[start : start + 256].tolist())
    rng.shuffle(pieces)
    end = tokenizer.eos_token_id
    packed = np.array([token for piece in pieces for token in (*piece, end)], dtype=np.uint16)
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "train.npy", packed)
    made = {"rounds": arguments.rounds, "own": arguments.own, "seed": arguments.seed, "tokens": len(packed)}
    (arguments.out / "selection.json").write_text(json.dumps(made))
    for file in arguments.carry.iterdir():
        if file.name != "train.npy":
            shutil.copy(file, arguments.out / file.name)


if __name__ == "__main__":
    main()
