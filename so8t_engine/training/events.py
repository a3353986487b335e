"""What a run tells: frozen typed events, one JSON object a line.

Readers ignore types they do not know, and fields they do not know, so that an older window can
read a newer run. Non-finite numbers are written as the strings ``NaN`` and ``Infinity``. The last field of
a line, ``crc``, is the checksum of the others.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from so8t_engine.training.states import State


class Event(BaseModel):
    """Fields that every event has.

    Attributes:
        seq: consecutive from 1 within a run directory.
        time: seconds since 1970, by the engine's clock.
        run: the run's id.
    """

    # Built when the first event comes: a window that only stands there needs none.
    model_config = ConfigDict(
        frozen=True, extra="ignore", ser_json_inf_nan="strings", protected_namespaces=(), defer_build=True
    )

    seq: int = 0
    time: float = 0.0
    run: str = ""
    type: str


class StateEvent(Event):
    """The run moved from one state to another.

    Attributes:
        cause: what stopped a run that no person stopped: ``owner_gone`` (the window died) or ``signal``
            (the session or the computer ended); empty otherwise.
    """

    type: Literal["state"] = "state"
    from_: State = Field(alias="from")
    to: State
    reason: str = ""
    cause: str = ""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)


class StepEvent(Event):
    """One optimizer step.

    Attributes:
        step, of: this step (from 1) and how many there will be.
        loss: total training loss; the mean over the step's real tokens and labelled rows.
        terms: name → weighted share of the total. ``raw``: name → before weighting.
        lr: LoRA's learning rate. lrs: name of each parameter group → its rate.
        tokens: real tokens in this step, without padding. step_s: seconds, pauses left out.
    """

    type: Literal["step"] = "step"
    step: int
    of: int
    epoch: float
    loss: float
    terms: dict[str, float]
    raw: dict[str, float]
    lr: float
    lrs: dict[str, float] = {}
    grad_norm: float | None
    tokens: int
    tokens_per_s: float
    step_s: float


class GateEvent(Event):
    """The gate after a step. ``target`` is α* at this step, ``final_target`` where it travels to."""

    type: Literal["gate"] = "gate"
    step: int
    alpha: float
    target: float
    final_target: float
    g: float
    source: Literal["scheduled", "learned"]
    phase: str = ""
    converged_at: int | None = None


class RotationEvent(Event):
    """Instruments over all blocks, and the file that holds the blocks themselves.

    Attributes:
        commutator_mean, commutator_max: ‖R_cmd R_safe − R_safe R_cmd‖_F / (2√8), in [0, 1].
        orthogonality: largest |RᵀR − I| over R_safe, R_cmd and M.
        det_min, det_max: over the same.
        file: relative to the run directory; safetensors with ``r_safe`` and ``r_cmd``, (B, 8, 8) float32.
        sha256: of that file.
    """

    type: Literal["rotation"] = "rotation"
    step: int
    commutator_mean: float
    commutator_max: float
    orthogonality: float
    det_min: float
    det_max: float
    blocks: int
    file: str | None = None
    sha256: str | None = None


class MemoryEvent(Event):
    """Bytes. A reading that could not be taken is None, never 0.

    Attributes:
        allocated, reserved: of PyTorch's allocator; None on the CPU.
        device_used, device_total: of the whole card, from NVML; None without an NVIDIA card.
        process_rss: resident memory of the trainer's process.
        source: where device_used came from: ``nvml`` or ``none``.
        temperature_c, utilisation, power_w: of the card: degrees Celsius, 0 to 1, watts.
        throttled: why its clocks are held down, in the driver's words; empty when they are not.
        cards: where several processes train the run, the same of the others' cards: ``"1.device_used"`` is of
            process 1's. The fields above are of the first process and its card.
    """

    type: Literal["memory"] = "memory"
    step: int | None = None
    allocated: int | None = None
    reserved: int | None = None
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    device_used: int | None = None
    device_total: int | None = None
    process_rss: int | None = None
    source: str = "none"
    temperature_c: float | None = None
    utilisation: float | None = None
    power_w: float | None = None
    throttled: list[str] | None = None
    cards: dict[str, float] | None = None


class EvaluationEvent(Event):
    """Held-out results, computed on ``rows`` rows.

    Attributes:
        loss: mean cross-entropy per response token. metrics: name → value (accuracies are 0–1).
        confusion: rows of the true class, columns of the predicted one; None without labels.
    """

    type: Literal["evaluation"] = "evaluation"
    step: int
    split: str
    rows: int
    loss: float | None
    metrics: dict[str, float]
    confusion: list[list[int]] | None = None


class CheckpointEvent(Event):
    """A complete checkpoint stands at ``path`` (relative to the run directory)."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    bytes: int
    sha256: str
    reason: str = ""


