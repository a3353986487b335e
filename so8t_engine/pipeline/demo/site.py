"""A small web site on this machine, made on the spot: pages in English and Japanese, pictures, robots.txt.

It stands for the web in the demonstration and in tests; what it serves is generated, not collected from
anybody, and is under CC0.
"""

from __future__ import annotations

import io
import random
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

NAME = "demo-site:"
PICTURES = 160
COLOURS = {
    "red": ("赤い", (200, 40, 40)), "green": ("緑の", (40, 160, 60)), "blue": ("青い", (50, 80, 200)),
    "yellow": ("黄色い", (230, 200, 40)), "black": ("黒い", (30, 30, 30)), "white": ("白い", (240, 240, 240)),
}  # fmt: skip
SHAPES = {"circle": "円", "square": "四角形", "triangle": "三角形", "cross": "十字"}
PLACES = {"left": "左", "middle": "中央", "right": "右"}
ROBOTS = "User-agent: *\nDisallow: /private/\nAllow: /private/open.html\nCrawl-delay: 0\n"
_LICENCE = '<link rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">'


def picture_of(number: int) -> tuple[bytes, str, str]:
    """PNG, English and Japanese caption of a picture; the same for the same number."""
    from PIL import Image, ImageDraw

    rng = random.Random(number)
    combinations = [(c, s, p) for c in COLOURS for s in SHAPES for p in PLACES]
    colour, shape, place = combinations[number % len(combinations)]
    ground = rng.choice([name for name in COLOURS if name != colour])
    image = Image.new("RGB", (48, 48), COLOURS[ground][1])
    draw = ImageDraw.Draw(image)
    x = {"left": 14, "middle": 24, "right": 34}[place] + rng.randint(-2, 2)
    y, r, fill = 24 + rng.randint(-4, 4), rng.randint(7, 10), COLOURS[colour][1]
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill)
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill)
    else:
        draw.rectangle((x - r, y - 3, x + r, y + 3), fill)
        draw.rectangle((x - 3, y - r, x + 3, y + r), fill)
    held = io.BytesIO()
    image.save(held, "PNG")
    english = f"A {colour} {shape} at the {place} on a {ground} background."
    japanese = f"{COLOURS[ground][0]}背景の{PLACES[place]}に{COLOURS[colour][0]}{SHAPES[shape]}がある。"
    return held.getvalue(), english, japanese


def _html(language: str, title: str, body: str, head: str = "") -> bytes:
    page = f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>'
    return f"{page}{_LICENCE}{head}</head><body>{body}</body></html>".encode()


@cache
def pages() -> dict[str, tuple[str, bytes]]:
    """Path → content type and body."""
    found: dict[str, tuple[str, bytes]] = {"/robots.txt": ("text/plain; charset=utf-8", ROBOTS.encode())}
    html = "text/html; charset=utf-8"
    names = []
    for start in range(0, PICTURES, 20):
        figures = []
        japanese = (start // 20) % 2 == 1
        for number in range(start, start + 20):
            data, english, in_japanese = picture_of(number)
            found[f"/pictures/{number}.png"] = ("image/png", data)
            caption = in_japanese if japanese else english
            figures.append(
                f'<figure><img src="/pictures/{number}.png"><figcaption>{caption}</figcaption></figure>'
            )
        name = f"/gallery/{start // 20}.html"
        names.append(name)
        found[name] = (html, _html("ja" if japanese else "en", f"Gallery {start // 20}", "".join(figures)))
    for number, (english, japanese_text) in enumerate(_TEXTS):
        for language, text in (("en", english), ("ja", japanese_text)):
            name = f"/{language}/{number}.html"
            names.append(name)
            found[name] = (
                html,
                _html(language, f"Note {number}", f"<nav>Menu</nav><main><p>{text}</p></main>"),
            )
    names += ["/private/closed.html", "/private/open.html", "/noindex.html", "/missing.html"]
    found["/private/closed.html"] = (html, _html("en", "Closed", "<p>Nobody may fetch this page.</p>"))
    found["/private/open.html"] = (html, _html("en", "Open", f"<p>{_OPEN}</p>"))
    noindex = '<meta name="robots" content="noindex">'
    found["/noindex.html"] = (html, _html("en", "Not kept", "<p>This page asks not to be kept.</p>", noindex))
    links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in names)
    found["/"] = (html, _html("en", "Demonstration", f"<p>{_OPEN}</p><ul>{links}</ul>"))
    return found


_OPEN = (
    "This small site was made by the program itself to show how collection works. "
    "It has pages in two languages, pictures with captions, and a robots.txt that closes one folder."
)
_TEXTS = [
    (
        "A rotation gate changes a hidden state without changing its length. Two gates that are applied one "
        "after the other give a result that depends on their order, because rotations do not commute.",
        "回転ゲートは隠れ状態の長さを変えずに向きだけを変えます。二つのゲートを続けて適用した結果は順序によって変わります。"
        "回転は一般に交換できないからです。",
    ),
    (
        "A checkpoint is written beside its place, synced to the disk and renamed. A reader finds either the "
        "old checkpoint or the new one, and never half of it.",
        "チェックポイントは別の場所に書き込み、ディスクに同期してから名前を変えます。"
        "読む側には古いものか新しいもののどちらかが見え、半分だけのものは決して見えません。",
    ),
    (
        "Before rows are used they are normalised, checked for their language and stripped of personal data. "
        "Write to desk@example.org or call 03-1234-5678 if something is wrong.",
        "行は使う前に正規化し、言語を調べ、個人情報を取り除きます。誤りがあれば desk@example.org または "
        "〒100-0001 の窓口、電話 03-1234-5678 までお知らせください。",
    ),
    (
        "An estimate that is called an estimate is honest. A figure that was measured says on which machine, "
        "on which day and with which command it was measured.",
        "推定値を推定値と呼ぶのは正直なことです。測定した数値には、どの機械で、いつ、どのコマンドで測ったかを添えます。",
    ),
]


class DemoSite:
    """The site on a free port of this machine, while the context lasts.

    Attributes:
        requested: every path that was asked for, in order.
    """

    def __init__(self) -> None:
        site = self
        self.requested: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                site.requested.append(path)
                kind, body = pages().get(path, ("text/plain", b""))
                self.send_response(200 if body else 404)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the caller reports what it fetched."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.start = f"{self.base}/"

    def rename(self, url: str) -> str:
        """The address without the port, which is another each time."""
        return url.replace(self.base, NAME.rstrip(":") + ":") if url.startswith(self.base) else url

    def __enter__(self) -> DemoSite:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
