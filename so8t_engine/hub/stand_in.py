"""A small server that speaks as much of the Hub's protocol as an upload and reading it back need.

For tests and for the offline demonstration of the pipeline: create-repo, preupload, LFS batch, upload and
verify, commit, repository info, tree, and resolve. Private repositories answer only to the token. It keeps
its files below one folder and listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from so8t_engine.files import write_atomically

TOKEN = "hf_local_stand_in"  # of this server alone; it opens nothing else
EMPTY = "0" * 40
_REPO = r"/api/models/(?P<repo>[\w.\-]+/[\w.\-]+)"


class StandIn:
    """The server's memory: repositories as JSON, file contents by SHA-256.

    Args:
        folder: where both are kept.
        fail_after: break off every LFS upload after so many have arrived, to test resuming; None never.
    """

    def __init__(self, folder: Path, *, fail_after: int | None = None) -> None:
        self.folder = folder
        self.objects = folder / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)
        self.fail_after = fail_after
        self.received: list[str] = []
        self.lock = threading.Lock()

    def _file(self, repo: str) -> Path:
        return self.folder / (repo.replace("/", "--") + ".json")

    def repo(self, name: str) -> dict[str, Any] | None:
        file = self._file(name)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def save(self, name: str, repo: dict[str, Any]) -> None:
        write_atomically(self._file(name), json.dumps(repo))

    def store(self, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        target = self.objects / oid
        if not target.exists():
            partial = target.with_suffix(f".{threading.get_ident()}.tmp")
            partial.write_bytes(data)
            partial.replace(target)
        return oid

    def commit(self, name: str, lines: list[dict[str, Any]]) -> str:
        """Apply a commit's lines; raises KeyError for an LFS object that never arrived."""
        with self.lock:
            repo = self.repo(name)
            assert repo is not None
            files: dict[str, dict[str, Any]] = dict(repo["files"])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    data = base64.b64decode(value["content"])
                    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
                    files[value["path"]] = {"oid": blob, "size": len(data), "sha256": self.store(data)}
                elif line["key"] == "lfsFile":
                    held = self.objects / value["oid"]
                    if not held.exists() or held.stat().st_size != value["size"]:
                        raise KeyError(value["path"])
                    files[value["path"]] = {
                        "oid": hashlib.sha1(value["oid"].encode(), usedforsecurity=False).hexdigest(),
                        "size": value["size"], "sha256": value["oid"], "lfs": True,
                    }  # fmt: skip
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            if files != repo["files"]:
                text = repo["head"] + json.dumps(files, sort_keys=True)
                repo |= {
                    "files": files,
                    "head": hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
                }
                self.save(name, repo)
            return str(repo["head"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, format: str, *args: object) -> None:
        """Silence: standard error belongs to the command."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _base(self) -> str:
        return f"http://{self.headers['Host']}"

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if not self._known and not path.startswith("/lfs/"):
            self._send(401, {"error": "Invalid credentials"})
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(_REPO + r"/preupload/[^/]+", path):
            self._preupload(found["repo"], json.loads(body))
        elif found := re.fullmatch(r"/(?P<repo>[\w.\-]+/[\w.\-]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(_REPO + r"/commit/[^/]+", path):
            self._commit(found["repo"], body)
        elif path == "/lfs/verify":
            wanted = json.loads(body)
            held = self.hub.objects / wanted["oid"]
            self._send(200 if held.exists() and held.stat().st_size == wanted["size"] else 404)
        else:
            self._send(404, {"error": "unknown"})

    def _create(self, body: dict[str, Any]) -> None:
        name = f"{body.get('organization') or 'local'}/{body['name']}"
        url = f"{self._base()}/{name}"
        private = body.get("visibility") == "private" or bool(body.get("private"))
        if self.hub.repo(name) is not None:
            self._send(409, {"error": "You already created this model repo", "url": url})
            return
        self.hub.save(name, {"private": private, "files": {}, "head": EMPTY})
        self._send(200, {"url": url, "name": name, "id": name})

    def _preupload(self, name: str, body: dict[str, Any]) -> None:
        repo = self.hub.repo(name)
        if repo is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        files = []
        for file in body["files"]:
            large = file["size"] > 100_000 or file["path"].endswith((".safetensors", ".gguf", ".parquet"))
            held = repo["files"].get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if held is None else held["sha256" if large else "oid"],
                }
            )
        self._send(200, {"files": files})

    def _batch(self, body: dict[str, Any]) -> None:
        objects = []
        for entry in body["objects"]:
            found: dict[str, Any] = {"oid": entry["oid"], "size": entry["size"]}
            if not (self.hub.objects / entry["oid"]).exists():
                found["actions"] = {
                    "upload": {"href": f"{self._base()}/lfs/{entry['oid']}", "header": {}},
                    "verify": {"href": f"{self._base()}/lfs/verify", "header": {}},
                }
            objects.append(found)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        if self.hub.repo(name) is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        try:
            head = self.hub.commit(name, [json.loads(line) for line in body.splitlines() if line.strip()])
        except KeyError as error:
            self._send(400, {"error": f"LFS object of {error} was not uploaded"})
            return
        self._send(
            200, {"commitUrl": f"{self._base()}/{name}/commit/{head}", "commitOid": head, "success": True}
        )

    def do_PUT(self) -> None:
        oid, data = urlsplit(self.path).path.removeprefix("/lfs/"), self._body()
        hub = self.hub
        with hub.lock:
            broken = hub.fail_after is not None and len(hub.received) >= hub.fail_after
            if not broken:
                hub.received.append(oid)
        if broken or hashlib.sha256(data).hexdigest() != oid:
            self._send(400, {"error": "broken off"})
            return
        hub.store(data)
        self._send(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self._send(200 if self._known else 401, {"name": "local", "type": "user", "orgs": []})
            return
        found = re.fullmatch(_REPO + r"(?:/revision/[^/]+|(?P<tree>/tree/[^/]+(?:/.*)?))?", path)
        if found is None:
            found = re.fullmatch(r"/(?P<repo>[\w.\-]+/[\w.\-]+)/resolve/[^/]+/(?P<file>.+)", path)
        repo = self.hub.repo(found["repo"]) if found else None
        if found is None or repo is None or (repo["private"] and not self._known):
            status = 401 if not self._known else 404
            self._send(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        parts = found.groupdict()
        if parts.get("file"):
            self._resolve(repo, parts["file"])
        elif parts.get("tree"):
            self._send(200, [_tree_entry(name, entry) for name, entry in sorted(repo["files"].items())])
        else:
            siblings = [{"rfilename": name} for name in sorted(repo["files"])]
            self._send(200, {"id": parts["repo"], "modelId": parts["repo"], "sha": repo["head"],
                             "private": repo["private"], "siblings": siblings, "tags": []})  # fmt: skip

    def _resolve(self, repo: dict[str, Any], name: str) -> None:
        entry = repo["files"].get(name)
        if entry is None:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{entry["sha256"]}"', "X-Repo-Commit": repo["head"],
                   "Content-Type": "application/octet-stream"}  # fmt: skip
        self._send(200, (self.hub.objects / entry["sha256"]).read_bytes(), headers)


def _tree_entry(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": name, "oid": entry["oid"], "size": entry["size"]}
    if entry.get("lfs"):
        found["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    return found


@contextmanager
def serving(hub: StandIn) -> Iterator[str]:
    """The server's address while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
