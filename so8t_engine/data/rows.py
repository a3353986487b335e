"""One training row, and how one record of a file becomes one.

A record is a JSON object, a CSV line or a Parquet row. Accepted shapes, the first that fits:

- chat: ``messages`` (``role``/``content``) or ``conversations`` (``from``/``value``); the last answer is
  trained, what precedes it is the prompt;
- instruction: ``prompt``, ``instruction`` (with ``input``), ``question`` or, beside a response or a
  label, ``text``; with ``response``, ``output``, ``answer`` or ``completion``;
- plain text: ``text`` (or a response) alone, trained as language without a prompt.

``task`` and ``safety`` are labels, ``system`` a system message, ``language`` a code. Unknown fields are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from so8t_engine.data.labels import Safety, Task, parse_safety, parse_task, safety_of
from so8t_engine.errors import DataError
from so8t_engine.i18n import _

__all__ = ["Row", "Safety", "Task", "parse_record", "safety_of"]

PROMPT_FIELDS = ("prompt", "instruction", "question")
RESPONSE_FIELDS = ("response", "output", "answer", "completion")
CHAT_FIELDS = ("messages", "conversations")
#: All that is read of a record.
FIELDS = frozenset({
    *PROMPT_FIELDS, *RESPONSE_FIELDS, *CHAT_FIELDS,
    "text", "input", "task", "safety", "system", "language", "lang",
})  # fmt: skip
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Args:
        prompt: what the user says; empty for plain text.
        response: what the model learns to write; empty only where a label is present.
        task: a `Task` value, or None where the row is not labelled.
        safety: a `Safety` value, or None.
        language: a code such as ``en``, as the row gives it.
        source: the file or data set it came from.
        line: its line (or row number) there, from 1.
        system: a system message, or None.
    """

    prompt: str
    response: str
    task: int | None
    safety: int | None
    language: str | None
    source: str
    line: int
    system: str | None = None


class _Fields:
    """Typed access to a record; every failure names file, line and field."""

    def __init__(self, record: Mapping[str, object], source: str, line: int) -> None:
        self.record, self.source, self.line = record, source, line

    def error(self, field: str, what: str, mend: str) -> DataError:
        place = _("%(source)s, line %(line)d, field '%(field)s': %(what)s") % {
            "source": self.source, "line": self.line, "field": field, "what": what,
        }  # fmt: skip
        return DataError(place, mend)

    def present(self, name: str) -> bool:
        value = self.record.get(name)
        # A number unequal to itself is NaN, by which tables mark an empty cell.
        return value is not None and value == value and value != ""

    def checked(self, value: object, field: str) -> str:
        """``value`` as text that a tokenizer can take."""
        if isinstance(value, list):  # content in parts, as in [{"type": "text", "text": "…"}]
            parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
            if all(isinstance(part, str) for part in parts):
                value = "".join(str(part) for part in parts)
        if not isinstance(value, str):
            raise self.error(
                field,
                _("text was expected, %(type)s was found.") % {"type": type(value).__name__},
                _("Write the field as one string."),
            )
        if "\x00" in value:
            raise self.error(field, _("the text holds a NUL character."), _("Remove the NUL character."))
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.error(
                field,
                _("the text holds half of a surrogate pair, which no encoding can write."),
                _("Write the file again as UTF-8."),
            )
        return value

    def text(self, *names: str) -> str:
        """The first present field of ``names``, or an empty string."""
        for name in names:
            if self.present(name):
                return self.checked(self.record[name], name)
        return ""


