"""A small hub on 127.0.0.1 that speaks the protocol of huggingface.co, with faults to order.

Spoken: /api/models/REPO[/revision/REV] and /tree/REV, HEAD and GET of /REPO/resolve/REV/PATH with ETag, X-Repo-Commit,
X-Linked-Size and X-Linked-ETag; LFS files are redirected to /cdn/SHA256 on another host name, as the hub redirects to
its content network; ranges; X-Error-Code on refusals.
"""

import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIXES = (".gguf", ".pt")


@dataclass
class Repo:
    """One repository. `gated`: nobody's token has access yet. `listed` changes the listing: what a lying hub says."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    commit: str = COMMIT
    sizes_listed: bool = True
    siblings_listed: bool = True
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sibling(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        entry: dict[str, Any] = {"rfilename": path}
        if self.sizes_listed:
            entry |= {"size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if path.endswith(LFS_SUFFIXES):
                entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
        return entry

    def siblings(self) -> list[dict[str, Any]]:
        entries = {path: self.sibling(path) for path in self.files}
        for path, change in self.listed.items():
            entries[path] = entries.get(path, {"rfilename": path}) | change
        return list(entries.values())

    def tree(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "activation", "oid": "0" * 40}]
        for sibling in self.siblings():
            entry = {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"]}
            if lfs := sibling.get("lfs"):
                entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            entries.append(entry)
        return entries


@dataclass
class Seen:
    """A request as the server saw it, and how many bytes of body it sent back."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


class HubServer:
    """`with HubServer({"owner/name": Repo(...)}) as hub:` serves at `hub.url` until the block ends.

    `breaks`: file name -> after how many bytes of body to cut each coming connection (used up from the front).
    `pause`: seconds between blocks of `block` bytes. `refuse`: file name -> statuses to answer first.
    """

    def __init__(self, repos: dict[str, Repo]) -> None:
        self.repos = repos
        self.requests: list[Seen] = []
        self.breaks: dict[str, list[int]] = {}
        self.refuse: dict[str, list[int]] = {}
        self.pause = 0.0
        self.block = 1 << 16
        self.ranges = True
        self.token: str | None = None
        self.api_body: bytes | None = None
        self._httpd = _Httpd(("127.0.0.1", 0), _Handler)
        self._httpd.hub = self
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._httpd.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bodies(self, name: str) -> list[Seen]:
        """The GET requests that reached the bytes of the file called `name`."""
        wanted = {f"/cdn/{sha256(d)}" for r in self.repos.values() for p, d in r.files.items() if p.endswith(name)}
        wanted |= {f"/{i}/resolve/{r.commit}/{name}" for i, r in self.repos.items() if not name.endswith(LFS_SUFFIXES)}
        return [seen for seen in self.requests if seen.method == "GET" and seen.path in wanted]

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()


@lru_cache
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Httpd(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Httpd
    seen: Seen

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its base's word
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.seen = Seen(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        hub.requests.append(self.seen)
        # Matched before unquoting: a revision may have slashes.
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", url.path):
            self._api(match[1], match[2], unquote(match[3] or "main"), parse_qs(url.query))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        elif match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            self._cdn(match[1])
        else:
            self._refuse(404, "EntryNotFound", "Entry not found")

    def _api(self, name: str, kind: str | None, revision: str, query: dict[str, list[str]]) -> None:
        hub = self.server.hub
        if hub.api_body is not None:
            self._send(200, hub.api_body, {"Content-Type": "text/html"})
            return
        repo = self._repo(name, revision)
        if repo is None:
            return
        answer: Any = {"id": name, "sha": repo.commit, "gated": "auto" if repo.gated else False, "private": False}
        if kind == "tree":
            answer = repo.tree()
        elif repo.siblings_listed:
            full = "blobs" in query
            answer["siblings"] = repo.siblings() if full else [{"rfilename": p} for p in repo.files]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        if repo.gated:
            self._refuse(401 if self._token() is None else 403, "GatedRepo", f"Access to model {name} is restricted.")
            return
        if path not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if path.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256(data)}"'}
            # The same server under its other name: another origin, where no token may go.
            headers["Location"] = f"http://localhost:{self.server.hub.port}/cdn/{sha256(data)}"
            self._send(302, b"", headers)
        else:
            self._body(path, data, headers)

    def _cdn(self, digest: str) -> None:
        for repo in self.server.hub.repos.values():
            for path, data in repo.files.items():
                if sha256(data) == digest:
                    self._body(path, data, {"ETag": f'"{digest}"'})
                    return
        self._refuse(404, None, "no such object")

    def _repo(self, name: str, revision: str) -> Repo | None:
        repo = self.server.hub.repos.get(name)
        token = self._token()
        if token is not None and token != self.server.hub.token:
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token is None):
            self._refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif revision not in (*repo.revisions, repo.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _token(self) -> str | None:
        given = self.headers.get("Authorization")
        return given.removeprefix("Bearer ") if given else None

    def _body(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        hub = self.server.hub
        name = path.rpartition("/")[2]
        if hub.refuse.get(name) and self.command == "GET":
            self._refuse(hub.refuse[name].pop(0), None, "not now")
            return
        start, stop, status = 0, len(data), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match and hub.ranges:
            start, status = int(match[1]), 206
            stop = min(int(match[2]) + 1, len(data)) if match[2] else len(data)
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "Accept-Ranges": "bytes"}
        cut = hub.breaks[name].pop(0) if hub.breaks.get(name) and self.command == "GET" else None
        self._send(status, data[start:stop], headers, cut)

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        hub = self.server.hub
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(0, len(body), hub.block):
            block = body[at : at + hub.block]
            if cut is not None and at + len(block) > cut:
                self.wfile.write(body[at:cut])
                self.wfile.flush()
                self.seen.sent += cut - at
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(block)
            self.seen.sent += len(block)
            if hub.pause:
                time.sleep(hub.pause)
