"""Which Ray cluster, what its nodes can carry, and whether it is still there. Imported only where a study says so."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray._private.services import canonicalize_bootstrap_address

from hpo.errors import BadInput, EnvironmentFailed, Mistake

log = logging.getLogger(__name__)

GONE_SECONDS = 20.0  # without an answer of a cluster; after 60 Ray would end this process by itself
PATIENCE = 300.0  # seconds to wait for a node while there is none
ANSWER_SECONDS = 10.0  # a cluster that is there answers in less; ray.init alone would try for two minutes
CLIENT = "ray://"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # an empty frame of type 4, with which both sides of HTTP/2 begin
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
START = "start one with `ray start --head`, or name its address"


@dataclass(frozen=True, slots=True)
class Share:
    """What one trial takes of a node; a fraction shares a core or a GPU."""

    cpus: float = 1.0
    gpus: float = 0.0

    def times(self, node: Node) -> int:
        """How many trials such a node carries."""
        pairs = ((node.cpus, self.cpus), (node.gpus, self.gpus))
        return min((math.floor(have / take + 1e-6) for have, take in pairs if take), default=0)

    def __str__(self) -> str:
        return f"{self.cpus:g} cpus" + (f" and {self.gpus:g} gpus" if self.gpus else "")


@dataclass(frozen=True, slots=True)
class Node:
    """A living node. name: its address."""

    id: str
    name: str
    cpus: float
    gpus: float


def nodes() -> list[Node]:
    """The nodes that live."""
    return [
        Node(
            str(found["NodeID"]),
            str(found["NodeManagerAddress"]),
            float(found["Resources"].get("CPU", 0.0)),
            float(found["Resources"].get("GPU", 0.0)),
        )
        for found in ray.nodes()
        if found["Alive"]
    ]


def capacity(share: Share, found: Sequence[Node]) -> int:
    return sum(share.times(node) for node in found)


# -- connecting


def connect(address: str | None, place: str) -> str:
    """Join the cluster as a driver, unless this process has joined it; returns where it is as host:port.

    address: None or auto is $RAY_ADDRESS or the cluster of this machine. Raises EnvironmentFailed within seconds.
    """
    if ray.is_initialized():
        return gcs(address)
    found = resolve(address, place)
    if not reachable(found, ANSWER_SECONDS):
        raise EnvironmentFailed(Mistake(place, "no Ray cluster answers", found, START))
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises whatever went wrong below
        raise EnvironmentFailed(_refused(error, found, place)) from None
    return gcs(address)


def gcs(address: str | None) -> str:
    """host:port of what the whole cluster depends on: through Ray's client its server, else the GCS."""
    if address is not None and address.startswith(CLIENT):
        return address.removeprefix(CLIENT)
    return str(ray.get_runtime_context().gcs_address)


def resolve(address: str | None, place: str) -> str:
    """host:port. Raises EnvironmentFailed where no cluster was ever started here."""
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address.startswith(CLIENT):
        return address.removeprefix(CLIENT)
    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        found = None
    except Exception as error:  # a host that has no address, or text that is none
        rule = "must be the address of a Ray cluster"
        raise EnvironmentFailed(Mistake(place, rule, f"{address} ({error})", START)) from None
    if found is None:
        raise EnvironmentFailed(Mistake(place, "no Ray cluster runs here", address, START))
    return str(found)


def reachable(address: str, seconds: float) -> bool:
    """Whether a gRPC server answers there: the kernel takes connections for a process that hangs, too."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), seconds) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return True  # only ray.init has the certificates
            connection.settimeout(seconds)
            connection.sendall(HELLO)
            return connection.recv(len(SETTINGS))[3:4] == SETTINGS[3:4]
    except (OSError, ValueError):
        return False


def listens(address: str, seconds: float = 2.0) -> bool:
    """Whether anything is there at all; cheap enough to be asked every few seconds."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
        return True
    return False


def _refused(error: Exception, address: str, place: str) -> Mistake:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text or "ersion mismatch" in type(error).__name__:
        detail = text.partition("ersion mismatch:")[2].strip() or text
        remedy = "install the same Ray and Python on the driver and all nodes"
        return Mistake(place, "must run the driver's versions", detail[:300], remedy)
    return Mistake(place, "cannot be joined", f"{address} ({type(error).__name__}: {text[:300]})", START)


# -- what a study asks of it


def place(
    address: str | None,
    device: str,
    workers: int | str,
    share: tuple[float, float | None],
    where: Callable[[str], str],
) -> list[str]:
    """The device of each worker that fits now, as devices.place says it for one machine; one at least.

    share: cpus and gpus a trial, as in the study file; where: the place of a key. Raises BadInput, EnvironmentFailed.
    """
    connect(address, where("execution.address"))
    found = wait_for_nodes(PATIENCE, where("execution.address"))
    takes = share_of(device, *share, found, where)
    refuse_too_much(takes, found, where)
    most = capacity(takes, found)
    return ["cuda" if takes.gpus else "cpu"] * (most if workers == "auto" else min(int(workers), most))


