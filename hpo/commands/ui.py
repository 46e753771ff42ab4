"""`hpo ui`: MLflow's server on a study's store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from hpo.errors import EnvironmentFailed, Mistake
from hpo.study_file.spec import StudySpec
from hpo.tracking.uri import tracking_uri, without_password


def serve_ui(spec: StudySpec, state: Path, port: int) -> int:
    """Run MLflow's server on the loopback address until it is interrupted; of a server elsewhere print the address."""
    uri = tracking_uri(spec.tracking.uri, state, os.environ, spec.place("tracking.uri"))
    if uri.startswith("http"):
        print(f"MLflow runs at {without_password(uri)}")
        return 0
    refuse_busy_port(port)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not among the arguments, which every user of the machine can read
    }
    print(f"http://127.0.0.1:{port}/?workflowType=machine_learning  (Ctrl-C ends it)", flush=True)
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def refuse_busy_port(port: int) -> None:
    """MLflow would report it in three lines of its log, after our line with the address. Raises EnvironmentFailed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended keeps its port
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            rule, remedy = "must be free for the server", f"hpo ui --port {port + 1}"
            raise EnvironmentFailed(Mistake(f"127.0.0.1:{port}", rule, error.strerror or "busy", remedy)) from None
