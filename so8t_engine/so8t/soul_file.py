"""The soul file: everything SO8T trained, in one ``soul.safetensors``.

safetensors reads changed payload bytes without complaint, so the file carries a SHA-256 of its tensors,
which is checked on reading. `soul_pt` exports to and imports from the historical ``soul.pt``.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.files import move
from so8t_engine.i18n import _
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.blocks import BLOCK
from so8t_engine.so8t.logarithm import matrices_to_generators
from so8t_engine.so8t.rotation import GENERATORS, ROTATION_MAPS, generators_to_matrices
from so8t_engine.so8t.tensor_bytes import serialise

#: 1 had a checksum of its tensors alone, 2 has one of its tensors and metadata.
SCHEMA_VERSION = 2
_READABLE = {str(version) for version in range(1, SCHEMA_VERSION + 1)}
_DIGESTS = {"1": "tensors_sha256", "2": "content_sha256"}
# What a soul's numbers may be; other dtypes (quantised, complex, 8-bit) have no place in one.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Beyond it float64 keeps fewer than ten digits of an angle, and far beyond it nothing is finite.
_LARGEST_VALUE = 1e6
_HEAD_CLASSES = {"safety_head": 2, "task_head": 4, "dual_heads.0": 2, "dual_heads.1": 2}
_HEADS, _PET = "heads.", "pet."


@dataclass(frozen=True)
class SoulMetadata:
    """What the tensors belong to. All text, an empty string where it is not known."""

    schema_version: str = str(SCHEMA_VERSION)
    rotation_map: str = ""
    gate_form: str = ""
    gate_source: str = ""  # scheduled or learned
    placement: str = ""  # as `so8t_engine.so8t.placement` writes it, e.g. final_hidden+mlp:3,7
    base_model: str = ""
    base_revision: str = ""
    config_digest: str = ""
    variant: str = ""  # an ablation's name; empty or "full" is SO8T itself


@dataclass
class Soul:
    """The contents of a soul file. What the file does not hold is None or empty, never a default.

    ``theta_safe`` and ``theta_cmd`` are generators (B, 28), or matrices (B, 8, 8) for the ``free`` map;
    ``total_B88`` is set only where a file knows the product M but not its factors. ``heads`` has the keys
    of `SO8THeads.state_dict`, ``pet`` the last values of PET (λ, loss) by name. ``report`` says, line by
    line, what was read and what was not.
    """

    alpha: float | None = None
    step: int | None = None
    theta_safe: Tensor | None = None
    theta_cmd: Tensor | None = None
    total_B88: Tensor | None = None  # noqa: N815
    heads: dict[str, Tensor] = field(default_factory=dict)
    pet: dict[str, float] = field(default_factory=dict)
    metadata: SoulMetadata = field(default_factory=SoulMetadata)
    report: list[str] = field(default_factory=list)

    def rotation(self, which: str) -> Tensor | None:
        """R_safe (``safe``), R_cmd (``cmd``) or M = R_cmd R_safe (``total``), (B, 8, 8), float32 or None."""
        kind = self.metadata.rotation_map or "exp"
        if which == "total":
            if self.theta_safe is None or self.theta_cmd is None:
                return self.total_B88
            safe_B88 = generators_to_matrices(self.theta_safe.double(), kind)  # type: ignore[arg-type]
            cmd_B88 = generators_to_matrices(self.theta_cmd.double(), kind)  # type: ignore[arg-type]
            swapped = self.metadata.variant == "swapped"
            return (safe_B88 @ cmd_B88 if swapped else cmd_B88 @ safe_B88).float()
        theta = self.theta_safe if which == "safe" else self.theta_cmd
        return None if theta is None else generators_to_matrices(theta.double(), kind).float()  # type: ignore[arg-type]


def soul_of(
    adapter: SO8TAdapter,
    *,
    step: int,
    pet: Mapping[str, float] | None = None,
    placement: str = "final_hidden",
    base_model: str = "",
    base_revision: str = "",
    config_digest: str = "",
) -> Soul:
    """The soul of an adapter at an optimizer step: copies, on the CPU, in float32."""

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()

    return Soul(
        alpha=float(adapter.alpha.detach()),
        step=step,
        theta_safe=copied(adapter.theta_safe),
        theta_cmd=copied(adapter.theta_cmd),
        heads={name: copied(tensor) for name, tensor in adapter.heads.state_dict().items()},
        pet=dict(pet or {}),
        metadata=SoulMetadata(
            rotation_map=adapter.rotation_map,
            gate_form=adapter.gate_form,
            gate_source="learned" if adapter.gate_learned else "scheduled",
            placement=placement,
            base_model=base_model,
            base_revision=base_revision,
            config_digest=config_digest,
            variant="" if adapter.variant == "full" else adapter.variant,
        ),
    )


def save_soul(path: Path, soul: Soul) -> str:
    """Write ``soul.safetensors`` whole or not at all, and return the SHA-256 of the file."""
    tensors: dict[str, Tensor] = {_HEADS + name: tensor for name, tensor in soul.heads.items()}
    for name, value in (
        ("theta_safe", soul.theta_safe),
        ("theta_cmd", soul.theta_cmd),
        ("total", soul.total_B88),
    ):
        if value is not None:
            tensors[name] = value.contiguous()
    if soul.alpha is not None:
        tensors["alpha"] = torch.tensor(soul.alpha, dtype=torch.float32)
    if soul.step is not None:
        tensors["step"] = torch.tensor(soul.step, dtype=torch.int64)
    tensors |= {_PET + name: torch.tensor(number, dtype=torch.float64) for name, number in soul.pet.items()}
    metadata = {name: str(value) for name, value in asdict(soul.metadata).items()}
    metadata["schema_version"] = str(SCHEMA_VERSION)  # a soul from an older kind of file has none
    digest = {_DIGESTS[metadata["schema_version"]]: _digest(tensors, metadata)}
    data = serialise(tensors, metadata | digest)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return hashlib.sha256(data).hexdigest()


def load_soul(path: Path) -> Soul:
    """Read and check ``soul.safetensors``.

    Raises:
        SO8TError: the file cannot be read, was damaged, is of a later version, or a tensor has a wrong
            shape or a value that is not finite.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SO8TError(
            _("%(path)s cannot be read as a soul file: %(error)s.") % {"path": path, "error": error},
            _("Take the file from another checkpoint."),
        ) from error
    version = metadata.get("schema_version", "")
    if version not in _READABLE:
        raise SO8TError(
            _("%(path)s has the schema version %(version)s.") % {"path": path, "version": repr(version)},
            _("This program reads versions up to %(known)d; use a later one.") % {"known": SCHEMA_VERSION},
        )
    if metadata.get(_DIGESTS[version]) != _digest(tensors, metadata if version != "1" else {}):
        raise SO8TError(
            _("%(path)s is damaged: its tensors do not match their checksum.") % {"path": path},
            _("Take the file from another checkpoint."),
        )
    known = {entry.name for entry in fields(SoulMetadata)}
    soul = Soul(
        theta_safe=tensors.pop("theta_safe", None),
        theta_cmd=tensors.pop("theta_cmd", None),
        total_B88=tensors.pop("total", None),
        metadata=SoulMetadata(**{name: value for name, value in metadata.items() if name in known}),
    )
    for name, tensor in sorted(tensors.items()):
        if name == "alpha":
            soul.alpha = _one_number(path, name, tensor)
        elif name == "step":
            soul.step = whole_step(path, _one_number(path, name, tensor))
        elif name.startswith(_HEADS):
            soul.heads[name.removeprefix(_HEADS)] = tensor
        elif name.startswith(_PET):
            soul.pet[name.removeprefix(_PET)] = _one_number(path, name, tensor)
        else:
            soul.report.append(_("%(name)s: not known, not read.") % {"name": name})
    _check(path, soul)
    return soul


