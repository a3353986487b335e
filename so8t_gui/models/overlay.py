"""What an overlay of several runs needs of each. No Qt."""

from __future__ import annotations

#: Columns that an overlay draws, by frequent type of event; nothing else is read of a long run.
WANTED = {
    "step": ("loss", "lr", "grad_norm", "tokens_per_s", "step_s"),
    "gate": ("alpha",),
}
