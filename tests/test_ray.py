"""The Ray executor on a cluster of several nodes on this machine: the contract, and what happens when nodes come and go."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fakes
import laws
import pytest
import test_executors

ray = pytest.importorskip("ray", reason="the extra hpo[ray] is not installed")

from ray.cluster_utils import Cluster  # noqa: E402

from hpo.execution.cluster import Share  # noqa: E402
from hpo.execution.ray import RayExecutor  # noqa: E402

# The contract and the fault tests of the local executor, run again by this module's `make` and `local`.
from test_executors import (  # noqa: E402, F401
    epochs,
    job,
    listen,
    test_a_dead_worker_takes_only_its_own_job_with_it,
    test_a_job_reports_every_epoch_once_in_order_and_then_rests,
    test_a_memory_limit_hurts_only_who_exceeds_it,
    test_a_rested_training_goes_on_where_it_was,
    test_a_silent_worker_is_killed_and_its_job_deserves_another_attempt,
    test_a_stop_lets_the_epoch_finish,
    test_a_trainer_that_ends_early_is_exhausted,
    test_a_trainer_that_prints_without_end_hurts_nobody,
    test_a_training_over_its_time_limit_ends_as_timeout,
    test_close_leaves_no_process,
    test_every_report_that_arrived_has_its_checkpoint,
    test_trainings_may_take_turns_on_one_worker,
    test_what_a_trainer_raises_is_an_outcome_and_the_worker_goes_on,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "OMP_NUM_THREADS": "1",
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
    """Answers `pids` once all its workers are ready, as LocalExecutor does; for tests in which nothing else is going on."""

    def pids(self) -> list[int]:
        ready(self, self._most or 1)
        return super().pids()


def ready(executor: RayExecutor, slots: int) -> RayExecutor:
    laws.until(lambda: len(RayExecutor.pids(executor)) == slots, lambda: executor.wait(1.0), most=100)
    return executor


def started(fake: fakes.Fake, slots: int = 1, **more: object) -> RayExecutor:
    executor = Patient(Share(), slots, **more)  # type: ignore[arg-type]
    executor.begin([fake])
    return ready(executor, slots)


@pytest.fixture(autouse=True)
def _local_is_ray(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_executors, "local", started)


@pytest.fixture(params=["a shared path", "the object store"], scope="module")
def lasting(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[RayExecutor]:
    executor = RayExecutor(Share(), 1, shared=request.param == "a shared path")
    yield executor
    executor.close()


@pytest.fixture
def make(lasting: RayExecutor) -> Callable[[fakes.Fake], RayExecutor]:
    """One executor for all of the contract; `begin` gives its worker the next trainer."""

    def maker(fake: fakes.Fake = fakes.Fake()) -> RayExecutor:
        lasting.begin([fake])
        return ready(lasting, 1)

    return maker
