"""In front of every route: bearer token, request size and time, rate limit, and errors that tell nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Without a token: whether the service lives, and what its interface is.
OPEN_PATHS = frozenset({"/health", "/openapi.json"})
BODY_TIMEOUT_S = 20.0
REMEMBERED_CALLERS = 4096


def error_body(code: str, message: str, mend: str = "", kind: str = "invalid_request_error") -> bytes:
    """The one shape of every error, which OpenAI's clients understand too."""
    return json.dumps({"error": {"message": message, "type": kind, "code": code, "mend": mend}}).encode()


def where(error: BaseException) -> str:
    """An exception's kind and place, without its message: that may quote what was asked or thought."""
    frames = traceback.extract_tb(error.__traceback__, limit=-6)
    return " ".join([type(error).__name__, *(f"{Path(one.filename).name}:{one.lineno}" for one in frames)])


class RateLimit:
    """A bucket for each caller: ``per_minute`` tokens that fill evenly."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60.0
        self._size = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, caller: str, now: float) -> float:
        """0 and one token taken, or the seconds until there is one."""
        level, then = self._buckets.get(caller, (self._size, now))
        level = min(self._size, level + (now - then) * self._rate)
        wait = 0.0 if level >= 1.0 else (1.0 - level) / self._rate
        self._buckets[caller] = (level - 1.0 if wait == 0.0 else level, now)
        self._buckets.move_to_end(caller)
        while len(self._buckets) > REMEMBERED_CALLERS:
            self._buckets.popitem(last=False)
        return wait


class Guard:
    """ASGI middleware.

    Args:
        token: what callers must bring. limit: of requests. max_bytes: of a body.
        rejected: told (path, code, count) of what was turned away; rate limits at most once a second.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str,
        limit: RateLimit,
        max_bytes: int,
        rejected: Callable[[str, str, int], None],
    ) -> None:
        self._app, self._limit, self._max_bytes, self._rejected = app, limit, max_bytes, rejected
        self._token = hashlib.sha256(token.encode()).digest()
        self._turned_away = 0
        self._told = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._guarded(scope, receive, watch)
        except Exception as error:  # noqa: BLE001  (no traceback: it would hold the message)
            log.error("request failed: %s", where(error))
            if not started:
                await _refuse(send, 500, "internal", "The service failed.", "Its log names the place.")

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path not in OPEN_PATHS:
            if not self._known(scope):
                await _refuse(
                    send, 401, "no_token", "A bearer token is needed.",
                    "Send the header Authorization: Bearer with the token that so8t serve named.",
                    [(b"www-authenticate", b"Bearer")],
                )  # fmt: skip
                return
            wait = self._limit.wait_s(_caller(scope), time.monotonic())
            if wait:
                self._count(path)
                header = [(b"retry-after", str(max(1, round(wait))).encode())]
                await _refuse(send, 429, "rate", "Too many requests.", "Come again later.", header)
                return
        try:
            body = await asyncio.wait_for(self._body(scope, receive), BODY_TIMEOUT_S)
        except TimeoutError:
            self._rejected(path, "slow", 1)
            await _refuse(send, 408, "slow", "The request did not arrive in time.", "Send it again.")
            return
        if body is None:
            self._rejected(path, "too_large", 1)
            await _refuse(send, 413, "too_large", "The request is too large.", "Send less.")
            return
        await self._app(scope, _replay(body, receive), send)

    def _known(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                brought = hashlib.sha256(value[7:].strip()).digest()
                return hmac.compare_digest(brought, self._token)
        return False

    def _count(self, path: str) -> None:
        self._turned_away += 1
        if time.monotonic() - self._told >= 1.0:  # a flood must not fill the audit log
            self._rejected(path, "rate", self._turned_away)
            self._turned_away, self._told = 0, time.monotonic()

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when it is larger than allowed."""
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._max_bytes):
                return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b""  # the caller left
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _caller(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _refuse(
    send: Send,
    status: int,
    code: str,
    message: str,
    mend: str,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    body = error_body(code, message, mend)
    base = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*base, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})
