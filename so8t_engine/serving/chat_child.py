"""The chat page's child process: commands as JSON lines on standard input, answers on standard output.

Commands: ``{"do": "ask", "prompt", "sides": ["base", "tuned"], …}``, ``{"do": "stop"}``; the end of the input
ends the process. Answers: ``loaded``, ``heads``, ``token``, ``done``, ``error``.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import psutil

from so8t_engine import i18n
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.threads import wait_passively


def _own_output() -> TextIO:
    """Standard output for answers alone; what libraries print goes to standard error."""
    mine = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return mine


class _Child:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stop = threading.Event()

    def tell(self, kind: str, **values: Any) -> None:  # noqa: ANN401
        self._out.write(json.dumps({"type": kind, **values}, ensure_ascii=False) + "\n")
        self._out.flush()

    def listen(self) -> None:
        """Read commands; a stop takes effect at once, between two tokens."""
        for line in sys.stdin:
            try:
                command = json.loads(line)
            except ValueError:
                continue
            if command.get("do") == "stop":
                self._stop.set()
            elif command.get("do") == "ask":
                self._commands.put(command)
        self._stop.set()
        self._commands.put(None)

    def run(self, run: Path, device: str) -> int:
        from so8t_engine.serving.chat import ChatModel
        from so8t_engine.serving.loading import load_speaker

        try:
            speaker = load_speaker(run, device=device)
        except SO8TError as error:
            self.tell("error", sentence=error.sentence, mend=error.mend)
            return 1
        import torch

        threads = speaker.config.run.cpu_threads
        if threads:
            torch.set_num_threads(threads)
        model = ChatModel(speaker)
        self.tell(
            "loaded",
            run=speaker.run,
            step=speaker.step,
            g=model.trained_g,
            device=str(speaker.device),
            placement=str(speaker.placement),
        )
        while (command := self._commands.get()) is not None:
            self._stop.clear()
            try:
                self._answer(model, command)
            except ValueError:
                self.tell(
                    "error",
                    sentence=_("The question is longer than the model's context."),
                    mend=_("Ask something shorter."),
                )
            except (RuntimeError, MemoryError) as error:
                self.tell(
                    "error",
                    sentence=_("The model could not answer: %(reason)s")
                    % {"reason": (str(error).splitlines() or [type(error).__name__])[0]},
                    mend=_("Ask for fewer tokens, or give the memory back and load again."),
                )
        return 0

    def _answer(self, model: Any, command: dict[str, Any]) -> None:  # noqa: ANN401
        from so8t_engine.serving.chat import ChatSettings, ChatToken

        prompt = str(command["prompt"])
        common: dict[str, Any] = {
            "max_new_tokens": int(command.get("max_new_tokens", 128)),
            "temperature": float(command.get("temperature", 0.0)),
            "seed": int(command.get("seed", 0)),
        }
        g = command.get("g")
        settings = {
            "base": ChatSettings(adapter=False, g=0.0, **common),
            "tuned": ChatSettings(
                adapter=bool(command.get("adapter", True)), g=None if g is None else float(g), **common
            ),
        }
        sides = [side for side in ("base", "tuned") if side in command.get("sides", ())]
        began = time.perf_counter()
        if "tuned" in sides:
            reading, decision = model.heads(prompt, settings["tuned"])
            self.tell(
                "heads",
                heads=reading.to_json(),
                decision=decision.label,
                reason=decision.reason,
                g=model.trained_g if g is None else float(g),
            )
        speaking: dict[str, Iterator[ChatToken]] = {
            side: model.speak(prompt, settings[side]) for side in sides
        }
        count = dict.fromkeys(sides, 0)
        while speaking and not self._stop.is_set():
            for side in list(speaking):
                token = next(speaking[side], None)
                if token is None:
                    del speaking[side]
                    continue
                count[side] += 1
                self.tell(
                    "token", side=side, text=token.text, shift=token.shift, kl=token.kl, other=token.other
                )
        self.tell("done", seconds=time.perf_counter() - began, tokens=count, stopped=self._stop.is_set())


def _give_way() -> None:
    """The window and a training come before an answer when processors are short."""
    low = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 5)  # the class on Windows, a nice value elsewhere
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process().nice(low)


def main() -> None:
    """``python -m so8t_engine.serving.chat_child RUN [DEVICE]``."""
    out = _own_output()
    _give_way()
    wait_passively()
    i18n.set_language(i18n.system_language())
    child = _Child(out)
    threading.Thread(target=child.listen, daemon=True).start()
    sys.exit(child.run(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))


if __name__ == "__main__":
    main()