def wait_for_nodes(
    patience: float, where: str, sleep: Callable[[float], None] = time.sleep, look: Callable[[], list[Node]] = nodes
) -> list[Node]:
    """The nodes that can work at all; a head alone waits for others, `patience` seconds. Raises EnvironmentFailed."""
    waited = 0.0
    while not (found := [node for node in look() if node.cpus or node.gpus]):
        if waited == 0:
            log.warning("the Ray cluster has no node that can work; waiting %.0f s for one", patience)
        if waited >= patience:
            remedy = "start one with `ray start --address HOST:PORT`"
            raise EnvironmentFailed(Mistake(where, "must have a node that can work", "none", remedy))
        sleep(1.0)
        waited += 1.0
    return found


def refuse_too_much(share: Share, found: Sequence[Node], where: Callable[[str], str]) -> None:
    """A trial must fit on one node. Raises BadInput, naming the most that any node has."""
    if capacity(share, found):
        return
    mistakes = []
    for name, wanted, most in (
        ("gpus", share.gpus, max(node.gpus for node in found)),
        ("cpus", share.cpus, max(node.cpus for node in found)),
    ):
        if wanted > most:
            got = f"{wanted:g} (the most any node has is {most:g})"
            remedy = f"lower it, or start a node with {wanted:g}"
            mistakes.append(Mistake(where(f"execution.{name}"), "must fit on one node", got, remedy))
    rule, remedy = "must fit together on one node", "lower them, or start a larger node"
    raise BadInput(*mistakes or [Mistake(where("execution"), rule, str(share), remedy)])


def share_of(device: str, cpus: float, gpus: float | None, found: Sequence[Node], where: Callable[[str], str]) -> Share:
    """What a trial takes. gpus None: one if the device is cuda, or auto and there are any. Raises BadInput."""
    if device not in ("auto", "cpu", "cuda"):
        remedy = "write auto, cpu or cuda"
        raise BadInput(Mistake(where("device"), "must not name a GPU, because Ray hands them out", device, remedy))
    if gpus is None:
        wanted = device == "cuda" or (device == "auto" and any(node.gpus for node in found))
        return Share(cpus, 1.0 if wanted else 0.0)
    if (device == "cpu" and gpus) or (device == "cuda" and not gpus):
        got = f"{gpus:g} with device {device}"
        raise BadInput(Mistake(where("execution.gpus"), "must go with the device", got, "write device: auto"))
    return Share(cpus, gpus)


# -- while a study runs


class Watch:
    """Looks after the cluster for an executor. clock: seconds.

    patience: how long no node may be there on which a trial fits.
    """

    def __init__(self, address: str, share: Share, patience: float, clock: Callable[[], float]) -> None:
        self.address, self.share, self.patience, self.clock = address, share, patience, clock
        self.answers = True
        self._through_client = bool(ray.util.client.ray.is_connected())
        self._unheard: float | None = None  # since when the cluster does not answer
        self._alone: float | None = None  # since when no node carries a trial

    def room(self) -> int | None:
        """How many trials fit; None while the cluster does not answer. Raises EnvironmentFailed."""
        self.answers = self._is_there()
        if not self.answers:
            return None
        found = nodes()
        if not self._through_client and ray.get_runtime_context().get_node_id() not in {node.id for node in found}:
            self._fail("the Ray node of this driver died", "ray start", "")
        room = capacity(self.share, found)
        self._wait_for_a_node(room)
        return room

    def _is_there(self) -> bool:
        """Asked without Ray, which would wait for an answer, and end this process after a minute."""
        if listens(self.address):
            self._unheard = None
            return True
        if self._unheard is None:
            self._unheard = self.clock()
            log.warning("the Ray cluster at %s does not answer; waiting %.0f s for it", self.address, GONE_SECONDS)
        if self.clock() - self._unheard >= GONE_SECONDS:
            self._fail("the Ray cluster is gone", "the cluster", f"no answer for {GONE_SECONDS:.0f} s")
        return False

    def _wait_for_a_node(self, room: int) -> None:
        if room:
            self._alone = None
            return
        if self._alone is None:
            self._alone = self.clock()
            text = "no node of the Ray cluster at %s can run a trial (%s); waiting %.0f s for one"
            log.warning(text, self.address, self.share, self.patience)
        if self.clock() - self._alone >= self.patience:
            self._fail(
                f"must have a node that can run a trial ({self.share})", "nodes", f"none for {self.patience:.0f} s"
            )

    def _fail(self, rule: str, what: str, got: str) -> None:
        raise EnvironmentFailed(Mistake(self.address, rule, got, f"start {what}, then run the same command again"))
