"""Write the base model's README.md from its ``training.json``: ``python model_card.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("model_card_template.md")
SECOND_STAGE = Path(__file__).with_name("model_card_second_stage.md")


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def second_stage(report: dict[str, Any]) -> str:
    """The section on the second stage; empty for a model that had none."""
    stage = report.get("second_stage")
    if stage is None:
        return ""
    plan = stage["plan"]
    return SECOND_STAGE.read_text(encoding="utf-8").format(
        **(plan | {"steps": stage["steps"], "seen": stage["seen_tokens"], "minutes": stage["seconds"] / 60}),
        rounds=stage["selection"]["rounds"],
        own=stage["selection"]["own"],
        train_tokens=stage["train_tokens"],
    )


def render(report: dict[str, Any], config: dict[str, Any]) -> str:
    """The model card's text."""
    plan = report["plan"]
    slices = list(report["held_out"])
    totals = {
        kind: sum(
            n
            for row in report["corpus"]
            for key, n in row["bytes"].items()
            if key.startswith("train") and key.endswith(kind)
        )
        for kind in ("prose", "chat")
    }
    japanese = sum(
        n for row in report["corpus"] for key, n in row["bytes"].items() if key.startswith("train_ja")
    )
    corpus = [
        _row(
            row["package"],
            row["version"],
            row["licence"],
            f"{sum(n for k, n in row['bytes'].items() if k.startswith('train')):,}",
            f"{sum(n for k, n in row['bytes'].items() if k.startswith('held')):,}",
        )
        for row in report["corpus"]
    ]
    held = [
        _row(
            key,
            f"{v['tokens']:,}",
            f"{v['bytes']:,}",
            f"{v['perplexity']:.2f}",
            f"{v['unigram_perplexity']:.0f}",
            f"{v['bits_per_byte']:.3f}",
        )
        for key, v in report["held_out"].items()
    ]
    history = [
        _row(h["step"], f"{h['train']:.3f}", *(f"{h['held_out'][key]:.3f}" for key in slices))
        for h in report["history"]
    ]
    return TEMPLATE.read_text(encoding="utf-8").format(
        parameters=report["parameters"],
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        positions=config["max_position_embeddings"],
        steps=report["steps"],
        seen=report["seen_tokens"],
        epochs=report["epochs"],
        train_tokens=report["train_tokens"],
        hardware=report["hardware"],
        minutes=report["seconds"] / 60,
        throughput=report["seen_tokens"] / report["seconds"],
        software=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        held_out="\n".join(held),
        slices=" | ".join(slices),
        rule="|".join("---" for _ in slices),
        history="\n".join(history),
        second=second_stage(report),
        corpus="\n".join(corpus),
        prose=totals["prose"] / 1e6,
        chat=totals["chat"] / 1e6,
        japanese=japanese / sum(totals.values()),
        **{
            key: plan[key]
            for key in (
                "batch",
                "sequence",
                "betas",
                "learning_rate",
                "warmup",
                "weight_decay",
                "clip",
                "seed",
            )
        },
    )


def write_card(folder: Path) -> None:
    """Write ``README.md`` beside ``training.json`` and ``config.json``."""
    report = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(render(report, config), encoding="utf-8")


if __name__ == "__main__":
    write_card(Path(sys.argv[1]))
