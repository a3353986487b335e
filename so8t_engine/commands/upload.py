"""``so8t upload``: a finished run to the Hub, private unless asked, with a card of measured figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from so8t_engine.commands.bake import _finished_run
from so8t_engine.errors import DataError
from so8t_engine.files import write_atomically
from so8t_engine.hub.card import model_card
from so8t_engine.hub.staging import StagedFile, stage
from so8t_engine.hub.stand_in import TOKEN, StandIn, serving
from so8t_engine.hub.token import HUB, find_token
from so8t_engine.hub.upload import check_repo, upload_folder
from so8t_engine.i18n import _
from so8t_engine.training.run_directory import RunDirectory

#: As ``endpoint``: the stand-in of this program, for demonstrations without a network.
LOCAL = "local-test-server"


def upload_run(
    run_path: Path,
    repo: str,
    *,
    baked: Path | None = None,
    ggufs: Sequence[Path] = (),
    evaluation: Path | None = None,
    public: bool = False,
    licence: str | None = None,
    data: Mapping[str, Any] | None = None,
    gguf_reports: Sequence[Mapping[str, Any]] = (),
    pipeline: bool = False,
    endpoint: str = HUB,
    stand_in: Path | None = None,
    dry_run: bool = False,
    check: Callable[[], None] = lambda: None,
    told: Callable[[str], None] = lambda what: None,
) -> tuple[str, dict[str, Any]]:
    """Upload, or with ``dry_run`` list what would be; returns the report as text and as plain JSON.

    Args:
        evaluation: the report's folder; RUN/evaluation where that exists.
        stand_in: where the stand-in keeps its files, with endpoint `LOCAL`.
        data: licence → rows of the training data; ``pipeline``: whether the data policy was in force.

    Raises:
        SO8TError: the run is not finished, no token, or the Hub refuses.
    """
    check_repo(repo)
    run, config, _state = _finished_run(run_path)
    looked = evaluation if evaluation is not None else run.path / "evaluation"
    report = looked if (looked / "report.json").is_file() else None
    for wanted in (*([baked] if baked else []), *ggufs):
        if not wanted.exists():
            raise DataError(_("There is no %(path)s.") % {"path": str(wanted)})
    reports = {str(entry.get("name")): entry for entry in gguf_reports}
    card = model_card(
        run=run.id,
        config=config.model_dump(mode="json"),
        results=_json(run.final / "results.json") or {},
        evaluation=None if report is None else _json(report / "report.json"),
        bake=None if baked is None else _json(baked / "bake.json"),
        ggufs=[reports.get(file.name, {"name": file.name}) for file in ggufs],
        data=data,
        licence=licence,
        pipeline=pipeline,
    )
    with (
        tempfile.TemporaryDirectory(
            prefix=".so8t-upload-", dir=run.path, ignore_cleanup_errors=True
        ) as scratch,
        ExitStack() as stack,
    ):
        folder = Path(scratch)
        files = stage(folder, run, baked=baked, ggufs=list(ggufs), report=report, card=card)
        found: dict[str, Any] = {
            "repo": repo,
            "private": not public,
            "endpoint": endpoint,
            "dry_run": dry_run,
            "files": [asdict(file) for file in files],
            "bytes": sum(file.bytes for file in files),
            "card": card,
        }
        if dry_run:
            return _text(found, files), found
        if endpoint == LOCAL:
            hub = StandIn(stand_in or run.path / "local-hub")
            address, token, where = stack.enter_context(serving(hub)), TOKEN, "local test server"
        else:
            address = endpoint
            token, where = find_token(endpoint)
        done = upload_folder(
            folder, repo=repo, token=token, endpoint=address, private=not public,
            message=f"so8t: {run.id}", check=check, told=told,
        )  # fmt: skip
    if endpoint == LOCAL:
        done["url"] = done["url"].replace(address, LOCAL)  # the port changes from call to call
    found |= {
        "commit": done["commit"],
        "url": done["url"],
        "token_from": where,
        "really_private": done["private"],
    }
    _record(run, found)
    return _text(found, files), found


def _json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _record(run: RunDirectory, found: dict[str, Any]) -> None:
    """``uploaded.json`` in the run folder: whoever cleans up may delete a run only where it exists."""
    told = {key: found[key] for key in ("repo", "commit", "url", "endpoint", "private", "bytes")}
    told["files"] = {file["name"]: file["sha256"] for file in found["files"]}
    write_atomically(run.path / "uploaded.json", json.dumps(told, indent=1))


def _text(found: dict[str, Any], files: list[StagedFile]) -> str:
    lines = [f"{file.bytes:>14,}  {file.name}" for file in files]
    count = {"count": len(files), "size": found["bytes"] / 1e6, "repo": found["repo"]}
    if found["dry_run"]:
        lines.append(_("%(count)d files, %(size).1f MB would go to %(repo)s.") % count)
    else:
        lines.append(_("%(count)d files, %(size).1f MB are at %(repo)s and were compared.") % count)
        lines.append(found["url"])
    lines.append(_("The repository is private.") if found["private"] else _("The repository is public."))
    return "\n".join(lines) + "\n"
