"""Translation of every string a person reads, by the standard library's gettext.

The window and the engine share one domain, ``so8t``. English is the source language; a catalogue
that is missing or lacks a message falls back to it.
"""

from __future__ import annotations

import gettext
import locale
import os

from so8t_engine.paths import resources_dir

DOMAIN = "so8t"
LANGUAGES: dict[str, str] = {"en": "English", "ja": "日本語"}
ENVIRONMENT = "SO8T_LANG"

_catalogue: gettext.NullTranslations = gettext.NullTranslations()
_language = "en"


def system_language() -> str:
    """The language asked for by ``SO8T_LANG``, else by the system; ``en`` where neither is known."""
    wanted = os.environ.get(ENVIRONMENT) or os.environ.get("LANGUAGE") or locale.getlocale()[0] or "en"
    code = wanted.split(":")[0].split("_")[0].split("-")[0].lower()
    if code == "japanese":  # Windows names the locale in words
        code = "ja"
    return code if code in LANGUAGES else "en"


def set_language(code: str) -> None:
    """Switch this process to ``code`` (a key of `LANGUAGES`); child processes inherit it."""
    global _catalogue, _language
    _language = code if code in LANGUAGES else "en"
    os.environ[ENVIRONMENT] = _language
    _catalogue = gettext.translation(
        DOMAIN, localedir=str(resources_dir() / "locale"), languages=[_language], fallback=True
    )


def language() -> str:
    """The current language's code."""
    return _language


def _(message: str) -> str:
    """``message`` in the current language. Placeholders are filled after this call."""
    return _catalogue.gettext(message) if message else ""


def with_more(text: str, more: str) -> str:
    """``text`` with ``more`` in brackets behind it, as the language writes them."""
    return _("%(text)s (%(more)s)") % {"text": text, "more": more}


def N_(message: str) -> str:  # noqa: N802  (gettext's customary name)
    """Mark ``message`` for extraction; it is translated where it is shown."""
    return message
