"""Which Ray cluster a study runs on, how many trials its nodes can carry, and whether it still answers."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import ray

from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.study_file.spec import StudySpec

log = logging.getLogger(__name__)

GONE_SECONDS = 20.0  # without an answer from the cluster; after 60 Ray would end this process by itself
PATIENCE = 300.0  # seconds to wait for a node while there is none
PROBE_SECONDS = 30.0  # importing ray and joining a cluster takes about 3
CLIENT = "ray://"
START = "start one with `ray start --head`, or name its address"
# In a process of its own, because ray.init cannot be interrupted: where nothing answers it tries for more than 150 s.
PROBE = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except Exception as error:
    print(type(error).__name__, error, sep=": ")
"""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a node has, or what one trial takes of it; a fraction shares a core or a GPU."""

    cpus: float = 1.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} cpus" + (f" and {self.gpus:g} gpus" if self.gpus else "")


def nodes() -> dict[str, Resources]:
    """What each node has that is alive, by its name in Ray."""
    alive = {str(node["NodeID"]): node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {name: Resources(has.get("CPU", 0.0), has.get("GPU", 0.0)) for name, has in alive.items()}


def capacity(resources: Resources, alive: Iterable[Resources]) -> int:
    """How many trials these nodes can carry at a time."""
    trials = 0
    for node in alive:
        shares = [have / take for have, take in ((node.cpus, resources.cpus), (node.gpus, resources.gpus)) if take]
        trials += int(min(shares, default=0) + 1e-6)
    return trials


def join(address: str | None, place: str) -> str:
    """Join the cluster, unless this process has; returns the host:port it depends on. Raises EnvironmentFailed."""
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if not ray.is_initialized():
        refuse_unreachable(address, place)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises whatever went wrong below
            raise refused(f"{type(error).__name__}: {error}", address, place) from None
    return address.removeprefix(CLIENT) if address.startswith(CLIENT) else str(ray.get_runtime_context().gcs_address)


def refuse_unreachable(address: str, place: str) -> None:
    """Raises EnvironmentFailed where no cluster can be joined, in a bounded time."""
    silent = EnvironmentFailed(Mistake(place, "no Ray cluster answers", address, START))
    if address != "auto":
        host, _, port = address.removeprefix(CLIENT).rpartition(":")
        if not host or not port.isdigit():
            raise EnvironmentFailed(Mistake(place, "must be auto, HOST:PORT or ray://HOST:PORT", address, START))
        if not listens(address.removeprefix(CLIENT)):
            raise silent
    if address.startswith(CLIENT):
        return  # ray.init itself gives up after 30 s
    command = [sys.executable, "-c", PROBE, address]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise silent from None
    if probe.returncode or probe.stdout:
        raise refused(probe.stdout or f"exit {probe.returncode}", address, place)


def refused(error: str, address: str, place: str) -> EnvironmentFailed:
    text = " ".join(error.split())[:300]
    if "Could not find any running Ray instance" in text:
        return EnvironmentFailed(Mistake(place, "no Ray cluster runs here", address, START))
    if "ersion mismatch" in text:
        detail = text.partition("ersion mismatch:")[2].strip() or text
        remedy = "install the same Ray and Python on the driver and all nodes"
        return EnvironmentFailed(Mistake(place, "must run the driver's versions", detail, remedy))
    return EnvironmentFailed(Mistake(place, "cannot be joined", f"{address} ({text})", START))


def listens(address: str) -> bool:
    """Whether a process listens at host:port; cheap enough for every few seconds."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
        return True
    return False


def cluster_devices(spec: StudySpec) -> list[str]:
    """The device of each worker that fits now, at least one."""
    own, workers = spec.execution, spec.workers
    join(own.address, spec.place("execution.address"))
    usable = wait_for_nodes(PATIENCE, spec.place("execution.address"))
    resources = resources_of(spec.device, own.cpus, own.gpus, usable, spec.place)
    refuse_too_much(resources, usable, spec.place)
    most = capacity(resources, usable)
    return ["cuda" if resources.gpus else "cpu"] * (most if workers == "auto" else min(int(workers), most))


