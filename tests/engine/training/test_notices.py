"""What a person is told of the rows before a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.config import Config
from so8t_engine.data.tokenize import Encoded
from so8t_engine.memory.fit import with_changes
from so8t_engine.training.events import WarningEvent
from so8t_engine.training.preparation import notices
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory


def _rows(lengths: list[int], cut: int = 0) -> list[Encoded]:
    return [
        Encoded([1] * length, [1] * length, 0, None, None, truncated=index < cut)
        for index, length in enumerate(lengths)
    ]


def test_short_rows_on_a_card_are_told_what_packing_would_save() -> None:
    config = with_changes(Config(), {"data.max_length": 2048, "training.batch_size": 1})
    (notice,) = notices(config, _rows([100] * 60), on_card=True)
    assert notice.kind == "short_rows"
    assert "100 tokens" in notice.sentence
    # 20 rows of 100 tokens fit into 2,048.
    assert "3 passes an epoch instead of 60" in notice.mend
    assert "about 20 rows" in notice.mend


@pytest.mark.parametrize(
    ("changes", "length", "on_card"),
    [({"training.packing": True}, 100, True), ({}, 600, True), ({}, 100, False)],
)
def test_where_packing_would_change_little_nothing_is_said(
    changes: dict[str, object], length: int, on_card: bool
) -> None:
    config = with_changes(Config(), {"data.max_length": 2048} | changes)
    assert notices(config, _rows([length] * 60), on_card=on_card) == []


def test_rows_that_were_cut_are_counted() -> None:
    config = with_changes(Config(), {"data.max_length": 64})
    (notice,) = notices(config, _rows([64] * 5, cut=2), on_card=True)
    assert notice.kind == "truncated"
    assert notice.sentence.startswith("2 of 5 training rows are longer than 64 tokens")


def test_what_was_asked_for_and_is_not_possible_is_told(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(
        training={"recorded_passes": "on", "max_steps": 1}, model={"attention": "eager", "device": "cpu"}
    )
    run = RunDirectory.create(config, tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    told = {event.kind: event.sentence for event in run.read_events() if isinstance(event, WarningEvent)}
    assert told["recorded"] == "Passes are not recorded, as was asked for: no card is used."
    assert told["layers"] == (
        "The layers run as transformers wrote them: attention other than sdpa is asked for."
    )
