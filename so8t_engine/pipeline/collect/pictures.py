"""Pictures: what counts as one, and how large it is."""

from __future__ import annotations

import io
import warnings

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a picture that can be decoded; None for anything else."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    return None
                picture.load()
                return width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
