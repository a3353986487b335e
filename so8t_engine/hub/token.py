"""Where the Hub's token comes from: the system's keyring, else the Hub's own store. Never a file of ours."""

from __future__ import annotations

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _

SERVICE = "so8t"
HUB = "https://huggingface.co"


def find_token(endpoint: str = HUB) -> tuple[str, str]:
    """The token for ``endpoint`` and where it was found: ``keyring`` or ``hub``.

    Raises:
        SO8TError: there is none; the mend says how to store one.
    """
    stored = _from_keyring(endpoint)
    if stored:
        return stored, "keyring"
    from huggingface_hub import get_token

    token = get_token()
    if token:
        return token, "hub"
    raise SO8TError(
        _("There is no token for %(endpoint)s.") % {"endpoint": endpoint},
        _("Store one with 'hf auth login', or in the keyring: keyring set so8t %(endpoint)s")
        % {"endpoint": endpoint},
    )


def _from_keyring(endpoint: str) -> str | None:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:  # an extra
        return None
    try:
        found: str | None = keyring.get_password(SERVICE, endpoint)
    except (KeyringError, RuntimeError):  # no keyring on this system, or it stays locked
        return None
    return found
