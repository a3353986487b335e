"""``so8t integrate``: pictures into a trained run's embedding space, then bake, then GGUF, each verified."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from so8t_engine.commands.bake import _finished_run, bake_run
from so8t_engine.errors import DataError, ModelError
from so8t_engine.files import move, write_atomically
from so8t_engine.i18n import _

if TYPE_CHECKING:
    from so8t_engine.config import Config
    from so8t_engine.training.run_directory import RunDirectory
    from so8t_engine.vision.joined import Pair
    from so8t_engine.vision.training import PairData, ProjectorTraining

Progress = Callable[[str, int, int | None], None]
#: Largest accepted |Δ logit| on joined sequences between the gated and the baked model, both in float32.
JOINED_LIMIT = 1e-3
CHECKED_PAIRS = 8


def integrate_run(
    run_path: Path,
    out: Path,
    *,
    images: Path | None,
    encoder: str = "embedded",
    training: ProjectorTraining | None = None,
    max_images: int | None = None,
    gguf: Sequence[str] = (),
    untie: bool = False,
    scratch: Path | None = None,
    console: Console | None = None,
    progress: Progress = lambda what, done, of: None,
) -> dict[str, Any]:
    """Fill ``out``: ``projector.safetensors``, ``baked/``, ``gguf/``, ``integration.json``.

    What ``out`` and ``scratch`` hold of an interrupted call is used again.

    Args:
        images: Parquet of pictures and captions; None or without training rows: no projector is trained,
            and the report says so.
        scratch: where the projector's state is kept while it trains.

    Raises:
        SO8TError: the run, the encoder or a row cannot be used, or a check fails.
    """
    import torch
    import transformers

    from so8t_engine.training.environment import physical_cores
    from so8t_engine.vision.training import ProjectorTraining

    run, config, _state = _finished_run(run_path)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.run.cpu_threads or physical_cores())
    out.mkdir(parents=True, exist_ok=True)
    options = training or ProjectorTraining(seed=config.training.seed)
    report: dict[str, Any] = {"run": run.id, "vision": None, "bake": None, "gguf": []}
    joined: list[Any] = []
    pairs, held = _pairs(images, max_images)
    if pairs:
        report["vision"], joined = _vision(run, config, out, pairs, held, encoder, options, scratch, progress)
        gc.collect()
    baked = out / "baked"
    if not (baked / "bake.json").is_file():
        progress(_("baking"), 0, None)
        bake_run(run.path, baked, dtype="float32", untie=untie, console=console or Console(quiet=True))
    report["bake"] = json.loads((baked / "bake.json").read_text(encoding="utf-8"))
    if joined:
        on_card = bool(report["vision"].pop("on_card"))
        report["vision"]["joined_logits"] = _check_joined(baked, joined, limited=not on_card)
    elif report["vision"]:
        report["vision"].pop("on_card")
    report["gguf"] = [_gguf(baked, out / "gguf", kind, run.id, console, progress) for kind in gguf]
    write_atomically(out / "integration.json", json.dumps(report, indent=1, ensure_ascii=False))
    return report


def _pairs(images: Path | None, limit: int | None) -> tuple[list[Pair], list[Pair]]:
    from so8t_engine.vision.joined import read_pairs

    if images is None or not images.is_file():
        return [], []
    pairs = read_pairs(images, "train", limit)
    held = [pair for split in ("validation", "test") for pair in read_pairs(images, split, limit)]
    if pairs and len(pairs) < 2:
        raise DataError(
            _("%(path)s has too few pictures to train a projector on.") % {"path": str(images)},
            _("Collect more, or leave pictures out."),
        )
    return pairs, held


def _vision(
    run: RunDirectory,
    config: Config,
    out: Path,
    pairs: list[Pair],
    held: list[Pair],
    source: str,
    options: ProjectorTraining,
    scratch: Path | None,
    progress: Progress,
) -> tuple[dict[str, Any], list[Any]]:
    """Train the projector, measure it, and keep the gated logits of a few joined sequences."""
    from so8t_engine.evaluation.outputs import load_tuned
    from so8t_engine.model.loading import load_tokenizer
    from so8t_engine.vision.encoder import load_encoder
    from so8t_engine.vision.projector import Projector, save_projector
    from so8t_engine.vision.training import embedding_scale, held_out_losses, train_projector

    tokenizer = load_tokenizer(config.model)
    tuned = load_tuned(run.final, config)
    device = tuned.so8t.theta_safe.device
    encoder = load_encoder(source, device)
    data = _encoded(tokenizer, encoder, pairs, progress)
    held_data = _encoded(tokenizer, encoder, held, progress)
    projector = Projector(
        encoder.width, tuned.so8t.hidden_size, scale=embedding_scale(tuned), seed=options.seed
    )
    before = held_out_losses(tuned, projector.to(device), held_data, seed=options.seed)
    what = _("training the projector")
    losses = train_projector(
        tuned, projector, data, options,
        state_file=None if scratch is None else scratch / "projector.pt",
        proceed=lambda step, loss: progress(what, step, options.steps),
    )  # fmt: skip
    save_projector(out / "projector.safetensors", projector, encoder.name)
    after = held_out_losses(tuned, projector, held_data, seed=options.seed)
    shown = held_data if held_data.samples else data
    found = {
        "encoder": encoder.name,
        "patches": encoder.patches,
        "width": encoder.width,
        "pairs": len(pairs),
        "steps": options.steps,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "held_out_before": before,
        "held_out": after,
        "gate": str(tuned.placement),
        "on_card": device.type == "cuda",
    }
    return found, _gated_joined(tuned, projector, shown)


def _encoded(tokenizer: Any, encoder: Any, pairs: list[Pair], progress: Progress) -> PairData:  # noqa: ANN401
    import torch

    from so8t_engine.vision.joined import batches, encode_pair
    from so8t_engine.vision.training import PairData

    features = [torch.zeros((0, encoder.patches, encoder.width))]
    for part in batches(len(pairs), 16):
        features.append(encoder.encode([pairs[i].image for i in part]).cpu())
        progress(_("encoding pictures"), part.stop, len(pairs))
    return PairData(torch.cat(features), [encode_pair(tokenizer, pair) for pair in pairs])


def _gated_joined(tuned: Any, projector: Any, data: PairData) -> list[tuple[Any, Any]]:  # noqa: ANN401
    """(embeddings (1, T, H), logits (1, T, V)) of joined sequences through the gated model, on the CPU."""
    import torch

    from so8t_engine.so8t.attach import attach_from_placement
    from so8t_engine.vision.joined import join

    model = tuned.causal_lm
    device = tuned.so8t.theta_safe.device
    kept = []
    with torch.no_grad(), attach_from_placement(model, tuned.so8t, tuned.placement):
        for row in range(min(CHECKED_PAIRS, len(data.samples))):
            patches_NPH = projector(data.features_NPD[row : row + 1].to(device))
            batch = join(model.get_input_embeddings(), [data.samples[row]], patches_NPH)
            logits_NTV = model(inputs_embeds=batch.embeds_NTH, attention_mask=batch.mask_NT).logits
            kept.append((batch.embeds_NTH.float().cpu(), logits_NTV.float().cpu()))
    return kept


def _check_joined(baked: Path, joined: list[tuple[Any, Any]], *, limited: bool) -> dict[str, Any]:
    """The baked model as transformers alone loads it, on the same joined sequences.

    On a card the gated model computed in half precision: the difference is reported and not limited.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from so8t_engine.so8t.logit_comparison import compare_pairs

    plain = AutoModelForCausalLM.from_pretrained(baked, local_files_only=True, trust_remote_code=False).eval()
    with torch.no_grad():
        found = compare_pairs(
            (logits, plain(inputs_embeds=embeds).logits.float()) for embeds, logits in joined
        )
    if limited and not found.max_abs <= JOINED_LIMIT:
        raise ModelError(
            _("On joined sequences the baked model differs from the gated one by %(off).3g.")
            % {"off": found.max_abs},
            _("The result was not kept; report this as a defect."),
        )
    return asdict(found) | {"sequences": len(joined), "limited": limited}


