"""A Hub on 127.0.0.1 for the tests: what huggingface_hub's client asks of models and datasets, kept in memory.

Repositories have branches and commits, each a whole set of files; files of weights and Parquet go by LFS. TOKEN may
write as USER, READ_TOKEN only reads, any other token is refused. `hub.gate(repo)` asks for a token, `hub.down = True`
answers 503.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

USER, TOKEN, READ_TOKEN = "kelo", "hf_kelo", "hf_reads"
LFS = (".safetensors", ".parquet", ".png", ".onnx")
CARD = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


class Repository:
    """One repository: commits by their hash, branches by their name."""

    def __init__(self, kind, name, private):
        self.kind, self.name, self.private, self.gated = kind, name, private, False
        self.commits, self.branches, self.log = {}, {}, []
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, [], "initial commit")

    def commit(self, branch, added, deleted, message):
        old = self.commits.get(self.branches.get(branch), {})
        files = {name: content for name, content in old.items() if name not in deleted} | added
        oid = hashlib.sha1(f"{self.name}{branch}{len(self.log)}{message}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.log.append((oid, branch, message))
        return oid

    def find(self, revision):
        """(commit, files) of a branch or of a commit, also in short; `None` where there is none."""
        oid = self.branches.get(revision) or next((one for one in self.commits if one.startswith(revision)), None)
        return None if oid is None else (oid, self.commits[oid])


class LoopbackHub:
    """The server; `with LoopbackHub() as hub`."""

    def __init__(self):
        self.repositories, self.objects, self.requests, self.down = {}, {}, [], False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def environment(self, cache, token=TOKEN):
        """For a process that is to use it."""
        found = {
            "HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_MODULES_CACHE": f"{cache}/modules", "NO_PROXY": "127.0.0.1",
            "TRANSFORMERS_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        return found | ({"HF_TOKEN": token} if token else {})

    def files(self, name, revision="main", kind="model"):
        return self.repositories[kind, name].find(revision)[1]

    def gate(self, name):
        self.repositories["model", name].gated = True


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.handle_request()

    def do_GET(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def do_PUT(self):
        self.handle_request()

    def handle_request(self):
        self.hub = self.server.hub
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), {name: own[0] for name, own in parse_qs(parts.query).items()}
        self.hub.requests.append((self.command, path))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        self.user = {TOKEN: USER, READ_TOKEN: "reader"}.get(token)
        if self.hub.down:
            return self.answer(503, {"error": "down"})
        if token and self.user is None:
            return self.answer(
                401, {"error": "Invalid credentials in Authorization header"},
                **{"X-Error-Message": "Invalid credentials in Authorization header"},
            )  # fmt: skip
        for method, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return function(self, **found.groupdict())
        return self.answer(404, {"error": f"no route for {self.command} {path}"})

    def answer(self, status, content=b"", **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if not isinstance(content, bytes):
            headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def repository(self, kind, name, write=False):
        """The repository, or `None` after an answer that says why not."""
        found = self.hub.repositories.get((kind or "model", name))
        if found is None or (found.private and self.user != USER):
            code = 401 if self.user is None else 404
            return self.answer(code, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
        if found.gated and self.user != USER:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted."}
            return self.answer(401 if self.user is None else 403, {"error": "gated"}, **headers)
        if write and self.user != USER:
            return self.answer(401 if self.user is None else 403, {"error": "Forbidden: no right to write"})
        return found

    def at(self, repository, revision):
        found = repository.find(revision)
        if found is None:
            self.answer(404, {"error": "Invalid rev id"}, **{"X-Error-Code": "RevisionNotFound"})
        return found

    # Who, and which repositories

    def whoami(self):
        if self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        return self.answer(200, {"type": "user", "name": self.user, "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or self.user
        if self.user is None or owner != self.user or self.user != USER:
            return self.answer(401 if self.user is None else 403, {"error": "You don't have the rights"})
        key = (wanted.get("type") or "model", f"{owner}/{wanted['name']}")
        address = {"url": f"{self.hub.endpoint}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"}
        if key in self.hub.repositories:
            return self.answer(409, {"error": "You already created this repo", **address})
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repositories[key] = Repository(*key, bool(private))
        return self.answer(200, address)

    def branch(self, kind, name, branch):
        repository = self.repository(kind, name, write=True)
        if repository is None:
            return None
        if branch in repository.branches:
            return self.answer(409, {"error": "Reference already exists"})
        repository.branches[branch] = repository.branches["main"]
        return self.answer(200, {})

    def info(self, kind, name, revision="main"):
        repository = self.repository(kind, name)
        found = repository and self.at(repository, revision or "main")
        if not found:
            return None
        oid, files = found
        siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(files.items())]
        card = CARD.match(files.get("README.md", b"").decode())
        return self.answer(200, {
            "id": name, "modelId": name, "sha": oid, "private": repository.private, "gated": repository.gated,
            "disabled": False,
            "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z",
            "cardData": {} if card is None else None,
        })  # fmt: skip

    def refs(self, kind, name):
        repository = self.repository(kind, name)
        if repository is None:
            return None
        branches = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid}
                    for branch, oid in repository.branches.items()]  # fmt: skip
        return self.answer(200, {"branches": branches, "tags": [], "converts": []})

    # Reading

    def entry(self, path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(LFS):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def tree(self, kind, name, revision, folder=""):
        repository = self.repository(kind, name)
        found = repository and self.at(repository, revision)
        if not found:
            return None
        folder = (folder or "").strip("/")
        inside = {path: own for path, own in found[1].items() if not folder or path.startswith(folder + "/")}
        if folder and not inside:
            return self.answer(404, {"error": "not there"}, **{"X-Error-Code": "EntryNotFound"})
        deep = self.query.get("recursive", "").lower() == "true"
        start = len(folder) + 1 if folder else 0
        entries = [self.entry(path, own) for path, own in sorted(inside.items()) if deep or "/" not in path[start:]]
        folders = {path[:start] + path[start:].partition("/")[0] for path in inside if "/" in path[start:]}
        entries += [{"type": "directory", "path": one, "size": 0, "oid": "0" * 40} for one in sorted(folders)]
        return self.answer(200, entries)

    def paths_info(self, kind, name, revision):
        repository = self.repository(kind, name)
        found = repository and self.at(repository, revision)
        if not found:
            return None
        if "json" in self.headers.get("Content-Type", ""):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        answers = []
        for path in [wanted] if isinstance(wanted, str) else wanted:
            if path in found[1]:
                answers.append(self.entry(path, found[1][path]))
            elif any(own.startswith(path.rstrip("/") + "/") for own in found[1]):
                answers.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return self.answer(200, answers)

    def resolve(self, kind, name, revision, path):
        repository = self.repository(kind, name)
        found = repository and self.at(repository, revision)
        if not found:
            return None
        oid, files = found
        headers = {"X-Repo-Commit": oid}
        if path not in files:
            return self.answer(404, {"error": "Entry not found"}, **headers, **{"X-Error-Code": "EntryNotFound"})
        content = files[path]
        etag = hashlib.sha256(content).hexdigest()
        headers |= {
            "ETag": f'"{etag}"',
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and self.command == "GET":
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            return self.answer(206, content[start : end + 1], **headers)
        return self.answer(200, content, **headers)

    # Writing

    def preupload(self, kind, name, revision):
        if self.repository(kind, name, write=True) is None:
            return None
        files = [{"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LFS) else "regular",
                  "shouldIgnore": False, "oid": None} for one in json.loads(self.body)["files"]]  # fmt: skip
        return self.answer(200, {"files": files})

    def lfs_batch(self, kind, name):
        if self.repository((kind or "").rstrip("s/") or None, name, write=True) is None:
            return None
        objects = []
        for one in json.loads(self.body)["objects"]:
            known = one["oid"] in self.hub.objects
            actions = {} if known else {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}}}
            objects.append({**one, **actions})
        return self.answer(
            200, {"transfer": "basic", "objects": objects}, **{"Content-Type": "application/vnd.git-lfs+json"}
        )

    def lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "checksum"})
        self.hub.objects[oid] = self.body
        return self.answer(200)

    def commit(self, kind, name, revision):
        repository = self.repository(kind, name, write=True)
        if repository is None:
            return None
        added, deleted, message = {}, [], ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                added[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                deleted.append(value["path"])
        oid = repository.commit(revision, added, deleted, message)
        number = {"pullRequestUrl": f"{self.hub.endpoint}/{name}/discussions/1"} if self.query.get("create_pr") else {}
        return self.answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid, **number})

    def validate(self):
        return self.answer(200, {"errors": [], "warnings": []})


API = r"/api/(?P<kind>model|dataset)s/(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", API, Handler.info),
    ("GET", API + r"/revision/(?P<revision>.+)", Handler.info),
    ("GET", API + r"/refs", Handler.refs),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", Handler.tree),
    ("POST", API + r"/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("POST", API + r"/branch/(?P<branch>.+)", Handler.branch),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", Handler.commit),
    ("POST", r"/(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_upload),
    ("GET HEAD", r"/datasets/(?P<name>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
     lambda self, **found: self.resolve("dataset", **found)),
    ("GET HEAD", r"/(?P<name>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
     lambda self, **found: self.resolve("model", **found)),
]  # fmt: skip
