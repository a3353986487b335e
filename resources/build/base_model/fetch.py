"""Fetch and unpack the corpus's Debian packages at the versions pinned in ``packages.lock``.

``python fetch.py CACHE`` needs a Debian 12 system with ``apt-get`` and ``dpkg``.  Packages land in
``CACHE/debs`` and are unpacked (not installed) into ``CACHE/root/<package>``.  A version that the archive
no longer carries is an error; ``--repin`` takes what the archive has now and rewrites the lock file.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
from pathlib import Path

from sources import SOURCES, TOOLS

LOCK = Path(__file__).with_name("packages.lock")


def read_lock() -> dict[str, tuple[str, str]]:
    """Pinned ``{package: (version, sha256 of the .deb)}``."""
    if not LOCK.exists():
        return {}
    rows = (line.split() for line in LOCK.read_text(encoding="utf-8").splitlines())
    return {row[0]: (row[1], row[2]) for row in rows if row and not row[0].startswith("#")}


def _deb_field(deb: Path, field: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "--field", str(deb), field], check=True, capture_output=True, text=True
    ).stdout.strip()


def fetch(cache: Path, repin: bool = False) -> dict[str, tuple[str, str]]:
    """Download and unpack every package; returns ``{package: (version, sha256)}``.

    Raises:
        ValueError: a downloaded file differs from its pinned digest.
        subprocess.CalledProcessError: apt-get or dpkg-deb failed, with their own message on stderr.
    """
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    lock = {} if repin else read_lock()
    wanted = [source.package for source in SOURCES] + list(TOOLS)
    have = {_deb_field(deb, "Package") for deb in debs.glob("*.deb")}
    missing = [name for name in wanted if name not in have]
    if missing:
        names = [f"{name}={lock[name][0]}" if name in lock else name for name in missing]
        subprocess.run(["apt-get", "download", "-q", *names], cwd=debs, check=True)
    found: dict[str, tuple[str, str]] = {}
    for deb in sorted(debs.glob("*.deb")):
        name = _deb_field(deb, "Package")
        if name not in wanted:
            continue
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        if name in lock and lock[name][1] != digest:
            raise ValueError(f"{deb} differs from the digest in {LOCK}; delete it and fetch again.")
        found[name] = (_deb_field(deb, "Version"), digest)
        target = cache / "root" / name
        if not target.exists():
            target.mkdir(parents=True)
            subprocess.run(["dpkg-deb", "-x", str(deb), str(target)], check=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--repin", action="store_true", help="take the archive's versions, rewrite the lock")
    arguments = parser.parse_args()
    found = fetch(arguments.cache, arguments.repin)
    if arguments.repin:
        lines = [f"{name} {version} {digest}" for name, (version, digest) in sorted(found.items())]
        LOCK.write_text("# package version sha256\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
