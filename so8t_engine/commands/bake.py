"""``so8t bake``: a finished run as one plain transformers model, its gate folded into the weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from so8t_engine.commands.bake_card import model_card
from so8t_engine.commands.runs import state_of_final
from so8t_engine.config import Config
from so8t_engine.errors import DataError, ModelError, RunError
from so8t_engine.i18n import _
from so8t_engine.memory.geometry import UnknownModelError, model_geometry
from so8t_engine.so8t.schedule import sigmoid
from so8t_engine.training.checkpoint import verify_folder
from so8t_engine.training.events import InfoEvent
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import State

if TYPE_CHECKING:
    from torch import Tensor

    from so8t_engine.model.finished import FinishedModel
    from so8t_engine.so8t.logit_comparison import LogitComparison

Dtype = Literal["float32", "bfloat16"]
#: Held-out tokens compared, and the most memory that the gated model's logits on them may take.
COMPARED_TOKENS = 4096
COMPARED_BYTES = 512 * 1024**2


def bake_run(
    run_path: Path, out: Path, *, dtype: Dtype, untie: bool, console: Console
) -> tuple[str, dict[str, Any]]:
    """Bake a run into ``out`` and return the report as text and as the object of ``--json``.

    The gated model, LoRA unmerged and the gate attached by hooks, is compared with the baked one on the
    run's held-out rows, in float32; then the folder as it was written is loaded by transformers alone and
    compared too.

    Raises:
        RunError: the run did not finish or its ``final/`` is damaged.
        ModelError: ``out`` exists, the embeddings are tied, or the logits differ beyond the tolerance.
        SO8TError: base model, adapter, soul file or rows cannot be used. Nothing is written then.
    """
    run, config, state = _finished_run(run_path)
    if out.exists():
        raise ModelError(
            _("%(folder)s exists already.") % {"folder": out}, _("Choose a folder that does not exist.")
        )
    _refuse_tied(config, untie)
    facts = _facts(run)

    import transformers

    from so8t_engine.model.finished import load_finished
    from so8t_engine.model.loading import load_tokenizer

    transformers.utils.logging.disable_progress_bar()
    tokenizer = load_tokenizer(config.model)
    console.print(_("loading the base model"))
    finished = load_finished(
        run.final,
        config,
        compute_dtype=str(facts.get("compute_dtype", "")),
        on_card=str(facts.get("device", "")).startswith("cuda"),
    )
    report: dict[str, Any] = {
        "run": run.id,
        "out": str(out),
        "state": state,
        "step": finished.soul.step,
        "base_model": config.model.path,
        "base_revision": config.model.revision,
        "quantization": config.model.quantization,
        "dequantised_layers": finished.dequantised,
        "dtype": dtype,
        "placement": str(finished.placement),
        "gate_form": finished.so8t.gate_form,
        "alpha": finished.soul.alpha,
        "gate": None if finished.soul.alpha is None else sigmoid(finished.soul.alpha),
        "alpha_source": finished.soul.metadata.gate_source or None,
        "config_digest": config.digest(),
    }
    texts = _held_out(config, tokenizer, finished)
    _bake(finished, out, texts, tokenizer, report, dtype, untie, console)
    return _text(report), report


def _finished_run(path: Path) -> tuple[RunDirectory, Config, str]:
    run = RunDirectory.open(path)
    state = state_of_final(run)
    if state not in {State.FINISHED, State.STOPPED} or not run.final.exists():
        raise RunError(
            _("The run in %(path)s is not finished; its state is '%(state)s'.")
            % {"path": str(path), "state": state},
            _("Let it end, or continue it with --resume; a run that was stopped and saved can be baked too."),
        )
    verify_folder(run.final)
    return run, run.config(), state


def _refuse_tied(config: Config, untie: bool) -> None:
    """Before anything is loaded, where the base model's sizes are on this computer."""
    try:
        tied = model_geometry(config.model.path, config.model.revision).tied
    except UnknownModelError:
        return  # found when it is loaded
    if tied and config.so8t.gate_final and not untie:
        raise ModelError(
            _("The LM head shares its weight with the input embedding."),
            _("Add --untie: the exported model then holds both, and grows by one of them."),
        )


def _facts(run: RunDirectory) -> dict[str, Any]:
    found = [event.facts for event in run.read_events() if isinstance(event, InfoEvent)]
    return found[-1] if found else {}


