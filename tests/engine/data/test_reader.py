"""Files of every format are read; damaged ones are refused with a place and a mend."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from so8t_engine.data.dataset import load_splits
from so8t_engine.data.reader import check_source, read_rows
from so8t_engine.errors import DataError

RECORDS = [
    {"prompt": 'Hello, "you";\nthere', "response": "Good day", "task": "ALLOW"},
    {"prompt": "こんにちは、元気ですか", "response": "はい", "task": "DENY"},
]


def write(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return str(path)


def lines(records: list[dict[str, str]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def refusal(source: str, **options: str) -> DataError:
    with pytest.raises(DataError) as caught:
        read_rows(source, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_lines_in_three_encodings(tmp_path: Path, encoding: str, newline: str) -> None:
    text = lines(RECORDS).replace("\n", newline)
    rows = read_rows(write(tmp_path / "rows.jsonl", text.encode(encoding)))
    assert [(row.prompt, row.response, row.line) for row in rows] == [
        (record["prompt"], record["response"], number) for number, record in enumerate(RECORDS, start=1)
    ]


def test_a_line_separator_inside_a_string_does_not_end_the_record(tmp_path: Path) -> None:
    record = {"prompt": "a\u2028b\u0085c", "response": "r"}
    rows = read_rows(write(tmp_path / "rows.jsonl", lines([record])))
    assert rows[0].prompt == record["prompt"]


@pytest.mark.parametrize("text", [json.dumps(RECORDS), json.dumps({"data": RECORDS}), lines(RECORDS)])
def test_json_as_array_as_object_of_rows_and_as_lines(tmp_path: Path, text: str) -> None:
    assert len(read_rows(write(tmp_path / "rows.json", text))) == 2


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("b.csv", ";")])
def test_tables_with_quoted_cells(tmp_path: Path, name: str, separator: str) -> None:
    cells = ['"a ""b""\nc"', "r", "2"]
    text = separator.join(["prompt", "response", "task"]) + "\r\n" + separator.join(cells) + "\r\n"
    (row,) = read_rows(write(tmp_path / name, text))
    assert (row.prompt, row.response, row.task) == ('a "b"\nc', "r", 2)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = {"prompt": ["p", "q"], "response": ["r", "s"], "task": pa.array([1.0, None], pa.float64())}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    rows = read_rows(str(tmp_path / "rows.parquet"))
    assert [(row.prompt, row.task, row.safety) for row in rows] == [("p", 1, 0), ("q", None, None)]
    damaged = (tmp_path / "rows.parquet").read_bytes()[:-20]
    assert "not a readable Parquet file" in refusal(write(tmp_path / "torn.parquet", damaged)).sentence


def test_a_parquet_file_with_times_that_python_has_not_is_read(tmp_path: Path) -> None:
    """Fields that are not used must not stop the reading of those that are."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    late = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a"], "written": late}), tmp_path / "rows.parquet")
    assert [row.response for row in read_rows(str(tmp_path / "rows.parquet"))] == ["a"]
    pq.write_table(pa.table({"text": late}), tmp_path / "late.parquet")
    assert "not a readable Parquet file" in refusal(str(tmp_path / "late.parquet")).sentence


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert "'text' twice" in refusal(str(tmp_path / "rows.parquet")).sentence


def test_a_folder_of_texts_is_language_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "b.md", "# 二")
    write(tmp_path / "ignored.bin", b"\x00\x01")
    rows = read_rows(str(tmp_path))
    assert sorted((row.prompt, row.response) for row in rows) == [("", "# 二"), ("", "one")]


def test_a_folder_with_files_named_for_their_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", lines(RECORDS))
    write(tmp_path / "val.csv", "prompt,response\np,r\n")
    assert len(read_rows(str(tmp_path))) == 2
    assert len(read_rows(str(tmp_path), split="validation")) == 1
    splits = load_splits(str(tmp_path), None, fmt="auto", validation_fraction=0.1, seed=0, max_rows=None)
    assert (len(splits.train), len(splits.validation), splits.report.source) == (2, 1, "own split")
    assert "no file for the split 'test'" in refusal(str(tmp_path), split="test").sentence


def test_the_embedded_rows_are_labelled_and_bring_their_splits() -> None:
    splits = load_splits(
        "embedded:four_class", None, fmt="auto", validation_fraction=0.1, seed=0, max_rows=100
    )
    assert len(splits.train) == 100
    assert splits.report.source == "own split"
    assert min(len(splits.validation), len(splits.test)) > 200
    assert all(
        row.task is not None and row.response for row in splits.train + splits.validation + splits.test
    )


