"""The contract every executor passes, and what only real processes can show."""

import contextlib
import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fakes
import laws
import numpy as np
import pytest

from benchmarks.simulated import SimulatedExecutor
from hpo.core import Executor, Job, JobEnded, JobFailed, Limits, Message, Outcome, Report, Reported, TrainingFailed
from hpo.data import dataset as data
from hpo.errors import EnvironmentFailed
from hpo.execution.job_runner import InlineExecutor, JobRunner
from hpo.execution.local import LocalExecutor
from hpo.execution.worker import ENVIRONMENT
from hpo.study_file.spec import DataSpec
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

PARAMS = {"learning_rate": 0.01, "epochs": 8}


def started(fake: fakes.Fake, slots: int = 1) -> LocalExecutor:
    executor = LocalExecutor(slots)
    executor.begin([fake])
    return executor


MAKERS: dict[str, Callable[[fakes.Fake], Executor]] = {
    "inline": lambda fake: InlineExecutor(fake.train),
    "local": started,
    "simulated": lambda fake: SimulatedExecutor(fake.train, 1),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[fakes.Fake], Executor]]:
    with contextlib.ExitStack() as stack:
        yield lambda fake=fakes.Fake(): stack.enter_context(contextlib.closing(MAKERS[request.param](fake)))


@pytest.fixture
def local() -> Iterator[Callable[..., LocalExecutor]]:
    """Starts worker processes, as many as told."""
    with contextlib.ExitStack() as stack:
        yield lambda *settings: stack.enter_context(contextlib.closing(started(*settings)))


def job(
    folder: Path, key: str = "a", start: int = 0, until: int = 8, known: int | None = None, limits: Limits = Limits()
) -> Job:
    return Job(key, PARAMS, 7, start, until, start if known is None else known, folder / "trainings", limits)


def listen(executor: Executor, ends: int = 1) -> list[Message]:
    """All messages until so many jobs have ended."""
    messages: list[Message] = []
    laws.until(
        lambda: sum(not isinstance(m, Reported) for m in messages) >= ends,
        lambda: messages.extend(executor.wait(1.0)),
        most=120,
    )
    return messages


def assert_failed(message: Message, outcome: Outcome, lost: bool) -> JobFailed:
    assert isinstance(message, JobFailed)
    assert (message.outcome, message.lost) == (outcome, lost)
    return message


def epochs(messages: list[Message]) -> list[int]:
    return [message.report.epoch for message in messages if isinstance(message, Reported)]


def arrived(messages: list[Message], key: str) -> int:
    """The last epoch of a training that was reported; a process that dies may hold one that it could not send."""
    return max([m.report.epoch for m in messages if isinstance(m, Reported) and m.training == key], default=0)


