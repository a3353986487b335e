"""Extract messages, merge them into the catalogues and compile these.

Run ``python resources/build/translations.py``. It prints each message that has no translation and exits
1 if there is one. Needs babel (a development tool); the program itself reads the compiled catalogues with
the standard library.
"""

from __future__ import annotations

import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "resources" / "locale"
PROJECT = "SO8T Control Panel"
KEYWORDS = {"_": None, "N_": None}


def extract() -> Catalog:
    """Every message of the engine and the window."""
    catalogue = Catalog(project=PROJECT, charset="utf-8")
    for package in ("so8t_engine", "so8t_gui"):
        found = extract_from_dir(ROOT / package, method_map=[("**.py", "python")], keywords=KEYWORDS)
        for filename, _line, message, _comments, _context in found:
            # Without line numbers the file changes only when a message does.
            catalogue.add(message, locations=[(f"{package}/{filename}", 0)])
    return catalogue


def catalogue_file(language: str) -> Path:
    """Where the catalogue of a language is."""
    return LOCALES / language / "LC_MESSAGES" / "so8t.po"


def read(language: str) -> Catalog:
    """The language's catalogue as it is stored; empty where there is none yet."""
    file = catalogue_file(language)
    if not file.exists():
        return Catalog(locale=language)
    with file.open("rb") as source:
        return read_po(source, locale=language)


def pairs(catalogue: Catalog) -> dict[str, str]:
    """Message → translation, the header left out; a missing translation is empty."""
    return {str(message.id): str(message.string) for message in catalogue if message.id}


def merged(language: str) -> Catalog:
    """The extracted messages with the translations of the language's catalogue."""
    stored = read(language)
    known = pairs(stored)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    result = Catalog(
        project=PROJECT,
        version=project["version"],
        locale=language,
        charset="utf-8",
        fuzzy=False,
        header_comment=f"# Translations of {PROJECT}, merged by resources/build/translations.py.\n#",
        msgid_bugs_address="the project's issue tracker",
        last_translator="maintainers",
        language_team=language,
    )
    for message in extract():
        if message.id:
            result.add(message.id, known.get(str(message.id), ""), locations=message.locations)
    # A date that moved by itself would change the files at each run.
    changed = pairs(result) != known
    result.creation_date = datetime.now(UTC) if changed else stored.creation_date
    result.revision_date = result.creation_date
    return result


def untranslated(catalogue: Catalog) -> list[str]:
    """Messages without a translation."""
    return sorted(str(m.id) for m in catalogue if m.id and not m.string)


def main() -> int:
    missing_anywhere = False
    for folder in sorted(path for path in LOCALES.iterdir() if path.is_dir()):
        catalogue = merged(folder.name)
        file = catalogue_file(folder.name)
        with file.open("wb") as target:
            write_po(target, catalogue, sort_output=True, include_lineno=False, omit_header=False, width=100)
        with file.with_suffix(".mo").open("wb") as target:
            write_mo(target, catalogue)
        missing = untranslated(catalogue)
        missing_anywhere = missing_anywhere or bool(missing)
        for message in missing:
            sys.stdout.write(f"{folder.name}: {message!r}\n")
    return int(missing_anywhere)


if __name__ == "__main__":
    sys.exit(main())