def load_into(adapter: SO8TAdapter, soul: Soul, *, repeat: bool = False) -> None:
    """Set an adapter's rotations, α and heads from a soul; what the soul lacks stays as it is.

    Args:
        adapter: gets the values on its device; the gate's form must be the soul's where that is known.
        soul: with both factors, or with the heads or α alone.
        repeat: use the one 8×8 rotation of a historical file for every block.

    Raises:
        SO8TError: other shape, map or form, or a product M whose factors are not known. Nothing is
            changed then.
    """
    meta = soul.metadata
    for what, own, other in (
        (_("rotation map"), adapter.rotation_map, meta.rotation_map),
        (_("gate form"), adapter.gate_form, meta.gate_form),
        (_("variant"), adapter.variant, meta.variant),
    ):
        if other and own != other:
            raise SO8TError(
                _("The soul file has the %(what)s %(other)s and the adapter %(own)s.")
                % {"what": what, "other": other, "own": own},
                _("Make the adapter as the file says."),
            )
    if soul.theta_safe is None and soul.total_B88 is not None:
        raise SO8TError(
            _("The soul file holds the product of the rotations but not R_safe and R_cmd."),
            _("The product cannot be divided into its factors; it can be shown, not trained on."),
        )
    state = adapter.state_dict()
    for name, theta in (("theta_safe", soul.theta_safe), ("theta_cmd", soul.theta_cmd)):
        if theta is not None:
            once = repeat and theta.shape[0] == 1
            state[name] = theta.expand(adapter.blocks, *theta.shape[1:]) if once else theta
    state |= {_HEADS + name: tensor for name, tensor in soul.heads.items()}
    if soul.alpha is not None:
        state["alpha"] = torch.tensor(soul.alpha, dtype=torch.float32)
    expected = adapter.state_dict()
    for name, tensor in state.items():
        if name not in expected or expected[name].shape != tensor.shape:
            raise SO8TError(
                _("The soul file's %(name)s has the shape %(shape)s, which the adapter does not have.")
                % {"name": name, "shape": tuple(tensor.shape)},
                _("Use the base model the file was made with: %(model)s.")
                % {"model": meta.base_model or _("it does not say which")},
            )
    adapter.load_state_dict(state)


