"""The parser: what is whole passes unchanged in any chunks, what is not gives nothing out."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from so8t_engine.serving.folding import looks_like_tag
from so8t_engine.serving.grammar import Fault, ThinkStream, parse
from tests.engine.serving.redteam import NAMES, cases, chunkings, leaked, tagged

CASES = cases()


def run(chunks: list[str], query: str = "") -> tuple[str, ThinkStream]:
    stream = ThinkStream(query=query)
    return "".join([*map(stream.feed, chunks), stream.finish()]), stream


def test_at_least_three_hundred_attacks_of_every_family() -> None:
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_thinking_leaves(case) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    for how, chunks in chunkings(case.text, len(case.text)).items():
        output, stream = run(chunks, case.query)
        assert leaked(output, case.forms) == "", (case.name, how, output)
        assert not looks_like_tag(output) or case.whole, (how, output)
        assert (stream.fault is None) == case.whole, (how, stream.fault)
        if case.whole:
            assert output == "The library opens at nine."


words = st.text(
    st.characters(exclude_characters="<>[](){}|«»‹›〈〉《》", exclude_categories=["Cs"]), max_size=200
)


@given(st.lists(words, min_size=5, max_size=5), st.data())
@example(["", "", "", "", "done"], None)
def test_whole_generations_pass_unchanged(texts: list[str], data: st.DataObject | None) -> None:
    text = tagged(dict(zip(NAMES, texts[:4], strict=True)), texts[4])
    whole = parse(text)
    if whole.fault in {Fault.QUOTED_THINKING, Fault.EMPTY, Fault.STRAY_TAG}:
        return
    assert whole.fault is None
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=12))) if data else []
    output, stream = run([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
    assert (output, stream.final) == (texts[4], texts[4])
    assert list(stream.thinking.values()) == texts[:4]


@given(st.text(max_size=400), st.data())
def test_chunks_do_not_change_the_verdict(text: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([text, tagged({}, text), tagged({"think-task": text}, text)]))
    whole, first = run([text])
    parts, second = run(list(text))
    assert (whole, first.fault) == (parts, second.fault) or first.fault is not None
    assert (first.fault is None) == (second.fault is None)


def test_nothing_leaves_before_final_opens_and_a_fault_is_for_good() -> None:
    stream = ThinkStream()
    for piece in tagged(dict.fromkeys(NAMES, "inner words"), "").removesuffix("</final>"):
        assert stream.feed(piece) == ""
    assert stream.in_final
    long = "The archive opens at nine and closes at five, on weekdays only. " * 6
    assert long.startswith(stream.feed(long))
    assert stream.feed("<think-task>") == ""
    assert stream.feed(" and more of it, much more of it than is held back" * 9) == ""
    assert stream.finish() == ""
    assert stream.fault is Fault.STRAY_TAG


def test_repeating_the_question_is_no_quotation() -> None:
    question = "Please summarise the minutes of the public meeting of the harbour board in May."
    text = tagged({"think-task": f"They ask: {question}"}, f"You asked: {question} Here it is.")
    assert parse(text, question).fault is None
    assert parse(text).fault is Fault.QUOTED_THINKING


def test_code_and_comparisons_are_answers_too() -> None:
    for answer in (
        "if a < b: print(a)",
        "List<int> and <b>bold</b> and 3 < 4 > 2",
        "x << 2, a <- b, <html>",
    ):
        assert parse(tagged({}, answer)).final == answer
