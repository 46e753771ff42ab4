"""The Ray executor on a cluster of several nodes on this machine: the contract, and nodes that come and go."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
import laws
import pytest

os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # as hpo does it: no lines printed by Ray itself
ray = pytest.importorskip("ray", reason="the extra ray is not installed")

from ray.cluster_utils import Cluster  # noqa: E402

# The contract and the fault tests of the local executor, run again by this module's `make` and `local`.
from test_executors import (  # noqa: E402, F401
    epochs,
    job,
    listen,
    test_a_dead_worker_takes_just_its_job,
    test_a_job_reports_every_epoch_once_in_order_and_then_rests,
    test_a_memory_limit_hurts_only_who_exceeds_it,
    test_a_rested_training_goes_on_where_it_was,
    test_a_silent_worker_is_killed,
    test_a_stop_lets_the_epoch_finish,
    test_a_trainer_that_ends_early_is_exhausted,
    test_a_trainer_that_prints_without_end_hurts_nobody,
    test_a_training_over_its_time_limit_ends_as_timeout,
    test_close_leaves_no_process,
    test_every_report_that_arrived_has_its_checkpoint,
    test_trainings_may_take_turns_on_one_worker,
    test_what_a_trainer_raises_is_an_outcome,
)

import hpo.execution.ray  # noqa: E402
from hpo import api  # noqa: E402
from hpo.core import Event, Goal, Message, Reported, Retried, Strategy, Study, Train  # noqa: E402
from hpo.data import dataset as data  # noqa: E402
from hpo.engine import components  # noqa: E402
from hpo.engine.driver import Driver  # noqa: E402
from hpo.engine.search import Search  # noqa: E402
from hpo.engine.trainings import Trainings  # noqa: E402
from hpo.errors import BadInput, EnvironmentFailed  # noqa: E402
from hpo.execution.cluster import (  # noqa: E402
    GONE_SECONDS,
    Monitor,
    Resources,
    capacity,
    refuse_too_much,
    refuse_unreachable,
    refused,
    resources_of,
    wait_for_nodes,
)
from hpo.execution.local import LocalExecutor  # noqa: E402
from hpo.execution.ray import RayExecutor  # noqa: E402
from hpo.journal import Journal  # noqa: E402
from hpo.strategies.early_stopping import Asha  # noqa: E402
from hpo.strategies.points import Grid, Problem, Random  # noqa: E402
from hpo.study_file.spec import Budget, DataSpec, EarlyStopping  # noqa: E402
from hpo.training.recipe import Recipe  # noqa: E402

ignored = pytest.mark.filterwarnings("ignore")  # Ray's own warnings
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster"), ignored]

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "OMP_NUM_THREADS": "1",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_failure_threshold": "5",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that carries no trial and three nodes that carry three each."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        made.add_node(num_cpus=3, wait=False)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()
    for name, text in before.items():
        os.environ.pop(name) if text is None else os.environ.update({name: text})


class Patient(RayExecutor):
    """Answers `pids` once all its workers are ready, as LocalExecutor does; for tests where nothing else goes on."""

    def pids(self) -> list[int]:
        ready(self, self.most or 1)
        return super().pids()


def ready(executor: RayExecutor, slots: int) -> RayExecutor:
    laws.until(lambda: len(RayExecutor.pids(executor)) == slots, lambda: executor.wait(1.0), most=100)
    return executor


def started(fake: fakes.Fake, slots: int = 1) -> RayExecutor:
    executor = Patient(Resources(), slots)
    executor.begin([fake])
    return ready(executor, slots)


@pytest.fixture
def local(cluster: Cluster) -> Iterator[Callable[..., RayExecutor]]:
    """The local executor's tests start workers with this."""
    with contextlib.ExitStack() as stack:
        yield lambda *settings: stack.enter_context(contextlib.closing(started(*settings)))


@pytest.fixture(scope="module")
def lasting(cluster: Cluster) -> Iterator[RayExecutor]:
    with contextlib.closing(RayExecutor(Resources(0.1), 1)) as executor:
        yield executor


@pytest.fixture
def make(lasting: RayExecutor) -> Callable[[fakes.Fake], RayExecutor]:
    """One executor for all of the contract; `begin` gives its worker the next trainer."""

    def maker(fake: fakes.Fake = fakes.Fake()) -> RayExecutor:
        lasting.begin([fake])
        return ready(lasting, 1)

    return maker


def random() -> Strategy:
    return Random(Problem(fakes.SPACE, seed=3))


def grid() -> Strategy:
    return Grid(Problem(fakes.DISCRETE, seed=3))