def wait_for_nodes(
    patience: float,
    where: str,
    sleep: Callable[[float], None] = time.sleep,
    look: Callable[[], Iterable[Resources]] = lambda: nodes().values(),
) -> list[Resources]:
    """The nodes with CPUs or GPUs; waits up to `patience` seconds for the first. Raises EnvironmentFailed."""
    waited = 0.0
    while not (usable := [node for node in look() if node.cpus or node.gpus]):
        if waited == 0:
            log.warning("the Ray cluster has no node that can work; waiting %.0f s for one", patience)
        if waited >= patience:
            remedy = "start one with `ray start --address HOST:PORT`"
            raise EnvironmentFailed(Mistake(where, "must have a node that can work", "none", remedy))
        sleep(1.0)
        waited += 1.0
    return usable


def resources_of(
    device: str, cpus: float, gpus: float | None, usable: Sequence[Resources], where: Callable[[str], str]
) -> Resources:
    """What a trial takes. gpus None: one if the device is cuda, or auto and there are any. Raises BadInput."""
    if device not in ("auto", "cpu", "cuda"):
        remedy = "write auto, cpu or cuda"
        raise BadInput(Mistake(where("device"), "must not name a GPU, because Ray hands them out", device, remedy))
    if gpus is None:
        on_gpu = device == "cuda" or (device == "auto" and any(node.gpus for node in usable))
        return Resources(cpus, 1.0 if on_gpu else 0.0)
    if (device == "cpu" and gpus) or (device == "cuda" and not gpus):
        got = f"{gpus:g} with device {device}"
        raise BadInput(Mistake(where("execution.gpus"), "must go with the device", got, "write device: auto"))
    return Resources(cpus, gpus)


def refuse_too_much(resources: Resources, usable: Sequence[Resources], where: Callable[[str], str]) -> None:
    """A trial must fit on one node. Raises BadInput, naming what nodes have."""
    if not capacity(resources, usable):
        got = f"{resources} (nodes have {' or '.join(dict.fromkeys(map(str, usable)))})"
        raise BadInput(Mistake(where("execution"), "must fit on one node", got, "lower it, or start a larger node"))


class Monitor:
    """Watches the cluster for an executor. patience: seconds without any node on which a trial fits; clock: seconds."""

    def __init__(self, address: str, resources: Resources, patience: float, clock: Callable[[], float]) -> None:
        self.address, self.resources, self.patience, self.clock = address, resources, patience, clock
        self.answers = True
        self._through_client = bool(ray.util.client.ray.is_connected())
        self._since: dict[str, float] = {}  # when what the warning says began

    def capacity(self) -> int | None:
        """How many trials fit now; None while the cluster does not answer. Raises EnvironmentFailed."""
        self.answers = listens(self.address)  # without Ray, which would wait, and end this process after a minute
        warning = f"the Ray cluster at {self.address} does not answer; waiting {GONE_SECONDS:.0f} s for it"
        if self._lasts(warning, not self.answers, GONE_SECONDS):
            self._fail("the Ray cluster is gone", f"no answer for {GONE_SECONDS:.0f} s", "the cluster")
        if not self.answers:
            return None
        alive = nodes()
        if not self._through_client and ray.get_runtime_context().get_node_id() not in alive:
            self._fail("the Ray node of this driver died", "", "ray start")
        fitting = capacity(self.resources, alive.values())
        text = f"no node of the Ray cluster at {self.address} can run a trial ({self.resources})"
        if self._lasts(f"{text}; waiting {self.patience:.0f} s for one", not fitting, self.patience):
            rule = f"must have a node that can run a trial ({self.resources})"
            self._fail(rule, f"none for {self.patience:.0f} s", "nodes")
        return fitting

    def _lasts(self, warning: str, trouble: bool, patience: float) -> bool:
        """Whether this trouble has lasted for `patience` seconds; a warning is logged when it begins."""
        if not trouble:
            self._since.pop(warning, None)
        elif warning not in self._since:
            self._since[warning] = self.clock()
            log.warning(warning)
        return trouble and self.clock() - self._since[warning] >= patience

    def _fail(self, rule: str, got: str, missing: str) -> None:
        raise EnvironmentFailed(Mistake(self.address, rule, got, f"start {missing}, then run the same command again"))
