# SPDX-License-Identifier: Apache-2.0
"""A server here that answers huggingface_hub as the hub does, and another host beside it for large
files."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKENS = ("Bearer hf_right", "Bearer hf_mine", "Bearer hf_secret")
LARGE = (".safetensors", ".bin", ".pt", ".gguf", ".onnx", ".pth")


@dataclass(kw_only=True)
class Repo:
    """Commits by their hash, and what branches and tags point to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """Who may see a private or gated one."""
    gated: bool = False
    disabled: bool = False
    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes that are stated instead of the right ones."""

    def commit(self, files: dict[str, bytes], *, ref: str = "main") -> str:
        text = repr(sorted(files.items())) + ref + str(len(self.commits))
        sha = sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        if revision in self.refs:
            return self.refs[revision]
        return next((sha for sha in self.commits if sha.startswith(revision)), None)


@dataclass(frozen=True, kw_only=True)
class Request:
    host: str
    """``hub`` or ``store``."""
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass(kw_only=True)
class HubServer:
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    address: str = ""
    store_address: str = ""
    status: int | None = None
    """Answer everything with it."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers of the store break off, one each."""
    gate: threading.Event | None = None
    """The store waits for it after half of a file."""
    corrupt: bool = False

    def downloads(self) -> list[str]:
        """Names of the files whose contents were asked for."""
        return [
            r.path.rpartition("/")[2]
            for r in self.requests
            if r.method == "GET" and (r.host == "store" or "/resolve/" in r.path)
        ]

    def blob(self, digest: str) -> bytes:
        for repo in self.repos.values():
            for files in repo.commits.values():
                for content in files.values():
                    if sha256(content).hexdigest() == digest:
                        return content
        raise KeyError(digest)


def etag_of(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return sha256(content).hexdigest()
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    host: str

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = Request(
            host=self.host,
            method=self.command,
            path=path,
            range=self.headers.get("Range"),
            authorization=self.headers.get("Authorization"),
        )
        self.hub.requests.append(request)
        if self.host == "store":
            return self._send_large(path.rpartition("/")[2])
        if self.hub.status is not None:
            return self._error(self.hub.status, code=None)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path)
        found = api or file
        repo = self.hub.repos.get(found[1]) if found else None
        if request.authorization not in (None, *TOKENS):
            return self._error(401, code=None, text="Invalid credentials in Authorization header")
        if repo is None:
            return self._error(404 if request.authorization else 401, code="RepoNotFound")
        allowed = repo.token is None or request.authorization == f"Bearer {repo.token}"
        if repo.disabled:
            return self._error(403, code=None, text="Access to this resource is disabled.")
        if not allowed and not repo.gated:
            return self._error(401, code="RepoNotFound")
        assert found is not None
        revision = (found[3] if api else found[2]) or "main"
        sha = repo.resolve(revision)
        if sha is None:
            return self._error(404, code="RevisionNotFound")
        if api:
            return self._json(
                self._tree(repo, sha) if found[2] == "tree" else self._info(repo, sha)
            )
        if not allowed:
            return self._error(403 if request.authorization else 401, code="GatedRepo")
        return self._file(found[3], repo=repo, sha=sha)

    def _info(self, repo: Repo, sha: str) -> dict[str, Any]:
        name = next(name for name, each in self.hub.repos.items() if each is repo)
        siblings = []
        for file, content in repo.commits[sha].items():
            size = repo.claimed.get(file, len(content))
            entry: dict[str, Any] = {"rfilename": file, "size": size, "blobId": "0" * 40}
            if file.endswith(LARGE):
                digest = etag_of(file, content)
                entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
            siblings.append(entry)
        return {"_id": "1", "id": name, "sha": sha, "siblings": siblings, "private": False}

    def _tree(self, repo: Repo, sha: str) -> list[dict[str, Any]]:
        entries = []
        for file, content in repo.commits[sha].items():
            entry: dict[str, Any] = {
                "type": "file",
                "path": file,
                "size": len(content),
                "oid": "0" * 40,
            }
            if file.endswith(LARGE):
                digest = etag_of(file, content)
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return entries

    def _file(self, name: str, *, repo: Repo, sha: str) -> None:
        content = repo.commits[sha].get(name)
        if content is None:
            return self._error(404, code="EntryNotFound", commit=sha)
        etag = etag_of(name, content)
        if not name.endswith(LARGE):
            return self._send(content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": sha})
        headers = {
            "Location": f"{self.hub.store_address}/xet/{etag}",
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(content)),
            "X-Repo-Commit": sha,
        }
        return self._send(b"", status=302, headers=headers)

    def _send_large(self, digest: str) -> None:
        content = self.hub.blob(digest)
        if self.hub.corrupt:
            content = bytes(len(content))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        part, status = content[start:], 206 if asked else 200
        headers = (
            {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        )
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.gate is not None:
            half = len(part) // 2
            self.wfile.write(part[:half])
            self.hub.gate.wait(60)
            part = part[half:]
        if self.hub.cut_after:
            self.wfile.write(part[: self.hub.cut_after.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(part)

    def _json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), headers={"Content-Type": "application/json"})

    def _error(
        self, status: int, *, code: str | None, text: str = "no", commit: str | None = None
    ) -> None:
        headers = {"X-Error-Message": text}
        if code is not None:
            headers["X-Error-Code"] = code
        if commit is not None:
            headers["X-Repo-Commit"] = commit
        self._send(b"{}", status=status, headers=headers)

    def _send(self, content: bytes, *, status: int = 200, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def use(hub: HubServer, *, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and HF_HUB_CACHE would have set when huggingface_hub was imported."""
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "ENDPOINT", hub.address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Listening, until the block ends."""
    hub = HubServer()
    servers = []
    for host in ("hub", "store"):
        handler = type(f"{host}Answer", (_Answer,), {"hub": hub, "host": host})
        # The store has another name, so that what is sent to the hub alone is not sent there.
        name = "127.0.0.1" if host == "hub" else "localhost"
        server = _Server((name, 0), handler)
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        servers.append(server)
    hub.address = f"http://127.0.0.1:{servers[0].server_port}"
    hub.store_address = f"http://localhost:{servers[1].server_port}"
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