class SampleEvent(Event):
    """Text that the model wrote, and the heads' probabilities at the prompt's last token."""

    type: Literal["sample"] = "sample"
    step: int
    prompt: str
    text: str
    task: list[float] | None = None
    safety: list[float] | None = None


class WarningEvent(Event):
    """Something a person should know; the run goes on."""

    type: Literal["warning"] = "warning"
    kind: str
    sentence: str
    mend: str = ""


class ErrorEvent(Event):
    """Why the run could not go on."""

    type: Literal["error"] = "error"
    kind: str
    sentence: str
    mend: str = ""


class ProgressEvent(Event):
    """Progress of work that is no training step. ``of`` is None where the amount is unknown."""

    type: Literal["progress"] = "progress"
    what: str
    done: int
    of: int | None


class InfoEvent(Event):
    """Facts about the run, named: parameter counts, rows, resolved LoRA modules, versions, device."""

    type: Literal["info"] = "info"
    facts: dict[str, Any]


class PipelineStepEvent(Event):
    """A step of the pipeline changed its state.

    Attributes:
        number, name: of the step, from 1.
        status: ``skipped`` for what was done already, ``off`` for what is switched off.
        reason: why it runs, is skipped or has failed. attempt: from 1.
        seconds: how long it took, once it is over. facts: what it tells of its output.
    """

    type: Literal["pipeline_step"] = "pipeline_step"
    number: int
    name: str
    status: Literal["waiting", "running", "retrying", "done", "skipped", "off", "stopped", "failed"]
    reason: str = ""
    attempt: int = 1
    seconds: float | None = None
    facts: dict[str, Any] = {}


class EndEvent(Event):
    """The run is over; nothing follows unless it is resumed."""

    type: Literal["end"] = "end"
    status: Literal["finished", "stopped", "aborted", "failed"]
    step: int
    seconds: float
    summary: dict[str, Any] = {}


AnyEvent = Annotated[
    StateEvent
    | StepEvent
    | GateEvent
    | RotationEvent
    | MemoryEvent
    | EvaluationEvent
    | CheckpointEvent
    | SampleEvent
    | WarningEvent
    | ErrorEvent
    | ProgressEvent
    | InfoEvent
    | PipelineStepEvent
    | EndEvent,
    Field(discriminator="type"),
]
_adapter: TypeAdapter[Event] = TypeAdapter(AnyEvent, config=ConfigDict(defer_build=True))


_SEAL = re.compile(rb',"crc":"([0-9a-f]{8})"\}\s*\Z')


def seal(line: str) -> bytes:
    """The line of an event with its checksum as the last field: CRC-32 of the line without that field."""
    data = line.encode("utf-8")
    return data[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(data)


def check_seal(line: bytes) -> bool | None:
    """Whether a line is what was written; None for one without a checksum, as other programs write."""
    match = _SEAL.search(line)
    if match is None:
        return None
    return zlib.crc32(line[: match.start()] + b"}") == int(match[1], 16)


def parse_event(line: str | bytes) -> Event | None:
    """The event in one line; None for an unknown type or a line that is no event or was changed."""
    data = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
    if check_seal(data) is False:
        return None
    try:
        return _adapter.validate_python(json.loads(data))
    except (ValidationError, ValueError, RecursionError):
        return None
