"""robots.txt as RFC 9309 says, with Protego as the parser.

2xx: parsed. 3xx: followed, up to five. 4xx: no rules, all allowed (429 is taken for a server that is
overloaded). 5xx, no connection, more than five redirects: unreachable, nothing allowed. At least 500 KiB are
read, the rest is cut at a line's end. Kept for a day at most, or as long as max-age says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from protego import Protego

#: RFC 9309 asks for letters, _ and - only; the digit of SO8T is spelt out.
PRODUCT = "SOEightT"
LIMIT_BYTES = 512 * 1024
MAX_REDIRECTS = 5
DAY_S = 86_400.0
UNREACHABLE_S = 600.0
_VERSION = re.compile(r"(?im)^(\s*user-agent\s*:\s*[\w\-]+)/[^\s#]*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request, redirects not followed; ``status`` 0 for no answer at all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one host allows.

    Args:
        state: ``rules``, ``none`` (there is no robots.txt) or ``unreachable``.
        expires: the clock's reading from which on it must be fetched again.
    """

    state: str
    expires: float
    parsed: Protego | None = None
    why: str = ""

    def allows(self, url: str) -> bool:
        """Whether ``url`` may be fetched; robots.txt itself always may."""
        if urlsplit(url).path == "/robots.txt":
            return True
        if self.state == "unreachable":
            return False
        return self.parsed is None or bool(self.parsed.can_fetch(url, PRODUCT))

    def delay_s(self) -> float:
        """Seconds between requests that the host asks for; 0 where it asks for none."""
        if self.parsed is None:
            return 0.0
        delay = float(self.parsed.crawl_delay(PRODUCT) or 0.0)
        rate = self.parsed.request_rate(PRODUCT)
        if rate is not None and rate.requests:
            delay = max(delay, rate.seconds / rate.requests)
        return delay


def fetch_rules(base: str, get: Callable[[str], Answer], now: float) -> Rules:
    """The rules of the host at ``base`` (``https://host:port``).

    Args:
        get: one request without redirects, of at least `LIMIT_BYTES`.
        now: the clock's reading in seconds.
    """
    url = f"{base}/robots.txt"
    for _hop in range(MAX_REDIRECTS + 1):
        answer = get(url)
        if answer.status in {301, 302, 303, 307, 308}:
            target = answer.headers.get("location", "")
            url = urljoin(url, target)
            if not target or urlsplit(url).scheme not in {"http", "https"}:
                return Rules("unreachable", now + UNREACHABLE_S, why="redirect without a place")
            continue
        if 200 <= answer.status < 300:
            return Rules("rules", now + _lifetime(answer.headers), _parse(answer.body))
        if 400 <= answer.status < 500 and answer.status != 429:
            return Rules("none", now + _lifetime(answer.headers))
        why = answer.why or f"status {answer.status}"
        return Rules("unreachable", now + UNREACHABLE_S, why=why)
    return Rules("unreachable", now + UNREACHABLE_S, why="too many redirects")


def _parse(body: bytes) -> Protego:
    cut = body[:LIMIT_BYTES]
    if len(body) > LIMIT_BYTES:
        cut = cut[: cut.rfind(b"\n") + 1] or cut
    # Protego compares whole names; RFC 9309 (2.2.1) compares the product token, without a version.
    text = _VERSION.sub(r"\1", cut.decode("utf-8-sig", errors="replace"))
    return Protego.parse(text)


def _lifetime(headers: Mapping[str, str]) -> float:
    control = headers.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return 0.0
    found = re.search(r"max-age\s*=\s*(\d+)", control)
    return min(DAY_S, float(found.group(1))) if found else DAY_S