def _held_out(config: Config, tokenizer: Any, finished: FinishedModel) -> list[Tensor]:  # noqa: ANN401
    """The run's held-out rows as token ids (1, T), as many as `COMPARED_TOKENS` and memory allow."""
    import torch

    from so8t_engine.data.dataset import load_splits
    from so8t_engine.data.tokenize import encode_row
    from so8t_engine.so8t.attach import lm_head_of

    data = config.data
    splits = load_splits(
        data.train,
        data.validation,
        fmt=data.format,
        validation_fraction=data.validation_fraction,
        seed=config.training.seed,
        max_rows=data.max_rows,
    )
    vocabulary = int(getattr(lm_head_of(finished.peft), "out_features", 1))
    limit = max(16, min(COMPARED_TOKENS, COMPARED_BYTES // (4 * vocabulary)))
    texts: list[Tensor] = []
    left = limit
    for row in [*splits.validation, *splits.test]:
        ids = encode_row(tokenizer, row, data.max_length).input_ids[:left]
        if len(ids) > 1:
            texts.append(torch.tensor([ids]))
            left -= len(ids)
        if left < 2:
            break
    if not texts:
        raise DataError(
            _("The run has no held-out rows to compare the baked model on."),
            _("Name some in data.validation of the run's config.yaml."),
        )
    return texts


def _bake(
    finished: FinishedModel,
    out: Path,
    texts: list[Tensor],
    tokenizer: Any,  # noqa: ANN401
    report: dict[str, Any],
    dtype: Dtype,
    untie: bool,
    console: Console,
) -> None:
    import torch

    from so8t_engine.so8t.bake import baked_weights, export_baked, gated_logits
    from so8t_engine.so8t.logit_comparison import BakeTolerance

    console.print(_("comparing the gated model with the baked one"))
    place, so8t = finished.placement, finished.so8t
    gated = [gated_logits(finished.peft, so8t, ids_NT, place) for ids_NT in texts]
    model = finished.merged()
    tolerance = BakeTolerance()
    report["baked"] = sorted(baked_weights(model, so8t, place))
    report["tolerance"] = asdict(tolerance)
    report["texts"] = len(texts)

    def describe(folder: Path, comparison: LogitComparison) -> None:
        report["comparison"] = asdict(comparison)
        report["as_saved"] = asdict(_check_saved(folder, texts, gated, dtype))
        _write(folder, report)

    export_baked(
        model,
        so8t,
        out,
        texts,
        placement=place,
        tolerance=tolerance,
        untie=untie,
        tokenizer=tokenizer,
        gated=gated,
        dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
        describe=describe,
    )


def _check_saved(folder: Path, texts: list[Tensor], gated: list[Tensor], dtype: Dtype) -> LogitComparison:
    """The folder as transformers alone loads it, against the gated model in float32.

    Half precision is reported and not limited, but must be finite: its rounding is what was asked for.
    """
    from transformers import AutoModelForCausalLM

    from so8t_engine.so8t.bake import check_tolerance, plain_logits
    from so8t_engine.so8t.logit_comparison import BakeTolerance, compare_pairs

    plain = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    found = compare_pairs(
        (gated_NTV, plain_logits(plain, ids_NT)) for gated_NTV, ids_NT in zip(gated, texts, strict=True)
    )
    finite = float("1e30")
    check_tolerance(found, BakeTolerance() if dtype == "float32" else BakeTolerance(finite, 0.0, finite))
    return found


def _write(folder: Path, report: dict[str, Any]) -> None:
    told = {name: value for name, value in report.items() if name != "out"}
    (folder / "bake.json").write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "README.md").write_text(model_card(report), encoding="utf-8")


def _text(report: dict[str, Any]) -> str:
    lines = [
        _("Gate at %(place)s: g = %(gate).4f after %(step)d steps, folded into %(count)d weights.")
        % {
            "place": report["placement"],
            "gate": report["gate"],
            "step": report["step"],
            "count": len(report["baked"]),
        }
    ]
    if report["dequantised_layers"]:
        lines.append(
            _(
                "%(count)d layers were quantised (%(kind)s): the dequantised values, which the run trained "
                "on, were baked."
            )
            % {"count": report["dequantised_layers"], "kind": report["quantization"]}
        )
    figures = _("%(what)s: max|Δ logit| %(max_abs).3g, same top token %(top1).2f %%, KL %(kl).3g.")
    for what, found in (
        (_("Gated against baked, float32"), report["comparison"]),
        (_("Gated against the folder as saved, %(dtype)s") % {"dtype": report["dtype"]}, report["as_saved"]),
    ):
        lines.append(figures % {"what": what, **found, "top1": 100.0 * found["top1"]})
    lines.append(
        _("Compared on %(tokens)d tokens of %(texts)d held-out rows.")
        % {"tokens": report["comparison"]["tokens"], "texts": report["texts"]}
    )
    lines.append(_("Baked model: %(path)s") % {"path": report["out"]})
    return "\n".join(lines) + "\n"
