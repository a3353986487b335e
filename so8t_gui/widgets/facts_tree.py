"""Figures of any shape as a tree of names and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from so8t_engine.i18n import N_, _
from so8t_engine.plain_text import visible
from so8t_gui.models.names import cell
from so8t_gui.widgets.empty_note import EmptyNote

#: What steps call their figures, in words.
NAMES: dict[str, str] = {
    "rows": N_("rows"), "pictures": N_("pictures"), "sources": N_("sources"), "licences": N_("licences"),
    "refused": N_("not taken"), "failed_sources": N_("failed sources"), "read": N_("rows read"),
    "kept": N_("rows kept"), "left_out": N_("rows left out"), "personal_data": N_("personal data"),
    "found": N_("found"), "action": N_("action"), "labels_by_origin": N_("labels by origin"),
    "classes": N_("classes"), "languages": N_("languages"), "label_sources": N_("origin of labels"),
    "alike_but_labelled_otherwise": N_("alike, but labelled otherwise"), "review": N_("rows to review"),
    "seconds": N_("seconds"), "rows_per_s_per_core": N_("rows per second and core"),
    "bytes_in": N_("bytes read"),
    "run": N_("run folder"), "results": N_("results"), "soul": N_("soul records"), "records": N_("records"),
    "splits": N_("splits"), "phases": N_("phases"), "train": N_("training"), "validation": N_("validation"),
    "test": N_("test"), "deleted": N_("deleted"), "bytes": N_("bytes"), "trashed": N_("in the trash"),
    "given": N_("given"), "weak": N_("weak (by rules)"), "reviewed": N_("reviewed"), "none": N_("none"),
    "unlabelled": N_("without a label"), "exact duplicate": N_("exact duplicate"),
    "near-duplicate": N_("near-duplicate"), "too short": N_("too short"), "too long": N_("too long"),
    "no words": N_("no words"), "broken characters": N_("broken characters"), "nsfw": N_("NSFW"),
    "filler text": N_("filler text"), "mostly signs": N_("mostly signs"), "repetitive": N_("repetitive"),
    "mostly addresses": N_("mostly addresses"), "mostly markup": N_("mostly markup"),
    "mostly digits": N_("mostly digits"), "repeated lines": N_("repeated lines"),
    "neither answer nor label": N_("neither answer nor label"),
    "picture: duplicate": N_("picture: duplicate"),
    "forbidden by robots.txt": N_("forbidden by robots.txt"), "compared": N_("compared"),
    "the page asks not to be kept": N_("the page asks not to be kept"),
}  # fmt: skip


class FactsTree(QTreeWidget):
    """Two columns; nested figures open and shut."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setColumnCount(2)
        self.setHeaderLabels([_("Figure"), _("Value")])
        self.setAccessibleName(_("Output of the step"))
        self.setAlternatingRowColors(True)
        self.header().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        EmptyNote(self, _("This step has put nothing out yet."))
        self._shown: Any = None

    def show_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace what is shown; the same figures leave it as it is."""
        if facts == self._shown:
            return
        self._shown = dict(facts)
        self.clear()
        for name, value in facts.items():
            self._add(self.invisibleRootItem(), name, value, 0)

    def _add(self, parent: QTreeWidgetItem, name: str, value: Any, depth: int) -> None:  # noqa: ANN401
        shown = _(NAMES[name]) if name in NAMES else visible(str(name), 200)
        if isinstance(value, list) and value and not any(isinstance(one, Mapping | list) for one in value):
            value = ", ".join(str(one) for one in value)
        if isinstance(value, Mapping | list):
            pairs = list(value.items() if isinstance(value, Mapping) else enumerate(value, start=1))[:500]
            item = QTreeWidgetItem(parent, [shown, "" if pairs else "—"])
            for key, inner in pairs:
                self._add(item, str(key), inner, depth + 1)
            item.setExpanded(depth < 1)
            return
        QTreeWidgetItem(parent, [shown, _value(value, name)])


def _value(value: Any, name: str) -> str:  # noqa: ANN401
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return visible(cell(value, name), 500)
