"""RFC 9309: what the rules mean, and status, redirects, size and lifetime of robots.txt itself."""

from __future__ import annotations

import itertools
import socket
import time
from pathlib import Path

import pytest

from so8t_engine.pipeline.collect.fetcher import Fetcher, RefusedError
from so8t_engine.pipeline.collect.robots import LIMIT_BYTES, PRODUCT, Answer, fetch_rules
from so8t_engine.pipeline.collect.settings import CollectSettings
from tests.engine.pipeline.collect.awkward import Reply, Server, html

CLOSED = b"User-agent: *\nDisallow: /\n"
# Rules for everybody, the path, whether it may be fetched: precedence, wildcards, ends, case, escapes,
# spelling, the cases that Protego's own tests and RFC 9309 (2.2.2, 5.1, 5.2) name.
EVERYBODY = [
    ("", "/a", True),
    ("Disallow:", "/a", True),
    ("Disallow: /", "/", False),
    ("Disallow: /", "/robots.txt", True),
    ("Disallow: /a", "/a", False),
    ("Disallow: /a", "/ab/c", False),
    ("Disallow: /a", "/b/a", True),
    ("Disallow: /a/", "/a", True),
    ("Disallow: /a/", "/a/b", False),
    ("Disallow: /Fish", "/fish", True),
    ("disallow: /a", "/a", False),
    ("DISALLOW : /a", "/a", False),
    ("Dissallow: /a", "/a", False),
    ("Disalow: /a", "/a", False),
    ("Disallow: /a # why", "/a", False),
    ("Disallow: /\nAllow: /page", "/page", True),
    ("Allow: /page\nDisallow: /", "/page", True),
    ("Disallow: /x/page.html\nAllow: /x/", "/x/page.html", False),
    ("Allow: /x/page.html\nDisallow: /x/", "/x/page.html", True),
    ("Allow: /folder\nDisallow: /folder", "/folder/page", True),
    ("Disallow: /folder\nAllow: /folder", "/folder/page", True),
    ("Allow: /page\nDisallow: /*.htm", "/page.htm", False),
    ("Allow: /$\nDisallow: /", "/", True),
    ("Allow: /$\nDisallow: /", "/page.htm", False),
    ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/disallowed.gif", False),
    ("Disallow: *.gif$", "/a/b.gif", False),
    ("Disallow: *.gif$", "/a/b.gif?x=1", True),
    ("Disallow: /*.php", "/index?f=filename.php/", False),
    ("Disallow: /*.php$", "/filename.php5", True),
    ("Disallow: /fish*.php", "/fishheads/catfish.php?p", False),
    ("Disallow: /fish*.php", "/Fish.PHP", True),
    ("Disallow: /a*b*c$", "/a1b2c", False),
    ("Disallow: /a*b*c$", "/a1b2cd", True),
    ("Allow: *****************/****.js\nDisallow: /", "/x/y.js", True),
    ("Disallow: /?", "/?q", False),
    ("Disallow: /?", "/", True),
    ("Disallow: /path;params?query", "/path;params?query", False),
    ("Disallow: /\nAllow: /a%3cd.html", "/a<d.html", True),
    ("Disallow: /\nAllow: /a<d.html", "/a%3Cd.html", True),
    ("Disallow: /foo/bar?baz=https%3A%2F%2Ffoo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar", False),
    ("Disallow: /日本", "/%E6%97%A5%E6%9C%AC/a", False),
    ("Disallow: /%E6%97%A5%E6%9C%AC", "/日本", False),
    ("Unknown: x\nDisallow: /a", "/a", False),
    ("Disallow: /a\n\n\nDisallow: /b", "/b", False),
    ("Sitemap: /s.xml\nDisallow: /a", "/a", False),
    ("Crawl-delay: x\nDisallow: /a", "/a", False),
]
# Whole files: which group is this program's.
FILES = [
    (f"User-agent: {PRODUCT}\nDisallow: /a\nUser-agent: *\nDisallow: /", "/b", True),
    (f"User-agent: *\nDisallow: /\nUser-agent: {PRODUCT}\nAllow: /", "/b", True),
    (f"User-agent: {PRODUCT.lower()}\nDisallow: /a", "/a", False),
    (f"User-agent: {PRODUCT.upper()}/2.0\nDisallow: /a", "/a", False),
    ("User-agent: Other\nDisallow: /", "/a", True),
    (f"User-agent: Other\nUser-agent: {PRODUCT}\nDisallow: /a", "/a", False),
    (f"User-agent: {PRODUCT}\nDisallow: /a\n\nUser-agent: {PRODUCT}\nDisallow: /b", "/b", False),
    (f"User-agent: {PRODUCT}\n\nDisallow: /a", "/a", False),
    ("Disallow: /a", "/a", True),
    ("\ufeffUser-agent: *\nDisallow: /a", "/a", False),
    ("User-agent: *\r\nDisallow: /a\r\n", "/a", False),
    ("User-agent: *\rDisallow: /a", "/a", False),
    ("<!doctype html><html><body>Not a robots.txt</body></html>", "/a", True),
    ("\x00\xff\nUser-agent: *\nDisallow: /a", "/a", False),
]


