"""The Debian packages that the corpus is made from, and how text is taken out of each.

Only packages from Debian's section "main" are named, so every text is under a free licence; the exact
licence of each is in its copyright file, whose name is recorded in the corpus's statistics.  The exact
versions and digests are pinned in ``packages.lock`` beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Files of one package below ``pattern`` (a glob), read by the reader called ``reader``."""

    pattern: str
    reader: str


@dataclass(frozen=True)
class Source:
    """A package with its reading rules; ``limit`` caps the bytes of text taken from it."""

    package: str
    rules: tuple[Rule, ...]
    limit: int = 8_000_000


def _source(package: str, *rules: tuple[str, str], limit: int = 8_000_000) -> Source:
    return Source(package, tuple(Rule(pattern, reader) for pattern, reader in rules), limit)


_DOC = "usr/share/doc"

JAPANESE = (
    _source("manpages-ja", ("usr/share/man/ja/man*/*", "man")),
    _source("manpages-ja-dev", ("usr/share/man/ja/man*/*", "man")),
    _source("debian-reference-ja", ("usr/share/debian-reference/*.ja.html", "html")),
    _source("maint-guide-ja", (f"{_DOC}/maint-guide-ja/html/*.ja.html", "html")),
    _source("developers-reference-ja", (f"{_DOC}/developers-reference-ja/**/*.html", "html")),
    _source("debian-faq-ja", (f"{_DOC}/debian/FAQ/ja/*.html", "html")),
    _source("debian-policy-ja", (f"{_DOC}/debian-policy/ja/**/*.html", "html")),
    _source("aptitude-doc-ja", (f"{_DOC}/aptitude/html/ja/*.html", "html")),
    _source("debian-edu-doc-ja", (f"{_DOC}/debian-edu-doc-ja/*bookworm*.html", "html")),
    _source("debian-edu-doc-legacy-ja", (f"{_DOC}/debian-edu-doc-legacy-ja/*.html", "html")),
    _source("libreoffice-help-ja", ("usr/share/libreoffice/help/ja/text/**/*.html", "html")),
    _source("gimp-help-ja", ("usr/share/gimp/2.0/help/ja/**/*.html", "html")),
    _source("kicad-doc-ja", (f"{_DOC}/kicad/help/ja/*.html", "html")),
    _source("lilypond-doc-html-ja", (f"{_DOC}/lilypond/html/Documentation/**/*.ja.html", "html")),
    _source("scilab-doc-ja", ("usr/share/scilab/modules/helptools/jar/*.jar", "jar")),
    _source("freeciv-data", ("usr/share/locale/ja/LC_MESSAGES/*.mo", "catalogue")),
    _source("gramps", ("usr/share/locale/ja/LC_MESSAGES/*.mo", "catalogue")),
    _source("w3m", (f"{_DOC}/w3m/ja/*", "plain"), ("usr/share/locale/ja/LC_MESSAGES/*.mo", "catalogue")),
    _source("edict", ("usr/share/edict/edict", "edict")),
    _source("kanjidic", ("usr/share/edict/kanjidic", "kanjidic")),
    _source("dict-freedict-eng-jpn", ("usr/share/dictd/*.dict.dz", "freedict")),
    _source("ddskk", (f"{_DOC}/ddskk/**/*", "plain"), ("usr/share/skk/*.tut*", "plain")),
    _source("wl", (f"{_DOC}/wl/**/*", "plain")),
    _source("mew", (f"{_DOC}/mew/**/*", "plain")),
)

BOTH = (
    _source(
        "wesnoth-1.16-data", ("usr/share/games/wesnoth/1.16/locale/ja/LC_MESSAGES/*.mo", "catalogue_both")
    ),
    _source(
        "groonga-doc",
        (f"{_DOC}/groonga-doc/ja/html/**/*.html", "html"),
        (f"{_DOC}/groonga-doc/en/html/**/*.html", "html"),
    ),
    _source(
        "debian-handbook",
        (f"{_DOC}/debian-handbook/html/ja-JP/*.html", "html"),
        (f"{_DOC}/debian-handbook/html/en-US/*.html", "html"),
    ),
    _source(
        "harden-doc",
        (f"{_DOC}/harden-doc/html/ja-JP/*.html", "html"),
        (f"{_DOC}/harden-doc/html/en-US/*.html", "html"),
    ),
    _source(
        "gnucash-docs",
        (f"{_DOC}/gnucash-docs/gnucash-guide-ja/*.html", "html"),
        ("usr/share/help/ja/gnucash-guide/*.xml", "html"),
        (f"{_DOC}/gnucash-docs/gnucash-*-en/*.html", "html"),
    ),
    _source(
        "gnome-user-docs",
        ("usr/share/help/ja/**/*.page", "html"),
        ("usr/share/help/C/**/*.page", "html"),
    ),
    _source(
        "live-manual-txt",
        (f"{_DOC}/live-manual/txt/live-manual.ja.txt.gz", "plain"),
        (f"{_DOC}/live-manual/txt/live-manual.en.txt.gz", "plain"),
    ),
    _source(
        "installation-guide-amd64",
        (f"{_DOC}/installation-guide-amd64/ja/*.html", "html"),
        (f"{_DOC}/installation-guide-amd64/en/*.html", "html"),
    ),
    _source(
        "debmake-doc",
        (f"{_DOC}/debmake-doc/html/*.ja.html", "html"),
        (f"{_DOC}/debmake-doc/html/*.en.html", "html"),
    ),
    _source(
        "apt-doc",
        (f"{_DOC}/apt-doc/*.ja.html/*.html", "html"),
        (f"{_DOC}/apt-doc/*.en.html/*.html", "html"),
    ),
    _source(
        "fortunes-debian-hints",
        ("usr/share/games/fortunes/ja/debian-hints", "plain"),
        ("usr/share/games/fortunes/debian-hints", "plain"),
    ),
)

