"""What a finished or stopped run leaves to use: LoRA in peft's layout, the soul file, the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from so8t_engine.errors import RunError
from so8t_engine.evaluation.held_out_heads import FILE, HeldOutHeads
from so8t_engine.i18n import _
from so8t_engine.so8t.soul_file import save_soul, soul_of
from so8t_engine.training.checkpoint import Published, publish_folder
from so8t_engine.training.preparation import Prepared
from so8t_engine.training.run_directory import RunDirectory


def save_final(
    run: RunDirectory,
    prepared: Prepared,
    step: int,
    summary: dict[str, Any],
    heads: HeldOutHeads | None = None,
    saved_step: int | None = None,
) -> Published:
    """Publish ``final/``: ``adapter/`` (peft), ``soul.safetensors``, ``results.json``, ``config.yaml``.

    With ``heads``, what they said of each held-out row is added as ``decisions.json``. ``saved_step``: of the
    newest checkpoint that stands.

    Raises:
        NoRoomError: the disk is full. RunError: it cannot be written for another reason. An earlier
            ``final/`` stays as it was.
    """

    def write(folder: Path) -> None:
        prepared.model.peft.save_pretrained(str(folder / "adapter"), safe_serialization=True)
        _sort_lists(folder / "adapter" / "adapter_config.json")
        soul = soul_of(
            prepared.model.so8t,
            step=step,
            base_model=prepared.config.model.path,
            base_revision=prepared.config.model.revision or "",
            config_digest=prepared.config.digest(),
            placement=str(prepared.model.placement),
        )
        save_soul(folder / "soul.safetensors", soul)
        (folder / "results.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        (folder / "config.yaml").write_text(prepared.config.to_yaml(), encoding="utf-8")
        if heads is not None:
            (folder / FILE).write_text(json.dumps(heads.to_json()), encoding="utf-8")

    try:
        return publish_folder(run.path / "final", write)
    except RunError as error:
        if saved_step is None:
            mend = _("No checkpoint stands either: free some disk space and start the run anew.")
        elif saved_step < step:
            mend = _(
                "The checkpoint of step %(step)d stands: free some disk space and continue the run; the "
                "steps after it are done again."
            ) % {"step": saved_step}
        else:
            mend = _(
                "The last checkpoint stands: free some disk space and continue the run; no step is repeated."
            )
        raise type(error)(error.sentence, mend) from error


def _sort_lists(path: Path) -> None:
    """peft writes sets, such as the names of layers, in an order that changes with each process."""
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(settings.get(name), list):
            settings[name] = sorted(settings[name])
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
