"""Dictionary entries as questions and answers; the answers are the dictionaries' own words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from readers import join_lines


@dataclass(frozen=True)
class Turn:
    """One question with its answer; ``language`` is that of the question."""

    language: str
    question: str
    answer: str


# Entries that dictionaries mark as vulgar or disparaging are left out.
_UNWANTED = re.compile(
    r"vulgar|obscene|offensive|ethnic slur|disparag|derog|sexual|\(X\)|\(vulg\)|\(sl\)|intercourse|genital"
    r"|\b(?:sex|penis|vagina|fuck\w*|shit\w*|porn\w*|rape|mating)\b",
    re.IGNORECASE,
)

_WHAT_EN = (
    "What does \u201c{0}\u201d mean?", "What is the meaning of {0}?", "Define {0}.", "Explain the word {0}.",
    "What is {0}?", "Can you tell me what {0} means?", "Give a short definition of \u201c{0}\u201d.",
    "Please define the word \u201c{0}\u201d.",
)  # fmt: skip
_WHAT_JA = (
    "「{0}」とは何ですか。", "{0}とは何ですか？", "「{0}」の意味を教えてください。",
    "「{0}」を英語で説明してください。",
    "「{0}」は英語で何と言いますか。", "{0}の意味は？",
)  # fmt: skip
_SAY_JA = (
    "「{0}」は日本語で何と言いますか。",
    "{0}を日本語にしてください。",
    "英語の「{0}」はどういう意味ですか。",
)
_SAY_EN = ("How do you say \u201c{0}\u201d in Japanese?", "Translate \u201c{0}\u201d into Japanese.",
           "What is {0} in Japanese?")  # fmt: skip
_COMMAND_EN = (
    "What is {0}?",
    "What does {0} do?",
    "Describe {0} in one line.",
    "What is the purpose of {0}?",
)
_COMMAND_JA = (
    "{0}とは何ですか。",
    "{0}は何をしますか。",
    "{0}を一行で説明してください。",
    "{0}の目的は何ですか。",
)
_ABOUT_EN = ("Tell me about \u201c{0}\u201d.", "Explain: {0}", "What should I know about \u201c{0}\u201d?")
_ABOUT_JA = (
    "「{0}」について教えてください。",
    "{0}について説明してください。",
    "「{0}」とはどういうことですか。",
)


def choose(options: tuple[str, ...], key: str) -> str:
    """A variant of ``options`` that depends on ``key`` alone, so that the corpus is the same every time."""
    return options[int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % len(options)]


def _what(language: str, word: str, answer: str) -> Turn:
    return Turn(
        language, choose(_WHAT_EN if language == "en" else _WHAT_JA, word + answer).format(word), answer
    )


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """``(headword line, indented body)`` of a dictd file whose bodies are indented."""
    head, body = "", list[str]()
    for line in text.splitlines():
        if line and not line[0].isspace():
            if head and body:
                yield head, "\n".join(body)
            head, body = line.strip(), []
        else:
            body.append(line)
    if head and body:
        yield head, "\n".join(body)


def wordnet_turns(text: str) -> Iterator[Turn]:
    """WordNet: the first sense of each part of speech, with its example."""
    names = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}
    for word, body in _entries(text):
        if word.startswith("00-database") or _UNWANTED.search(body):
            continue
        flat = re.sub(r"\s+", " ", body)
        senses = re.findall(
            r"(?:^| )(n|v|adj|adv) (?:1)?: ?(.*?)(?= (?:n|v|adj|adv) (?:1)?: | \d+: |$)", flat
        )
        answers = []
        for part, sense in senses[:2]:
            gloss = (
                re.sub(r"\[(?:syn|ant|also):.*?\]", "", sense).replace("{", "").replace("}", "").strip(" ;")
            )
            if 8 <= len(gloss) <= 300:
                answers.append(
                    f"({names[part]}) {gloss[0].upper()}{gloss[1:]}" + ("" if gloss[-1] in '."' else ".")
                )
        if answers:
            yield _what("en", word, "\n".join(answers))


def gcide_turns(text: str) -> Iterator[Turn]:
    """GCIDE: the first definition of each entry, without pronunciation, etymology and references."""
    for head, body in _entries(text):
        word = re.match(r"([A-Za-z][A-Za-z' -]{2,30}) \\", head)
        if word is None or _UNWANTED.search(body):
            continue
        flat = re.sub(r"\[[^\]]*\]|\{|\}|\([A-Z][a-z]+\.?\)", "", body.split("\n\n")[0])
        flat = join_lines(re.sub(r"^\s*(?:1\.)\s*", "", flat)).split(" 2. ")[0].split(" Syn: ")[0].strip()
        if 20 <= len(flat) <= 400 and flat[0].isupper() and "?" not in flat:
            yield _what("en", word.group(1), flat)


def foldoc_turns(text: str) -> Iterator[Turn]:
    """FOLDOC: the first two paragraphs of each article."""
    for word, body in _entries(text):
        paragraphs = [join_lines(p) for p in re.split(r"\n\s*\n", body)]
        kept = [
            re.sub(r"[{}]", "", re.sub(r"^<[^>]*>\s*", "", p))
            for p in paragraphs
            if len(p) > 40 and "://" not in p
        ]
        if kept and not word.startswith("00-") and not _UNWANTED.search(body):
            yield _what("en", word, "\n\n".join(kept[:2])[:1200])


def jargon_turns(text: str) -> Iterator[Turn]:
    """The Jargon File: the first paragraph of each entry."""
    for word, body in _entries(text):
        paragraphs = [join_lines(p) for p in re.split(r"\n\s*\n", body)]
        kept = [p for p in paragraphs if len(p) > 60]
        if kept and not _UNWANTED.search(body):
            yield _what("en", word, kept[0][:900])


def vera_turns(text: str) -> Iterator[Turn]:
    """V.E.R.A.: what an acronym stands for."""
    for word, body in _entries(text):
        meaning = join_lines(body)
        if re.fullmatch(r"[A-Z0-9]{2,8}", word) and 8 < len(meaning) < 120:
            yield Turn(
                "en",
                choose(("What does {0} stand for?", "Expand the acronym {0}."), meaning).format(word),
                meaning,
            )


def edict_turns(text: str) -> Iterator[Turn]:
    """EDICT: common words with their reading and English glosses."""
    for line in text.splitlines():
        row = re.match(r"(\S+) (?:\[(\S+)\] )?/(.*)/$", line)
        if row is None or _UNWANTED.search(line):
            continue
        word, reading, rest = row.group(1), row.group(2) or "", row.group(3)
        common = "(P)" in rest
        kept = common or choose(("1", "0", "0", "0", "0", "0"), line) == "1"
        glosses = [re.sub(r"\([^)]*\)\s*", "", g).strip() for g in rest.split("/")]
        glosses = [g for g in glosses if g and not g.startswith("Ent")][:3]
        if not kept or not glosses or not re.match(r"[\u3040-\u30ff\u4e00-\u9fff]", word):
            continue
        meaning, spoken = ", ".join(glosses), f"（{reading}）" if reading else ""
        form = choose(("what", "what", "say", "english"), word)
        if form == "what":
            quoted = "、".join(f"\u201c{g}\u201d" for g in glosses)
            yield _what("ja", word, f"「{word}」{spoken}は、英語で{quoted}という意味です。")
        elif form == "say":
            yield Turn("ja", choose(_SAY_JA, word).format(glosses[0]), f"「{word}」{spoken}です。")
        else:
            yield Turn("en", choose(_WHAT_EN, word).format(word), f"{word}{spoken} means {meaning}.")


def kanjidic_turns(text: str) -> Iterator[Turn]:
    """KANJIDIC: readings and meanings of characters with a school grade or a frequency."""
    for line in text.splitlines():
        fields = line.split(" T1")[0]
        if not re.search(r" [GF]\d+ ", fields):
            continue
        on = re.findall(r" ([\u30a1-\u30ff]+)(?= )", fields + " ")[:3]
        kun = [
            k.replace(".", "").strip("-")
            for k in re.findall(r" (-?[\u3041-\u309f][\u3041-\u309f.-]*)(?= )", fields + " ")
        ]
        meanings = re.findall(r"\{([^}]*)\}", line)[:3]
        if not meanings or not (on or kun):
            continue
        parts = ["音読みは" + "".join(f"「{k}」" for k in on)] if on else []
        parts += ["訓読みは" + "".join(f"「{k}」" for k in kun[:3])] if kun else []
        question = choose(
            (
                "漢字「{0}」の読み方を教えてください。",
                "「{0}」は何と読みますか。",
                "漢字「{0}」の意味は何ですか。",
            ),
            line,
        )
        yield Turn(
            "ja",
            question.format(line[0]),
            f"「{line[0]}」の{'、'.join(parts)}です。英語での意味は{', '.join(meanings)}です。",
        )


def freedict_turns(text: str) -> Iterator[Turn]:
    """FreeDict English-Japanese: translations."""
    lines = text.splitlines()
    for head, body in pairwise(lines):
        row = re.match(r"([A-Za-z][A-Za-z' -]{1,40}) /", head)
        if (
            row is None
            or not re.match(r"[\u3040-\u30ff\u4e00-\u9fff]", body)
            or _UNWANTED.search(head + body)
        ):
            continue
        words = [w.strip() for w in body.split(",")][:3]
        japanese = choose(("ja", "ja", "en"), head) == "ja"
        options, answer = (
            (_SAY_JA, "「" + "」「".join(words) + "」です。") if japanese else (_SAY_EN, ", ".join(words))
        )
        yield Turn("ja" if japanese else "en", choose(options, body).format(row.group(1)), answer)


def command_turn(language: str, line: str) -> Turn | None:
    """A manual page's NAME line ("ls - list directory contents") as question and answer."""
    row = re.match(r"(\S[^-]{0,40}?) +-+ +(.+)$", line)
    if row is None or len(row.group(2)) < 6:
        return None
    names, description = row.group(1), row.group(2).rstrip(".。")
    if language == "ja":
        return Turn("ja", choose(_COMMAND_JA, line).format(names), f"{names} - {description}。")
    return Turn("en", choose(_COMMAND_EN, line).format(names), f"{names} - {description}.")


def section_turn(language: str, heading: str, paragraph: str) -> Turn:
    """A section's heading and first paragraph as question and answer."""
    return Turn(
        language, choose(_ABOUT_EN if language == "en" else _ABOUT_JA, paragraph).format(heading), paragraph
    )


TURN_READERS: dict[str, Callable[[str], Iterator[Turn]]] = {
    "wordnet": wordnet_turns,
    "gcide": gcide_turns,
    "foldoc": foldoc_turns,
    "jargon": jargon_turns,
    "vera": vera_turns,
    "edict": edict_turns,
    "kanjidic": kanjidic_turns,
    "freedict": freedict_turns,
}