ENGLISH = (
    _source("manpages", ("usr/share/man/man*/*", "man"), limit=3_000_000),
    _source("manpages-dev", ("usr/share/man/man*/*", "man"), limit=4_000_000),
    _source("debian-reference-en", ("usr/share/debian-reference/*.en.html", "html")),
    _source("developers-reference", (f"{_DOC}/developers-reference/**/*.html", "html")),
    _source("debian-faq", (f"{_DOC}/debian/FAQ/*.html", "html")),
    _source("debian-policy", (f"{_DOC}/debian-policy/policy.html/*.html", "html")),
    _source("aptitude-doc-en", (f"{_DOC}/aptitude/html/en/*.html", "html")),
    _source("debian-edu-doc-en", (f"{_DOC}/debian-edu-doc-en/*bookworm*.html", "html")),
    _source(
        "libreoffice-help-en-us", ("usr/share/libreoffice/help/en-US/text/**/*.html", "html"), limit=3_000_000
    ),
    _source("gimp-help-en", ("usr/share/gimp/2.0/help/en/**/*.html", "html"), limit=3_000_000),
    _source("kicad-doc-en", (f"{_DOC}/kicad/help/en/*.html", "html"), limit=2_000_000),
    _source("git-doc", (f"{_DOC}/git-doc/**/*.html", "html"), limit=3_000_000),
    _source("perl-doc", ("usr/share/perl/*/pod/*.pod", "pod"), limit=4_000_000),
    _source("python3.11-doc", (f"{_DOC}/python3.11/html/**/*.html", "html"), limit=4_000_000),
    _source("postgresql-doc-15", (f"{_DOC}/postgresql-doc-15/html/*.html", "html"), limit=4_000_000),
    _source("linux-doc-6.1", (f"{_DOC}/linux-doc-6.1/Documentation/**/*.rst.gz", "plain"), limit=7_000_000),
    _source("bible-kjv-text", ("usr/lib/bible.data", "bible"), limit=5_000_000),
    _source("miscfiles", ("usr/share/state/us-*.gz", "plain")),
    _source("dict-gcide", ("usr/share/dictd/*.dict.dz", "gcide")),
    _source("dict-wn", ("usr/share/dictd/*.dict.dz", "wordnet")),
    _source("dict-foldoc", ("usr/share/dictd/*.dict.dz", "foldoc")),
    _source("dict-jargon", ("usr/share/dictd/*.dict.dz", "jargon")),
    _source("dict-devil", ("usr/share/dictd/*.dict.dz", "plain")),
    _source("dict-elements", ("usr/share/dictd/*.dict.dz", "plain")),
    _source("dict-vera", ("usr/share/dictd/*.dict.dz", "vera")),
)

SOURCES: tuple[Source, ...] = JAPANESE + BOTH + ENGLISH

# Licences read by a person where a package's copyright file states them in running text.
LICENCES: dict[str, str] = {
    "bible-kjv-text": "text in the public domain (1611); packaging GPL-2+",
    "debian-faq": "copying and modifying permitted under the same notice",
    "debian-faq-ja": "copying and modifying permitted under the same notice",
    "dict-foldoc": "GFDL-1.1+, no invariant sections",
    "dict-gcide": "GPL-2+",
    "edict": "CC-BY-SA-3.0 (EDRDG)",
    "gimp-help-en": "GFDL-NIV-1.2+",
    "gimp-help-ja": "GFDL-NIV-1.2+",
    "installation-guide-amd64": "GPL-2",
    "kanjidic": "CC-BY-SA-3.0 (EDRDG)",
    "manpages-dev": "those of manpages (its copyright file is that package's)",
    "manpages-ja": "that of each original page, all free by Debian's guidelines (JM Project)",
    "manpages-ja-dev": "that of each original page, all free by Debian's guidelines (JM Project)",
    "python3.11-doc": "PSF-2.0 and the licences of incorporated software",
    "wesnoth-1.16-data": "GPL-2+",
}

# A program needed to read a package's data, unpacked but contributing no text.
TOOLS: tuple[str, ...] = ("bible-kjv",)
