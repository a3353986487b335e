"""Crawling a local site with every awkward case: nothing disallowed is ever asked for."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from so8t_engine.pipeline.collect.fetcher import Fetcher, RefusedError
from so8t_engine.pipeline.collect.html import decode_page, read_page
from so8t_engine.pipeline.collect.records import Record
from so8t_engine.pipeline.collect.settings import CollectSettings, SourceSettings
from so8t_engine.pipeline.collect.web import WebReport, web_records
from so8t_engine.pipeline.demo.site import picture_of
from tests.engine.pipeline.collect.awkward import Reply, Server, html, links

ROBOTS = Reply(200, b"User-agent: *\nDisallow: /closed\nAllow: /closed/open\n")
CC = '<link rel="license" href="https://creativecommons.org/licenses/by/4.0/deed.ja">'


def crawl(
    server: Server, tmp_path: Path, start: str = "/", **changes: object
) -> tuple[dict[str, Record], WebReport]:
    settings = CollectSettings(contact="desk@example.org", delay_s=0.0, timeout_s=3.0, max_page_bytes=100_000)
    source = SourceSettings(name="w", kind="web", location=server.base + start).model_copy(update=changes)
    fetcher, report = Fetcher(settings, tmp_path / "cache", lambda: None), WebReport()
    try:
        found = web_records(source, server.base + start, fetcher, report, lambda _done, _of: None)
        rows = {one.origin.removeprefix(server.base): one for one, _why in found if one is not None}
    finally:
        fetcher.close()
    return rows, report


def test_an_awkward_site(tmp_path: Path) -> None:
    png = picture_of(3)[0]
    front = links(
        "/closed/a", "/closed/open", "/ok?x=1#part", "/ok?x=1", "/gone", "/down", "/busy", "/big", "/loop",
        "/to-closed", "/noindex", "/header", "/reserved", "/sjis", "/broken", "/pdf", "mailto:a@example.org",
        "http://[bad", "https://elsewhere.example/", "javascript:void(0)", "/plain",
    )  # fmt: skip
    replies: dict[str, object] = {
        "/robots.txt": ROBOTS,
        "/": html(f'<p>front</p>{front}<a rel="nofollow" href="/unfollowed">x</a>', CC),
        "/closed/a": html("closed"),
        "/closed/open": html("open"),
        "/ok?x=1": html("<p>fine</p><script>no()</script><nav>menu</nav>" + links("/deep"), lang="ja"),
        "/deep": html("deep"),
        "/gone": Reply(410),
        "/down": Reply(500),
        "/busy": lambda before: html("at last") if before else Reply(503, b"", {"retry-after": "0"}),
        "/big": Reply(200, b"x" * 200_000, {"content-type": "text/html"}),
        "/loop": Reply(302, b"", {"location": "/loop"}),
        "/to-closed": Reply(302, b"", {"location": "/closed/a"}),
        "/noindex": html("secret" + links("/from-noindex"), '<meta name="ROBOTS" content="NoIndex, follow">'),
        "/from-noindex": html("reached"),
        "/header": Reply(200, b"<p>secret</p>", {"content-type": "text/html", "x-robots-tag": "noindex"}),
        "/reserved": Reply(200, b"<p>secret</p>", {"content-type": "text/html", "tdm-reservation": "1"}),
        "/sjis": Reply(
            200, "<meta charset=Shift_JIS><p>日本語の頁</p>".encode("cp932"), {"content-type": "text/html"}
        ),
        "/broken": html('<p>unclosed <b>bold<p>second <img src="/p.png" alt="a cat"'),
        "/pdf": Reply(200, b"%PDF", {"content-type": "application/pdf"}),
        "/plain": Reply(200, b"text\nhere", {"content-type": "text/plain"}),
        "/p.png": Reply(200, png, {"content-type": "image/png"}),
        "/unfollowed": html("no"),
    }
    with Server(replies) as server:  # type: ignore[arg-type]
        rows, report = crawl(server, tmp_path)
        asked = set(server.paths())
    assert not any(path.startswith("/closed") and path != "/closed/open" for path in asked)
    assert "/unfollowed" not in asked
    assert set(rows) == {
        "/", "/closed/open", "/ok?x=1", "/busy", "/sjis", "/broken", "/plain", "/deep",
        "/from-noindex", "/p.png",
    }  # fmt: skip
    assert rows["/"].licence == "cc-by-4.0"
    assert rows["/ok?x=1"].licence == ""
    assert rows["/ok?x=1"].response == "fine\nx"
    assert rows["/ok?x=1"].language == "ja"
    assert rows["/sjis"].response == "日本語の頁"
    assert report.refused == {
        "forbidden by robots.txt": 2, "status 410": 1, "too large": 1, "too many redirects": 1,
        "the page asks not to be kept": 3, "no page but application/pdf": 1,
    }  # fmt: skip
    assert report.failed == {"status 500": 1}
    assert report.examples["forbidden by robots.txt"][0].endswith("/closed/a")


def test_pictures_come_with_captions_only(tmp_path: Path) -> None:
    data = picture_of(0)[0]
    body = (
        '<figure><img src="/a.png" alt="alt"><figcaption>A red <b>circle</b></figcaption></figure>'
        '<img src="/b.png" alt=" by its alt "><img src="/c.png"><img src="/closed/d.png" alt="closed">'
        '<img src="/e.png" alt="no picture">'
    )
    png = Reply(200, data, {"content-type": "image/png"})
    replies = {"/robots.txt": ROBOTS, "/": html(body, CC), "/a.png": png, "/b.png": png, "/closed/d.png": png}
    replies["/e.png"] = Reply(200, b"not a picture", {"content-type": "image/png"})
    with Server(replies) as server:  # type: ignore[arg-type]
        rows, _report = crawl(server, tmp_path)
        assert not {"/c.png", "/closed/d.png"} & set(server.paths())
    assert {name: row.caption for name, row in rows.items() if row.kind == "image"} == {
        "/a.png": "A red circle",
        "/b.png": "by its alt",
    }
    assert (rows["/a.png"].width, rows["/a.png"].height, rows["/a.png"].licence) == (48, 48, "cc-by-4.0")


def test_limits_of_pages_and_depth(tmp_path: Path) -> None:
    replies = {f"/{i}": html(links(f"/{i + 1}")) for i in range(10)}
    with Server(replies) as server:  # type: ignore[arg-type]
        rows, _report = crawl(server, tmp_path, "/0", max_depth=2)
        assert list(rows) == ["/0", "/1", "/2"]
        assert "/3" not in server.paths()
    with Server(replies) as server:  # type: ignore[arg-type]
        assert len(crawl(server, tmp_path / "b", "/0", max_pages=4, max_depth=99)[0]) == 4


def test_the_agent_says_who_it_is_and_whom_to_ask(tmp_path: Path) -> None:
    with Server({"/": html("x")}) as server:
        crawl(server, tmp_path)
        assert {one.agent for one in server.asked} == {
            "SOEightT/0.1 (collects text for a language model; desk@example.org)"
        }


def test_a_killed_crawl_asks_for_nothing_twice(tmp_path: Path) -> None:
    replies = {"/": html(links("/a", "/b")), "/a": html("a"), "/b": html("b")}
    with Server(replies) as server:  # type: ignore[arg-type]
        first, _ = crawl(server, tmp_path)
        once = len(server.asked)
        again, _ = crawl(server, tmp_path)
        assert {one.origin for one in again.values()} == {one.origin for one in first.values()}
        assert len(server.asked) == once


def test_one_request_at_a_time_for_a_host(tmp_path: Path) -> None:
    replies = {f"/{i}": html("x") for i in range(12)}
    with Server(replies) as server:  # type: ignore[arg-type]
        settings = CollectSettings(contact="a@example.org", delay_s=0.02)
        fetcher = Fetcher(settings, tmp_path, lambda: None)
        threads = [threading.Thread(target=fetcher.get, args=(server.base + path,)) for path in replies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fetcher.close()
        spans = sorted((one.began, one.ended) for one in server.asked)
        assert len(spans) == 13
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_redirect_from_outside_into_this_machine_is_refused() -> None:
    from so8t_engine.pipeline.collect.fetcher import _strays

    assert _strays("https://example.org/a", "http://127.0.0.1/admin")
    assert _strays("https://example.org/a", "http://localhost:8080/")
    assert _strays("https://example.org/a", "http://192.168.0.1/")
    assert _strays("https://example.org/a", "http://[::1]/")
    assert not _strays("https://example.org/a", "https://www.example.org/a")
    assert not _strays("http://127.0.0.1:1/a", "http://127.0.0.1:2/a")


def test_a_truncated_page_is_a_failure(tmp_path: Path) -> None:
    with Server({"/": Reply(200, b"<p>half", {"content-type": "text/html"}, broken=True)}) as server:
        fetcher = Fetcher(CollectSettings(contact="a@b.c", delay_s=0.0), tmp_path, lambda: None)
        with pytest.raises(RefusedError, match="no answer"):
            fetcher.get(server.base + "/")
        fetcher.close()


def test_charsets() -> None:
    assert decode_page("語".encode("euc-jp"), "text/html; charset=EUC-JP") == "語"
    assert decode_page("語".encode(), "text/html; charset=nonsense") == "語"
    assert decode_page(b"\xff\xfe\x00bad\x81", "") != ""
    assert read_page("<p>a<![CDATA[x]]><!-- c --><p>b &amp; &#x3042;").text.splitlines()[-1] == "b & あ"
