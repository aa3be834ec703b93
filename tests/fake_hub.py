"""A fake Hugging Face hub on the loopback address.

The fake hub keeps repositories in memory and speaks the hub's HTTP interface. It answers the requests that
huggingface_hub makes to push a small folder and to fetch the folder again. Files are uploaded as part of a commit (the
hub calls this mode "regular"). If `lfs` is set, weight files are uploaded before the commit to the large file storage,
by the basic transfer of Git LFS.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_forTestsOnly"
COMMIT = "0" * 39 + "1"


class FakeHub(ThreadingHTTPServer):
    """A server that keeps the repositories by name, and records the requests to it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.refuse = 0  # the HTTP status with which the hub refuses every write; if 0, it accepts writes
        self.lfs = False
        self.objects: dict[str, bytes] = {}  # {SHA-256 of a file: its content} of the large file storage
        self.lose = False  # if True, the large file storage refuses every upload
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def writes(self) -> list[str]:
        return [path for method, path in self.asked if method == "POST"]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Suppresses the log lines of BaseHTTPRequestHandler."""

    def answer(self, content: object = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refused(self, status: int, message: str, code: str = "") -> None:
        self.answer({"error": message}, status, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def route(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        return path

    def do_POST(self) -> None:
        path, hub = self.route(), self.server
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refused(401, "Invalid username or password.")
        if hub.refuse:
            return self.refused(hub.refuse, "You don't have the rights to create a model under this namespace")
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.files:
                taken = {"error": "You already created this model repo", "url": f"{hub.address}/{name}"}
                return self.answer(taken, 409)
            hub.files[name] = {".gitattributes": b""}
            hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self.answer({"url": f"{hub.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            upload = lambda oid: {"actions": {"upload": {"href": f"{hub.address}/storage/{oid}"}}}
            return self.answer({"transfer": "basic", "objects": [one | upload(one["oid"]) for one in objects]})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if not found or found[1] not in hub.files:
            return self.refused(404, "Repository not found", "RepoNotFound")
        if found[2] == "preupload":
            names = [file["path"] for file in json.loads(content)["files"]]
            mode = lambda name: "lfs" if hub.lfs and name.endswith((".safetensors", ".bin")) else "regular"
            return self.answer(
                {"files": [{"path": name, "uploadMode": mode(name), "shouldIgnore": False} for name in names]}
            )
        header, *entries = (json.loads(line) for line in content.splitlines())
        for entry in entries:
            value, is_small = entry["value"], entry["key"] == "file"
            content = base64.b64decode(value["content"]) if is_small else hub.objects[value["oid"]]
            hub.files[found[1]][value["path"]] = content
        hub.commits.append(header["value"]["summary"])
        self.answer({"commitUrl": f"{hub.address}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.route() != f"/storage/{hashlib.sha256(content).hexdigest()}" or self.server.lose:
            return self.refused(400, "another content")
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_GET(self) -> None:
        path, hub = self.route(), self.server
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/revision/.+|/tree/.+)?", path):
            if found[1] not in hub.files:
                return self.refused(404, "Repository not found", "RepoNotFound")
            files = hub.files[found[1]]
            if (found[2] or "").startswith("/tree/"):
                oid = lambda content: hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                return self.answer(
                    [{"type": "file", "path": n, "size": len(c), "oid": oid(c)} for n, c in sorted(files.items())]
                )
            siblings = [{"rfilename": name} for name in sorted(files)]
            about = {"id": found[1], "modelId": found[1], "sha": COMMIT, "private": hub.private[found[1]]}
            return self.answer({**about, "siblings": siblings, "tags": []})
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        content = hub.files.get(found[1], {}).get(found[2]) if found else None
        if content is None:
            return self.refused(404, "Entry not found", "EntryNotFound")
        self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET
