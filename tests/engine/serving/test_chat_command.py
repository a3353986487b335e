"""``so8t chat``: the chat page's engine in the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from so8t_engine.commands.chat import answer
from so8t_engine.serving.chat import ChatModel, ChatSettings, ChatToken
from so8t_engine.serving.loading import load_speaker
from tests.engine.command_line import so8t_forked

COMMAND = [sys.executable, "-m", "so8t_engine.cli", "chat"]
ENVIRONMENT = os.environ | {"SO8T_LANG": "en", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(embedded_run: Path) -> ChatModel:
    return ChatModel(load_speaker(embedded_run))


def test_once_prints_one_object_of_the_pages_engine(
    embedded_run: Path, model: ChatModel, tmp_path: Path
) -> None:
    question = "May I read the minutes?"
    words = ["--once", question, "--base", "--max-new-tokens", "6", "--json"]
    done = so8t_forked("chat", embedded_run, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    settings = ChatSettings(max_new_tokens=6)
    assert told["final"] == "".join(token.text for token in model.speak(question, settings))
    plain = ChatSettings(adapter=False, g=0.0, max_new_tokens=6)
    assert told["base"] == "".join(token.text for token in model.speak(question, plain))
    reading, decision = model.heads(question, settings)
    assert told["heads"] == reading.to_json()
    assert told["decision"] == decision.label
    assert decision.label in done.stderr


def test_json_without_a_question_is_a_bad_argument(embedded_run: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(embedded_run), "--json"], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 2
    assert not done.stdout


def test_the_terminal_sees_no_escape_sequence_and_no_thinking(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from so8t_engine.serving.chat import _TagFilter

    def speak(prompt: str, _settings: ChatSettings):  # type: ignore[no-untyped-def]  # noqa: ANN202
        text = "<think-task>SECRET</think-task>\n<think-safety>b</think-safety><think-policy>c</think-policy>"
        text += "<think-final>d</think-final><final>Fine \x1b[2J here.</final>"
        passes = _TagFilter(prompt)
        for sign in text:
            if (piece := passes.feed(sign)) is not None:
                yield ChatToken(piece)
        if (rest := passes.finish()) is not None:
            yield ChatToken(rest)

    monkeypatch.setattr(model, "speak", speak)
    said: list[str] = []
    answer(model, "May I?", ChatSettings(), base=False, say=said.append, tell=said.append)
    shown = "".join(said)
    assert "Fine \\x1b[2J here." in shown
    assert "SECRET" not in shown
    assert "\x1b" not in shown


def test_a_cancelled_answer_keeps_what_came(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(_prompt: str, _settings: ChatSettings):  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield ChatToken("One ")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "speak", speak)
    told: list[str] = []
    found = answer(model, "May I?", ChatSettings(), base=False, say=lambda text: None, tell=told.append)
    assert found["cancelled"]
    assert found["final"] == "One "


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process there")
def test_a_conversation_takes_questions_and_ctrl_c_leaves(embedded_run: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(embedded_run), "--max-new-tokens", "4"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("May I come in?\n")
    process.stdin.flush()
    for line in process.stderr:
        if "danger" in line:
            break
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    assert process.wait(60) == 0
    process.stderr.close()
