"""The page of formulas names functions and tests that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import so8t_engine.so8t

PAGE = Path(so8t_engine.so8t.__file__).parent / "FORMULAS.md"
MODULES = "adapter|attach|bake|blocks|gate|heads|logarithm|losses|pet|placement|rotation|schedule"


def test_every_function_on_the_page_exists() -> None:
    names = re.findall(rf"`((?:{MODULES})\.[A-Za-z_.0-9]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(set(names)) >= 25
    for name in names:
        module, *attributes = name.split(".")
        found: object = importlib.import_module(f"so8t_engine.so8t.{module}")
        for attribute in attributes:
            found = getattr(found, attribute)
        assert callable(found), name


def test_every_test_on_the_page_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(set(named)) >= 35
    for file, name in named:
        source = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert f"def {name}(" in source, (file, name)


def test_every_formula_row_names_a_test() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    body = [row for row in rows if not re.match(r"\| (formula|form|kind|head|loss|place) \|", row)]
    assert len(body) >= 30
    assert [row for row in body if "::test_" not in row] == []
