"""Assemble the corpus: ``python corpus.py CACHE`` writes ``CACHE/corpus/{train,held_out}.jsonl``.

Every document is cleaned to running prose or to a conversation in Phi-3's template, paragraphs are
deduplicated over the whole corpus, and 2 % of the documents, chosen by a hash of their identifier, are
held out.  The order depends on hashes alone, so the same packages give the same corpus byte for byte.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from dictionaries import TURN_READERS, Turn, command_turn, section_turn
from fetch import fetch
from readers import (
    FILE_READERS,
    Block,
    bible_documents,
    catalogue_blocks,
    jar_documents,
    read_text,
)
from sources import LICENCES, SOURCES, Source

HELD_OUT_PER_MILLE = 20
DOCUMENT_CHARACTERS = 24_000
CHAT_BYTES = {"en": 6_000_000, "ja": 5_000_000}

_KANA = re.compile(r"[\u3041-\u30ff]")
_JAPANESE = re.compile(r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]")
_LATIN = re.compile(r"[A-Za-z ,.;:'’“”\"-]")
_NUMBERING = re.compile(r"^(?:第?\s*[\dA-Z]+(?:\.\d+)*[.章節]?|\d+\))\s+")


@dataclass(frozen=True)
class Document:
    """A document of the corpus; ``kind`` is "prose" or "chat", ``language`` "en" or "ja"."""

    package: str
    name: str
    language: str
    kind: str
    text: str


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def prose_language(text: str) -> str:
    """ "ja" or "en" when the paragraph reads as prose of that language, else the empty string."""
    if ">>" in text:  # navigation trails of help pages
        return ""
    size = len(text)
    kana = len(_KANA.findall(text))
    if kana >= 8 and kana / size >= 0.15 and len(_JAPANESE.findall(text)) / size >= 0.55:
        return "ja"
    words = text.split()
    if len(words) >= 8 and kana == 0 and text.isascii() | (len(_LATIN.findall(text)) / size >= 0.93):
        mean_length = sum(map(len, words)) / len(words)
        if len(_LATIN.findall(text)) / size >= 0.9 and 3 <= mean_length <= 9:
            return "en"
    return ""


def conversation(turns: list[Turn]) -> str:
    """Turns in Phi-3's chat template."""
    return "".join(f"<|user|>\n{t.question}<|end|>\n<|assistant|>\n{t.answer}<|end|>\n" for t in turns)


def _files(source: Source, root: Path) -> Iterator[tuple[str, str, list[Block]]]:
    """``(reader, name, blocks)`` of every document of a package; dictionaries are read elsewhere."""
    base = root / source.package
    for rule in source.rules:
        for path in sorted(base.glob(rule.pattern)):
            name = str(path.relative_to(base))
            if (
                not path.is_file()
                or path.is_symlink()
                or re.search(r"changelog|copyright|\.el$|NEWS", name, re.I)
            ):
                continue
            if rule.reader == "jar":
                yield from (("html", f"{name}/{inner}", blocks) for inner, blocks in jar_documents(path))
            elif rule.reader == "bible":
                yield from (("bible", chapter, blocks) for chapter, blocks in bible_documents(path))
            elif rule.reader.startswith("catalogue"):
                yield "catalogue", name, list(catalogue_blocks(path, originals=False))
                if rule.reader == "catalogue_both":
                    yield "catalogue", name + "#en", list(catalogue_blocks(path, originals=True))
            elif rule.reader in FILE_READERS:
                yield rule.reader, name, FILE_READERS[rule.reader](read_text(path))


