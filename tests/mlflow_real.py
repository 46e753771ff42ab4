"""A real MLflow for tests: a store made once and copied, a server, and a proxy in front of it that misbehaves."""

import contextlib
import functools
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow_fixtures import Kept

from hpo.tracking.runs import MetricPoint
from hpo.tracking.ui import sqlite_uri

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SQLAlchemy 2.1 deprecates what mlflow 3.17 does while it is imported
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    from hpo.tracking import store as mlflow_store

__all__ = ["MlflowClient", "mlflow_store"]

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
}


@functools.cache
def template() -> Path:
    """An empty store; making one takes seconds, copying it none."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-template-"))
    mlflow_store.create_sqlite(folder / "mlflow.db")
    return folder / "mlflow.db"


def fresh_store(folder: Path) -> str:
    """The URI of an empty store in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(template(), folder / "mlflow.db")
    return sqlite_uri(folder / "mlflow.db")


@dataclass
class Server:
    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: nothing else is in it
        self.process.wait()


def start_server(folder: Path, port: int = 0) -> Server:
    """`mlflow server` on the loopback, its store and artifacts in this folder; port: 0 for any that is free."""
    uri, port = fresh_store(folder), port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | QUIET, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", folder, process)
    for _ in range(1_200):
        if process.poll() is not None:
            break
        if healthy(port):
            return server
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    server.stop()
    raise AssertionError((folder / "server.log").read_text()[-2_000:])


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


class Proxy:
    """Passes requests on. mode: "" well, "500", "429", "html", "400 html", "hang", "cut" (done, but not answered)."""

    def __init__(self, target: str) -> None:
        self.mode, self.requests, self.release = "", 0, threading.Event()
        host = target.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy.requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = proxy.mode
                if mode in ("500", "429"):
                    self.answer(int(mode), b'{"error_code": "INTERNAL_ERROR", "message": "broken"}')
                elif mode in ("html", "400 html"):
                    self.answer(400 if "400" in mode else 200, b"<html><body>Please log in</body></html>", "text/html")
                elif mode == "hang":
                    proxy.release.wait()
                    self.close_connection = True
                else:
                    self.forward(body, answer=mode != "cut")

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def forward(self, body: bytes, answer: bool) -> None:
                connection = http.client.HTTPConnection(host)
                headers = {name: text for name, text in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                connection.close()
                if answer:
                    self.answer(response.status, content, response.getheader("Content-Type") or "")
                else:
                    self.close_connection = True

            def answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


def kept(uri: str, experiment: str) -> list[Kept]:
    """The experiment's runs, as mlflow_fixtures.check_delivered wants them."""
    client = MlflowClient(uri, uri)
    stored = client.get_experiment_by_name(experiment)
    assert stored is not None, experiment
    runs = []
    for run in client.search_runs([stored.experiment_id], run_view_type=ViewType.ACTIVE_ONLY, max_results=1_000):
        history = [m for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name)]
        points = [MetricPoint(m.key, m.value, m.timestamp, m.step) for m in history]
        tags, params, info = dict(run.data.tags), dict(run.data.params), run.info
        runs.append(Kept(info.run_name, tags, info.start_time, info.status, info.end_time, params, points))
    return runs
