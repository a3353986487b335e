"""The model card of a baked model: what it is, how it was checked, what it is not. English, as cards are."""

from __future__ import annotations

from typing import Any

import yaml


def model_card(report: dict[str, Any]) -> str:
    """The README.md beside a baked model.

    Args:
        report: as ``so8t bake`` makes it; figures are shares in [0, 1] and nats.
    """
    base = report["base_model"]
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    # Only a Hub id means something elsewhere; a folder's name is this computer's affair.
    named = isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "~", "/"))
    if named:
        header["base_model"] = base
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    compared, saved = report["comparison"], report["as_saved"]
    source = "learned" if report["alpha_source"] == "learned" else "assigned by a schedule, not learned"
    parts = [
        f"---\n{front}---\n\n# A baked SO8T model\n",
        "A language model fine-tuned with LoRA and an SO8T gate, K = "
        f"{_FORMS[report['gate_form']]} per block of eight hidden units, with M = R_cmd R_safe. LoRA is "
        "merged and the gate folded into the weights, so transformers loads it without other code.\n",
        f"- Base model: {base if named else 'not on the Hub'}"
        + (f", revision {report['base_revision']}" if report["base_revision"] else ""),
        f"- Run: {report['run']}, {report['state']} after {report['step']} optimizer steps",
        f"- Gate: {report['placement']}, g = {report['gate']:.4f} (α = {report['alpha']:.4f}, {source})",
        f"- Weights: {report['dtype']}; folded: {', '.join(report['baked'])}",
    ]
    if report["dequantised_layers"]:
        parts.append(
            f"- The run held {report['dequantised_layers']} layers in {report['quantization']}. Their "
            "dequantised values, which LoRA and the gate were trained on, are the ones here, not those of "
            "the base model's files."
        )
    if report["quantization"] == "int8":
        parts.append("- int8 layers also round what goes into them. That rounding is not in these weights.")
    parts += [
        "\n## Check\n",
        f"Logits of the gated model (LoRA unmerged, gate attached, float32) against this one, on "
        f"{compared['tokens']} tokens of {report['texts']} held-out rows:\n",
        "| | max abs(Δ logit) | same top token | mean KL, nats |",
        "|---|---|---|---|",
        _row("baked, float32", compared),
        _row(f"this folder, {report['dtype']}", saved),
        "\n## Limits\n",
        "The safety, task and dual heads are not part of this folder: they stay in the run's soul file. "
        "The check says that the weights do what the gated model did; it says nothing about how good or "
        "how safe its answers are. The base model's licence applies.\n",
    ]
    return "\n".join(parts)


_FORMS = {"residual": "(1 − g) I + g M", "additive": "I + g M", "geodesic": "exp(g log M)"}


def _row(name: str, found: dict[str, Any]) -> str:
    return f"| {name} | {found['max_abs']:.3g} | {100 * found['top1']:.2f} % | {found['kl']:.3g} |"
