"""docker-compose.yml played without Docker: every service's own command, environment, user and secrets, taken from the file.

One namespace of mounts, network and processes stands in for the containers, so that the host names, the ports and the paths of the
file are those of the stage, and nothing outlives it. It needs root on Linux, and Debian's PostgreSQL in place of that image.
"""

import atexit
import functools
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import laws
import yaml

ROOT = Path(__file__).parent.parent
STUDY = """
name: digits
strategy: random
data: {source: digits, limit: 300}
search_space: {learning_rate: [0.01, 0.02, 0.03], blocks: 1, channels: 8, batch_size: 64, epochs: 1}
budget: {trials: 2}
"""
LOADED = """
import json, mlflow, numpy
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("digits")
runs = client.search_runs([experiment.experiment_id])
model = mlflow.pytorch.load_model("models:/digits@champion")
import torch
with torch.inference_mode():
    given = model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
print(json.dumps([sorted(run.info.status for run in runs), list(given.shape), experiment.artifact_location]))
"""
TICK = 0.25  # seconds between two looks at a service
TOOLS = ("unshare", "nsenter", "setpriv", "ip")
ENTRANCE = """
set -eu
mount --make-rprivate /
ip link set lo up
mount --bind {folder} /srv
mount --bind /srv/hosts /etc/hosts
for path in {kept}; do mkdir -p /srv/kept$path; mount --bind $path /srv/kept$path; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
for path in {kept}; do mkdir -p $path; mount --bind /srv/kept$path $path; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=777 tmpfs /var/lib/postgresql
mkdir /run/secrets
mkdir -m 777 /run/postgresql
mount --bind /srv/secrets /run/secrets
echo there
exec sleep infinity
"""


def postgres_tools() -> Path | None:
    """The newest of Debian's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def missing() -> str:
    """Why there can be no stage here; "" if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux"
    if tools := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{tools[0]} is not installed"
    if postgres_tools() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if absent := [name for name in ("ray", "psycopg", "flask_wtf") if importlib.util.find_spec(name) is None]:
        return f"{absent[0]} is not installed (pip install '.[server]')"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "this machine allows no namespaces" if tried.returncode else ""


def compose(variables: Mapping[str, str] | None = None, more: Sequence[Path] = ()) -> dict[str, Any]:
    """docker-compose.yml as Compose reads it, `more` files merged into it, its ${VARIABLES:-defaults} filled in."""
    found = {} if variables is None else variables

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, _, default = match[1].partition(":-")
        return found.get(name, default)

    def walk(node: Any) -> Any:
        if isinstance(node, str):
            return re.sub(r"\$\$|\$\{([^}]+)\}", fill, node)
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        return [walk(one) for one in node] if isinstance(node, list) else node

    read: dict[str, Any] = {}
    for path in (ROOT / "docker-compose.yml", *more):
        read = merged(read, walk(yaml.safe_load(path.read_text())))
    return read


def merged(before: Any, after: Any, key: str = "") -> Any:
    """As Compose merges files: mappings by key, sequences one behind the other, but commands are replaced."""
    if isinstance(before, dict) and isinstance(after, dict):
        both = {name: merged(before[name], after[name], name) for name in before.keys() & after.keys()}
        return {**before, **after, **both}
    if isinstance(before, list) and isinstance(after, list) and key not in ("command", "entrypoint", "test"):
        return [*before, *after]
    return after


def image_environment() -> dict[str, str]:
    """What the Dockerfile's last stage sets, but PATH."""
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    settings = [pair for line in re.findall(r"^ENV (.+)$", last, re.MULTILINE) for pair in line.split()]
    return {name: text for name, _, text in (pair.partition("=") for pair in settings) if name != "PATH"}


