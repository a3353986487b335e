"""``so8t train --resume --set``: applied where a run may change, refused in words where it may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from so8t_engine.commands import train
from so8t_engine.config import Config, parse_config
from so8t_engine.errors import ConfigError
from so8t_engine.training.events import EndEvent
from so8t_engine.training.run_config import changed_config
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has been there."""
    made = RunDirectory.create(parse_config("name: first\ntraining: {epochs: 2.0}\n"), tmp_path / "run")
    writer = EventWriter(made)
    writer.write(EndEvent(status="stopped", step=0, seconds=1.0))
    writer.close()
    return made


def test_what_is_free_changes(run: RunDirectory) -> None:
    changed = changed_config(run, ["checkpoints.every_minutes=1.5", "memory.limit_gib=6", "name=second"])
    assert (changed.checkpoints.every_minutes, changed.memory.limit_gib, changed.name) == (1.5, 6.0, "second")
    assert changed.training == run.config().training
    assert run.config().name == "first"  # nothing is written by it


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=9", ("training.epochs was 2.0", "What may change")),
        ("training.max_steps=7", ("training.max_steps", "start a new run")),
        ("lora.r=8", ("lora.r",)),
        ("memory.nothing=1", ("memory.nothing",)),
        ("checkpoints.every_minutes=-1", ("checkpoints.every_minutes",)),
        ("nonsense", ("nonsense",)),
    ],
)
def test_what_makes_another_run_is_refused(run: RunDirectory, override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        changed_config(run, [override])
    for word in words:
        assert word in f"{caught.value.sentence} {caught.value.mend}"


def test_the_same_value_is_no_change(run: RunDirectory) -> None:
    assert changed_config(run, ["training.epochs=2"]) == run.config()


def test_the_command_writes_it_into_the_run(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def trainer() -> Callable[..., int]:
        def run_training(run: RunDirectory, **more: object) -> int:
            seen.append(run.config())
            control = more["control"]
            assert isinstance(control, train.RunControl)
            assert control.is_(State.LOADING)
            control.close()
            return 0

        return run_training

    monkeypatch.setattr(train, "import_trainer", trainer)
    quiet = Console(quiet=True)
    config = Path("demo")
    with pytest.raises(ConfigError, match="lora"):
        train.train_headless(config, ["lora.dropout=0.4"], run.path, resume=True, console=quiet)
    assert not seen
    overrides = ["checkpoints.keep=7"]
    assert train.train_headless(config, overrides, run.path, resume=True, console=quiet) == 0
    assert seen[0].checkpoints.keep == 7
    assert run.config() == seen[0]
