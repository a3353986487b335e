"""A `RunModel` from `EventBlocks`, a stretch of events at a time instead of one by one. No Qt."""

from __future__ import annotations

import numpy as np

from so8t_engine.history.event_blocks import CARDS, PHASE, TERMS, Array, Columns, EventBlocks
from so8t_engine.training.events import (
    GateEvent,
    InfoEvent,
    MemoryEvent,
    StateEvent,
    StepEvent,
    WarningEvent,
    parse_event,
)
from so8t_gui.models.marks import Kind
from so8t_gui.models.run_model import CARD, GIB, TERM, RunModel, card_unit

#: After one of these the frequent events mean something else: the clock runs or stands, limits are known.
BORDERS = (StateEvent, InfoEvent, WarningEvent)
#: Stands for a step of which only the number is wanted, until the newest one is parsed.
_PLACE = StepEvent(
    step=0, of=0, epoch=0, loss=0, terms={}, raw={}, lr=0, grad_norm=None, tokens=0, tokens_per_s=0, step_s=0
)


def digest_blocks(blocks: EventBlocks) -> RunModel:
    """The same model as one gets by digesting the events one by one."""
    model = RunModel()
    _Digestion(model, blocks).run()
    return model


class _Digestion:
    def __init__(self, model: RunModel, blocks: EventBlocks) -> None:
        self._model, self._blocks = model, blocks
        self._tables: dict[str, Columns] = {
            kind: blocks.joined(kind) for kind in blocks.frequent if blocks.frequent[kind]
        }
        self._done = dict.fromkeys(self._tables, 0)

    def run(self) -> None:
        model = self._model
        rare = [(line, event) for line, text in self._blocks.rare if (event := parse_event(text)) is not None]
        index = 0
        while index <= len(rare):
            border = index
            while border < len(rare) and not isinstance(rare[border][1], BORDERS):
                border += 1
            end = rare[border][0] if border < len(rare) else self._blocks.lines
            # A resumed run walks steps again: forget the first walk before the second is told.
            self._rewind(end)
            for _line, event in rare[index:border]:
                if isinstance(event, GateEvent):
                    self._arrive(event)
                else:
                    model.digest([event])
            self._take_all(end)
            if border < len(rare):
                model.digest([rare[border][1]])
            index = border + 1
        self._newest()
        for table in (model.steps, model.gate, model.memory):
            table.prepare()
        model.revision += 1

    def _rewind(self, end: int) -> None:
        steps = self._tables.get("step")
        if steps is None:
            return
        begin = self._done["step"]
        if begin < len(steps["line"]) and steps["line"][begin] < end:
            self._model.rewind_before(int(steps["step"][begin]))

    def _arrive(self, event: GateEvent) -> None:
        before = self._model.last_gate
        self._model.last_gate = event
        self._model.note_arrival(event)
        self._model.last_gate = before or event

    def _stretch(self, kind: str, end: int) -> tuple[Columns, int]:
        table, begin = self._tables[kind], self._done[kind]
        stop = int(np.searchsorted(table["line"], end))
        self._done[kind] = stop
        return {name: column[begin:stop] for name, column in table.items()}, stop - begin

    def _take_all(self, end: int) -> None:
        for kind in self._tables:
            rows, count = self._stretch(kind, end)
            if not count:
                continue
            model = self._model
            if model.first_time is None or rows["time"][0] < model.first_time:
                model.first_time = float(rows["time"][0])
            elapsed = model.clock.elapsed_many(rows["time"])
            {"step": self._take_steps, "gate": self._take_gate, "memory": self._take_memory}[kind](
                rows, elapsed
            )
            model.clock.on_time(float(rows["time"][-1]))

    def _take_steps(self, rows: Columns, elapsed: Array) -> None:
        model = self._model
        last = model.last_step.step if model.last_step is not None else -1
        falls = np.flatnonzero(np.diff(rows["step"], prepend=last) <= 0)
        if len(falls) and (falls[0] > 0):
            # Steps that go back without a change of state: as careful as the careful reader.
            cut = int(falls[0])
            self._take_steps({k: v[:cut] for k, v in rows.items()}, elapsed[:cut])
            model.rewind_before(int(rows["step"][cut]))
            self._take_steps({k: v[cut:] for k, v in rows.items()}, elapsed[cut:])
            return
        names = ("loss", "lr", "grad_norm", "tokens_per_s", "step_s")
        terms = {
            TERM + name.removeprefix(TERMS): values for name, values in rows.items() if name.startswith(TERMS)
        }
        # Steps are looked up again, see `_take_memory`, and a rewind would write into them.
        places = {"step": rows["step"].copy(), "elapsed": elapsed}
        model.steps.extend(places | {name: rows[name] for name in names} | terms, copy=False)
        for row in np.flatnonzero(~np.isfinite(rows["loss"])):
            model.marks.add(Kind.NAN, float(rows["step"][row]), float(elapsed[row]))
        for seconds in rows["step_s"][-50:]:
            model.clock.on_step(float(seconds))
        of = int(rows["of"][-1]) if "of" in rows else 0
        model.last_step = _PLACE.model_copy(update={"step": int(rows["step"][-1]), "of": of})
        model.progress = None

    def _take_gate(self, rows: Columns, elapsed: Array) -> None:
        model = self._model
        # Who overlays many runs has read only what is drawn of each.
        if PHASE in rows:
            for row in np.flatnonzero(np.diff(rows[PHASE], prepend=-1)):
                name = self._blocks.phases[int(rows[PHASE][row])]
                model.marks.enter(name, float(rows["step"][row]), float(elapsed[row]))
        columns: Columns = {n: rows[n] for n in ("step", "alpha", "target", "g") if n in rows}
        columns["elapsed"] = elapsed
        if "final_target" in rows:
            columns["distance"] = np.abs(rows["alpha"] - rows["final_target"])
        model.gate.extend(columns, copy=False)

    def _take_memory(self, rows: Columns, elapsed: Array) -> None:
        model = self._model
        step = rows["step"].copy()
        missing = ~np.isfinite(step)
        if missing.any():
            # A reading between two steps belongs to the one before it.
            lines, steps = self._tables.get("step", {}).get("line"), self._tables.get("step", {}).get("step")
            for row in np.flatnonzero(missing):
                before = -1 if lines is None else int(np.searchsorted(lines, rows["line"][row])) - 1
                step[row] = steps[before] if steps is not None and before >= 0 else 0
        names = ("allocated", "reserved", "device_used", "device_total", "process_rss")
        table: dict[str, Array] = {name: rows[name] / GIB for name in names}
        table |= {name: rows[name] for name in ("temperature_c", "power_w")}
        table["utilisation"] = 100.0 * rows["utilisation"]
        for name, values in rows.items():
            if name.startswith(CARDS):
                own = name.removeprefix(CARDS)
                table[CARD + own] = values * card_unit(own)
        for name in ("memory_limit", "memory_predicted"):
            fact = model.facts.get(name)
            known = isinstance(fact, int | float)
            table[name] = np.full(len(step), fact / GIB if known and fact is not None else np.nan)
        model.memory.extend({"step": step, "elapsed": elapsed, **table}, copy=False)

    def _newest(self) -> None:
        """The newest events themselves, which words and figures are made from."""
        for kind, text in self._blocks.newest.items():
            event = parse_event(text)
            if isinstance(event, StepEvent) and kind == "step":
                self._model.last_step = event
            elif isinstance(event, GateEvent):
                self._model.last_gate = event
            elif isinstance(event, MemoryEvent):
                self._model.last_memory = event
