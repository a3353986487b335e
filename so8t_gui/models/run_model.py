"""A run as its events tell it: numbers in columns, words in a log. No Qt."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from so8t_engine.config.training import PHI
from so8t_engine.i18n import _, with_more
from so8t_engine.training.events import (
    CheckpointEvent,
    EndEvent,
    ErrorEvent,
    EvaluationEvent,
    Event,
    GateEvent,
    InfoEvent,
    MemoryEvent,
    ProgressEvent,
    RotationEvent,
    SampleEvent,
    StateEvent,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.states import ENDED, LIVE, STATE_NAMES, State
from so8t_gui.models.buffers import Columns
from so8t_gui.models.clock import RunClock
from so8t_gui.models.log import Level, RunLog
from so8t_gui.models.marks import Kind, Marks
from so8t_gui.models.names import FACTS, SPLITS, fact_value, shown

TERM = "term."
EVAL = "eval."
#: Columns of another process's card: ``card.1.device_used``.
CARD = "card."
MIB = 2**20
GIB = 2**30


def card_unit(name: str) -> float:
    """What a reading of `MemoryEvent.cards` is multiplied by for the charts: GiB, percent, or as it is."""
    field = name.rpartition(".")[2]
    if field == "utilisation":
        return 100.0
    return 1.0 if field in {"temperature_c", "power_w"} else 1.0 / GIB


ACTIVITIES = {State.LOADING: "loading", State.RUNNING: "training", State.SAVING: "saving"}


class RunModel:
    """Digests events in order.

    Attributes:
        revision: grows with each batch; a chart that has drawn it has nothing to do.
        steps, gate, rotation, memory, evaluation: columns by ``step``; ``elapsed`` is seconds of work,
            memory is in GiB.
        last_error: why the run could not go on; None for a run that is well.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.state = State.IDLE
        self.reason = ""
        self.first_time: float | None = None
        self.steps = Columns(single=True)
        self.gate = Columns(single=True)
        self.rotation = Columns(single=True)
        self.memory = Columns(single=True)
        self.evaluation = Columns(single=True)
        self.marks = Marks()
        self.last_step: StepEvent | None = None
        self.last_gate: GateEvent | None = None
        self.last_memory: MemoryEvent | None = None
        self.snapshots: list[RotationEvent] = []
        self.evaluations: list[EvaluationEvent] = []
        self.checkpoints: list[CheckpointEvent] = []
        self.samples: list[SampleEvent] = []
        self.converged_at: int | None = None
        self.progress: ProgressEvent | None = None
        self.facts: dict[str, Any] = {}
        self.end: EndEvent | None = None
        self.last_error: ErrorEvent | None = None
        self.clock = RunClock()
        #: What the trainer did when: loading, training, evaluation, saving; with the same marks.
        self.activities = Marks(rows=self.marks.rows)
        self.log = RunLog()

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def term_names(self) -> list[str]:
        """Loss terms seen so far, in the order of their first appearance."""
        return [name.removeprefix(TERM) for name in self.steps.names if name.startswith(TERM)]

    @property
    def has_card(self) -> bool:
        """Whether any reading of a whole card was taken."""
        return self.memory.has_any("device_used")

    @property
    def other_cards(self) -> list[str]:
        """Numbers of the further processes that have told of a card."""
        names = (name.split(".") for name in self.memory.names if name.startswith(CARD))
        return sorted({parts[1] for parts in names}, key=int)

    def digest(self, events: Iterable[Event]) -> None:
        """Take in events, in order."""
        for event in events:
            if self.first_time is None and event.time:
                self.first_time = event.time
            self._digest_one(event)
            self.clock.on_time(event.time)
        self.revision += 1

    def _digest_one(self, event: Event) -> None:
        match event:
            case StateEvent():
                self._on_state(event)
            case StepEvent():
                self._on_step(event)
            case GateEvent():
                self._on_gate(event)
            case RotationEvent():
                self._on_rotation(event)
            case MemoryEvent():
                self._on_memory(event)
            case EvaluationEvent():
                self._on_evaluation(event)
            case CheckpointEvent():
                self._on_checkpoint(event)
            case SampleEvent():
                self.samples.append(event)
                text = _("Sample at step %(step)d. Prompt: %(prompt)s") % {
                    "step": event.step,
                    "prompt": event.prompt,
                }
                heads = zip(("ALLOW", "ESCALATION", "DENY", "REFUSE"), event.task or (), strict=False)
                read = ", ".join(f"{name} {value:.2f}" for name, value in heads)
                self.log.add(event.time, Level.DETAIL, f"{text}\n{event.text}\n{read}".rstrip())
            case WarningEvent():
                if event.kind == "oom":
                    self._mark(Kind.MEMORY, event)
                self.log.add(event.time, Level.WARNING, f"{event.sentence} {event.mend}".strip())
            case ErrorEvent():
                self.last_error = event
                self.log.add(event.time, Level.ERROR, f"{event.sentence} {event.mend}".strip())
            case ProgressEvent():
                self.progress = event
                if self.state is State.RUNNING:  # work that is no step: an evaluation
                    self._enter("evaluation", event)
            case InfoEvent():
                self.facts.update(event.facts)
                for name, value in event.facts.items():
                    line = f"{shown(name, FACTS)}: {fact_value(value)}"
                    self.log.add(event.time, Level.DETAIL, line)
            case EndEvent():
                self.end = event
            case _:
                pass

    def _on_state(self, event: StateEvent) -> None:
        self.state, self.reason = event.to, event.reason
        self.clock.on_state(event.to, event.time)
        if event.to in LIVE:
            self.end = None
        if event.to is State.LOADING:
            self.last_error = None
        if event.to is State.RUNNING:
            self.progress = None
        if (name := ACTIVITIES.get(event.to)) is not None:
            self._enter(name, event)
        if event.to is State.PAUSED:
            self._mark(Kind.PAUSE, event)
        text = _("State: %(state)s") % {"state": _(STATE_NAMES[event.to])}
        level = Level.ERROR if event.to is State.FAILED else Level.INFO
        self.log.add(event.time, level, with_more(text, event.reason) if event.reason else text)

    def _elapsed(self, event: Event) -> float:
        return self.clock.elapsed(event.time)

    def _enter(self, activity: str, event: Event) -> None:
        """The trainer does something else from now on."""
        step = self.last_step.step if self.last_step else 0
        self.activities.enter(activity, step, self._elapsed(event))

    def _mark(self, kind: Kind, event: Event, step: int | None = None) -> None:
        place = step if step is not None else self.last_step.step if self.last_step is not None else 0
        self.marks.add(kind, place, self._elapsed(event))

    def _rewind(self, step: int) -> None:
        """Forget what an earlier life of the run did from ``step`` on: it is being walked again."""
        for columns in (self.steps, self.gate, self.rotation, self.memory, self.evaluation):
            columns.truncate_from(step)
        self.marks.rewind(step)
        self.activities.phases = [phase for phase in self.activities.phases if phase.step < step]
        self.snapshots = [s for s in self.snapshots if s.step < step]
        self.samples = [s for s in self.samples if s.step < step]
        self.evaluations = [e for e in self.evaluations if e.step < step]
        if self.converged_at is not None and self.converged_at >= step:
            self.converged_at = None

    def rewind_before(self, step: int) -> None:
        """Step ``step`` comes next: where it was walked before, that is forgotten."""
        if self.last_step is not None and step <= self.last_step.step:
            self._rewind(step)

    def _on_step(self, event: StepEvent) -> None:
        self.rewind_before(event.step)
        self.last_step = event
        self._enter("training", event)
        self.progress = None
        self.clock.on_step(event.step_s)
        if not math.isfinite(event.loss):
            self._mark(Kind.NAN, event, event.step)
        self.steps.append(
            {
                "step": event.step,
                "elapsed": self._elapsed(event),
                "loss": event.loss,
                "lr": event.lr,
                "grad_norm": event.grad_norm,
                "tokens_per_s": event.tokens_per_s,
                "step_s": event.step_s,
                **{TERM + name: value for name, value in event.terms.items()},
            }
        )

    def _on_gate(self, event: GateEvent) -> None:
        self.last_gate = event
        self.note_arrival(event)
        self.marks.enter(event.phase, event.step, self._elapsed(event))
        self.gate.append(
            {
                "step": event.step,
                "elapsed": self._elapsed(event),
                "alpha": event.alpha,
                "target": event.target,
                "g": event.g,
                "distance": abs(event.alpha - event.final_target),
            }
        )

    def note_arrival(self, event: GateEvent) -> None:
        """Say once that a learned α has arrived."""
        if event.source == "learned" and event.converged_at is not None and self.converged_at is None:
            self.converged_at = event.converged_at
            self.log.add(event.time, Level.INFO, self.convergence_sentence())

    def convergence_sentence(self) -> str:
        """What may be announced once a learned α has arrived; empty before."""
        gate, step = self.last_gate, self.converged_at
        if gate is None or step is None:
            return ""
        if abs(gate.final_target - PHI) < 1e-6:
            return _("α reached φ within 0.01 at step %(step)d.") % {"step": step}
        return _("α reached its target %(target).4g within 0.01 at step %(step)d.") % {
            "target": gate.final_target,
            "step": step,
        }

    def _on_rotation(self, event: RotationEvent) -> None:
        self.snapshots.append(event)
        self.rotation.append(
            {
                "step": event.step,
                "elapsed": self._elapsed(event),
                "commutator_mean": event.commutator_mean,
                "commutator_max": event.commutator_max,
                "orthogonality": event.orthogonality,
            }
        )

    def _on_memory(self, event: MemoryEvent) -> None:
        self.last_memory = event
        step = event.step if event.step is not None else (self.last_step.step if self.last_step else 0)
        row: dict[str, float | None] = {"step": step, "elapsed": self._elapsed(event)}
        for name in ("allocated", "reserved", "device_used", "device_total", "process_rss"):
            value = getattr(event, name)
            row[name] = None if value is None else value / GIB
        row |= {"temperature_c": event.temperature_c, "power_w": event.power_w}
        row["utilisation"] = None if event.utilisation is None else 100.0 * event.utilisation
        for name, value in (event.cards or {}).items():
            row[CARD + name] = value * card_unit(name)
        for name in ("memory_limit", "memory_predicted"):
            fact = self.facts.get(name)
            row[name] = fact / GIB if isinstance(fact, int | float) else None
        self.memory.append(row)

    def _on_evaluation(self, event: EvaluationEvent) -> None:
        self.evaluations.append(event)
        self._enter("training", event)
        self.progress = None
        # Charts follow one split, the one that is measured during the run.
        if event.split == self.evaluations[0].split:
            self.evaluation.append(
                {
                    "step": event.step,
                    "elapsed": self._elapsed(event),
                    EVAL + "loss": event.loss,
                    **{EVAL + name: value for name, value in event.metrics.items()},
                }
            )
        loss = "—" if event.loss is None else f"{event.loss:.4f}"
        self.log.add(
            event.time,
            Level.INFO,
            _("Evaluation at step %(step)d on %(rows)d rows of %(split)s: loss %(loss)s")
            % {"step": event.step, "rows": event.rows, "split": shown(event.split, SPLITS), "loss": loss},
        )

    def _on_checkpoint(self, event: CheckpointEvent) -> None:
        self.checkpoints.append(event)
        self._mark(Kind.CHECKPOINT, event, event.step)
        self.log.add(
            event.time,
            Level.INFO,
            _("Checkpoint at step %(step)d: %(path)s (%(size).1f MiB)")
            % {"step": event.step, "path": event.path, "size": event.bytes / MIB},
        )