def _chat(fields: _Fields, name: str, turns: object) -> tuple[str, str, str | None]:
    """Prompt, response and system message of a list of turns."""
    if not isinstance(turns, list) or not turns:
        raise fields.error(
            name, _("a list of messages was expected."), _('Write [{"role": "user", "content": "…"}, …].')
        )
    spoken: list[tuple[str, str]] = []
    system: str | None = None
    for number, turn in enumerate(turns, start=1):
        where = f"{name}[{number}]"
        if not isinstance(turn, Mapping):
            raise fields.error(
                where, _("a message is not an object."), _('Write {"role": "user", "content": "…"}.')
            )
        named = turn.get("role", turn.get("from"))
        role = _ROLES.get(named.strip().lower()) if isinstance(named, str) else None
        if role is None:
            raise fields.error(
                where, _("the role is none of system, user and assistant."), _("Name one of these roles.")
            )
        content = fields.checked(turn.get("content", turn.get("value")), where)
        if role == "system":
            system = content if system is None else f"{system}\n{content}"
        else:
            spoken.append((role, content))
    answers = [index for index, (role, _content) in enumerate(spoken) if role == "assistant"]
    last = answers[-1] if answers else len(spoken)
    response = spoken[last][1] if answers else ""
    before = spoken[:last]
    if len(before) == 1 and before[0][0] == "user":
        return before[0][1], response, system
    # Earlier turns stay readable inside one prompt; only the last answer is trained.
    lines = [f"{'User' if role == 'user' else 'Assistant'}: {content}" for role, content in before]
    return "\n\n".join(lines), response, system


def parse_record(record: object, source: str, line: int) -> Row:
    """The `Row` in ``record``.

    Args:
        record: anything a JSON, CSV or Parquet reader yields.
        source: the file's or data set's name, for messages.
        line: its line or row number there, from 1.

    Raises:
        DataError: no usable text, a wrong type, an unknown label, or labels that contradict each other.
    """
    if not isinstance(record, Mapping):
        raise DataError(
            _("%(source)s, line %(line)d: a row is an object with named fields, %(type)s was found.")
            % {"source": source, "line": line, "type": type(record).__name__},
            _('Write each row as {"prompt": "…", "response": "…"}.'),
        )
    fields = _Fields(record, source, line)
    task = parse_task(record["task"], fields.error) if fields.present("task") else None
    safety = parse_safety(record["safety"], fields.error) if fields.present("safety") else None
    if task is not None and safety is not None and safety_of(task) != safety:
        raise fields.error(
            "safety",
            _("%(safety)s contradicts the task %(task)s.") % {"safety": safety.name, "task": task.name},
            _("ALLOW and ESCALATION are safe, DENY and REFUSE dangerous; correct one of the two labels."),
        )
    if task is not None and safety is None:
        safety = safety_of(task)
    labelled = safety is not None

    system: str | None = None
    chat = next((name for name in CHAT_FIELDS if fields.present(name)), None)
    prompt_name = next((name for name in PROMPT_FIELDS if fields.present(name)), None)
    if chat is None and prompt_name is not None and _is_turns(record[prompt_name]):
        chat = prompt_name  # a "conversational" record: prompt and completion are lists of messages
    if chat is not None:
        turns = record[chat]
        answer = next((record[name] for name in RESPONSE_FIELDS if fields.present(name)), None)
        if chat == prompt_name and isinstance(turns, list) and isinstance(answer, list):
            turns = [*turns, *answer]
            answer = None
        prompt, response, system = _chat(fields, chat, turns)
        if chat == prompt_name and answer is not None:
            response = fields.text(*RESPONSE_FIELDS)
    else:
        prompt, response = fields.text(*PROMPT_FIELDS), fields.text(*RESPONSE_FIELDS)
        if fields.present("input") and prompt_name == "instruction":
            prompt = f"{prompt}\n\n{fields.text('input')}"
        plain = fields.text("text")
        if not prompt and plain:
            if response or labelled:
                prompt = plain
            else:
                response = plain
    if not prompt.strip() and not response.strip():
        raise fields.error(
            "prompt",
            _("the row holds no text."),
            _("Give 'prompt' and 'response', 'messages', or 'text'; or delete the row."),
        )
    if not response.strip() and not labelled:
        raise fields.error(
            "response",
            _("the row has neither a response nor a label, so nothing can be learned from it."),
            _("Add a 'response', or a 'task' or 'safety' label."),
        )
    return Row(
        prompt=prompt,
        response=response,
        task=None if task is None else int(task),
        safety=None if safety is None else int(safety),
        language=fields.text("language", "lang") or None,
        source=source,
        line=line,
        system=fields.text("system") or system,
    )


def _is_turns(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value)
    )
