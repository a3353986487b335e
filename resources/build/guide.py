"""Make the user guide with its pictures, and the pictures of the README.

``python resources/build/guide.py RUN --out DIR`` writes ``guide.en.md``, ``guide.ja.md`` and ``pictures/``
to DIR, from a real run. ``--readme`` also renews the four pictures that the README shows. Runs without a
screen; nothing is drawn that the window does not draw itself.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "resources" / "guide"
README = {
    "run_en_dark.png": ("en", "dark", "history-training"),
    "settings_en_dark.png": ("en", "dark", "settings"),
    "gate_ja_light.png": ("ja", "light", "history-gate"),
    "evaluation_ja_light.png": ("ja", "light", "history-evaluation"),
}


def take(run: Path, folder: Path, language: str, theme: str) -> None:
    """A picture of every page in one language and theme. Raises `subprocess.CalledProcessError`."""
    options = ["--lang", language, "--theme", theme, "--screenshot-dir", str(folder), "--quit-when-done"]
    # The window's own size, and no estimates of other runs, whatever a person left behind.
    with tempfile.TemporaryDirectory() as fresh:
        subprocess.run(
            [sys.executable, "-m", "so8t_gui.app", "--open", str(run), *options],
            env=os.environ
            | {"QT_QPA_PLATFORM": "offscreen", "XDG_CONFIG_HOME": fresh, "XDG_DATA_HOME": fresh},
            check=True,
        )


def main() -> int:
    """Exit status 1 where a page of the guide has no picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    pictures = options.out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    wanted = {("en", "light"), ("ja", "light")}
    wanted |= {(language, theme) for language, theme, _page in README.values()} if options.readme else set()
    for language, theme in sorted(wanted):
        take(options.run, pictures, language, theme)
    missing = []
    for source in sorted(GUIDE.glob("*.md")):
        # The run stands in the history, so its charts are the history's.
        text = source.read_text(encoding="utf-8").replace("pictures/run-", "pictures/history-")
        missing += [
            name for name in re.findall(r"\((pictures/[^)]+)\)", text) if not (options.out / name).exists()
        ]
        (options.out / source.name).write_text(text, encoding="utf-8")
    if options.readme:
        for name, (language, theme, page) in README.items():
            shutil.copyfile(
                pictures / f"{page}-{language}-{theme}.png", ROOT / "resources" / "screenshots" / name
            )
    for name in missing:
        sys.stderr.write(f"no picture {name}\n")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
