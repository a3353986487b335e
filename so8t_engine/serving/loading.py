"""A trained run made ready to speak: base, LoRA, gate and heads on their device, without a trainer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from so8t_engine.commands.runs import state_of_final
from so8t_engine.config import Config
from so8t_engine.errors import ModelError, RunError
from so8t_engine.i18n import _
from so8t_engine.model.finished import load_finished
from so8t_engine.model.loading import choose_device, load_base, load_tokenizer
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import lm_head_of
from so8t_engine.so8t.placement import Placement
from so8t_engine.so8t.soul_file import adapter_of, load_soul
from so8t_engine.training.checkpoint import MANIFEST, verify_folder
from so8t_engine.training.events import InfoEvent
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import State


@dataclass
class Speaker:
    """A model that can answer.

    Attributes:
        peft: transformers' model with LoRA in it, eval mode; on the card quantised as in training.
        so8t: gate and heads, on the same device, not attached yet.
        placement: where the gate acts.
        digest: SHA-256 of the manifest of ``final/``: names the model in every audit row.
        thinks: whether rows of the run were written in the tag grammar; None when the run does not say.
    """

    run: str
    config: Config
    peft: Any
    so8t: SO8TAdapter
    placement: Placement
    tokenizer: Any
    device: torch.device
    digest: str
    step: int | None
    thinks: bool | None

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """As training computes: the head's half precision on a card, none on the CPU."""
        dtype: torch.dtype = next(lm_head_of(self.peft).parameters()).dtype
        return dtype if self.device.type == "cuda" and dtype.itemsize == 2 else None

    @property
    def positions(self) -> int:
        """The longest sequence that the model was made for."""
        return int(getattr(self.peft.config, "max_position_embeddings", 2048))


CACHE_BYTES = 256 * 2**20
FEWEST, MOST = 8, 64


def answers_at_once(speaker: Speaker) -> int:
    """How many requests are answered together unless the settings say it: by the size of a row's cache."""
    config = speaker.peft.config
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    item = next(lm_head_of(speaker.peft).parameters()).dtype.itemsize
    row = 2 * int(config.num_hidden_layers) * kv_heads * head_dim * item * min(speaker.positions, 4096)
    return max(FEWEST, min(MOST, CACHE_BYTES // row))


def finished_run(path: Path) -> tuple[RunDirectory, Config, dict[str, Any]]:
    """A run that has a complete ``final/``, its configuration and the facts it told.

    Raises:
        RunError: it has none, or a file in it is damaged.
    """
    run = RunDirectory.open(path)
    state = state_of_final(run)
    if state not in {State.FINISHED, State.STOPPED} or not run.final.exists():
        raise RunError(
            _("The run in %(path)s is not finished; its state is '%(state)s'.")
            % {"path": str(path), "state": state},
            _("Let it end, or continue it with --resume; a run that was stopped and saved can speak too."),
        )
    verify_folder(run.final)
    told = [event.facts for event in run.read_events() if isinstance(event, InfoEvent)]
    return run, run.config(), told[-1] if told else {}


def load_speaker(path: Path, *, merge: bool = False, device: str = "") -> Speaker:
    """Load a finished run.

    Args:
        path: its folder.
        merge: add LoRA's part to the weights where they are dense (on the CPU): faster, and final.
        device: instead of the configuration's ``model.device``.

    Raises:
        RunError: it is not finished, or damaged.
        ModelError: base model or adapter cannot be loaded.
    """
    run, config, facts = finished_run(path)
    model = config.model.model_copy(update={"device": device or config.model.device})
    where = choose_device(model.device)
    tokenizer = load_tokenizer(config.model)
    peft: Any
    if where.type == "cpu":
        finished = load_finished(
            run.final, config, compute_dtype=str(facts.get("compute_dtype", "")), on_card=False
        )
        soul, so8t, placement = finished.soul, finished.so8t, finished.placement
        peft = finished.merged() if merge else finished.peft
    else:
        from peft import PeftModel

        base = load_base(model)
        base.config.use_cache = True  # type: ignore[union-attr]
        soul = load_soul(run.final / "soul.safetensors")
        placement = Placement.parse(soul.metadata.placement)
        try:
            peft = PeftModel.from_pretrained(base, str(run.final / "adapter"))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(
                _("The LoRA adapter in %(path)s cannot be loaded: %(reason)s")
                % {"path": str(run.final / "adapter"), "reason": str(error).strip().splitlines()[0]},
                _("Use the base model that the run was trained on."),
            ) from error
        so8t = adapter_of(soul, getattr(lm_head_of(base), "in_features", 0)).to(where)
    rows = facts.get("rows_thinking")
    return Speaker(
        run=run.id,
        config=config,
        peft=peft.eval(),
        so8t=so8t.eval(),
        placement=placement,
        tokenizer=tokenizer,
        device=where,
        digest=hashlib.sha256((run.final / MANIFEST).read_bytes()).hexdigest(),
        step=soul.step,
        thinks=None if rows is None else int(rows) > 0,
    )