def rules_of(text: str, status: int = 200) -> object:
    return fetch_rules("http://h", lambda _url: Answer(status, {}, text.encode()), 0.0)


@pytest.mark.parametrize(("text", "path", "allowed"), EVERYBODY)
def test_rules_for_everybody(text: str, path: str, allowed: bool) -> None:
    assert rules_of(f"User-agent: *\n{text}\n").allows(f"http://h{path}") is allowed  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "path", "allowed"), FILES)
def test_the_group_that_counts(text: str, path: str, allowed: bool) -> None:
    assert rules_of(text).allows(f"http://h{path}") is allowed  # type: ignore[attr-defined]


def fetcher(tmp_path: Path, **changes: object) -> Fetcher:
    settings = CollectSettings(contact="desk@example.org", delay_s=0.0, timeout_s=3.0).model_copy(
        update=changes
    )
    return Fetcher(settings, tmp_path / "cache", lambda: None)


def fetched(server: Server, tmp_path: Path, path: str = "/page") -> str:
    """``ok``, or the reason for which the page is not had."""
    one = fetcher(tmp_path)
    try:
        one.get(server.base + path)
    except RefusedError as error:
        return str(error)
    finally:
        one.close()
    return "ok"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "forbidden by robots.txt"),
        (204, "ok"),
        (400, "ok"), (401, "ok"), (403, "ok"), (404, "ok"), (410, "ok"), (451, "ok"),
        (429, "robots.txt unreachable (status 429)"),
        (500, "robots.txt unreachable (status 500)"),
        (502, "robots.txt unreachable (status 502)"),
        (503, "robots.txt unreachable (status 503)"),
        (599, "robots.txt unreachable (status 599)"),
    ],
)  # fmt: skip
def test_status(tmp_path: Path, status: int, expected: str) -> None:
    body = b"" if status == 204 else CLOSED
    with Server({"/robots.txt": Reply(status, body), "/page": html("x")}) as server:
        assert fetched(server, tmp_path) == expected
        assert ("/page" in server.paths()) is (expected == "ok")


