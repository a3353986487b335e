"""Passes recorded once as a CUDA graph and replayed by one call, where launching takes longer than computing.

A forward and backward pass is some ten thousand kernels. On short sequences a fast card has done each before
the next is launched. Recorded, the card runs them without the host. Everything that differs between two
passes lies in tensors that are filled before a replay: the rows, what the step's means divide by, α's target,
PET's weight and the seeds of the dropout.

Rows are padded to lengths that come round; packs of rows to such a length too, and to the most rows that
a pack holds. Recordings share one pool of memory, and give it back before an
evaluation or anything else that needs the card for itself.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from so8t_engine.config import Config
from so8t_engine.data.packed import ROW_INDEX
from so8t_engine.i18n import _
from so8t_engine.memory.needed import RECORDING_BYTES
from so8t_engine.model.divisors import Divisors
from so8t_engine.model.so8t_model import Batch, LossReport, SO8TModel, StepTotals
from so8t_engine.so8t.fused import triton_works
from so8t_engine.training.recorded_inputs import empty_inputs, fill, sequences_of

log = logging.getLogger(__name__)

#: So many recordings are kept at most; and what driver and libraries hold outside the allocator.
LIMIT, CONTEXT_BYTES = 8, 1_050_000_000
#: Share of a pass's time that the host needs to launch it, from which on recording helps.
LAUNCH_BOUND = 0.75
#: Passes that are run as usual before the one that is timed.
SETTLING = 2

Key = tuple[int, int, bool, bool]


def _clear_workspaces() -> None:
    """Give back what cuBLAS holds for each stream and thread; it is made again with the next product.

    Only while nothing runs and no recording exists: a recording's kernels write into the workspaces that were
    there when it was made.
    """
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        clear()


def padded_length(length: int, longest: int) -> int:
    """A length not below ``length`` that comes round: at most a quarter longer, in steps of 16 or more."""
    step = 16
    while step * 8 < length:
        step *= 2
    return min(-(-length // step) * step, max(longest, length))


@dataclass(slots=True)
class _Recording:
    graph: Any
    inputs: Batch
    names: list[str]
    values: Tensor
    #: Tensors outside the pool that the kernels read.
    held: list[Any] = field(default_factory=list)
    uses: int = 0


class RecordedPasses:
    """Records and replays passes of ``model``.

    Args:
        model: in training, on a card, with lean layers; its gradients are in one buffer.
        longest: tokens of the longest row, or of a full pack.
        pad_token_id: fills rows.
        most_rows: of a pack; 0 where rows are not packed.
        limit: bytes that the run may take of the card; recordings take what is left of it.
        always: record every pass; otherwise only once timing has shown that it helps.
    """

    def __init__(
        self,
        model: SO8TModel,
        longest: int,
        pad_token_id: int,
        *,
        limit: float,
        always: bool,
        most_rows: int = 0,
    ) -> None:
        self._model, self._limit, self._most_rows = model, limit, most_rows
        self._longest, self._pad = longest, pad_token_id
        device = model.so8t.theta_safe.device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._recordings: dict[Key, _Recording] = {}
        self._pool: Any = None
        self._numbers = torch.zeros(7, dtype=torch.float32, device=device)
        assert model.lean is not None
        # An ordinary pass draws the same dropout as a replayed one.
        model.lean.seeds_on_card = True
        self._seeds_L = torch.zeros(len(model.lean.layers), dtype=torch.int64, device=device)
        self._passes = 0
        #: None until it is known whether recording helps.
        self.active: bool | None = True if always else None
        self._warm = False

    @staticmethod
    def impossible(model: SO8TModel, config: Config) -> str | None:
        """Why passes of this model cannot be recorded, in words; None if they can."""
        if model.so8t.theta_safe.device.type != "cuda":
            return _("no card is used")
        if model.lean is None:
            return _("the layers run as transformers wrote them")
        if not triton_works(model.so8t.theta_safe.device):
            return _("Triton does not work here")
        if model.causal_lm.lm_head.weight.dtype != torch.bfloat16:
            return _("the compute dtype is not bfloat16")
        if config.training.packing and not model.lean.packed_in_one(torch.bfloat16):
            return _("attention over packed rows goes row by row here")
        like = model.causal_lm.lm_head.weight.new_empty(())
        if config.training.packing and model.lean.angles_grow(config.data.max_length, like):
            return _("rows are packed, and a position's angles depend on the row's length")
        return None

    def timed(self, run: Callable[[], Tensor]) -> Tensor:
        """An ordinary pass; the third of them is timed, which decides whether recording helps."""
        self._passes += 1
        if self.active is not None or self._passes <= SETTLING:
            return run()
        torch.cuda.synchronize()
        began = time.perf_counter()
        result = run()
        launched = time.perf_counter() - began
        torch.cuda.synchronize()
        share = launched / (time.perf_counter() - began)
        self.active = share >= LAUNCH_BOUND
        log.info("launching takes %.0f %% of a pass: %s", 100 * share, "recorded" if self.active else "as is")
        return result

    def replay(
        self,
        batch: Batch,
        totals: StepTotals,
        alpha_target: float,
        pet_weight: float,
        *,
        gradients_are_zero: bool,
    ) -> LossReport | None:
        """Run the pass from a recording, made now if need be.

        Args:
            gradients_are_zero: nothing of this step is in them yet, so that a pass may be tried first.

        Returns:
            Its shares of the loss; None where the pass must be run as usual.

        Raises:
            torch.OutOfMemoryError: a recording does not fit; nothing was added to the gradients.
        """
        if not self.active:
            return None
        key = self._key(batch, totals)
        recording = self._recordings.get(key)
        if recording is None and not (self._warm or gradients_are_zero):
            return None
        if recording is None and not self._has_room():
            # Beside ordinary passes, which need the same memory once more, recordings have none.
            self.active = False
            self.release()
            log.info("passes are no longer recorded: the memory limit leaves no room")
            return None
        self._fill_numbers(totals, alpha_target, pet_weight)
        if recording is None:
            recording = self._record(key, batch)
            if recording is None:
                return None
        else:
            fill(recording.inputs, batch, self._pad)
        # The same draw from the CPU's generator as an ordinary pass makes.
        self._seeds_L.copy_(torch.randint(2**62, (len(self._seeds_L),)))
        recording.uses += 1
        recording.graph.replay()
        values = recording.values.clone()
        terms = {
            name: (values[1 + 2 * index], values[2 + 2 * index]) for index, name in enumerate(recording.names)
        }
        return LossReport(values[0], terms)

    def release(self) -> None:
        """Give back all memory; what is needed is recorded again."""
        if not self._recordings:
            return
        torch.cuda.synchronize()
        self._recordings.clear()
        self._pool = None
        gc.collect()
        _clear_workspaces()
        torch.cuda.empty_cache()

    # -- inside ------------------------------------------------------------------------------------

    def _key(self, batch: Batch, totals: StepTotals) -> Key:
        rows, length = batch["input_ids_NT"].shape
        if ROW_INDEX in batch:
            # Rows that are not there cost next to nothing: one number of rows for all packs.
            rows = max(self._most_rows, len(batch["task_N"]))
        wanted = padded_length(length, self._longest)
        task, safety = totals.task_rows > 0, totals.safety_rows > 0
        key = (rows, wanted, task, safety)
        if key in self._recordings or (len(self._recordings) < LIMIT and self._has_room()):
            return key
        # All places are taken: a somewhat longer recording serves, or the least used one makes room.
        longer = [k for k in self._recordings if k[0] == rows and k[2:] == key[2:] and k[1] >= wanted]
        if longer and (best := min(longer))[1] <= 1.25 * wanted:
            return best
        if not self._recordings:
            return key
        del self._recordings[min(self._recordings, key=lambda k: self._recordings[k].uses)]
        return key

    def _has_room(self) -> bool:
        """Whether one more recording stays below the limit, as far as is known."""
        recordings = (len(self._recordings) + 1) * RECORDING_BYTES
        return torch.cuda.max_memory_reserved() + CONTEXT_BYTES + recordings <= self._limit

    def _fill_numbers(self, totals: StepTotals, alpha_target: float, pet_weight: float) -> None:
        step = totals.divisors()
        numbers = [step.tokens, step.rows, step.task_rows, step.safety_rows, step.micro_batches]
        self._numbers.copy_(torch.tensor([*numbers, alpha_target, pet_weight], dtype=torch.float32))

    def _record(self, key: Key, batch: Batch) -> _Recording | None:
        rows, length, task, safety = key
        inputs = empty_inputs(batch, rows, length, self._numbers.device)
        fill(inputs, batch, self._pad)
        tokens, all_rows, task_rows, safety_rows, passes, alpha_target, pet_weight = self._numbers.unbind()
        divisors = Divisors(tokens, all_rows, task_rows, safety_rows, passes, task, safety)

        def one_pass() -> tuple[list[str], Tensor]:
            with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
                report: LossReport = self._model(
                    inputs, divisors, alpha_target=alpha_target, pet_weight=pet_weight,
                    seeds_L=self._seeds_L,
                )  # fmt: skip
            report.loss.backward()  # type: ignore[no-untyped-call]
            flat = [report.loss, *(value for pair in report.terms.values() for value in pair)]
            return list(report.terms), torch.stack([value.detach().float() for value in flat])

        lean: Any = self._model.lean
        generator = torch.cuda.default_generators[self._numbers.device.index or 0]
        drawn = generator.get_state()
        try:
            if not self._warm:
                self._give_back_cached()
                # Kernels are compiled and libraries choose theirs outside the recording.
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    one_pass()
                torch.cuda.synchronize()
                assert self._model.gradients is not None
                self._model.gradients.zero()
            # Autograd's nodes of an earlier pass would bind this one to their stream.
            self._give_back_cached()
            head = self._model.causal_lm.lm_head.weight
            # Positions of packed rows begin anew: no row is longer than the sequence length.
            longest_row = self._model.settings.data.max_length if ROW_INDEX in batch else length
            lean.angles_for(longest_row, head.new_empty(()))
            sequences = sequences_of(batch, rows)
            hosts = lean.reserve_host(sequences, length, self._longest, head.dtype)
            graph = torch.cuda.CUDAGraph()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                names, values = one_pass()
        except torch.OutOfMemoryError:
            self._give_up(generator, drawn)
            raise
        except RuntimeError:
            log.warning("passes cannot be recorded here: they run as usual", exc_info=True)
            self._give_up(generator, drawn)
            return None
        self._warm = True
        log.info("recorded: %d sequences of %d tokens, %d rows", sequences, length, rows)
        self._recordings[key] = _Recording(graph, inputs, names, values, [lean.angles, hosts])
        return self._recordings[key]

    def _give_back_cached(self) -> None:
        """What ordinary passes left cached: another stream, and a recording's own memory, cannot use it."""
        gc.collect()
        torch.cuda.synchronize()
        if not self._recordings:
            # Nor the products' workspaces of other streams, while none is part of a recording.
            _clear_workspaces()
        torch.cuda.empty_cache()

    def _give_up(self, generator: torch.Generator, drawn: Tensor) -> None:
        """Run passes as usual from now on; a recording that broke off leaves the generator in its midst."""
        self.active = False
        fresh = torch.Generator(self._numbers.device)
        fresh.set_state(drawn)
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
        self._recordings.clear()
        self._pool = None
        gc.collect()
        _clear_workspaces()
        torch.cuda.empty_cache()
