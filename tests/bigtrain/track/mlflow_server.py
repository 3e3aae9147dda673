"""A server that speaks the part of MLflow's REST API that the sink uses, and can be down."""

import http.server
import json
import threading
from typing import Any
from urllib.parse import urlsplit


class MlflowServer:
    """Keeps one run in memory."""

    def __init__(self) -> None:
        self.is_down = False
        self.refusal: tuple[int, str] | None = None
        self.refused = self.batches = 0
        self.status = ""
        self._metrics: list[dict[str, Any]] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner._answer(self, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                owner._answer(self, json.loads(self.rfile.read(length) or b"{}"))

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "MlflowServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def points(self, key: str) -> list[tuple[int, float]]:
        """The points of one metric, in the order in which they came."""
        return [(int(m["step"]), m["value"]) for m in self._metrics if m["key"] == key]

    def _answer(self, request: Any, body: dict[str, Any]) -> None:
        if self.is_down:
            self.refused += 1
            code, text = 503, "unavailable"
        elif self.refusal is not None:
            code, text = self.refusal
        else:
            code, answer = (
                200,
                self._call(urlsplit(request.path).path.rpartition("mlflow/")[2], body),
            )
            text = json.dumps(answer)
        request.send_response(code)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        request.wfile.write(text.encode())

    def _call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        match method:
            case "experiments/get-by-name":
                return {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}
            case "runs/log-batch":
                self.batches += bool(body.get("metrics"))
                assert len(body.get("metrics", ())) <= 1000
                self._metrics += body.get("metrics", ())
            case "runs/update":
                self.status = body["status"]
        info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "1", "status": "RUNNING"}
        return {"run": {"info": {**info, "lifecycle_stage": "active"}}, "run_info": info}
