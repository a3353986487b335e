"""All sources into one layout: each resumable by itself, refused and failed ones reported, never replaced."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from so8t_engine.errors import SO8TError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.pipeline.collect.fetcher import Fetcher
from so8t_engine.pipeline.collect.hub import hub_records
from so8t_engine.pipeline.collect.licences import taken
from so8t_engine.pipeline.collect.local import Taken, local_records
from so8t_engine.pipeline.collect.records import PartWriter, content_of, row_files
from so8t_engine.pipeline.collect.settings import CollectSettings, SourceSettings
from so8t_engine.pipeline.collect.web import WebReport, web_records
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import StepResult
from so8t_engine.pipeline.store import sha256_json


def collect(settings: CollectSettings, context: StepContext) -> StepResult:
    """Fill ``output`` with ``rows/<nn>-<source>/part-*.parquet`` and ``sources.json``.

    Raises:
        PipelineError: there are no sources, or none of them gave a row.
        TransientError: a source may be there later.
    """
    if not settings.sources:
        raise PipelineError(
            _("There is nothing to collect."), _("Name at least one source under collect.sources.")
        )
    reports: list[dict[str, Any]] = []
    for number, source in enumerate(settings.sources):
        name = f"{number:02d}-{source.name}"
        done = context.scratch / f"{name}.json"
        if done.exists():
            reports.append(json.loads(done.read_text(encoding="utf-8")))
            continue
        report = _collect_source(settings, source, context.output / "rows" / name, context)
        write_atomically(done, json.dumps(report, ensure_ascii=False))
        reports.append(report)
        if report["error"] is not None:
            context.warn(
                "source",
                _("The source %(name)s failed: %(why)s")
                % {"name": source.name, "why": report["error"]["sentence"]},
                report["error"]["mend"],
            )
    rows = sum(report["rows"] for report in reports)
    if rows == 0:
        why = next((r["error"]["sentence"] for r in reports if r["error"]), _("everything was refused"))
        raise PipelineError(
            _("No source gave a single row: %(why)s") % {"why": why},
            _("sources.json and log.txt name what was refused and why."),
        )
    write_atomically(context.output / "sources.json", json.dumps(reports, indent=1, ensure_ascii=False))
    return StepResult(
        facts=_facts(reports),
        content=sha256_json([content_of(row_files(context.output)), [_lasting(r) for r in reports]]),
    )


def _facts(reports: list[dict[str, Any]]) -> dict[str, Any]:
    licences: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for report in reports:
        licences.update(report["licences"])
        refused.update(report["refused"])
    return {
        "rows": sum(report["rows"] for report in reports),
        "pictures": sum(report["pictures"] for report in reports),
        "sources": {report["source"]: report["rows"] for report in reports},
        "licences": dict(licences),
        "refused": dict(refused),
        "failed_sources": [report["source"] for report in reports if report["error"] is not None],
    }


def _lasting(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("source", "rows", "pictures", "licences", "refused")}


def _collect_source(
    settings: CollectSettings, source: SourceSettings, folder: Path, context: StepContext
) -> dict[str, Any]:
    writer = PartWriter(folder)
    web = WebReport()
    error: dict[str, str] | None = None
    what = _("Collecting %(name)s") % {"name": source.name}
    context.progress(what, writer.consumed)
    try:
        for record, reason in _records(settings, source, writer.consumed, web, context):
            if source.max_rows is not None and writer.taken >= source.max_rows:
                break
            if record is None:
                writer.refuse(reason)
            elif taken(record.licence, settings.licences, settings.unknown_licence):
                writer.add(record)
            else:
                writer.refuse(f"licence {record.licence or 'unknown'}")
            context.progress(what, writer.consumed, source.max_rows)
    except PipelineError as problem:
        if type(problem) is not PipelineError:
            raise  # may pass: the graph tries again
        error = {"sentence": problem.sentence, "mend": problem.mend}
    except SO8TError as problem:
        error = {"sentence": problem.sentence, "mend": problem.mend}
    writer.flush()
    context.progress(what, writer.consumed, writer.consumed)
    if source.kind == "web" and not web.fetched and error is None:
        why = next(iter({**web.failed, **web.refused}), "")
        sentence = _("No page of %(place)s could be had: %(why)s.") % {"place": source.location, "why": why}
        error = {"sentence": sentence, "mend": _("Check the address and what its robots.txt allows.")}
    return {
        "source": source.name,
        "kind": source.kind,
        "location": source.location,
        "revision": source.revision,
        "rows": writer.rows,
        "pictures": writer.pictures,
        "licences": dict(writer.licences),
        "refused": dict(writer.counts + web.refused + web.failed),
        "examples": web.examples,
        "pages": web.fetched,
        "error": error,
    }


def _records(
    settings: CollectSettings, source: SourceSettings, start: int, web: WebReport, context: StepContext
) -> Iterator[Taken]:
    """The source's records from number ``start`` on."""
    if source.kind == "local":
        yield from _after(local_records(source), start)
    elif source.kind == "hub":
        if source.location == "demo-hub":
            from so8t_engine.pipeline.demo.hub import demo_hub

            source = source.model_copy(update={"location": str(demo_hub(context.scratch / "demo-hub"))})
        yield from hub_records(source, start, time.time())
    else:
        yield from _after(_web(settings, source, web, context), start)


def _web(
    settings: CollectSettings, source: SourceSettings, web: WebReport, context: StepContext
) -> Iterator[Taken]:
    what = _("Pages of %(name)s") % {"name": source.name}

    def progress(done: int, of: int) -> None:
        context.progress(what, done, of)

    with ExitStack() as stack:
        start, rename = source.location, _as_it_is
        if source.location == "demo-site":
            from so8t_engine.pipeline.demo.site import DemoSite

            site = stack.enter_context(DemoSite())
            # The port is the system's choice; cache and rows name the site instead.
            start, rename = site.start, site.rename
        fetcher = Fetcher(settings, context.scratch / "pages", context.check, rename)
        stack.callback(fetcher.close)
        yield from web_records(source, start, fetcher, web, progress, rename)


def _as_it_is(url: str) -> str:
    return url


def _after(records: Iterator[Taken], start: int) -> Iterator[Taken]:
    """``records`` without the first ``start``: those an interrupted call has written already."""
    for number, one in enumerate(records):
        if number >= start:
            yield one
