"""What a page says: its text without furniture, language, licence, links, captioned pictures, its wishes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_SKIPPED = {
    "script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form", "svg", "iframe",
    "button", "select", "menu", "dialog",
}  # fmt: skip
_BLOCKS = {
    "p", "div", "section", "article", "main", "li", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "pre",
    "blockquote", "table", "tr", "td", "th", "dl", "dt", "dd", "figure", "figcaption", "br", "hr", "body",
}  # fmt: skip
_META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w\-]+)", re.IGNORECASE)


@dataclass
class Document:
    """A parsed page. ``images`` are (address, caption); ``robots`` the words of its robots meta tags."""

    title: str = ""
    language: str = ""
    licence: str = ""
    text: str = ""
    base: str = ""
    links: list[str] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)
    robots: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.document = Document()
        self._skipping: list[str] = []
        self._parts: list[str] = []
        self._title = False
        self._figure: list[str] | None = None
        self._caption: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in _SKIPPED:
            self._skipping.append(tag)
        if tag == "html":
            self.document.language = values.get("lang", "").split("-")[0].lower()
        elif tag == "title":
            self._title = True
        elif tag == "base" and not self.document.base:
            self.document.base = values.get("href", "")
        elif tag == "meta" and values.get("name", "").lower() in {"robots", "soeightt"}:
            self.document.robots |= {word.strip().lower() for word in values.get("content", "").split(",")}
        elif tag in {"a", "link"}:
            self._link(tag, values)
        elif tag == "figure":
            self._figure = []
        elif tag == "figcaption":
            self._caption = []
        elif tag == "img" and values.get("src"):
            self.document.images.append((values["src"], values.get("alt", "").strip()))
            if self._figure is not None:
                self._figure.append(values["src"])
        if tag in _BLOCKS:
            self._parts.append("\n")

    def _link(self, tag: str, values: dict[str, str]) -> None:
        relations = values.get("rel", "").lower().split()
        target = values.get("href", "")
        if "license" in relations and not self.document.licence:
            self.document.licence = target
        elif tag == "a" and target and "nofollow" not in relations:
            self.document.links.append(target)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipping:
            while self._skipping and self._skipping.pop() != tag:
                pass
        if tag == "title":
            self._title = False
        elif tag == "figcaption" and self._caption is not None:
            caption = " ".join("".join(self._caption).split())
            if caption and self._figure:
                shown = set(self._figure)
                kept = [(src, caption if src in shown else alt) for src, alt in self.document.images]
                self.document.images = kept
            self._caption = None
        elif tag == "figure":
            self._figure = None
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._title:
            self.document.title += data
            return
        if self._caption is not None:
            self._caption.append(data)
        elif not self._skipping:
            self._parts.append(data)

    def finish(self) -> Document:
        lines = [" ".join(line.split()) for line in "".join(self._parts).split("\n")]
        self.document.text = "\n".join(line for line in lines if line)
        self.document.title = " ".join(self.document.title.split())
        return self.document


def decode_page(body: bytes, content_type: str) -> str:
    """The page's text: the charset it names (header first), or UTF-8, or the Japanese ones; never fails."""
    found = re.search(r"charset\s*=\s*[\"']?([\w\-]+)", content_type, re.IGNORECASE)
    named = _META_CHARSET.search(body[:4096])
    names = [found.group(1) if found else "", named.group(1).decode("ascii") if named else ""]
    for name in [*names, "utf-8", "cp932", "euc-jp"]:
        if name:
            try:
                return body.decode("cp932" if name.lower() in {"shift_jis", "x-sjis", "sjis"} else name)
            except (UnicodeDecodeError, LookupError):
                continue
    return body.decode("utf-8", errors="replace")


def read_page(text: str) -> Document:
    """The document in ``text``, however broken its HTML is."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.finish()
