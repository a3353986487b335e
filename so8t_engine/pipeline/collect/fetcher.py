"""Requests to web servers: allowed ones only, one at a time per host, honestly named, kept for resuming."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from so8t_engine.files import write_atomically
from so8t_engine.pipeline.collect.robots import LIMIT_BYTES, PRODUCT, Answer, Rules, fetch_rules
from so8t_engine.pipeline.collect.settings import CollectSettings

MAX_REDIRECTS = 5
TRIES = 3
MAX_WAIT_S = 120.0


class RefusedError(Exception):
    """A page that is not taken; the message is the reason that is counted and reported."""


class FailedError(RefusedError):
    """A page that could not be had although it might be later."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of status 200. ``headers`` have lower-case names; ``retrieved`` is seconds since 1970."""

    url: str
    headers: dict[str, str]
    body: bytes
    retrieved: float


@dataclass
class _Host:
    lock: threading.Lock = field(default_factory=threading.Lock)
    rules: Rules | None = None
    next_at: float = 0.0


def user_agent(contact: str) -> str:
    """What servers are told: the product, that it collects training rows, and whom to ask."""
    return f"{PRODUCT}/0.1 (collects text for a language model; {contact.strip() or 'local test'})"


class Fetcher:
    """Fetches for any number of threads.

    Args:
        settings: delay, timeout, contact, limits.
        cache: a folder for pages already fetched, so that a killed collection asks nobody twice.
        check: raises to stop; called while waiting.
        rename: the address under which a page is kept; for a server whose port changes.
    """

    def __init__(
        self,
        settings: CollectSettings,
        cache: Path,
        check: Callable[[], None],
        rename: Callable[[str], str] = lambda url: url,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._check = check
        self._rename = rename
        self._hosts: dict[str, _Host] = {}
        self._guard = threading.Lock()
        self._client = httpx.Client(
            timeout=settings.timeout_s,
            follow_redirects=False,
            trust_env=True,
            headers={"user-agent": user_agent(settings.contact), "accept-encoding": "gzip, deflate"},
        )
        cache.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self._client.close()

    def get(self, url: str) -> Page:
        """The page at ``url``, redirects followed where every hop allows it.

        Raises:
            RefusedError: robots.txt, the status, the size or the address forbids it.
            FailedError: no answer, or a server that goes on failing.
        """
        kept = self._kept(url)
        if kept is not None:
            return kept
        current = url
        for _hop in range(MAX_REDIRECTS + 1):
            answer = self._allowed(current)
            if answer.status in {301, 302, 303, 307, 308}:
                target = urljoin(current, answer.headers.get("location", ""))
                if urlsplit(target).scheme not in {"http", "https"} or _strays(url, target):
                    raise RefusedError("redirect to a forbidden address")
                current = target
                continue
            if answer.status == 200:
                page = Page(current, dict(answer.headers), answer.body, time.time())
                self._keep(url, page)
                return page
            raise RefusedError(f"status {answer.status}")
        raise RefusedError("too many redirects")

    def rules(self, url: str) -> Rules:
        """The rules of the host of ``url``, fetched where they are not known or have expired."""
        host = self._host(url)
        with host.lock:
            return self._rules(url, host)

    def _host(self, url: str) -> _Host:
        parts = urlsplit(url)
        with self._guard:
            return self._hosts.setdefault(f"{parts.scheme}://{parts.netloc}".lower(), _Host())

    def _rules(self, url: str, host: _Host) -> Rules:
        if host.rules is None or time.time() >= host.rules.expires:
            parts = urlsplit(url)
            self._wait(host)
            base = f"{parts.scheme}://{parts.netloc}"
            host.rules = fetch_rules(base, lambda one: self._request(one, LIMIT_BYTES + 1), time.time())
            host.next_at = time.monotonic() + self._delay(host.rules)
        return host.rules

    def _delay(self, rules: Rules) -> float:
        return max(self._settings.delay_s, rules.delay_s())

    def _allowed(self, url: str) -> Answer:
        """One request that robots.txt allows, tried again while the server asks for patience."""
        host = self._host(url)
        with host.lock:
            for attempt in range(TRIES):
                rules = self._rules(url, host)
                if not rules.allows(url):
                    reason = f"robots.txt unreachable ({rules.why})" if rules.state == "unreachable" else ""
                    raise RefusedError(reason or "forbidden by robots.txt")
                if rules.delay_s() > self._settings.max_crawl_delay_s:
                    raise RefusedError(f"robots.txt asks for {rules.delay_s():.0f} s between requests")
                self._wait(host)
                answer = self._request(url, self._settings.max_page_bytes + 1)
                host.next_at = time.monotonic() + self._delay(rules)
                if len(answer.body) > self._settings.max_page_bytes:
                    raise RefusedError("too large")
                if answer.status and answer.status < 500 and answer.status != 429:
                    return answer
                pause = _retry_after(answer) or 2.0**attempt + random.random() / 4
                if pause > MAX_WAIT_S or attempt == TRIES - 1:
                    break
                host.next_at = max(host.next_at, time.monotonic() + pause)
            raise FailedError(answer.why or f"status {answer.status}")

    def _wait(self, host: _Host) -> None:
        while (left := host.next_at - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, 0.1))

    def _request(self, url: str, limit: int) -> Answer:
        self._check()
        try:
            with self._client.stream("GET", url) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) >= limit:
                        break
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status_code, headers, bytes(body[:limit]))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            return Answer(0, {}, b"", f"no answer: {type(error).__name__}")

    def _files(self, url: str) -> tuple[Path, Path]:
        name = hashlib.sha256(self._rename(url).encode()).hexdigest()
        return self._cache / f"{name}.json", self._cache / f"{name}.body"

    def _kept(self, url: str) -> Page | None:
        head, body = self._files(url)
        try:
            record = json.loads(head.read_text(encoding="utf-8"))
            return Page(record["url"] or url, record["headers"], body.read_bytes(), record["retrieved"])
        except (OSError, ValueError, KeyError):
            return None

    def _keep(self, url: str, page: Page) -> None:
        head, body = self._files(url)
        temporary = body.with_suffix(f".{threading.get_ident()}.tmp")
        temporary.write_bytes(page.body)
        temporary.replace(body)
        record = asdict(page)
        del record["body"]
        if page.url == url:  # not where the server was then: its port may be another now
            record["url"] = ""
        write_atomically(head, json.dumps(record))  # last: what it describes is there


def _strays(start: str, target: str) -> bool:
    """Whether a redirect leads from elsewhere into this machine or a private network."""
    before, after = urlsplit(start).hostname or "", urlsplit(target).hostname or ""
    if before == after:
        return False
    if after == "localhost":
        return True
    try:
        address = ipaddress.ip_address(after)
    except ValueError:
        return False
    return not address.is_global and before != "localhost" and not _is_private(before)


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _retry_after(answer: Answer) -> float | None:
    value = answer.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError):
            return None
    return None
