"""The embedded rows: reproducible, balanced, in minimal pairs, without near-duplicates across splits."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.data.reader import read_rows
from so8t_engine.data.similarity import THRESHOLD, max_cross_similarity
from so8t_engine.evaluation.baseline import bag_of_words_baseline, words
from so8t_engine.paths import resources_dir

DATA = resources_dir() / "data" / "four_class"
GENERATOR = Path(__file__).resolve().parents[3] / "resources" / "build" / "four_class" / "generate.py"
SPLITS = ("train", "validation", "test")
SAFE = ("ALLOW", "ESCALATION")


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict[str, Any]]]:
    return {
        name: [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in SPLITS
    }


@pytest.mark.skipif(not GENERATOR.exists(), reason="the generator is part of the checkout only")
def test_the_generator_writes_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GENERATOR), "--out", str(tmp_path)], check=True, timeout=300)
    for name in SPLITS:
        written, kept = (
            hashlib.sha256((folder / f"{name}.jsonl").read_bytes()).hexdigest() for folder in (tmp_path, DATA)
        )
        assert written == kept


def test_every_field_is_filled_and_labels_agree(records: dict[str, list[dict[str, Any]]]) -> None:
    fields = {"id", "prompt", "response", "task", "safety", "language", "family", "source", "license"}
    everything = [row for rows in records.values() for row in rows]
    assert all(set(row) == fields and all(row.values()) for row in everything)
    assert (
        len({row["id"] for row in everything})
        == len({row["prompt"] for row in everything})
        == len(everything)
    )
    assert len(everything) >= 2400
    assert all(row["safety"] == ("safe" if row["task"] in SAFE else "dangerous") for row in everything)
    assert not [row["id"] for row in everything if re.search(r"[{}]|  ", row["prompt"] + row["response"])]


def test_classes_languages_and_families_are_balanced(records: dict[str, list[dict[str, Any]]]) -> None:
    for rows in records.values():
        for language in ("en", "ja"):
            counts = Counter(row["task"] for row in rows if row["language"] == language)
            assert len(counts) == 4
            assert max(counts.values()) <= 1.5 * min(counts.values())
        languages = Counter(row["language"] for row in rows)
        assert 0.45 < languages["en"] / len(rows) < 0.55
    families = Counter((row["family"], row["task"]) for row in records["train"])
    assert len(families) == 4 * len({row["family"] for row in records["train"]})
    for family in {name for name, _task in families}:
        counts = Counter({task: n for (name, task), n in families.items() if name == family})
        assert max(counts.values()) <= 1.5 * min(counts.values())


def test_splits_are_eight_to_one_to_one(records: dict[str, list[dict[str, Any]]]) -> None:
    total = sum(len(rows) for rows in records.values())
    assert len(records["train"]) / total == pytest.approx(0.8, abs=0.02)
    assert len(records["test"]) / total == pytest.approx(0.1, abs=0.02)


def test_minimal_pairs_share_their_words_and_differ_in_label(
    records: dict[str, list[dict[str, Any]]],
) -> None:
    for rows in records.values():
        pairs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            pairs[row["id"].rpartition("-")[0]].append(row)
        for first, second in pairs.values():
            assert Counter(words(first["prompt"])) == Counter(words(second["prompt"]))
            assert first["prompt"] != second["prompt"]
            assert first["task"] != second["task"]


def test_no_near_duplicate_crosses_a_split(records: dict[str, list[dict[str, Any]]]) -> None:
    largest, one, other = max_cross_similarity([[row["prompt"] for row in rows] for rows in records.values()])
    assert 0 < largest < THRESHOLD, (one, other)


def test_a_bag_of_words_knows_half_of_the_labels() -> None:
    train, test = (read_rows("embedded:four_class", split=name) for name in ("train", "test"))
    report = bag_of_words_baseline(train, test, seed=0)
    assert report.task_accuracy is not None
    assert report.ngram_task_accuracy is not None
    assert 0.4 < report.task_accuracy < 0.55
    assert report.ngram_task_accuracy < 0.7


def test_the_card_states_the_counts(records: dict[str, list[dict[str, Any]]]) -> None:
    card = (DATA / "README.md").read_text(encoding="utf-8")
    for split, rows in records.items():
        for language in ("en", "ja"):
            counts = Counter(row["task"] for row in rows if row["language"] == language)
            cells = [counts[task] for task in ("ALLOW", "ESCALATION", "DENY", "REFUSE")]
            assert f"| {split} | {language} | {' | '.join(map(str, [*cells, sum(cells)]))} |" in card
