"""Readers of documents: each yields ``(role, text)`` blocks, role "heading" or "text"."""

from __future__ import annotations

import gettext
import gzip
import io
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

Block = tuple[str, str]

_WIDE = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"
_WIDE_GAP = re.compile(rf"(?<={_WIDE})\s+(?={_WIDE})")


def join_lines(text: str) -> str:
    """One paragraph on one line; no space is left where a line ended between Japanese characters."""
    return re.sub(r"\s+", " ", _WIDE_GAP.sub("", text)).strip()


def read_text(path: Path) -> str:
    """The file's text, gunzipped where needed; UTF-8, else EUC-JP, else Latin-1."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    for encoding in ("utf-8", "iso2022_jp" if b"\x1b$" in data else "euc_jp"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


class _Blocks(HTMLParser):
    """Collects block-level text of HTML, DocBook and Mallard; skips code, scripts and navigation."""

    SKIP = frozenset(
        (
            "script",
            "style",
            "pre",
            "nav",
            "head",
            "code-block",
            "programlisting",
            "screen",
            "synopsis",
            "info",
            "table",
            "footer",
            "form",
            "button",
        )
    )
    HEAD = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "title"))
    BLOCK = frozenset(
        (
            "p",
            "li",
            "dd",
            "dt",
            "td",
            "div",
            "para",
            "item",
            "section",
            "tr",
            "ul",
            "ol",
            "dl",
            "note",
            "listitem",
            "simpara",
            "term",
            "br",
            "body",
            "page",
        )
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._parts: list[str] = []
        self._skipping: list[str] = []
        self._role = "text"

    def _flush(self) -> None:
        text = join_lines("".join(self._parts))
        if text:
            self.blocks.append((self._role, text))
        self._parts = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.append(tag)
            return
        if tag in self.SKIP:
            self._flush()
            self._skipping.append(tag)
        elif tag in self.HEAD or tag in self.BLOCK:
            self._flush()
            self._role = "heading" if tag in self.HEAD else "text"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._skipping and tag in self.BLOCK:
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.pop()
            return
        if tag in self.HEAD or tag in self.BLOCK:
            self._flush()
            self._role = "text"

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self._parts.append(data)

    def finish(self) -> list[Block]:
        self._flush()
        return self.blocks


def markup_blocks(text: str) -> list[Block]:
    """Blocks of an HTML, DocBook or Mallard document."""
    parser = _Blocks()
    parser.feed(text)
    parser.close()
    return parser.finish()


_ROFF_NAMED = {
    "aq": "'",
    "bu": "",
    "lq": '"',
    "rq": '"',
    "oq": "'",
    "cq": "'",
    "dq": '"',
    "em": "-",
    "en": "-",
    "ha": "^",
    "ti": "~",
    "co": "(C)",
    "rs": "\\",
    "mu": "x",
    "->": "->",
    "<=": "<=",
    ">=": ">=",
    "+-": "+-",
    "ga": "`",
}
_ROFF_BREAK = frozenset(
    ("PP", "P", "LP", "TP", "IP", "HP", "sp", "br", "Pp", "It", "TQ", "RS", "RE", "Bl", "El")
)
_ROFF_FONT = frozenset(
    (
        "B",
        "I",
        "R",
        "SM",
        "SB",
        "Nm",
        "Fl",
        "Ar",
        "Cm",
        "Pa",
        "Xr",
        "Dq",
        "Sq",
        "Nd",
        "Em",
        "Dv",
        "Va",
        "Fn",
        "Ev",
        "Er",
        "Li",
        "Ql",
        "Op",
        "Sy",
        "Ns",
        "Pq",
        "Fa",
        "Ft",
        "Vt",
        "UR",
        "MR",
    )
)
_ROFF_ALTERNATE = frozenset(("BR", "RB", "IR", "RI", "BI", "IB"))
_ROFF_SKIP = {"nf": "fi", "EX": "EE", "TS": "TE", "Bd": "Ed", "de": ".", "ig": ".", "EQ": "EN", "PS": "PE"}


def _roff_escapes(text: str) -> str:
    text = re.sub(r'\\".*', "", text)
    text = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", text)
    text = re.sub(r"\\s[-+]?\d+|\\[mM]\[[^\]]*\]|\\[hvwk]'[^']*'", "", text)
    text = re.sub(r"\\\*?\((..)", lambda m: _ROFF_NAMED.get(m.group(1), ""), text)
    text = re.sub(r"\\\*?\[([^\]]*)\]", lambda m: _ROFF_NAMED.get(m.group(1), ""), text)
    text = (
        text.replace("\\-", "-")
        .replace("\\e", "\\")
        .replace("\\ ", " ")
        .replace("\\~", " ")
        .replace("\\0", " ")
    )
    return re.sub(r"\\[&|^/,:%c]|\\\*.|\\$", "", text)


def _roff_arguments(rest: str) -> list[str]:
    return [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', rest)]


def man_blocks(text: str) -> list[Block]:
    """Blocks of a man or mdoc page: running text only, without examples, tables and synopses."""
    blocks: list[Block] = []
    parts: list[str] = []
    until = ""

    def flush() -> None:
        joined = join_lines("\n".join(parts))
        parts.clear()
        if joined:
            blocks.append(("text", joined))

    for line in text.splitlines():
        macro = re.match(r"[.'][ \t]*([A-Za-z.]+|\\\")?(.*)", line)
        name = (macro.group(1) or "") if macro else ""
        if until:
            if name == until:
                until = ""
            continue
        if macro is None:
            if line.strip():
                parts.append(_roff_escapes(line))
            else:
                flush()
            continue
        rest = _roff_escapes(macro.group(2))
        if name in _ROFF_SKIP:
            flush()
            until = _ROFF_SKIP[name]
        elif name in ("SH", "SS", "Sh", "Ss"):
            flush()
            heading = " ".join(_roff_arguments(rest))
            if heading:
                blocks.append(("heading", heading))
        elif name in _ROFF_BREAK:
            flush()
        elif name in _ROFF_ALTERNATE:
            parts.append("".join(_roff_arguments(rest)))
        elif name in _ROFF_FONT:
            parts.append(" ".join(_roff_arguments(rest)))
    flush()
    return blocks


def plain_blocks(text: str) -> list[Block]:
    """Blocks of plain text, reStructuredText or POD: paragraphs between blank lines."""
    blocks: list[Block] = []
    text = text.replace("\f", "\n\n").replace("\n%\n", "\n\n")
    for chunk in re.split(r"\n[ \t]*\n", text):
        lines = [line for line in chunk.splitlines() if line.strip()]
        while lines and re.fullmatch(r"[-=~^*#+\"'`.:_ ]{3,}", lines[-1].strip()):
            lines.pop()
        if not lines or lines[0].lstrip().startswith((".. ", "$ ", "# ", "::", "|", "+-", "<", "/*")):
            continue
        blocks.append(
            ("heading" if len(lines) == 1 and len(lines[0]) < 60 else "text", join_lines("\n".join(lines)))
        )
    return blocks


def pod_blocks(text: str) -> list[Block]:
    """Blocks of a POD document: ordinary paragraphs, formatting codes removed, verbatim ones dropped."""
    blocks: list[Block] = []
    for chunk in re.split(r"\n[ \t]*\n", text):
        if not chunk.strip() or chunk[0] in " \t":
            continue
        role = "text"
        if chunk.startswith("="):
            heading = re.match(r"=(?:head\d|item)\s+(.*)", chunk, re.DOTALL)
            if heading is None:
                continue
            role, chunk = "heading", heading.group(1)
        for _ in range(3):
            chunk = re.sub(r"[IBCFSX]<+\s?([^<>]*?)\s?>+", r"\1", chunk)
            chunk = re.sub(r"L<+(?:([^<>|]*)\|)?([^<>]*)>+", lambda m: m.group(1) or m.group(2), chunk)
        chunk = re.sub(r"E<(lt|gt|\w+)>", lambda m: {"lt": "<", "gt": ">"}.get(m.group(1), ""), chunk)
        blocks.append((role, join_lines(chunk)))
    return blocks


def catalogue_blocks(path: Path, originals: bool) -> Iterator[Block]:
    """Messages of a compiled gettext catalogue, translations or (``originals``) the English texts."""
    with path.open("rb") as stream:
        catalogue = gettext.GNUTranslations(stream)
    messages: dict[object, str] = catalogue._catalog  # type: ignore[attr-defined]
    for key, value in messages.items():
        text = str(key[0] if isinstance(key, tuple) else key) if originals else value
        text = text.rsplit("\x04", 1)[-1].split("^", 1)[-1] if originals else text
        text = re.sub(r"<[^<>]+>", "", text)
        for paragraph in re.split(r"\n\s*\n", text):
            yield "text", join_lines(paragraph)


def jar_documents(path: Path) -> Iterator[tuple[str, list[Block]]]:
    """HTML documents inside a JavaHelp archive."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".html"):
                text = io.TextIOWrapper(archive.open(name), encoding="utf-8", errors="ignore").read()
                yield name, markup_blocks(text)


def bible_documents(path: Path) -> Iterator[tuple[str, list[Block]]]:
    """Chapters of the King James Bible, printed by the package's own program (its file is compressed)."""
    program = next((path.parents[3] / "bible-kjv").rglob("usr/bin/bible"))
    result = subprocess.run(
        [str(program), "-l9999", "-p", str(path.parent), "Gen1:1-Rev22:21"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    chapters: dict[str, list[str]] = {}
    chapter = ""
    for line in result.stdout.splitlines():
        verse = re.match(r"\s*\d+ (.*)", line)
        if verse and line.startswith(" "):
            chapters.setdefault(chapter, []).append(verse.group(1))
        elif line.strip():
            chapter = line.strip()
    for name, verses in chapters.items():
        yield name, [("text", " ".join(verses[i : i + 6])) for i in range(0, len(verses), 6)]


FILE_READERS: dict[str, Callable[[str], list[Block]]] = {
    "html": markup_blocks,
    "man": man_blocks,
    "plain": plain_blocks,
    "pod": pod_blocks,
}
