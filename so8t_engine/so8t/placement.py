"""Where the gate acts: in front of the LM head, inside decoder layers, or both. Imports no torch.

As text, in a soul file's ``placement`` and in reports::

    final_hidden              the final hidden states, in front of the LM head
    final_hidden+mlp:3,7      there, and on the output of ``mlp.down_proj`` in layers 3 and 7
    attention:0               on the output of ``self_attn.o_proj`` in layer 0 alone

Layers count from 0 and stand in ascending order. Inside a layer the gate acts before the linear's output
is added to the residual stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _

GateSite = Literal["mlp", "attention"]
GATE_SITES: tuple[GateSite, ...] = get_args(GateSite)
#: Site → the linear whose output is gated, inside a decoder layer of transformers.
SITE_MODULES: dict[GateSite, str] = {"mlp": "mlp.down_proj", "attention": "self_attn.o_proj"}
FINAL = "final_hidden"
_TEXT = re.compile(r"(?P<final>final_hidden)?(?:(?(final)\+)(?P<site>[a-z]+):(?P<layers>\d+(?:,\d+)*))?")


def resolve_layers(indices: Iterable[int], count: int) -> tuple[int, ...]:
    """Layer indices from 0, ascending, each once; negative ones count from the end.

    Raises:
        ModelError: a layer does not exist among ``count``; the mend names those that do.
    """
    found: set[int] = set()
    for index in indices:
        if not -count <= index < count:
            raise ModelError(
                _("There is no decoder layer %(index)d.") % {"index": index},
                _("The model has layers 0 to %(last)d.") % {"last": count - 1},
            )
        found.add(index % count)
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one adapter's gate acts.

    Attributes:
        final: in front of the LM head.
        layers: decoder layers, at ``site``.
        site: ``mlp`` or ``attention``; of no meaning without layers.
    """

    final: bool = True
    layers: tuple[int, ...] = ()
    site: GateSite = "mlp"

    def __str__(self) -> str:
        inside = f"{self.site}:{','.join(map(str, self.layers))}" if self.layers else ""
        return "+".join(part for part in (FINAL if self.final else "", inside) if part)

    @classmethod
    def parse(cls, text: str) -> Placement:
        """The placement that ``text`` names.

        Raises:
            ModelError: it names none; a file that does not say where its gate was is not guessed at.
        """
        found = _TEXT.fullmatch(text) if text else None
        site = found["site"] if found else None
        if found is None or (site is not None and site not in GATE_SITES):
            raise ModelError(
                _("%(text)s names no place of a gate.") % {"text": repr(text)},
                _("Expected is for example final_hidden, final_hidden+mlp:3,7 or attention:0."),
            )
        layers = tuple(sorted({int(number) for number in (found["layers"] or "").split(",") if number}))
        return cls(found["final"] is not None, layers, "attention" if site == "attention" else "mlp")

    def resolved(self, count: int) -> Placement:
        """With layers from 0, ascending, for a model of ``count`` layers. Raises `ModelError`."""
        return replace(self, layers=resolve_layers(self.layers, count))
