"""A local web server with every awkward case: it answers by a table and keeps a log of what was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

HTML = "text/html; charset=utf-8"


@dataclass
class Reply:
    """What a path answers. ``broken``: the connection is cut in the middle of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    broken: bool = False


@dataclass
class Asked:
    """One request: when it came and went, and who said to be asking."""

    path: str
    began: float
    ended: float
    agent: str


class Server:
    """``replies`` is path → a `Reply`, or a function of how often the path was asked for before."""

    def __init__(self, replies: dict[str, Reply | Callable[[int], Reply]]) -> None:
        self.replies = replies
        self.asked: list[Asked] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                began = time.monotonic()
                before = sum(one.path == self.path for one in server.asked)
                asked = Asked(self.path, began, began, self.headers.get("user-agent", ""))
                server.asked.append(asked)
                reply = server.replies.get(self.path, Reply(404))
                reply = reply(before) if callable(reply) else reply
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body) + (100 if reply.broken else 0)))
                self.end_headers()
                self.wfile.write(reply.body)
                asked.ended = time.monotonic()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.block_on_close = False
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def html(body: str, head: str = "", lang: str = "en") -> Reply:
    page = f'<html lang="{lang}"><head><title>T</title>{head}</head><body>{body}</body></html>'
    return Reply(200, page.encode(), {"content-type": HTML})


def links(*targets: str) -> str:
    return "".join(f'<a href="{target}">x</a>' for target in targets)