class Assembler:
    """Collects documents, remembering every paragraph that was already taken."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.turns: list[tuple[str, Turn]] = []
        self._seen: set[int] = set()

    def _new(self, text: str) -> bool:
        key = _hash(re.sub(r"\d+", "0", re.sub(r"\W+", "", text.lower())))
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _emit(self, package: str, name: str, paragraphs: dict[str, list[str]]) -> None:
        for language, kept in paragraphs.items():
            part, size, index = list[str](), 0, 0
            for paragraph in [*kept, None]:
                if paragraph is not None:
                    part.append(paragraph)
                    size += len(paragraph)
                if part and (paragraph is None or size >= DOCUMENT_CHARACTERS):
                    full = f"{package}/{name}#{index}"
                    self.documents.append(Document(package, full, language, "prose", "\n\n".join(part)))
                    part, size, index = [], 0, index + 1

    def add_blocks(self, package: str, reader: str, name: str, blocks: list[Block]) -> None:
        """Take a document's prose; some sections, and manual pages' NAME lines, become conversations."""
        paragraphs: dict[str, list[str]] = defaultdict(list)
        heading = ""
        for role, text in blocks:
            if reader == "man" and heading.upper() in ("NAME", "名前", "名称"):
                turn = command_turn("ja" if _KANA.search(text) else "en", text) if len(text) < 200 else None
                if turn is not None and self._new(text):
                    self.turns.append((package, turn))
                heading = ""
            elif role == "heading":
                heading = _NUMBERING.sub("", text)
            else:
                language = prose_language(text)
                if not language or not self._new(text):
                    continue
                same = bool(_KANA.search(heading) or _JAPANESE.search(heading)) == (language == "ja")
                if reader != "man" and 3 <= len(heading) <= 60 and same:
                    if _hash(text) % 4 == 0 and len(text) < 1200:
                        self.turns.append((package, section_turn(language, heading, text)))
                        heading = ""
                        continue
                    paragraphs[language].append(heading)
                heading = ""
                paragraphs[language].append(text)
        self._emit(package, name, paragraphs)

    def add_conversations(self) -> None:
        """Turns, shuffled by hash and cut to ``CHAT_BYTES``, as conversations of one to three turns."""
        sizes: dict[str, int] = defaultdict(int)
        groups: dict[tuple[str, str], list[Turn]] = defaultdict(list)
        order = sorted(self.turns, key=lambda row: _hash(row[1].question + row[1].answer))
        for package, turn in order:
            if sizes[turn.language] >= CHAT_BYTES[turn.language] or not self._new(
                "?" + turn.question + turn.answer
            ):
                continue
            sizes[turn.language] += len((turn.question + turn.answer).encode())
            group = groups[package, turn.language]
            group.append(turn)
            if len(group) >= 1 + _hash(turn.question) % 3:
                self._emit_group(package, turn.language, group)
        for (package, language), group in groups.items():
            if group:
                self._emit_group(package, language, group)

    def _emit_group(self, package: str, language: str, group: list[Turn]) -> None:
        text = conversation(group)
        self.documents.append(Document(package, f"{package}/chat/{_hash(text):016x}", language, "chat", text))
        group.clear()


def assemble(root: Path) -> list[Document]:
    """All documents of the corpus in their final order."""
    assembler = Assembler()
    for source in SOURCES:
        readers = {rule.reader for rule in source.rules}
        for reader in sorted(readers & set(TURN_READERS)):
            for rule in source.rules:
                for path in sorted((root / source.package).glob(rule.pattern)):
                    turns = TURN_READERS[reader](read_text(path))
                    assembler.turns.extend((source.package, turn) for turn in turns)
        start = len(assembler.documents)
        for reader, name, blocks in _files(source, root):
            assembler.add_blocks(source.package, reader, name, blocks)
        taken = sorted(assembler.documents[start:], key=lambda d: _hash(d.name))
        kept, size = [], 0
        for document in taken:
            size += len(document.text.encode())
            if size > source.limit:
                break
            kept.append(document)
        assembler.documents[start:] = kept
    assembler.add_conversations()
    return sorted(assembler.documents, key=lambda d: _hash(d.name))


def held_out(document: Document) -> bool:
    """Whether the document belongs to the held-out 2 %."""
    return _hash("held-out " + document.name) % 1000 < HELD_OUT_PER_MILLE


def licence(root: Path, package: str) -> str:
    """The package's licences: as read by a person, else the names in its machine-readable copyright file."""
    if package in LICENCES:
        return LICENCES[package]
    path = root / package / "usr/share/doc" / package / "copyright"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    names = re.findall(r"^License: *(\S[^\n]*)", text, re.M)
    return ", ".join(dict.fromkeys(" ".join(name.split()) for name in names)) or "see its copyright file"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    arguments = parser.parse_args()
    cache: Path = arguments.cache
    versions = fetch(cache)
    documents = assemble(cache / "root")
    target = cache / "corpus"
    target.mkdir(exist_ok=True)
    table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    with (target / "train.jsonl").open("w") as train, (target / "held_out.jsonl").open("w") as held:
        for document in documents:
            out = held_out(document)
            (held if out else train).write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
            split = "held_out" if out else "train"
            table[document.package][f"{split}_{document.language}_{document.kind}"] += len(
                document.text.encode()
            )
    rows = [
        {"package": package, "version": versions[package][0], "sha256": versions[package][1],
         "licence": licence(cache / "root", package), "bytes": dict(sizes)}
        for package, sizes in sorted(table.items())
    ]  # fmt: skip
    (target / "corpus.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
