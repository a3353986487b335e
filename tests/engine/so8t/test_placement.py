"""Where a gate acts, as text and as layers that exist."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.errors import ModelError
from so8t_engine.so8t.placement import GATE_SITES, Placement, resolve_layers

placements = st.builds(
    Placement,
    final=st.booleans(),
    layers=st.sets(st.integers(0, 99), min_size=1, max_size=5).map(lambda found: tuple(sorted(found))),
    site=st.sampled_from(GATE_SITES),
)


@given(placements)
def test_text_and_back(placement: Placement) -> None:
    assert Placement.parse(str(placement)) == placement


def test_the_documented_texts() -> None:
    assert str(Placement()) == "final_hidden"
    assert str(Placement(True, (3, 7), "mlp")) == "final_hidden+mlp:3,7"
    assert str(Placement(False, (0,), "attention")) == "attention:0"
    assert Placement.parse("final_hidden") == Placement()


@pytest.mark.parametrize(
    "text",
    ["", "final", "+mlp:1", "final_hidden+", "final_hiddenmlp:1", "mlp:", "mlp:-1", "head:1", "mlp:1 "],
)
def test_a_text_that_names_no_place_is_an_error(text: str) -> None:
    with pytest.raises(ModelError, match="names no place"):
        Placement.parse(text)


def test_layers_count_from_the_end_too_and_stand_once() -> None:
    assert resolve_layers([-1, 0, 3, 1], 4) == (0, 1, 3)
    for index in (4, -5):
        with pytest.raises(ModelError, match=f"no decoder layer {index}") as caught:
            resolve_layers([0, index], 4)
        assert "0 to 3" in caught.value.mend