def test_a_torn_last_line_is_named(tmp_path: Path) -> None:
    text = lines(RECORDS * 3)
    for cut in range(2, len(text.splitlines()[-1])):
        error = refusal(write(tmp_path / "rows.jsonl", text[:-cut]))
        assert "line 6 ends in the middle of a record" in error.sentence


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\xef\xbb\xbf\n", "holds no rows"),
        ("a.jsonl", b'{"prompt": "p"\n{"prompt": "q"}\n', "line 1, column"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\x00"}\n', "line 2: byte 11 of the line is NUL"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: byte 11 of the line (0xff)"),
        ("a.jsonl", "{'text'}\n".encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"\x1f\x8b\x08rest", "compressed"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "nested too deeply"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b'{"text": ' + b"9" * 5_000 + b"}\n", "a number that cannot be read"),
        ("a.jsonl", b'"a string"\n', "line 1: a row is an object"),
        ("a.json", b'[{"text": "a"},', "is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b", "text": "c"}\n', "line 2 names the field 'text' twice"),
        ("a.jsonl", b'{"messages": [{"role": "user", "role": "system"}]}\n', "line 1 names the field 'role'"),
        ("a.json", b'[{"task": "DENY", "text": "a", "task": "ALLOW"}]', "names the field 'task' twice"),
        ("a.csv", b"prompt,prompt\na,b\n", "twice"),
        ("a.csv", b"prompt,response\na,b,c\n", "line 2 has 3 fields, the header has 2"),
        ("a.csv", b'prompt,response\n"a,b\n', "is not a table"),
        ("a.csv", b"prompt,response\n", "holds no rows"),
        ("a.parquet", b"PAR1", "not a readable Parquet file"),
        ("a.xyz", b"abc", "no ending that tells its format"),
    ],
)
def test_damage_is_a_sentence_with_its_place(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    error = refusal(write(tmp_path / name, data))
    assert expected in error.sentence
    assert name in error.sentence
    assert error.mend


def test_a_damaged_utf8_file_is_not_read_as_cp932(tmp_path: Path) -> None:
    data = lines(RECORDS).encode("utf-8")
    at = data.index("気".encode())
    error = refusal(write(tmp_path / "rows.jsonl", data[:at] + b"\xff" + data[at + 1 :]))
    assert "line 2" in error.sentence
    assert "neither UTF-8 nor cp932" in error.sentence


def test_a_huge_line_is_refused(tmp_path: Path) -> None:
    data = b'{"text": "a"}\n{"text": "' + b"x" * (33 * 2**20) + b'"}\n'
    assert "line 2 is 33 MB long" in refusal(write(tmp_path / "rows.jsonl", data)).sentence


@pytest.mark.parametrize(
    "source", ["/nowhere/rows.jsonl", "/nowhere/rows.parquet", "embedded:nothing", "hub:x", "a\0b"]
)
def test_a_missing_source_is_named(source: str) -> None:
    assert refusal(source).mend


def test_the_hub_offline_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = refusal("hub:nobody-here/no-such-set")
    assert "nobody-here/no-such-set" in error.sentence
    assert "offline" in error.mend


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt"]),
    st.binary(max_size=80) | st.text(alphabet='{}[]":,\n\r\\ua1e-', max_size=60).map(str.encode),
)
def test_arbitrary_bytes_are_rows_or_a_data_error(tmp_path: Path, ending: str, data: bytes) -> None:
    outcome: object
    try:
        outcome = read_rows(write(tmp_path / f"any{ending}", data))
    except DataError as error:
        outcome = error
    assert outcome
    if isinstance(outcome, DataError):
        assert f"any{ending}" in outcome.sentence


def test_western_single_byte_text_is_not_read_as_rare_kanji(tmp_path: Path) -> None:
    data = '{"text": "Müller"}\n'.encode("latin-1")
    assert "öl".encode("latin-1").decode("cp932")  # bytes that cp932 would accept
    assert "neither UTF-8 nor cp932" in refusal(write(tmp_path / "rows.jsonl", data)).sentence


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.jsonl", None),
        ("none", None),
        ("x" * 300 + ".csv", None),
        ("nul\x00.jsonl", None),
        ("empty.jsonl", b""),
        ("blank.csv", b" \n\t\n"),
        ("packed.jsonl", b"\x1f\x8b\x08rest"),
        ("rows.doc", b"text"),
        ("folder/other.jsonl", b"{}"),
        ("embedded:nothing", None),
        ("hub:../x", None),
    ],
)
def test_a_source_is_checked_without_reading_its_rows(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    """What the settings say beside the field is what the run would fail with."""
    source = name if ":" in name else str(tmp_path / name)
    if content is not None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        source = str(path.parent) if path.parent != tmp_path else source
    with pytest.raises(DataError) as caught:
        check_source(source)
    wanted = refusal(source)
    assert (caught.value.sentence, caught.value.mend) == (wanted.sentence, wanted.mend)


def test_the_check_takes_what_can_be_read_and_stops_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write(tmp_path / "train.jsonl", b"\n" * 100_000 + lines(RECORDS).encode() + b"not json")
    monkeypatch.setattr("so8t_engine.data.textfile.decode", lambda *_: pytest.fail("rows were read"))
    for heavy in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, heavy, None)
    for source in (good, str(tmp_path), "embedded:four_class", "hub:owner/name"):
        check_source(source)
    check_source("embedded:four_class", split="validation")
