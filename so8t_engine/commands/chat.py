"""``so8t chat``: talking to one's own run in the terminal, with the engine of the window's chat page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from so8t_engine.errors import DataError, SO8TError
from so8t_engine.i18n import _
from so8t_engine.plain_text import printable

if TYPE_CHECKING:
    from so8t_engine.serving.chat import ChatModel, ChatSettings

Say = Callable[[str], None]
LEAVE = {"/quit", "/exit"}


def load(run: Path, device: str, console: Console) -> ChatModel:
    """The model of a finished run. Raises `SO8TError`."""
    import torch
    import transformers

    from so8t_engine.serving.chat import ChatModel
    from so8t_engine.serving.loading import load_speaker
    from so8t_engine.training.environment import physical_cores

    transformers.utils.logging.disable_progress_bar()
    console.print(_("loading the model"))
    speaker = load_speaker(run, device=device)
    torch.set_num_threads(speaker.config.run.cpu_threads or physical_cores())
    model = ChatModel(speaker)
    console.print(
        _("%(run)s on %(device)s, trained g = %(g).3f")
        % {"run": speaker.run, "device": speaker.device, "g": model.trained_g}
    )
    return model


def answer(
    model: ChatModel, question: str, tuned: ChatSettings, *, base: bool, say: Say, tell: Say
) -> dict[str, Any]:
    """Ask once; what was said until then when Ctrl+C comes.

    Args:
        base: the base model answers too, first. say: takes text of answers. tell: takes lines about them.

    Raises:
        DataError: the question is empty, or leaves no room for an answer.
    """
    from dataclasses import replace

    if not question.strip():
        raise DataError(_("The question is empty."), _("Ask something."))
    began = time.perf_counter()
    result: dict[str, Any] = {"question": question, "cancelled": False, "base": None, "final": ""}
    try:
        reading, decision = model.heads(question, tuned)
        result |= {"decision": decision.label, "reason": decision.reason, "heads": reading.to_json()}
        tell(_heads_line(result))
        sides = [("base", replace(tuned, adapter=False, g=0.0)), ("final", tuned)]
        for name, settings in sides if base else sides[1:]:
            if base:
                tell(_("Base model:") if name == "base" else _("Tuned:"))
            result[name] = ""
            for piece in _pieces(model, question, settings):
                result[name] += piece
                say(printable(piece))
            say("\n")
            if not result[name]:
                tell(_("The model wrote nothing that may be shown."))
    except KeyboardInterrupt:
        result["cancelled"] = True
        say("\n")
        tell(_("Cancelled."))
    except ValueError as error:
        raise DataError(
            _("The question is longer than the model's context."), _("Ask something shorter.")
        ) from error
    result["seconds"] = round(time.perf_counter() - began, 3)
    return result


def _pieces(model: ChatModel, question: str, settings: ChatSettings) -> Iterator[str]:
    for token in model.speak(question, settings):
        yield token.text


def _heads_line(result: dict[str, Any]) -> str:
    heads = result["heads"]
    task = heads["task"]["probabilities"]
    dual = [one["probabilities"]["dangerous"] for one in heads["dual"]]
    return _("%(decision)s (%(reason)s): %(task)s; danger %(danger).3f, dual %(dual)s") % {
        "decision": result["decision"],
        "reason": result["reason"],
        "task": ", ".join(f"{name} {value:.3f}" for name, value in task.items()),
        "danger": heads["safety"]["probabilities"]["dangerous"],
        "dual": " / ".join(f"{value:.3f}" for value in dual),
    }


def converse(model: ChatModel, settings: ChatSettings, *, base: bool, console: Console) -> None:
    """Questions from the terminal until its end; Ctrl+C cancels an answer, and at the prompt it leaves."""

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    console.print(_("Each question stands alone. Ctrl+C cancels an answer; /quit or Ctrl+D leaves."))
    while True:
        try:
            question = input("> ")
        except (EOFError, KeyboardInterrupt):
            say("\n")
            return
        if question.strip() in LEAVE:
            return
        if question.strip():
            try:
                answer(model, question, settings, base=base, say=say, tell=console.print)
            except SO8TError as error:
                console.print(f"{error.sentence} {error.mend}")