def study(
    folder: Path,
    strategy: Strategy,
    executor: RayExecutor | LocalExecutor,
    trials: int | None,
    hear: Callable[[Event], object] = lambda event: None,
) -> list[Event]:
    """One visit of a driver, which goes on with the journal in this folder; all of its events."""
    with Journal.open(folder / "journal.db") as journal:
        before = Study(event for _, event in journal.events())
        search = Search(before, strategy, Goal(), Budget(trials=trials), laws.identity(), journal.append)
        Driver([search], executor, Trainings(folder / "trainings"), listeners=[lambda _, event: hear(event)]).run()
        return [event for _, event in journal.events()]


def extra_epochs(witness: Path) -> int:
    """Epochs that were trained more than once."""
    return sum(count - 1 for count in Counter(fakes.witnessed(witness)).values())


class After:
    """Does something once, at the n-th report."""

    def __init__(self, reports: int, do: Callable[[], object]) -> None:
        self.left, self.do = reports, do

    def __call__(self, event: Event) -> None:
        if isinstance(event, Reported):
            self.left -= 1
            if self.left == 0:
                self.do()


def test_two_hundred_trials_on_eight_slots_are_exactly_those_of_one_local_worker(tmp_path: Path) -> None:
    with contextlib.closing(started(fakes.Fake(witness=tmp_path / "witness"), 8)) as executor:
        events = study(tmp_path / "ray", random(), executor, 200)
        gridded = study(tmp_path / "grid", grid(), executor, None)
    with contextlib.closing(LocalExecutor(1)) as one:
        one.begin([fakes.Fake()])
        alone = study(tmp_path / "local", random(), one, 200)
        alone_gridded = study(tmp_path / "local-grid", grid(), one, None)
    assert laws.params_of(laws.check(events, trials=200)) == laws.params_of(laws.check(alone, trials=200))
    assert laws.params_of(laws.check(gridded)) == laws.params_of(laws.check(alone_gridded))
    assert len(laws.check(gridded)) == 18
    assert extra_epochs(tmp_path / "witness") == 0


def test_a_node_that_joins_is_used_and_killed_it_costs_its_running_epoch(cluster: Cluster, tmp_path: Path) -> None:
    with contextlib.closing(RayExecutor(Resources(cpus=2.5))) as executor:  # as many as fit: one a node
        executor.begin([fakes.Fake(witness=tmp_path / "witness", pause=0.02)])
        ready(executor, 3)
        joined: list[Any] = []
        pids: list[int] = []

        def hear(event: Event) -> None:
            if isinstance(event, Reported) and len(executor.pids()) == 4 and not pids:
                pids.append(executor.pids()[-1])
                left.left = 30
            joining(event)
            left(event)

        joining = After(10, lambda: joined.append(cluster.add_node(num_cpus=3)))
        left = After(-1, lambda: cluster.remove_node(joined[0], allow_graceful=False))
        events = study(tmp_path, Asha(random(), Goal(), EarlyStopping("asha", 2, 2)), executor, 120, hear)
    laws.check(events, trials=120)
    assert pids[0] in {pid for _, _, pid in map(json.loads, (tmp_path / "witness").read_text().splitlines())}
    (retried,) = [event for event in events if isinstance(event, Retried)]
    assert "the worker on node" in retried.error
    assert extra_epochs(tmp_path / "witness") <= 1


class Rescued(RayExecutor):
    """Gets a node once it has said that it waits for one."""

    rescue: Callable[[], object]
    said: Callable[[], bool]
    rescued = False

    def wait(self, timeout: float | None) -> list[Message]:
        messages = super().wait(timeout)
        if self.said() and not self.rescued:
            self.rescued = True
            self.rescue()
        return messages


