"""The upload itself, in a process of its own: it can be killed at any moment, and the next one goes on.

Reads one JSON object on standard input (endpoint, token, repo, folder, private, revision, message) and
writes JSON lines on standard output. huggingface_hub skips what the Hub holds already.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def say(value: dict[str, Any]) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def upload(order: dict[str, Any]) -> dict[str, Any]:
    """Create the repository where it is missing, upload, and compare what the Hub lists with the folder."""
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from so8t_engine.hub.staging import listing

    disable_progress_bars()
    api = HfApi(endpoint=order["endpoint"], token=order["token"])
    say({"what": "repository"})
    api.create_repo(order["repo"], private=order["private"], exist_ok=True)
    info = api.repo_info(order["repo"])
    say({"what": "files", "private": info.private})
    if order["private"] and not info.private:
        raise PermissionError("public")
    commit = api.upload_folder(
        repo_id=order["repo"],
        folder_path=order["folder"],
        commit_message=order["message"],
        revision=order["revision"],
    )
    say({"what": "check"})
    remote = {
        entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in api.list_repo_tree(order["repo"], recursive=True, revision=order["revision"])
        if isinstance(entry, RepoFile)
    }
    missing = []
    for file in listing(Path(order["folder"])):
        size, sha256 = remote.get(file.name, (None, None))
        if size != file.bytes or (sha256 is not None and sha256 != file.sha256):
            missing.append(file.name)
    return {"commit": commit.oid, "url": str(commit.commit_url), "private": info.private, "missing": missing}


def main() -> int:
    """0 done, 1 failed; the last line says what happened."""
    order = json.loads(sys.stdin.read())
    try:
        say({"done": upload(order)})
    except Exception as error:  # noqa: BLE001  (it is told to the parent, whatever it is)
        status = getattr(getattr(error, "response", None), "status_code", None)
        lines = str(error).replace(order["token"], "…").strip().splitlines() or [""]
        say({"error": type(error).__name__, "status": status, "reason": lines[0][:500]})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
