"""What a checkpoint holds, and how it gets out of a run and back into one: safetensors and JSON, no pickle.

A snapshot is a copy on the CPU, so that training goes on while it is written. On loading, each file is read
once, and the bytes that were hashed are the ones that are parsed.

| file | holds |
|---|---|
| ``trainable.safetensors`` | LoRA, rotations, α (learned or scheduled), heads |
| ``optimizer.safetensors`` | moments of every parameter, 8-bit ones as they are, and their maps |
| ``rng.safetensors`` | PyTorch's generators, the CPU's and each card's |
| ``state.json`` | step, scheduler, scaler, Python's and NumPy's generators, progress, event number, digests |
| ``trainer_state.json`` | transformers' own: epoch and step, from which the position in the rows follows |
| ``config.yaml`` | the configuration |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise
from torch import Tensor

from so8t_engine.errors import RunError
from so8t_engine.files import write_durably
from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import read_verified, step_of
from so8t_engine.training.optimizer_state import cpu_copy, cuda_in_use
from so8t_engine.training.run_config import CONFIG

if TYPE_CHECKING:
    from so8t_engine.data.tokenize import Encoded

FORMAT = 1
WEIGHTS = "trainable.safetensors"
OPTIMIZER = "optimizer.safetensors"
RNG = "rng.safetensors"
STATE = "state.json"
TRAINER_STATE = "trainer_state.json"
ALPHA = "so8t.alpha"


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps, apart from it: nothing in here changes when training goes on.

    Attributes:
        step: optimizer steps done.
        tensors: file name → name → CPU tensor.
        texts: file name → content.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors and texts, without safetensors' headers."""
        tensors = (t for named in self.tensors.values() for t in named.values())
        return sum(t.nbytes for t in tensors) + sum(len(text.encode()) for text in self.texts.values())

    def write(self, folder: Path) -> dict[str, str]:
        """Write every file durably. Returns name → SHA-256 of what was written. Raises `OSError`."""
        digests: dict[str, str] = {}
        for name, tensors in self.tensors.items():
            digests[name] = _write(folder / name, serialise(tensors))
        for name, text in self.texts.items():
            digests[name] = _write(folder / name, text.encode("utf-8"))
        return digests


def _write(path: Path, data: bytes) -> str:
    write_durably(path, data)
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint, parsed, not yet applied to anything."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    state: dict[str, Any]
    trainer_state: str
    config: str


def load_checkpoint(path: Path) -> Loaded:
    """Read, verify and parse a published checkpoint.

    Raises:
        RunError: it is damaged, incomplete, or of a version that this program does not read.
    """
    content = read_verified(path)
    try:
        state = json.loads(content[STATE])
        if state["format"] != FORMAT:
            raise RunError(
                _("%(path)s has the format %(format)s, which this program does not read.")
                % {"path": str(path), "format": state["format"]},
                _("Continue it with the version of the program that began it."),
            )
        if state["step"] != step_of(path):
            raise RunError(
                _("%(path)s holds the state after step %(step)s.")
                % {"path": str(path), "step": state["step"]}
            )
        return Loaded(
            path=path,
            step=state["step"],
            weights=parse_tensors(content[WEIGHTS]),
            optimizer=parse_tensors(content[OPTIMIZER]),
            rng=parse_tensors(content[RNG]),
            state=state,
            trainer_state=content[TRAINER_STATE].decode("utf-8"),
            config=content[CONFIG].decode("utf-8"),
        )
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(_("%(path)s is not a complete checkpoint.") % {"path": str(path)}) from error


def foreign(path: Path, what: str) -> RunError:
    """The error for a checkpoint that does not fit the run."""
    return RunError(
        _("The checkpoint %(path)s does not belong to this run: %(what)s.")
        % {"path": str(path), "what": what},
        _("Continue with the configuration and rows it was made with; config.yaml lies beside it."),
    )


def capture_weights(trainable: Mapping[str, Tensor], alpha: Tensor) -> dict[str, Tensor]:
    """Copies of everything that learns, and α also where it is scheduled."""
    return {name: cpu_copy(tensor) for name, tensor in {**trainable, ALPHA: alpha}.items()}


def restore_weights(loaded: Loaded, trainable: Mapping[str, Tensor], alpha: Tensor) -> None:
    """Set parameters and α. Raises `RunError`, having changed nothing, where a name or shape differs."""
    expected = {**trainable, ALPHA: alpha}
    missing = sorted(set(expected) ^ set(loaded.weights))
    if missing:
        raise foreign(loaded.path, missing[0])
    for name, target in expected.items():
        found = loaded.weights[name]
        if found.shape != target.shape or found.dtype != target.dtype:
            raise foreign(loaded.path, f"{name} {tuple(found.shape)} {found.dtype}")
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(loaded.weights[name])


def capture_rng() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All generators a step may draw from: PyTorch's as tensors, Python's and NumPy's for JSON."""
    import random

    import numpy as np

    tensors = {"cpu": torch.get_rng_state().clone()}
    if cuda_in_use():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{number}"] = state.clone()
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), [int(word) for word in key], int(position), int(has_gauss), float(cached)],
    }


def restore_rng(loaded: Loaded) -> None:
    """Set all generators. Raises `RunError` where a state is none."""
    import random

    import numpy as np

    try:
        version, words, gauss = loaded.state["rng"]["python"]
        random.setstate((version, tuple(words), gauss))
        kind, key, position, has_gauss, cached = loaded.state["rng"]["numpy"]
        np.random.set_state((kind, np.array(key, dtype=np.uint32), position, has_gauss, cached))
        torch.set_rng_state(loaded.rng["cpu"])
        if torch.cuda.is_available():
            for number in range(torch.cuda.device_count()):
                if f"cuda.{number}" in loaded.rng:
                    torch.cuda.set_rng_state(loaded.rng[f"cuda.{number}"], number)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(_("%(path)s is not a complete checkpoint.") % {"path": str(loaded.path)}) from error


def rows_digest(splits: Mapping[str, Sequence[Encoded]]) -> str:
    """SHA-256 over the encoded rows: a position in them means nothing in other ones."""
    import numpy as np

    digest = hashlib.sha256()
    for name, rows in splits.items():
        digest.update(f"{name}:{len(rows)};".encode())
        for row in rows:
            digest.update(f"{len(row.input_ids)},{row.prompt_end},{row.task},{row.safety};".encode())
            digest.update(np.asarray(row.input_ids, dtype=np.int32).tobytes())
            digest.update(np.asarray(row.labels, dtype=np.int32).tobytes())
    return digest.hexdigest()