def adapter_of(soul: Soul, hidden_size: int) -> SO8TAdapter:
    """A new adapter of the soul's map and form that holds its rotations, α and heads.

    Raises:
        SO8TError: the soul lacks α, a factor, its map or its form, or is of another hidden size.
    """
    meta = soul.metadata
    if soul.alpha is None or soul.theta_safe is None or soul.theta_cmd is None:
        raise SO8TError(
            _("The soul file lacks α, R_safe or R_cmd."),
            _("Take the soul.safetensors of a finished run."),
        )
    if not meta.rotation_map or not meta.gate_form:
        raise SO8TError(
            _("The soul file does not say which rotation map and gate form it has."),
            _("Take the soul.safetensors of a finished run."),
        )
    adapter = SO8TAdapter(
        hidden_size,
        rotation_map=meta.rotation_map,  # type: ignore[arg-type]
        gate_form=meta.gate_form,  # type: ignore[arg-type]
        gate_learned=meta.gate_source == "learned",
        variant=meta.variant or "full",  # type: ignore[arg-type]
    )
    load_into(adapter, soul)
    return adapter


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=f".{path.name}-", dir=path.parent, delete=False) as opened:
        temporary = Path(opened.name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        move(temporary, path, over=True)
        if os.name == "posix":  # Windows cannot open a folder to flush it
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def factors_to_generators(rotation_B88: Tensor) -> Tensor:
    """Generators (B, 28) in float32 of matrices in any float dtype, for files that store matrices."""
    return matrices_to_generators(rotation_B88.double()).float()


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the tensors and, but for itself, the metadata; version 1 is digested without any."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    own = set(_DIGESTS.values())
    for key, value in sorted(metadata.items()):
        if key not in own:
            digest.update(repr((key, value)).encode())
    return digest.hexdigest()


def _one_number(path: Path, name: str, tensor: Tensor) -> float:
    plain = tensor.numel() == 1 and (tensor.dtype in FLOATS or tensor.dtype == torch.int64)
    value = float(tensor) if plain else math.nan
    if not math.isfinite(value):
        raise not_a_number(path, name)
    return value


def not_a_number(path: Path, name: str) -> SO8TError:
    """The error for a field that should hold one finite number."""
    return SO8TError(
        _("%(path)s: %(key)s is not a finite number.") % {"path": path, "key": name},
        _("Take the file from another checkpoint."),
    )


def whole_step(path: Path, value: float) -> int:
    """``value`` as an optimizer step. Raises `SO8TError` unless it is a whole number that int64 holds."""
    if value != int(value) or not 0 <= value < 2.0**63:
        raise SO8TError(
            _("%(path)s: step is %(value)s.") % {"path": path, "value": f"{value:g}"},
            _("A step is a whole number of at least 0; take the file from another checkpoint."),
        )
    return int(value)


def _check(path: Path, soul: Soul) -> None:
    """Shapes and finite values; called on everything that was read."""
    if soul.metadata.rotation_map not in ("", *ROTATION_MAPS):
        raise SO8TError(
            _("%(path)s: there is no rotation map %(name)s.")
            % {"path": path, "name": repr(soul.metadata.rotation_map)},
            _("Choose one of %(names)s.") % {"names": ", ".join(ROTATION_MAPS)},
        )
    tail = (BLOCK, BLOCK) if soul.metadata.rotation_map == "free" else (GENERATORS,)
    expected = (("theta_safe", soul.theta_safe, tail), ("theta_cmd", soul.theta_cmd, tail))
    for name, tensor, shape in (*expected, ("total", soul.total_B88, (BLOCK, BLOCK))):
        if tensor is not None and (tensor.shape[1:] != shape or not len(tensor) or not _finite(tensor)):
            raise SO8TError(
                _("%(path)s: %(name)s has the shape %(shape)s or values that are not finite.")
                % {"path": path, "name": name, "shape": tuple(tensor.shape)},
                _("Expected is %(shape)s with B blocks.") % {"shape": ("B", *shape)},
            )
        if tensor is not None and float(tensor.abs().max()) > _LARGEST_VALUE:
            raise SO8TError(
                _("%(path)s: %(name)s has values beyond %(limit)g, from which no rotation can be computed.")
                % {"path": path, "name": name, "limit": _LARGEST_VALUE},
                _("Take the file from another checkpoint."),
            )
    safe, cmd = soul.theta_safe, soul.theta_cmd
    if safe is not None and cmd is not None and safe.shape != cmd.shape:
        raise SO8TError(
            _("%(path)s: theta_safe has %(safe)d blocks and theta_cmd %(cmd)d.")
            % {"path": path, "safe": len(safe), "cmd": len(cmd)},
            _("Take the file from another checkpoint."),
        )
    for name, tensor in soul.heads.items():
        head, _dot, part = name.rpartition(".")
        classes = _HEAD_CLASSES.get(head)
        dimensions = {"weight": 2, "bias": 1}.get(part)
        if classes is None or tensor.ndim != dimensions or len(tensor) != classes or not _finite(tensor):
            raise SO8TError(
                _("%(path)s: %(name)s has the shape %(shape)s or values that are not finite.")
                % {"path": path, "name": _HEADS + name, "shape": tuple(tensor.shape)},
                _("Expected are a weight of shape (classes, hidden) and a bias of shape (classes,)."),
            )


def _finite(tensor: Tensor) -> bool:
    return tensor.dtype in FLOATS and bool(tensor.isfinite().all())
