"""Settings of the soul dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from so8t_engine.config.fields import Section, setting
from so8t_engine.i18n import N_, _


class SoulRecordSettings(Section):
    """How many records, how they are drawn and split; shared by the command and the pipeline's step."""

    records: int = setting(
        5000,
        N_("Records"),
        N_("A run that recorded fewer gives what it has; nothing is repeated."),
        ge=10,
        le=10_000_000,
    )
    fractions: list[float] = setting(
        [0.8, 0.1, 0.1],
        N_("Split"),
        N_("Training, validation and test parts, adding up to 1; each holds all phases in proportion."),
        min_length=3,
        max_length=3,
    )
    sampling: Literal["schedule", "haar"] = setting(
        "schedule",
        N_("Rotations drawn"),
        N_(
            "schedule: exp of Gaussian generators whose spread grows with the gate. haar: uniformly over "
            "SO(8). Used by source schedule only."
        ),
        advanced=True,
    )
    spread: float = setting(
        0.3,
        N_("Spread of θ at the open gate"),
        N_("Standard deviation of the generators when the gate has reached its target."),
        advanced=True,
        gt=0.0,
        le=10.0,
    )
    shard_records: int = setting(
        5000, N_("Records in a shard"), N_("Of one safetensors file."), advanced=True, ge=100, le=1_000_000
    )
    text: bool = setting(
        False,
        N_("Text of each record"),
        N_("Also writes text.jsonl, the records as sentences, for training on them as text."),
    )

    @model_validator(mode="after")
    def _parts_add_up(self) -> SoulRecordSettings:
        if abs(sum(self.fractions) - 1.0) > 1e-9 or min(self.fractions) < 0 or self.fractions[0] <= 0:
            raise ValueError(_("the three parts must be non-negative, the first above 0, and add up to 1"))
        return self


class SoulDatasetSettings(SoulRecordSettings):
    """A soul dataset: its records and where they come from."""

    source: Literal["schedule", "checkpoint"] = setting(
        "schedule",
        N_("Source"),
        N_(
            "schedule: synthetic targets along the annealing schedule, rotations drawn exactly in SO(8). "
            "checkpoint: what a trained run recorded."
        ),
    )
    run: str | None = setting(
        None, N_("Run"), N_("The run folder that source checkpoint reads."), path="folder"
    )
    seed: int = setting(42, N_("Seed"), N_("Same seed, same bytes."), ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def _has_a_source(self) -> SoulDatasetSettings:
        if self.source == "checkpoint" and not self.run:
            raise ValueError(_("source checkpoint needs the folder of a run"))
        return self
