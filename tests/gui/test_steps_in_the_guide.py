"""The guide lists as many steps for each everyday task as its script takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from everyday_tasks import FILES, TASKS

from so8t_engine.paths import resources_dir


def asserted() -> list[int]:
    """The steps that each task's script insists on, in the order of the list."""
    source = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in FILES)
    bodies = {part.split("(")[0]: part for part in source.split("\ndef ")}
    return [int(re.findall(r"person\.end\((\d+)\)", bodies[test])[0]) for test in TASKS]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_guide_lists_the_steps(language: str) -> None:
    text = (resources_dir() / "guide" / f"guide.{language}.md").read_text(encoding="utf-8")
    assert [int(count) for count in re.findall(r"^\| [^|]+ \| (\d+) \|", text, re.MULTILINE)] == asserted()
