"""Web pages of one host from a start page, breadth first, as far as robots.txt and the pages allow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urldefrag, urljoin, urlsplit

from so8t_engine.pipeline.collect.fetcher import FailedError, Fetcher, Page, RefusedError
from so8t_engine.pipeline.collect.html import Document, decode_page, read_page
from so8t_engine.pipeline.collect.licences import licence_name
from so8t_engine.pipeline.collect.local import Taken, picture_record
from so8t_engine.pipeline.collect.records import Record
from so8t_engine.pipeline.collect.settings import SourceSettings

_PAGES = ("text/html", "application/xhtml+xml", "text/plain")
_CLOSED = {"noindex", "none", "noai"}
MAX_LISTED = 50


@dataclass
class WebReport:
    """What was asked for and not had: reason → number, and the first addresses of each."""

    fetched: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, error: RefusedError, url: str) -> None:
        reason = str(error)
        (self.failed if isinstance(error, FailedError) else self.refused)[reason] += 1
        listed = self.examples.setdefault(reason, [])
        if len(listed) < MAX_LISTED:
            listed.append(url)


def web_records(
    source: SourceSettings,
    start: str,
    fetcher: Fetcher,
    report: WebReport,
    progress: Callable[[int, int], None],
    rename: Callable[[str], str] = lambda url: url,
) -> Iterator[Taken]:
    """Rows of the pages reachable from ``start`` on its host, in breadth-first order.

    Args:
        report: filled with what was refused and failed.
        progress: called with the pages fetched and the limit.
        rename: the address under which a page is recorded.
    """
    host = urlsplit(start).netloc
    queue: deque[tuple[str, int]] = deque([(urldefrag(start).url, 0)])
    seen = {queue[0][0]}
    pictures: set[str] = set()
    while queue and report.fetched < source.max_pages:
        url, depth = queue.popleft()
        try:
            page = fetcher.get(url)
            document, wishes = _parsed(page)
        except RefusedError as error:
            report.note(error, rename(url))
            continue
        report.fetched += 1
        progress(report.fetched, source.max_pages)
        base = urljoin(page.url, document.base) if document.base else page.url
        if "nofollow" not in wishes and "none" not in wishes and depth < source.max_depth:
            for link in document.links:
                target = _followed(base, link)
                if target and urlsplit(target).netloc == host and target not in seen:
                    seen.add(target)
                    queue.append((target, depth + 1))
        licence = licence_name(urljoin(base, document.licence) if document.licence else "")
        licence = licence or licence_name(source.licence)
        if wishes & _CLOSED:
            report.note(RefusedError("the page asks not to be kept"), rename(url))
            continue
        if document.text:
            yield _text(source, document, rename(page.url), licence, page.retrieved), ""
        if source.images and not wishes & {"noimageindex", "noimageai"}:
            for address, caption in document.images:
                target = _followed(base, address)
                if target and caption and target not in pictures:
                    pictures.add(target)
                    yield from _picture(source, target, caption, licence, fetcher, report, rename)


def _followed(base: str, link: str) -> str | None:
    try:
        target = urldefrag(urljoin(base, link.strip())).url
        return target if urlsplit(target).scheme in {"http", "https"} else None
    except ValueError:
        return None


def _wishes(page: Page) -> set[str]:
    """Words of X-Robots-Tag that concern everybody or this program, and the TDM reservation."""
    words: set[str] = set()
    for part in page.headers.get("x-robots-tag", "").lower().split(","):
        agent, colon, rule = part.strip().rpartition(":")
        if not colon or agent.strip() in {"soeightt", "*"}:
            words.add(rule.strip())
    if page.headers.get("tdm-reservation", "").strip() == "1":
        words.add("noai")
    return words


def _parsed(page: Page) -> tuple[Document, set[str]]:
    kind = page.headers.get("content-type", "text/html").split(";")[0].strip().lower()
    if kind not in _PAGES:
        raise RefusedError(f"no page but {kind}")
    text = decode_page(page.body, page.headers.get("content-type", ""))
    document = Document(text=text.strip()) if kind == "text/plain" else read_page(text)
    return document, document.robots | _wishes(page)


def _text(source: SourceSettings, document: Document, url: str, licence: str, retrieved: float) -> Record:
    return Record(
        kind="text",
        source=source.name,
        origin=url,
        document=url,
        licence=licence,
        retrieved=retrieved,
        response=document.text,
        language=document.language or None,
        title=document.title or None,
    )


def _picture(
    source: SourceSettings,
    url: str,
    caption: str,
    licence: str,
    fetcher: Fetcher,
    report: WebReport,
    rename: Callable[[str], str],
) -> Iterator[Taken]:
    try:
        page = fetcher.get(url)
    except RefusedError as error:
        report.note(error, rename(url))
        return
    if _wishes(page) & (_CLOSED | {"noimageindex", "noimageai"}):
        report.note(RefusedError("the page asks not to be kept"), rename(url))
        return
    yield picture_record(source.name, rename(url), page.body, caption, licence, page.retrieved)