def test_no_server_is_unreachable_and_disallows(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        one = fetcher(tmp_path)
        with pytest.raises(RefusedError, match=r"robots\.txt unreachable"):
            one.get(f"http://127.0.0.1:{taken.getsockname()[1]}/page")
        one.close()


def test_a_connection_cut_off_is_unreachable(tmp_path: Path) -> None:
    with Server({"/robots.txt": Reply(200, b"User-agent: *\n", broken=True), "/page": html("x")}) as server:
        assert "robots.txt unreachable" in fetched(server, tmp_path)
        assert server.paths() == ["/robots.txt"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("hops", "expected"), [(1, "forbidden by robots.txt"), (5, "forbidden by robots.txt")]
)
def test_redirects_are_followed(tmp_path: Path, status: int, hops: int, expected: str) -> None:
    replies: dict[str, Reply] = {"/page": html("x"), f"/r{hops}": Reply(200, CLOSED)}
    for i in range(hops):
        replies["/robots.txt" if i == 0 else f"/r{i}"] = Reply(status, b"", {"location": f"/r{i + 1}"})
    with Server(replies) as server:  # type: ignore[arg-type]
        assert fetched(server, tmp_path) == expected
        assert "/page" not in server.paths()


def test_more_than_five_redirects_are_unreachable(tmp_path: Path) -> None:
    with Server({"/robots.txt": Reply(302, b"", {"location": "/robots.txt"}), "/page": html("x")}) as server:
        assert fetched(server, tmp_path) == "robots.txt unreachable (too many redirects)"
        assert server.paths() == ["/robots.txt"] * 6


def test_a_redirect_to_another_host_gives_the_rules_of_the_first(tmp_path: Path) -> None:
    with Server({"/rules": Reply(200, CLOSED)}) as other:
        redirect = Reply(301, b"", {"location": f"{other.base}/rules"})
        with Server({"/robots.txt": redirect, "/page": html("x")}) as server:
            assert fetched(server, tmp_path) == "forbidden by robots.txt"


def test_rules_within_the_limit_count_and_a_cut_line_does_not(tmp_path: Path) -> None:
    filler = b"# " + b"x" * 61 + b"\n"
    body = b"User-agent: *\n" + filler * (510 * 1024 // len(filler)) + b"Disallow: /page\n"
    assert len(body) < LIMIT_BYTES
    with Server({"/robots.txt": Reply(200, body), "/page": html("x")}) as server:
        assert fetched(server, tmp_path) == "forbidden by robots.txt"
    long = body + filler * 100
    start = long[:LIMIT_BYTES].rfind(b"\n") + 1
    # The last line is cut in the middle: "Disallow: /" alone would close everything.
    long = long[:start] + b"Disallow: /" + b"y" * 200 + b"\n"
    with Server({"/robots.txt": Reply(200, long), "/other": html("x")}) as server:
        assert fetched(server, tmp_path / "b", "/other") == "ok"


def test_one_robots_for_many_pages_and_again_when_it_has_expired(tmp_path: Path) -> None:
    pages = {f"/{i}": html("x") for i in range(4)}
    for control, times in (("", 1), ("max-age=3600", 1), ("no-cache", 4), ("max-age=0", 4)):
        robots = Reply(404, b"", {"cache-control": control})
        with Server({"/robots.txt": robots, **pages}) as server:
            one = fetcher(tmp_path / str(times) / (control or "none"))
            for path in pages:
                one.get(server.base + path)
            one.close()
            assert server.paths().count("/robots.txt") == times, control


def test_rules_are_never_kept_for_more_than_a_day() -> None:
    rules = fetch_rules("http://h", lambda _u: Answer(200, {"cache-control": "max-age=9999999"}, b""), 100.0)
    assert rules.expires == 100.0 + 86_400


def test_rules_that_close_later_are_obeyed(tmp_path: Path) -> None:
    def robots(before: int) -> Reply:
        return Reply(200, CLOSED if before else b"", {"cache-control": "max-age=0"})

    with Server({"/robots.txt": robots, "/a": html("x"), "/b": html("x")}) as server:
        one = fetcher(tmp_path)
        one.get(server.base + "/a")
        with pytest.raises(RefusedError, match="forbidden"):
            one.get(server.base + "/b")
        one.close()
        assert "/b" not in server.paths()


@pytest.mark.parametrize("rule", ["Crawl-delay: 0.3", "Request-rate: 10/3"])
def test_the_delay_asked_for_is_kept(tmp_path: Path, rule: str) -> None:
    robots = Reply(200, f"User-agent: *\n{rule}\n".encode())
    with Server({"/robots.txt": robots, "/a": html("x"), "/b": html("x"), "/c": html("x")}) as server:
        one = fetcher(tmp_path)
        for path in ("/a", "/b", "/c"):
            one.get(server.base + path)
        one.close()
        times = [asked.began for asked in server.asked]
        assert min(b - a for a, b in itertools.pairwise(times)) >= 0.29


def test_a_delay_beyond_the_limit_closes_the_host(tmp_path: Path) -> None:
    robots = Reply(200, b"User-agent: *\nCrawl-delay: 1000\n")
    with Server({"/robots.txt": robots, "/page": html("x")}) as server:
        began = time.monotonic()
        assert "1000 s between requests" in fetched(server, tmp_path)
        assert time.monotonic() - began < 5
        assert "/page" not in server.paths()