def test_with_all_nodes_gone_a_study_waits_and_goes_on_when_one_comes(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [cluster.add_node(num_cpus=0, num_gpus=2)]
    executor = Rescued(Resources(cpus=0, gpus=1))
    executor.rescue = lambda: nodes.append(cluster.add_node(num_cpus=0, num_gpus=2))
    executor.said = lambda: any("no node of the Ray cluster" in text for text in caplog.messages)
    executor.begin([fakes.Fake(witness=tmp_path / "witness", pause=0.05)])
    ready(executor, 2)
    try:
        killing = After(10, lambda: cluster.remove_node(nodes[0], allow_graceful=False))
        events = study(tmp_path, random(), executor, 10, killing)
    finally:
        executor.close()
        cluster.remove_node(nodes[-1])
    laws.check(events, trials=10)
    said = [text for text in caplog.messages if "no node of the Ray cluster" in text]
    assert len(said) == 1
    assert said[0].endswith("can run a trial (0 cpus and 1 gpus); waiting 300 s for one")


def test_with_all_nodes_gone_for_too_long_a_study_ends_with_exit_4(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=0, num_gpus=1)
    with contextlib.closing(RayExecutor(Resources(cpus=0, gpus=1), patience=0.5)) as executor:
        executor.begin([fakes.Fake(witness=tmp_path / "witness", pause=0.05)])
        ready(executor, 1)
        with pytest.raises(EnvironmentFailed) as failed:
            study(tmp_path, random(), executor, 10, After(10, lambda: cluster.remove_node(node, allow_graceful=False)))
    assert failed.value.exit_code == 4
    text = "must have a node that can run a trial (0 cpus and 1 gpus), got none for 0 s; start nodes, then run"
    assert str(failed.value).endswith(f"{text} the same command again")
    with contextlib.closing(LocalExecutor(1)) as here:
        here.begin([fakes.Fake(witness=tmp_path / "witness")])
        laws.check(study(tmp_path, random(), here, 10), trials=10)


DRIVER = """
import sys
sys.path[:0] = {paths}
import ray
ray.init(address={address!r}, log_to_driver=False, logging_level="ERROR")
from pathlib import Path
import fakes, test_ray
folder = Path({folder!r})
executor = test_ray.started(fakes.Fake(witness=folder / "witness", pause=0.05), 2)
test_ray.study(folder, test_ray.random(), executor, 12, test_ray.After(12, lambda: print("now", flush=True)))
"""


def test_a_driver_that_was_killed_is_gone_on_with(cluster: Cluster, tmp_path: Path) -> None:
    script = DRIVER.format(paths=[path for path in sys.path if path], address=cluster.address, folder=str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    with driver.stdout:
        assert driver.stdout.readline() == "now\n"
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    with contextlib.closing(started(fakes.Fake(witness=tmp_path / "witness"), 2)) as executor:
        events = study(tmp_path, random(), executor, 12)
    assert len(laws.check(events, trials=12).environments) == 2
    assert extra_epochs(tmp_path / "witness") <= 2


@dataclass(frozen=True)
class Looking(Recipe):
    """Trains nothing; its reports say what data it got, and whether its arrays are its own or in memory that nodes share."""

    def __call__(self) -> Train:
        assert self.dataset is not None
        images, label = self.dataset.images, self.dataset.targets[7]
        metrics = {"copied": float(images.flags.owndata), "sum": float(images.sum()), "label": label}
        return lambda job: iter([fakes.Report(1, metrics, 0.001, 1.0)])


@pytest.fixture
def digits(tmp_path: Path) -> data.Dataset:
    return data.load_dataset(DataSpec("digits", limit=100), 0, tmp_path / "cache")


def test_data_a_node_does_not_see_are_in_memory_that_its_workers_share(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits.folder is not None
    monkeypatch.chdir(digits.folder.parent)
    unseen = Path(digits.folder.name)  # relative to a folder in which no worker is
    with contextlib.closing(RayExecutor(Resources(), 2)) as executor:
        executor.begin([Looking("cnn", "cross_entropy", unseen, "cpu")])
        ready(executor, 2)
        for key in ("a", "b"):
            executor.submit(job(tmp_path, key, until=1))
        reports = [message.report for message in listen(executor, ends=2) if isinstance(message, Reported)]
    expected = {"copied": 0.0, "sum": float(digits.images.sum()), "label": digits.targets[7]}
    assert [report.metrics for report in reports] == [expected] * 2


def test_the_study_file_alone_chooses_ray(cluster: Cluster) -> None:
    settings = {"name": "x", "data": "digits", "search_space": {"learning_rate": [0.1]}, "execution": {"engine": "ray"}}
    spec = api.load({**settings, "workers": 2})
    assert components.placement(spec) == ["cpu", "cpu"]
    executor = components.start_executor(spec, ["cpu"])
    executor.close()
    assert isinstance(executor, RayExecutor)


def failure(recipe: Any) -> str:
    """What the driver says when a worker on a node does not start."""
    with contextlib.closing(RayExecutor(Resources(), 1)) as executor:
        executor.begin([recipe])
        return laws.refused(EnvironmentFailed, ready, executor, 1)


def test_other_versions_on_a_node_are_refused_by_name(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = hpo.execution.ray.versions()
    monkeypatch.setattr(hpo.execution.ray, "versions", lambda: theirs | {"torch": "1.0"})
    said = failure(fakes.Fake())
    assert said.startswith("node ")
    assert said.endswith(f"got torch {theirs['torch']} where the driver has 1.0; install the same there")


def test_a_trainer_that_cannot_be_made_on_a_node_is_one_line_that_names_the_node(digits: data.Dataset) -> None:
    assert digits.folder is not None
    said = failure(Recipe("cnn", "cross_entropy", digits.folder, "cpu", train="not_there:train"))
    text = "could not start: train: module not_there does not import, got "
    assert re.fullmatch(rf"a worker on node [0-9.]+ {text}.*", said)


def test_an_address_where_no_cluster_answers_is_one_line(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unreachable(cluster.address, "here")
    refuse_unreachable(cluster.address.replace(cluster.address.rpartition(":")[0], "localhost"), "here")
    monkeypatch.setattr("hpo.execution.cluster.PROBE_SECONDS", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes connections for a process that hangs, too
        for address in (f"127.0.0.1:{silent.getsockname()[1]}", "127.0.0.1:9", "ray://127.0.0.1:9"):
            remedy = "start one with `ray start --head`, or name its address"
            line = f"here: no Ray cluster answers, got {address}; {remedy}"
            assert laws.refused(EnvironmentFailed, refuse_unreachable, address, "here") == line


@pytest.mark.parametrize("address", ["local", "head", ":6379", "head:port"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    line = f"here: must be auto, HOST:PORT or ray://HOST:PORT, got {address};"
    assert laws.refused(EnvironmentFailed, refuse_unreachable, address, "here").startswith(line)


UNJOINED = {
    "ConnectionError: Could not find any running Ray instance.": "no Ray cluster runs here, got auto; start",
    "RuntimeError: Version mismatch: The cluster was started with:\n  Ray: 2.50.0": "must run the driver's versions, got "
    "The cluster was started with: Ray: 2.50.0; install",
    "OSError: no space": "cannot be joined, got auto (OSError: no space); start",
}
TOO_MUCH = {(1, 2): "1 cpus and 2 gpus", (9, 0): "9 cpus", (8, 1): "8 cpus and 1 gpus"}


@pytest.mark.parametrize(("error", "message"), UNJOINED.items())
def test_what_ray_says_of_a_cluster_that_cannot_be_joined_is_one_line(error: str, message: str) -> None:
    assert str(refused(error, "auto", "here")).startswith(f"here: {message}")


@pytest.mark.parametrize(("resources", "got"), TOO_MUCH.items())
def test_a_trial_that_fits_on_no_node_is_bad_input(resources: tuple[float, float], got: str) -> None:
    nodes = [Resources(8, 0), Resources(2, 1), Resources(8, 0)]
    got += " (nodes have 8 cpus or 2 cpus and 1 gpus)"
    line = f"execution: must fit on one node, got {got}; lower it, or start a larger node"
    assert laws.refused(BadInput, refuse_too_much, Resources(*resources), nodes, str) == line


def test_a_fraction_of_a_gpu_lets_several_trials_share_it() -> None:
    nodes = [Resources(8, 2), Resources(2, 1)]
    assert capacity(Resources(1, 0.25), nodes) == 8 + 2
    assert capacity(Resources(0.1, 0.1), [Resources(1, 1)]) == 10
    assert resources_of("auto", 1, None, nodes, str) == Resources(1, 1)
    assert resources_of("cpu", 1, None, nodes, str) == Resources(1, 0)


@pytest.mark.parametrize(("device", "gpus"), [("cuda:1", None), ("cpu", 1.0), ("cuda", 0.0)])
def test_a_device_that_contradicts_the_gpus_is_bad_input(device: str, gpus: float | None) -> None:
    with pytest.raises(BadInput):
        resources_of(device, 1, gpus, [Resources(1, 1)], str)


def test_a_cluster_of_a_head_alone_is_waited_for_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[list[Resources]] = [[Resources(0, 0)], [], [Resources(0, 0), Resources(2, 0)]]
    assert list(wait_for_nodes(10, "here", lambda seconds: None, lambda: looks.pop(0))) == [Resources(2, 0)]
    with pytest.raises(EnvironmentFailed, match="here: must have a node that can work, got none"):
        wait_for_nodes(3, "here", lambda seconds: None, lambda: [Resources(0, 0)])
    assert caplog.messages[0] == "the Ray cluster has no node that can work; waiting 10 s for one"


def test_a_cluster_that_is_gone_is_waited_for_and_then_given_up(cluster: Cluster) -> None:
    now = [0.0]
    monitor = Monitor("127.0.0.1:9", Resources(), 300, lambda: now[0])
    assert monitor.capacity() is None
    now[0] = GONE_SECONDS / 2
    assert monitor.capacity() is None
    now[0] = GONE_SECONDS
    text = "127.0.0.1:9: the Ray cluster is gone, got no answer for 20 s; start the cluster, then run"
    assert laws.refused(EnvironmentFailed, monitor.capacity) == f"{text} the same command again"
