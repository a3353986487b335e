"""Writes the embedded four-class rows: ``python resources/build/four_class/generate.py [--out DIR]``.

Rows come in minimal pairs: the same words in another order, with two labels. Pairs that resemble an
earlier pair are dropped, the rest is split by connected components of the near-duplicate measure of
`so8t_engine.data.similarity`. Seeded: the same program text writes the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2])]

from english import ENGLISH  # noqa: E402
from forms import Cue, Family, Language  # noqa: E402
from japanese import JAPANESE  # noqa: E402

from so8t_engine.data.similarity import components, near_duplicate_pairs, shingles  # noqa: E402
from so8t_engine.data.split import assign_components  # noqa: E402

SEED = 8
SOURCE = "so8t four-class grammar v1"
PAIRS_PER_FAMILY = 200
# Shares of rows with an opener, a closer, a filler. Fillers part a marker from its cue by some words; where
# there is none, short sequences do see both, which a learner may start from.
OPENER_SHARE, CLOSER_SHARE, FILLER_SHARE = 0.35, 0.35, 0.6
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
# Pairs across the safe/dangerous border count more: with equal shares a bag of words would know the
# safety label of every third row.
CLASS_PAIRS = (
    (("ALLOW", "DENY"), 9), (("ALLOW", "REFUSE"), 9), (("ESCALATION", "DENY"), 9),
    (("ESCALATION", "REFUSE"), 9), (("ALLOW", "ESCALATION"), 2), (("DENY", "REFUSE"), 2),
)  # fmt: skip
DEFAULT_OUT = HERE.parents[1] / "data" / "four_class"

Record = dict[str, Any]


def _sentence_case(text: str) -> str:
    """``text`` with the first letter of each sentence in upper case (Japanese has no case)."""
    pieces = text.split(". ")
    return ". ".join(piece[:1].upper() + piece[1:] for piece in pieces)


def _fill(cue: Cue, rng: random.Random, language: Language) -> tuple[str, dict[str, str]]:
    slots = {key: rng.choice(language.lexicon[key]) for key in ("place", "event", "group")}
    return cue.text.format(**slots), slots


def _answer(
    family: Family, label: str, cue: Cue, slots: dict[str, str], language: Language, rng: random.Random
) -> str:
    first, second = family.answers[label]
    topic = cue.topic
    values = {**slots, "topic": topic, "help": cue.help.format(**slots)}
    parts = [rng.choice(first).format(**values), rng.choice(second).format(**values)]
    return _sentence_case(language.space.join(part for part in parts if part))


def make_pair(
    language: Language, family: Family, frame: str, labels: tuple[str, str], rng: random.Random
) -> list[Record]:
    """Two rows of one scene: in the second, the two cues have changed places, and so has the label."""

    def sometimes(share: float, text: str) -> str:
        return text if rng.random() < share else ""

    names = rng.sample(language.lexicon["name"], 2)
    fillers = [language.filler.format(one) for one in rng.sample(language.lexicon["f"], 2)]
    scene = {
        "n": names[0],
        "m": names[1],
        "f": sometimes(FILLER_SHARE, fillers[0]),
        "g": sometimes(FILLER_SHARE, fillers[1]),
        "doc": rng.choice(language.lexicon["doc"]),
        "board": rng.choice(language.lexicon["board"]),
    }
    opener = sometimes(OPENER_SHARE, rng.choice(language.openers))
    closer = sometimes(CLOSER_SHARE, rng.choice(language.closers))
    cues = [rng.choice(family.cues[label]) for label in labels]
    texts, slots = zip(*(_fill(cue, rng, language) for cue in cues), strict=True)
    rows: list[Record] = []
    for chosen in (0, 1):
        core = " ".join(frame.format(A=texts[chosen], B=texts[1 - chosen], **scene).split())
        prompt = language.space.join(part for part in (opener, _sentence_case(core), closer) if part)
        values = {**slots[chosen], "doc": scene["doc"], "board": scene["board"]}
        rows.append(
            {
                "id": "",
                "prompt": prompt,
                "response": _answer(family, labels[chosen], cues[chosen], values, language, rng),
                "task": labels[chosen],
                "safety": "safe" if labels[chosen] in ("ALLOW", "ESCALATION") else "dangerous",
                "language": language.code,
                "family": family.name,
                "source": SOURCE,
                "license": "CC0-1.0",
            }
        )
    return rows


def _candidates(rng: random.Random, count: int) -> list[list[Record]]:
    pairs: list[list[Record]] = []
    for language, index in itertools.product((ENGLISH, JAPANESE), range(len(ENGLISH.families))):
        family = language.families[index]
        deck = [labels for labels, weight in CLASS_PAIRS for _copy in range(weight)]
        for number in range(count):
            if number % len(deck) == 0:
                rng.shuffle(deck)
            frame = family.frames[number % len(family.frames)]
            pairs.append(make_pair(language, family, frame, deck[number % len(deck)], rng))
    return pairs


def build(seed: int = SEED, per_family: int = PAIRS_PER_FAMILY) -> dict[str, list[Record]]:
    """All rows by split. No row of one split is a near-duplicate of a row of another."""
    pairs = _candidates(random.Random(seed), per_family)
    candidates = [row for pair in pairs for row in pair]
    alike = near_duplicate_pairs([shingles(row["prompt"]) for row in candidates])
    dropped: set[int] = set()
    for i, j, _similarity in alike:  # rows 2n and 2n + 1 are pair n
        first, second = sorted((i // 2, j // 2))
        if first != second and not {first, second} & dropped:
            dropped.add(second)
    place: dict[int, int] = {}
    records: list[Record] = []
    for index, row in enumerate(candidates):
        if index // 2 not in dropped:
            place[index] = len(records)
            row["id"] = f"{row['language']}-{row['family']}-{len(records) // 2:04d}-{'ab'[index % 2]}"
            records.append(row)
    links = [(place[i], place[j], value) for i, j, value in alike if i in place and j in place]
    # The members of a minimal pair stay together whatever their measured similarity.
    links += [(index, index + 1, 1.0) for index in range(0, len(records), 2)]
    strata = [f"{row['task']}/{row['language']}/{row['family']}" for row in records]
    parts = assign_components(components(len(records), links), strata, list(SPLITS.values()), seed)
    return {name: [records[i] for i in sorted(part)] for name, part in zip(SPLITS, parts, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in build().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_bytes(text.encode("utf-8"))
        sys.stdout.write(f"{name}: {len(rows)} rows\n")


if __name__ == "__main__":
    main()
