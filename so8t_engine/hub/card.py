"""The model card: what was measured, and nothing else. English, as cards are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

POLICY = (
    "Rows are taken from local files, data sets and web pages whose robots.txt allows it; a source that "
    "refuses or fails is left out and never replaced. Licences are recorded per row. Personal data is "
    "removed where the recognisers find it. Text that is not safe for work is kept only to be detected and "
    "refused and is never a target of generation. Labels made by rules are weak and marked as such."
)


def model_card(
    *,
    run: str,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    bake: Mapping[str, Any] | None,
    ggufs: list[Mapping[str, Any]],
    data: Mapping[str, Any] | None,
    licence: str | None,
    pipeline: bool,
) -> str:
    """The README.md of an upload.

    Args:
        config: the run's, as plain values. results: its ``results.json``.
        evaluation: ``report.json`` of ``so8t evaluate``; None where it was not made.
        bake, ggufs: reports of ``so8t bake`` and of the written files.
        data: licence → rows, as the pipeline recorded them; None where nobody did.
        licence: of this model, as its owner says; None leaves it open.
        pipeline: whether the data policy was in force: only then is it stated.
    """
    base = str(config["model"]["path"])
    named = base.count("/") == 1 and not base.startswith((".", "~", "/"))
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if licence:
        header["license"] = licence
    if named:
        header["base_model"] = base
    header["tags"] = ["so8t", "lora"]
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---\n\n# {run}\n", _about(config, results, base if named else None, bake)]
    parts.append(_data(config, data, licence, pipeline))
    parts.append(_evaluation(evaluation, results))
    parts.append(_files(bake, ggufs))
    parts.append(_limits(evaluation))
    return "\n".join(parts)


def _about(
    config: Mapping[str, Any], results: Mapping[str, Any], base: str | None, bake: Mapping[str, Any] | None
) -> str:
    so8t, lora, training = config["so8t"], config["lora"], config["training"]
    source = results.get("alpha_source")
    alpha = results.get("alpha")
    lines = [
        "A language model fine-tuned with LoRA and the SO8T parts: two SO(8) rotation gates, of which R_safe "
        "acts first and R_cmd second, an alpha gate, safety, task and dual heads.\n",
        f"- Base model: {base or 'not on the Hub'}"
        + (f", revision {config['model']['revision']}" if config["model"].get("revision") else ""),
        f"- Quantised while training: {config['model']['quantization']}",
        f"- LoRA: r {lora['r']}, α {lora['alpha']}",
        f"- Optimizer steps: {results.get('steps', 'not recorded')}; seed {training['seed']}",
    ]
    if so8t.get("variant", "full") != "full":
        lines.append(f"- **An ablation, not SO8T itself**: {so8t['variant']}")
    if alpha is not None:
        word = "learned" if source == "learned" else "assigned by a schedule, so its arrival proves nothing"
        lines.append(f"- Gate: form {so8t['gate_form']}, α = {alpha:.4f} at the end ({word})")
        if source == "learned":
            arrived = results.get("alpha_converged_at")
            told = f"at step {arrived}" if arrived is not None else "not within the run"
            lines.append(f"- α came within 0.01 of its target: {told}")
    return "\n".join(lines) + "\n"


def _data(
    config: Mapping[str, Any], data: Mapping[str, Any] | None, licence: str | None, pipeline: bool
) -> str:
    lines = ["## Data and licences\n"]
    if data:
        lines += ["| licence of the rows | rows |", "|---|---|"]
        lines += [f"| {_cell(name)} | {count} |" for name, count in sorted(data.items())]
    else:
        named = str(config["data"]["train"])
        shown = named if named.startswith(("embedded:", "hub:")) else "a local source"
        lines.append(f"Trained on {shown}. The licences of its rows were not recorded.")
    lines.append(
        "\nThe licence of this model: "
        + (licence if licence else "not stated by its owner; the base model's and the rows' apply.")
    )
    if pipeline:
        lines += ["\n## Data policy\n", POLICY]
    return "\n".join(lines) + "\n"


def _evaluation(evaluation: Mapping[str, Any] | None, results: Mapping[str, Any]) -> str:
    lines = ["## Evaluation\n"]
    if evaluation is None:
        held = results.get("evaluation") or {}
        for split, found in held.items():
            after = found.get("after")
            if after:
                shown = ", ".join(f"{k} {v:.4f}" for k, v in after.items() if isinstance(v, float))
                lines.append(f"- {split}, {after.get('rows')} rows, by the run itself: {shown}")
        if len(lines) == 1:
            lines.append("Not measured.")
        return "\n".join(lines) + "\n"
    worse = [name for name, entry in evaluation["comparison"].items() if entry["better"] is False]
    if worse:
        lines.append(f"**Worse than the base beyond the 95 % interval: {', '.join(worse)}.**\n")
    lines.append(
        f"{evaluation['rows']} rows ({evaluation['split']}), not trained on; 95 % bootstrap intervals."
        + (
            " The base has no heads: its four-class figures are a logistic regression's on its hidden states."
            if evaluation.get("probe")
            else ""
        )
        + "\n"
    )
    lines += ["| figure | base | tuned | tuned − base |", "|---|---|---|---|"]
    for name, entry in evaluation["comparison"].items():
        cells = [_figure(entry["base"]), _figure(entry["tuned"]), _figure(entry["difference"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    four = evaluation.get("four_class")
    if four:
        ece = four["calibration"]["ece"]
        lines += ["", "| class | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
        for name, entry in four["per_class"].items():
            parts = [("—" if entry[k] is None else f"{entry[k]:.4f}") for k in ("precision", "recall", "f1")]
            lines.append(f"| {name} | {' | '.join(parts)} | {entry['support']} |")
        if ece is not None:
            lines.append(f"\nExpected calibration error of the task head: {ece:.4f}.")
    return "\n".join(lines) + "\n"


def _figure(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "—"
    shown = f"{entry['value']:.4f}"
    return shown if entry["low"] is None else f"{shown} [{entry['low']:.4f}, {entry['high']:.4f}]"


def _files(bake: Mapping[str, Any] | None, ggufs: list[Mapping[str, Any]]) -> str:
    lines = [
        "## Files\n",
        "- `adapter/`: LoRA in peft's layout; `so8t/soul.safetensors`: rotations, α, heads",
    ]
    if bake:
        found = bake["as_saved"]
        lines.append(
            f"- `model.safetensors` and the rest at the top: LoRA merged, gate folded in, {bake['dtype']}; "
            f"against the gated model on {found['tokens']} held-out tokens "
            f"max abs(Δ logit) {found['max_abs']:.3g}, "
            f"same top token {100 * found['top1']:.2f} %"
        )
    for entry in ggufs:
        check = entry.get("check")
        told = f", read back within {check['max_relative']:.2g}" if check else ""
        lines.append(f"- `gguf/{entry['name']}`{told}")
        lines += [f"  - {limit}" for limit in entry.get("limits", [])]
    return "\n".join(lines) + "\n"


def _limits(evaluation: Mapping[str, Any] | None) -> str:
    lines = [
        "## Limits\n",
        "- The heads' decisions are statistics of the rows above. They are no guarantee of safety.",
        "- The figures are of the split named and of nothing else.",
    ]
    if evaluation is None:
        lines.append("- No comparison with the base model was made.")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