def _gguf(
    baked: Path, folder: Path, kind: str, name: str, console: Console | None, progress: Progress
) -> dict[str, Any]:
    from so8t_engine.commands.export import write_checked

    folder.mkdir(exist_ok=True)
    progress(_("writing GGUF"), 0, None)
    partial = folder / f"{name}-{kind}.gguf.tmp"
    report = write_checked(baked, partial, kind, name, console, None)  # type: ignore[arg-type]
    target = folder / f"{name}-{kind}.gguf"
    move(partial, target, over=True)
    target.chmod(0o644)
    return {"name": target.name, "bytes": target.stat().st_size, **report}


def text_of(report: dict[str, Any], out: Path) -> str:
    """The report for a person."""
    lines = []
    vision = report["vision"]
    if vision is None:
        lines.append(_("No pictures: no projector was trained."))
    else:
        lines.append(
            _("Projector: %(pairs)d pictures, %(steps)d steps, loss %(first).3f → %(last).3f nats a token.")
            % {"pairs": vision["pairs"], "steps": vision["steps"], "first": vision["first_loss"],
               "last": vision["last_loss"]}
        )  # fmt: skip
        lines.append(_reads_pictures(vision["held_out"]))
    compared = report["bake"]["as_saved"]
    lines.append(
        _("Baked: max|Δ logit| %(off).3g on %(tokens)d held-out tokens.")
        % {"off": compared["max_abs"], "tokens": compared["tokens"]}
    )
    lines += [f"{entry['name']}: {entry['check']['max_relative']:.2g}" for entry in report["gguf"]]
    lines.append(str(out))
    return "\n".join(lines) + "\n"


def _reads_pictures(held: dict[str, Any]) -> str:
    change = held["difference"]
    if change is None or change["low"] is None:
        return _("Too few held-out pictures to say whether the model reads them.")
    figures = {"right": held["right"], "wrong": held["wrong"], **change}
    if change["low"] > 0:
        return (
            _("Held out: %(right).3f with the right picture, %(wrong).3f with another one: it reads them.")
            % figures
        )
    return (
        _("Held out: %(right).3f with the right picture, %(wrong).3f with another one: no sign of reading.")
        % figures
    )