def test_a_job_reports_every_epoch_once_in_order_and_then_rests(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make()
    executor.submit(job(tmp_path, until=5))
    messages = listen(executor)
    assert epochs(messages) == [1, 2, 3, 4, 5]
    assert messages[-1] == JobEnded("a")
    assert all(m.report.save is None for m in messages if isinstance(m, Reported))


def test_a_rested_training_goes_on_where_it_was(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make()
    executor.submit(job(tmp_path, until=3))
    first = listen(executor)
    executor.submit(job(tmp_path, start=3, until=6))
    second = listen(executor)
    assert epochs(first + second) == [1, 2, 3, 4, 5, 6]
    total = second[-2].report.metrics["total"]  # type: ignore[union-attr]
    assert total == sum(range(1, 7))


def test_trainings_may_take_turns_on_one_worker(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make()
    for start in (0, 2, 4):
        for key in ("a", "b"):
            executor.submit(job(tmp_path, key, start, start + 2))
            assert epochs(listen(executor)) == [start + 1, start + 2]


def test_a_stop_lets_the_epoch_finish(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make(fakes.Fake(pause=0.02))
    executor.submit(job(tmp_path))
    messages: list[Message] = []
    laws.until(lambda: bool(epochs(messages)), lambda: messages.extend(executor.wait(1.0)), most=60)
    executor.stop("a")
    messages += listen(executor)
    assert isinstance(messages[-1], JobEnded)
    assert epochs(messages) == list(range(1, len(epochs(messages)) + 1))
    assert len(epochs(messages)) < 8


def test_a_trainer_that_ends_early_is_exhausted(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make()
    executor.submit(Job("a", {**PARAMS, "epochs": 3}, 7, 0, 5, 0, tmp_path / "trainings"))
    assert listen(executor)[-1] == JobEnded("a", exhausted=True)


def test_a_trainer_that_ends_where_its_job_does_is_not_exhausted_and_failures_survive_pickling(tmp_path: Path) -> None:
    runner = JobRunner(lambda job: (Report(e, {"loss": 1 / e}, 0.1, 0.0) for e in range(job.start + 1, job.until + 1)))
    first, second = (list(runner.run(job(tmp_path, until=last, known=known))) for last, known in ((2, 0), (4, 2)))
    assert epochs(first) == [1, 2]
    assert epochs(second) == [1, 2, 3, 4], "from the start, as nothing was saved"
    assert first[-1] == second[-1] == JobEnded("a")
    error = pickle.loads(pickle.dumps(TrainingFailed(Outcome.NAN, "why")))
    assert (error.outcome, str(error)) == (Outcome.NAN, "why")


@pytest.mark.parametrize("mischief", ["nan", "diverged", "oom", "raise"])
def test_what_a_trainer_raises_is_an_outcome(make: Callable[..., Executor], tmp_path: Path, mischief: str) -> None:
    executor = make(fakes.Fake(witness=tmp_path / "witness", mischief=mischief, at=3))
    executor.submit(job(tmp_path))
    messages = listen(executor)
    broke = assert_failed(messages[-1], Outcome("crashed" if mischief == "raise" else mischief), lost=False)
    assert epochs(messages) == [1, 2]
    assert "\n" not in broke.error
    if mischief == "raise":
        assert "a bug of the user" in Path(broke.place).read_text()
    executor.submit(job(tmp_path, "b", until=2))
    assert epochs(listen(executor)) == [1, 2]


def test_a_recipe_with_the_data_set_itself_trains_as_from_its_folder(tmp_path: Path) -> None:
    """Where a node does not see the folder, the arrays come by Ray's object store, read-only."""
    saved = data.load_dataset(DataSpec("digits", limit=100), 0, tmp_path / "cache")
    assert saved.folder is not None
    images = np.asarray(saved.images)
    images.flags.writeable = False
    params = {"learning_rate": 0.01, "epochs": 2, "batch_size": 32}
    wanted = Job("a", params, 7, 0, 2, 0, tmp_path / "trainings")
    by_folder = Recipe("cnn", "cross_entropy", saved.folder, "cpu")
    by_arrays = replace(by_folder, data=Path("unseen"), dataset=replace(saved, images=images))
    first, second = ([report.metrics for report in recipe()(wanted)] for recipe in (by_folder, by_arrays))
    assert first == second
    assert len(first) == 2


@pytest.mark.parametrize("mischief", ["kill", "exit", "segfault", "real-time"])
def test_a_dead_worker_takes_just_its_job(local: Callable[..., LocalExecutor], tmp_path: Path, mischief: str) -> None:
    executor = local(fakes.Fake(witness=tmp_path / "witness", mischief=mischief, at=3, pause=0.01), 2)
    executor.submit(job(tmp_path, "a"))
    executor.submit(job(tmp_path, "b"))
    messages = listen(executor, ends=2)
    lost = [assert_failed(m, Outcome.CRASHED, lost=True) for m in messages if isinstance(m, JobFailed)]
    assert lost
    says = {"kill": "SIGKILL", "exit": "exit 0", "segfault": "SIGSEGV", "real-time": "signal 40"}[mischief]
    assert type(executor) is not LocalExecutor or all(says in broke.error for broke in lost)
    for broke in lost:
        executor.submit(job(tmp_path, broke.training, start=arrived(messages, broke.training)))
    assert sum(isinstance(message, JobEnded) for message in listen(executor, ends=len(lost))) == len(lost)
    assert len(executor.pids()) == 2


@pytest.mark.parametrize("mischief", ["hang", "stop"])
def test_a_silent_worker_is_killed(local: Callable[..., LocalExecutor], tmp_path: Path, mischief: str) -> None:
    executor = local(fakes.Fake(witness=tmp_path / "witness", mischief=mischief, at=2))
    limits = Limits(report_seconds=0.5)
    executor.submit(job(tmp_path, limits=limits))
    messages = listen(executor)
    assert_failed(messages[-1], Outcome.TIMEOUT, lost=True)
    executor.submit(job(tmp_path, start=arrived(messages, "a"), limits=limits))
    assert isinstance(listen(executor)[-1], JobEnded)


def test_a_training_over_its_time_limit_ends_as_timeout(local: Callable[..., LocalExecutor], tmp_path: Path) -> None:
    executor = local(fakes.Fake(pause=0.2))
    executor.submit(job(tmp_path, limits=Limits(trial_seconds=0.5)))
    assert_failed(listen(executor)[-1], Outcome.TIMEOUT, lost=False)
    executor.submit(job(tmp_path, "b", until=1))
    assert isinstance(listen(executor)[-1], JobEnded)


def test_a_memory_limit_hurts_only_who_exceeds_it(local: Callable[..., LocalExecutor], tmp_path: Path) -> None:
    executor = local(fakes.Fake(witness=tmp_path / "witness", mischief="leak", at=3))
    executor.submit(job(tmp_path, limits=Limits(memory_bytes=400_000_000)))
    assert_failed(listen(executor)[-1], Outcome.OOM, lost=False)
    pids = executor.pids()
    executor.submit(job(tmp_path, "b", until=2))
    assert isinstance(listen(executor)[-1], JobEnded)
    assert executor.pids() == pids


def test_a_trainer_that_prints_without_end_hurts_nobody(local: Callable[..., LocalExecutor], tmp_path: Path) -> None:
    executor = local(fakes.Fake(mischief="print", at=2))
    executor.submit(job(tmp_path, until=3))
    assert epochs(listen(executor)) == [1, 2, 3]


def test_every_report_that_arrived_has_its_checkpoint(local: Callable[..., LocalExecutor], tmp_path: Path) -> None:
    executor = local(fakes.Fake(pause=0.005))
    executor.submit(job(tmp_path))
    for epoch in epochs(listen(executor)):
        path = checkpoints.path(tmp_path / "trainings", "a", epoch)
        assert json.loads(path.read_text())["epoch"] == epoch


def test_workers_start_with_the_settings_of_their_allocator_and_a_trainer_that_cannot_be_made_is_one_line(
    local: Callable[..., LocalExecutor],
) -> None:
    (pid,) = local(fakes.Fake()).pids()
    found = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert {f"{name}={value}" for name, value in ENVIRONMENT.items()} <= set(found)
    with contextlib.closing(LocalExecutor(1)) as executor:
        executor.begin([_broken_factory])
        assert "no recipe" in laws.refused(EnvironmentFailed, listen, executor)


def _broken_factory() -> object:
    raise RuntimeError("no recipe")


def test_close_leaves_no_process(local: Callable[..., LocalExecutor], tmp_path: Path) -> None:
    executor = local(fakes.Fake(pause=0.5), 2)
    pids = executor.pids()
    executor.submit(job(tmp_path))
    executor.close()
    gone = lambda: not any(map(_alive, pids))  # noqa: E731
    laws.until(gone, lambda: time.sleep(0.1), most=600)  # Ray does not wait for their ends


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("error", "node", "line"),
    [
        (
            "The actor died unexpectedly. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits "
            "with a connection error code 2. End of file. Some common causes include: (1) the process was killed by "
            "the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed",
            "10.0.0.2",
            "the worker on node 10.0.0.2 ended: the process was killed or crashed",
        ),
        (
            "Worker exit detail: the actor was killed due to the node running low on memory",
            "10.0.0.2",
            "the worker on node 10.0.0.2 ended: the node was out of memory",
        ),
        ("something new", "", "a worker that was starting ended: ValueError: something new"),
    ],
)
def test_ray_s_guess_of_a_full_memory_is_not_taken_for_the_cause(error: str, node: str, line: str) -> None:
    pytest.importorskip("ray")
    from hpo.execution.ray import death_of_worker

    assert death_of_worker(ValueError(error), node) == line
