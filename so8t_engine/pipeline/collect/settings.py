"""What to collect, from where, under which licence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from so8t_engine.config.fields import Section, setting
from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.step import StepSettings

#: SPDX names of licences that allow training and redistribution; ``own`` for a person's own rows.
OPEN_LICENCES = [
    "own", "cc0-1.0", "public-domain", "pddl", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "odc-by", "odbl", "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense",
    "cdla-permissive-2.0",
]  # fmt: skip


class SourceSettings(Section):
    """One source."""

    name: str = setting(
        "source",
        N_("Name"),
        N_("Each row names the source it came from."),
        min_length=1,
        max_length=64,
        pattern=r"^[\w][\w.\-]*$",
    )
    kind: Literal["local", "hub", "web"] = setting(
        "local",
        N_("Kind"),
        N_("local: a file or folder. hub: a data set of the Hub, or its folder. web: pages from a start."),
    )
    location: str = setting(
        "",
        N_("Place"),
        N_(
            "A path or embedded:four_class; owner/name or a data set's folder; the start page's address. "
            "demo-site and demo-hub are small test servers that the program makes itself."
        ),
        min_length=1,
        path="either",
    )
    licence: str = setting(
        "",
        N_("Licence"),
        N_("SPDX name of the licence of rows that do not name their own, such as cc-by-4.0; own for yours."),
        max_length=64,
    )
    revision: str = setting(
        "",
        N_("Revision"),
        N_("Commit (40 hexadecimal digits) of a Hub data set: what was collected can be collected again."),
        pattern=r"^([0-9a-f]{40})?$",
    )
    split: str = setting("train", N_("Split"), N_("Of a Hub data set."), min_length=1)
    max_rows: int | None = setting(
        None, N_("Row limit"), N_("Takes the first rows only. Empty takes all."), ge=1
    )
    max_pages: int = setting(100, N_("Page limit"), N_("Web pages at most."), ge=1, le=1_000_000)
    max_depth: int = setting(
        3, N_("Link depth"), N_("0 takes the start page only; links to other hosts are never followed."), ge=0
    )
    images: bool = setting(
        True, N_("Pictures"), N_("Takes pictures that have a caption or an alternative text.")
    )


class CollectSettings(StepSettings):
    """Sources and the rules for all of them."""

    sources: list[SourceSettings] = Field(default_factory=list, title=N_("Sources"))
    licences: list[str] = setting(
        OPEN_LICENCES,
        N_("Licences taken"),
        N_("Rows under another licence are refused and counted."),
    )
    unknown_licence: bool = setting(
        False, N_("Unknown licence too"), N_("Also takes rows whose licence nobody names.")
    )
    contact: str = setting(
        "",
        N_("Contact"),
        N_("An e-mail or web address that web servers are told, so that their owners can reach you."),
        max_length=200,
        pattern=r"^[ -~]*$",
    )
    delay_s: float = setting(
        1.0,
        N_("Delay"),
        N_("Least time between two requests to one host; a longer delay asked for by robots.txt is kept."),
        unit="s",
        ge=0.0,
        le=3600.0,
    )
    timeout_s: float = setting(
        20.0, N_("Timeout"), N_("Of one request."), unit="s", advanced=True, gt=0.0, le=600.0
    )
    max_page_bytes: int = setting(
        8_000_000,
        N_("Largest page"),
        N_("Larger pages and pictures are refused and counted."),
        unit=N_("bytes"),
        advanced=True,
        ge=1024,
    )
    max_crawl_delay_s: float = setting(
        120.0,
        N_("Longest delay"),
        N_("A host that asks for a longer delay is left out and reported; its wish is never ignored."),
        unit="s",
        advanced=True,
        ge=1.0,
    )

    @model_validator(mode="after")
    def _named_once_and_reachable(self) -> CollectSettings:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(_("two sources are called %(name)s") % {"name": name})
        for source in self.sources:
            if source.kind == "web" and source.location != "demo-site" and not self.contact.strip():
                raise ValueError(_("web sources need a contact that the web servers are told"))
        return self
