"""Freed memory is kept by glibc where it is asked to, and nobody's own settings are overruled."""

from __future__ import annotations

import subprocess
import sys

import pytest

from so8t_engine.memory.allocator import keep_freed_memory

#: Page faults of the third of three rounds of 8 tensors of 4 MiB, each freed before the next.
_ROUNDS = """
import sys, resource, ctypes
from so8t_engine.memory.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
def fill():
    made = [ctypes.create_string_buffer(4 << 20) for _one in range(8)]
for _round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _ROUNDS, how], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 3:
        pytest.skip("this C library keeps nothing")
    assert done.returncode == 0
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_freed_is_used_again_without_page_faults() -> None:
    assert _faults("kept") < 100 < _faults("plain")


def test_settings_of_a_person_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
