"""A record becomes one row, or a `DataError` that names file, line and field."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.data.labels import Safety, Task, safety_of
from so8t_engine.data.rows import Row, parse_record
from so8t_engine.errors import DataError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(codec=None, categories=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["prompt", "instruction", "input", "question", "text", "messages", "conversations", "response", "output",
     "answer", "completion", "task", "safety", "language", "system"]
)  # fmt: skip
TURN = st.fixed_dictionaries(
    {},
    optional={"role": JSON | st.sampled_from(["user", "assistant", "system"]), "content": JSON, "from": JSON},
)


@settings(max_examples=400, deadline=None)
@given(JSON | st.dictionaries(FIELDS, JSON | st.lists(TURN, max_size=4), max_size=6))
def test_any_json_value_is_a_row_or_a_data_error(record: object) -> None:
    row: Row | DataError
    try:
        row = parse_record(record, "rows.jsonl", 3)
    except DataError as error:
        row = error
    if isinstance(row, DataError):
        assert "rows.jsonl" in row.sentence
        assert "line 3" in row.sentence
        assert row.mend
        return
    assert row.prompt.strip() or row.response.strip()
    assert row.response.strip() or row.safety is not None
    (row.prompt + row.response).encode("utf-8")
    if row.task is not None:
        assert row.safety == safety_of(row.task)


@pytest.mark.parametrize(
    ("record", "prompt", "response"),
    [
        ({"prompt": "p", "response": "r"}, "p", "r"),
        ({"instruction": "i", "input": "x", "output": "o"}, "i\n\nx", "o"),
        ({"instruction": "i", "input": "", "output": "o"}, "i", "o"),
        ({"question": "q", "answer": "a"}, "q", "a"),
        ({"prompt": "p", "completion": "c"}, "p", "c"),
        ({"text": "only text"}, "", "only text"),
        ({"text": "classify me", "task": "DENY"}, "classify me", ""),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
            "u",
            "a",
        ),
        ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}, "u", "a"),
        (
            {
                "prompt": [{"role": "user", "content": "u"}],
                "completion": [{"role": "assistant", "content": "a"}],
            },
            "u",
            "a",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "u"}]},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "v"},
                    {"role": "assistant", "content": "b"},
                ]
            },
            "User: u\n\nAssistant: a\n\nUser: v",
            "b",
        ),
    ],
)
def test_the_usual_shapes_are_read(record: dict[str, object], prompt: str, response: str) -> None:
    row = parse_record(record, "f", 1)
    assert (row.prompt, row.response) == (prompt, response)


def test_a_system_message_is_kept_apart() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    row = parse_record({"messages": turns}, "f", 1)
    assert (row.system, row.prompt, row.response) == ("s", "u", "a")


@pytest.mark.parametrize("written", ["REFUSE", "refuse", " Refuse ", 3, 3.0, "3"])
def test_a_task_is_read_by_name_or_number_and_safety_follows(written: object) -> None:
    row = parse_record({"prompt": "p", "response": "r", "task": written}, "f", 1)
    assert (row.task, row.safety) == (Task.REFUSE, Safety.DANGEROUS)


@pytest.mark.parametrize("written", ["dangerous", "UNSAFE", 1, 1.0, "1", True, "true"])
def test_a_safety_label_is_read_by_name_number_or_bool(written: object) -> None:
    row = parse_record({"prompt": "p", "response": "r", "safety": written}, "f", 1)
    assert (row.task, row.safety) == (None, Safety.DANGEROUS)


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_an_empty_label_is_no_label(missing: object) -> None:
    row = parse_record({"prompt": "p", "response": "r", "task": missing, "safety": missing}, "f", 1)
    assert (row.task, row.safety) == (None, None)


@pytest.mark.parametrize("task", list(Task))
def test_contradicting_labels_are_refused(task: Task) -> None:
    other = Safety(1 - safety_of(task))
    with pytest.raises(
        DataError, match=f"line 7, field 'safety': {other.name} contradicts the task {task.name}"
    ):
        parse_record({"prompt": "p", "response": "r", "task": task.name, "safety": other.name}, "f", 7)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"prompt": 3, "response": "r"}, "prompt"),
        ({"prompt": "p", "response": {"a": 1}}, "response"),
        ({"prompt": "p"}, "response"),
        ({"prompt": " ", "response": ""}, "prompt"),
        ({"prompt": "p", "response": "r", "task": "MAYBE"}, "task"),
        ({"prompt": "p", "response": "r", "task": True}, "task"),
        ({"prompt": "p", "response": "r", "task": 4}, "task"),
        ({"prompt": "p", "response": "r", "safety": 2}, "safety"),
        ({"prompt": "a\x00b", "response": "r"}, "prompt"),
        ({"prompt": "p", "response": "\ud83d"}, "response"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "u"}, {"role": "parrot", "content": "a"}]}, "messages[2]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[1]"),
        ({"unknown": "x"}, "prompt"),
    ],
)
def test_what_cannot_be_used_names_the_field_and_a_mend(record: dict[str, object], field: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_record(record, "rows.jsonl", 12)
    assert f"rows.jsonl, line 12, field '{field}'" in caught.value.sentence
    assert caught.value.mend
