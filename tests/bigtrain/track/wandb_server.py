"""A server that speaks the part of wandb's API that `wandb sync` uses; keeps one run in memory."""

import http.server
import json
import threading
from typing import Any


class WandbServer:
    """Keeps the lines of the run's history, and refuses a key if told to."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.run_ids: list[str] = []
        self.refuses = False
        self._counts: dict[str, int] = {}
        self._config = "{}"
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                # wandb also sends traces, which are not JSON.
                is_json = text.startswith(b"{")
                owner._answer(self, json.loads(text) if is_json else {})

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                _send(self, {})

            def log_message(self, *_: object) -> None: ...

        http.server.ThreadingHTTPServer.handle_error = lambda *_: None
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: Any, body: dict[str, Any]) -> None:
        if self.refuses:
            _send(request, {"errors": [{"message": "permission denied"}]}, code=403)
        elif request.path.endswith("/graphql"):
            _send(request, {"data": self._query(body["query"], body.get("variables") or {})})
        else:
            self._take_lines(body.get("files") or {})
            _send(request, {})

    def _query(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "bigtrain", "entity": {"id": "e", "name": "me"}}
        run = {"id": "UnVu", "displayName": "tiny", "config": self._config, "project": project}
        if "upsertBucket" in query:
            if values.get("name"):
                self.run_ids.append(values["name"])
            self._config = values.get("config") or self._config
            run["name"] = self.run_ids[-1]
            return {"upsertBucket": {"bucket": run, "inserted": len(self.run_ids) == 1}}
        if "createRunFiles" in query:
            files = [{"name": n, "uploadUrl": f"{self.url}/put/{n}"} for n in values["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in query and self.run_ids:
            newest = json.dumps([json.dumps(line) for line in self.history[-1:]])
            return {"model": {**project, "bucket": {**run, **self._resume_state(newest)}}}
        return {}

    def _resume_state(self, newest: str) -> dict[str, Any]:
        counts = {
            f"{kind}LineCount": self._counts.get(name, 0)
            for kind, name in (
                ("log", "output.log"),
                ("history", "wandb-history.jsonl"),
                ("events", "wandb-events.jsonl"),
            )
        }
        state = {"historyTail": newest, "eventsTail": "[]", "tags": [], "summaryMetrics": "{}"}
        return {**counts, **state, "name": self.run_ids[-1], "wandbConfig": '{"t": 1}'}

    def _take_lines(self, files: dict[str, Any]) -> None:
        for name, part in files.items():
            lines = [json.loads(line) for line in part["content"]] if "history" in name else []
            self.history[part["offset"] :] = lines or self.history[part["offset"] :]
            self._counts[name] = part["offset"] + len(part["content"])


def _send(request: Any, answer: dict[str, Any], code: int = 200) -> None:
    text = json.dumps(answer).encode()
    request.send_response(code)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    request.wfile.write(text)