class Stage:
    """`folder` is /srv there. A service runs as its user, who may read all files: the checkout can be root's own."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, more: Sequence[Path] = ()) -> None:
        self.folder, self.file = folder, compose(variables, more)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name in ("secrets", "studies", "mlflow"):
            (folder / name).mkdir(parents=True)
            os.chown(folder / name, 1000, 1000)
        for secret in self.file["secrets"]:
            (folder / "secrets" / secret).write_text(f"{secret.replace('_', '')}0123456789abcdef0123456789abcdef\n")
        for told in self.file["services"].values():
            for config in told.get("configs", []):
                source = ROOT / self.file["configs"][config["source"]]["file"]
                shutil.copy(source, folder / Path(config["target"]).relative_to("/srv"))
        names = ["localhost", os.uname().nodename, *self.file["services"]]
        (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        kept = [shlex.quote(str(path)) for path in (ROOT, Path(sys.prefix)) if path.is_relative_to("/tmp")]
        script = ENTRANCE.format(folder=folder, kept=" ".join(kept))
        self._holder = subprocess.Popen([*command, "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "there\n"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self._inside = children[0]
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def close(self) -> None:
        self._holder.kill()  # and with the first process of a namespace all others in it
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        for process in self._started.values():
            process.wait()

    # -- services

    def up(self, *services: str) -> None:
        """Start them in this order, each once those it depends on are healthy."""
        for service in services:
            assert all(self.is_healthy(other) for other in self.file["services"][service].get("depends_on", {}))
            self.start(service)
            healthy, tick = functools.partial(self.is_healthy, service), functools.partial(self._tick, service)
            laws.until(healthy, tick, most=400)

    def start(self, service: str) -> None:
        command = self.postgres() if service == "postgres" else self.command(service)
        with (self.folder / f"{service}.log").open("ab") as log:
            self._started[service] = subprocess.Popen([*self._as(service), *command], stdout=log, stderr=log)

    def stop(self, service: str) -> None:
        process = self._started.pop(service)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGINT)  # what its image asks for: a fast shutdown
        process.wait()

    def run(
        self, service: str, *arguments: str, plain: bool = False, join: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """As `docker compose run SERVICE ARGUMENTS`. plain: just these words, in that container; join: Ray if it is told so."""
        words = list(arguments) if plain else self.command(service, arguments)
        alone = [] if join else ["env", "--unset=RAY_JOIN"]
        command = [*self._as(service), *alone, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)

    def is_healthy(self, service: str) -> bool:
        kind, *words = self.file["services"][service]["healthcheck"]["test"]
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return subprocess.run([*self._as(service), *command], capture_output=True, check=False).returncode == 0

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def command(self, service: str, arguments: Sequence[str] | None = None) -> list[str]:
        told = self.file["services"][service]
        entrypoint = told.get("entrypoint", ["entrypoint.sh"])
        return [*entrypoint, *(told["command"] if arguments is None else arguments)]

    def postgres(self) -> list[str]:
        """What the entrypoint of PostgreSQL's image does, with the service's own environment."""
        data = self.file["services"]["postgres"]["volumes"][0].partition(":")[2]
        steps = [
            f'initdb --pgdata={data} --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --encoding=UTF8',
            f"echo 'host all all all scram-sha-256' >> {data}/pg_hba.conf",
            f"pg_ctl --pgdata={data} --options='-c listen_addresses=' --wait start",
            'createdb --username="$POSTGRES_USER" "$POSTGRES_DB" || true',
            f"pg_ctl --pgdata={data} --wait stop",
            f"exec postgres -D {data} -c listen_addresses='*'",
        ]
        return ["sh", "-c", "\n".join(["set -e", *steps])]

    def _as(self, service: str) -> list[str]:
        """In the namespaces, as the service's user, with its environment only."""
        told = self.file["services"][service]
        tools = postgres_tools()
        path = [ROOT / "docker", Path(sys.executable).parent, tools, "/usr/bin", "/bin"]
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {"PATH": ":".join(map(str, path)), "PYTHONPATH": os.pathsep.join(paths)}
        reading: list[str] = []
        if service != "postgres":
            environment |= image_environment()
            reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        environment |= told.get("environment", {})
        user, _, group = told.get("user", "1000:1000").partition(":")
        enter = ["nsenter", "--target", self._inside, "--mount", "--net", "--pid", "--"]
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *reading]
        clean = ["env", "--ignore-environment", "--chdir=/srv", *(f"{n}={t}" for n, t in environment.items())]
        return [*enter, *become, *clean]

    def _tick(self, service: str) -> None:
        """Wait a little, unless the service is over."""
        process = self._started[service]
        try:
            process.wait(TICK)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"{service} ended with {process.returncode}: {self.log(service)[-3_000:]}")


@functools.cache
def stage() -> Stage:
    """One for all tests of a run."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-stage-"))
    made = Stage(folder, {"MLFLOW_WORKERS": "1"})
    atexit.register(shutil.rmtree, folder, True)
    atexit.register(made.close)
    return made
