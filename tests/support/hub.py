"""A stand-in for the Hugging Face hub on this machine: it takes what its client uploads and gives it back."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_stand_in"  # noqa: S105


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repos: by kind and name, such as "models/me/student": the content of each file.
        private: whether each was made so.
        large: by SHA-256, the content of files that were uploaded beside their commit.
        requests: method and path of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes the client talk to this server."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if not any(name.lower() == "content_length" for name in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refused(self) -> bool:
        """Whether the client did not say who it is."""
        self.server.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Authorization") == f"Bearer {TOKEN}" or self.path.startswith("/lfs/"):
            return False
        self._body()
        self._answer(401, {"error": "Invalid credentials"})
        return True

    def do_PUT(self) -> None:
        data = self._body()
        self.server.requests.append(f"PUT {self.path}")
        self.server.large[hashlib.sha256(data).hexdigest()] = data
        self._answer(200)

    def do_POST(self) -> None:
        if self._refused():
            return
        body, path = self._body(), urlsplit(self.path).path
        if path == "/api/repos/create":
            wanted = json.loads(body)
            kind = wanted.get("type") or "model"
            name = f"{kind}s/{wanted.get('organization') or 'me'}/{wanted['name']}"
            known = name in self.server.repos
            self.server.repos.setdefault(name, {})
            # The client said it otherwise before version 2.
            private = wanted.get("private") or wanted.get("visibility") == "private"
            self.server.private.setdefault(name, bool(private))
            self._answer(409 if known else 200, {"url": f"{self.server.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(
                200, {"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]}
            )
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer(
                200,
                {
                    "files": [
                        {"path": one["path"], "uploadMode": self._mode(one["path"]), "shouldIgnore": False}
                        for one in files
                    ]
                },
            )
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/").partition("/commit/")[0], body)
        elif "/paths-info/" in path:
            repo = self.server.repos[path.removeprefix("/api/").partition("/paths-info/")[0]]
            wanted = parse_qs(body.decode()).get("paths", [])
            self._answer(200, [self._entry(repo, one) for one in wanted if self._entry(repo, one)])
        else:
            self._answer(404)

    def _mode(self, name: str) -> str:
        return "lfs" if name.endswith((".safetensors", ".h5")) else "regular"

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}

    def _commit(self, name: str, body: bytes) -> None:
        repo = self.server.repos[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo[value["path"]] = self.server.large[value["oid"]]
        self._answer(
            200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}"}
        )

    def _entry(self, repo: dict[str, bytes], name: str) -> dict[str, Any] | None:
        if name in repo:
            return {"type": "file", "path": name, "size": len(repo[name]), "oid": hashlib.sha1(repo[name]).hexdigest()}  # noqa: S324
        below = any(one.startswith(f"{name}/") for one in repo)
        return {"type": "directory", "path": name, "size": 0, "oid": COMMIT} if below else None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._refused():
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self._answer(200, {"name": "me", "type": "user", "orgs": []})
        elif "/resolve/" in path:
            name, _, rest = path.lstrip("/").partition("/resolve/")
            repo = self.server.repos.get(name if name.startswith("datasets/") else f"models/{name}", {})
            self._file(repo, rest.partition("/")[2])
        elif path.startswith("/api/"):
            self._info(*path.removeprefix("/api/").split("/"))
        else:
            self._answer(404)

    def _file(self, repo: dict[str, bytes], name: str) -> None:
        if name not in repo:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        data = repo[name]
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        status, more = 200, {}
        if (wanted := self.headers.get("Range")) is not None:
            first, last = wanted.removeprefix("bytes=").split("-")
            end = min(len(data), int(last) + 1) if last else len(data)
            more = {"Content_Range": f"bytes {first}-{end - 1}/{len(data)}"}
            status, data = 206, data[int(first) : end]
        self._answer(status, data, ETag=tag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes", **more)

    def _info(self, kind: str, owner: str, name: str, *rest: str) -> None:
        repo = self.server.repos.get(f"{kind}/{owner}/{name}")
        if repo is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif rest[:1] == ("tree",):
            below = "/".join(rest[2:])
            names = {
                one.removeprefix(f"{below}/").split("/")[0] for one in repo if not below or one.startswith(f"{below}/")
            }
            self._answer(200, [self._entry(repo, f"{below}/{one}".lstrip("/")) for one in sorted(names)])
        else:
            files = [{"rfilename": one} for one in sorted(repo)]
            self._answer(200, {"id": f"{owner}/{name}", "sha": COMMIT, "private": True, "siblings": files, "tags": []})


@contextmanager
def hub() -> Iterator[Hub]:
    """A running stand-in."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
