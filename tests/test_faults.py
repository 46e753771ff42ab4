"""Real processes, killed. After every fault the same checker looks at what is left (survival.check)."""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import fakes
import laws
import pytest
import survival
from mlflow_fixtures import check_delivered
from survival import Process, Said, check, complete, events_of, finish, lines, never_left, phase, start, wait_until
from victim import Config
from whole_victim import stored

from hpo.core import Goal, Job, JobEnded, JobFailed, Message, Opened, Retried, State, Study
from hpo.engine.result import PUBLISHED
from hpo.execution.local import LocalExecutor
from hpo.journal import Journal
from hpo.tracking.runs import TrackedStudy
from hpo.training import checkpoints

SEED = int(os.environ.get("FAULT_SEED", "0"))
WORKER_KILLS = int(os.environ.get("WORKER_KILLS", "20"))
DRIVER_KILLS = int(os.environ.get("DRIVER_KILLS", "10"))
Strike = Callable[[int], None]  # with a signal, the process of this number
SLOW = {"pause": 0.02}  # seconds an epoch: long enough to be killed in


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED}/{request.node.name}")


def retried(config: Config) -> list[str]:
    """What was said whenever a training was tried again."""
    return [event.error for event in events_of(config.journal) if isinstance(event, Retried)]


def kill_workers(process: Process, config: Config, kills: int, rng: random.Random, strike: Strike) -> int:
    """Strike workers at random epochs, each once it has brought its training forward, until so many are hit."""
    hit: set[int] = set()
    while len(hit) < kills and process.running:
        wanted = rng.randint(2, 4)
        born = Counter(pid for _, _, pid in lines(config.witness))
        ready = [pid for pid in process.workers() if born[pid] >= wanted and pid not in hit]
        if not ready:
            time.sleep(0.002)
            continue
        time.sleep(rng.uniform(0, 0.03))  # anywhere within an epoch
        hit.add(pid := rng.choice(ready))
        with contextlib.suppress(ProcessLookupError):  # the study was done in this moment
            strike(pid)
    return len(hit)


def test_killed_workers_cost_an_epoch_each_at_most(tmp_path: Path, rng: random.Random) -> None:
    config = Config(str(tmp_path), budget={"trials": WORKER_KILLS * 3 // 2}, fake=SLOW)
    with never_left(start(config)) as process:
        kills = kill_workers(process, config, WORKER_KILLS, rng, lambda pid: os.kill(pid, signal.SIGKILL))
        study = check(config, process.finish(), lost=kills)
    assert kills == WORKER_KILLS
    assert complete(study)
    errors = retried(config)
    assert kills // 2 <= len(errors) <= kills, "a worker may rest between two jobs when it is hit"
    assert all("SIGKILL" in error for error in errors)


def test_a_worker_that_is_stopped_is_replaced_and_one_that_goes_on_is_not(tmp_path: Path, rng: random.Random) -> None:
    """SIGSTOP looks like a hang; with a SIGCONT in time it is a pause."""
    config = Config(str(tmp_path), budget={"trials": 12}, fake=SLOW, report_seconds=1.5)
    modes = itertools.cycle([True, False])

    def strike(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        if next(modes):
            time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)

    with never_left(start(config)) as process:
        kill_workers(process, config, 4, rng, strike)
        study = check(config, process.finish(), lost=4)
    assert complete(study)
    errors = retried(config)
    assert errors
    assert all("no report for 1.5 s" in error for error in errors)


def test_a_late_result_of_a_replaced_attempt_is_ignored(tmp_path: Path) -> None:
    """A worker is stopped behind an epoch it has trained and not told of; it wakes when another has taken over."""
    fake = {"mischief": "stop", "at": 3}
    config = Config(str(tmp_path), budget={"trials": 2}, fake=fake, report_seconds=1.0, slots=1)
    with never_left(start(config)) as process:
        wait_until(lambda: retried(config) != [], "a new attempt")
        for pid in {pid for _, _, pid in lines(config.witness)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        assert complete(check(config, process.finish(), lost=2))


STUCK = """
import pathlib, time
marker = pathlib.Path(__file__).with_name("stuck")
if not marker.exists():
    marker.touch()
    time.sleep(3600)
"""


def test_a_worker_that_never_becomes_ready_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stuck_module.py").write_text(STUCK)
    monkeypatch.syspath_prepend(tmp_path)
    ahead = 0.0
    job = Job("a", {"learning_rate": 0.01, "epochs": 2}, 7, 0, 2, 0, tmp_path / "trainings")
    with contextlib.closing(LocalExecutor(1, ["stuck_module"], clock=lambda: time.monotonic() + ahead)) as executor:
        executor.begin([fakes.Fake()])
        executor.submit(job)
        wait_until((tmp_path / "stuck").exists, "the worker is stuck")
        ahead = 601.0
        (broke,) = messages(executor)
        assert isinstance(broke, JobFailed)
        assert (broke.lost, broke.error) == (True, "not ready for 600 s")
        executor.submit(job)
        assert messages(executor)[-1] == JobEnded("a")


def test_a_trainer_that_leaks_files_hurts_its_own_trials_only(tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(1)) as executor:
        executor.begin([fakes.Fake(witness=tmp_path / "witness", mischief="files")])
        pids = executor.pids()
        executor.submit(Job("a", {"learning_rate": 0.01, "epochs": 4}, 7, 0, 4, 0, tmp_path / "trainings"))
        broke = messages(executor)[-1]
        assert isinstance(broke, JobFailed)
        assert (broke.lost, "Too many open files" in broke.error) == (False, True)
        wait_until(lambda: not executor.wait(0.01) and executor.pids() != pids, "another worker stands in")
        executor.submit(Job("b", {"learning_rate": 0.1, "epochs": 1}, 7, 0, 1, 0, tmp_path / "trainings"))
        assert messages(executor)[-1] == JobEnded("b")


def messages(executor: LocalExecutor) -> list[Message]:
    """What a job comes to."""
    heard: list[Message] = []
    while not any(isinstance(message, JobEnded | JobFailed) for message in heard):
        heard += executor.wait(1.0)
    return heard


def test_killed_drivers_lose_nothing(tmp_path: Path, rng: random.Random) -> None:
    """At random moments of every phase: before the journal is there, while it is taken over, in training, resumed."""
    config = Config(str(tmp_path), budget={"trials": DRIVER_KILLS * 5 // 2}, fake=SLOW)
    hit: Counter[str] = Counter()
    ended: dict[int, object] = {}
    for kill in range(DRIVER_KILLS):
        with never_left(start(config)) as process:
            wait_for_moment(kill, process, config, rng)
            process.kill()
            assert process.finish().code == -signal.SIGKILL
        ended = still_ended(config, ended)
        hit[phase(events_of(config.journal))] += 1
    study = check(config, finish(start(config)), lost=DRIVER_KILLS * config.slots, before=ended)
    assert complete(study)
    assert set(hit) >= {"before the first event", "first visit, training", "resumed, opening", "resumed, training"}, hit
    assert sum(isinstance(event, Opened) for event in events_of(config.journal)) >= DRIVER_KILLS // 2


def still_ended(config: Config, before: Mapping[int, object]) -> dict[int, object]:
    """The trials that have ended; those that had before are as they were."""
    ended = survival.finished(events_of(config.journal))
    assert before.items() <= ended.items()
    return ended


def wait_for_moment(kill: int, process: Process, config: Config, rng: random.Random) -> None:
    """Early, as soon as it is open, or a few epochs later; then anywhere within an epoch."""
    before = events_of(config.journal)
    trained = len(lines(config.witness))
    if kill % 5 == 0:
        time.sleep(rng.uniform(0, 0.1))
    elif kill % 5 == 3:
        wait_until(lambda: len(events_of(config.journal)) > len(before), "the study is taken over", 0.0)
    else:
        more = rng.randint(1, 6)
        wait_until(lambda: len(lines(config.witness)) >= trained + more, "some epochs are trained")
        time.sleep(rng.uniform(0, 0.03))


IN_THE_DRIVER = ("resume.opened", "append.before", "append.after", "start.recorded", "submit", "listen", "forget")
AT_THE_END = ("prune", "close")
IN_A_WORKER = ("checkpoint.draft", "checkpoint.placed")
TO_PUBLISH = ("publish.due", "publish.begin", "publish.done", "publish.scored")
IN_A_WHOLE_RUN = ("lock.held", "journal.open", "sweep", *TO_PUBLISH, "table", "report")


def test_every_failpoint_is_in_the_code_once_and_in_a_test_here() -> None:
    tested = [*IN_THE_DRIVER, *AT_THE_END, *IN_A_WORKER, *IN_A_WHOLE_RUN, "set-aside"]
    code = "".join(path.read_text() for path in (Path(__file__).parent.parent / "hpo").rglob("*.py"))
    assert sorted(tested) == sorted(re.findall(r'\bhit\("([a-z.-]+)"\)', code))


def test_a_driver_killed_at_each_of_its_commits_loses_nothing(tmp_path: Path, rng: random.Random) -> None:
    """One study through all of them, in any order, each at the first or some later time."""
    config = Config(str(tmp_path), budget={"trials": 14}, fake=SLOW, cap=0)
    ended: dict[int, object] = {}
    order = rng.sample(IN_THE_DRIVER, len(IN_THE_DRIVER))
    for name in [*order, *AT_THE_END]:
        failpoint = f"{name}:{rng.randint(2, 5)}" if name in IN_THE_DRIVER[1:] else name
        assert finish(start(config, failpoint)).code == -signal.SIGKILL, failpoint
        ended = still_ended(config, ended)
    study = check(config, finish(start(config)), lost=(len(order) + 2) * config.slots, before=ended)
    assert complete(study)


@pytest.mark.parametrize("name", IN_A_WORKER)
def test_a_worker_killed_around_a_checkpoint_loses_an_epoch_at_most(name: str, tmp_path: Path) -> None:
    config = Config(str(tmp_path), budget={"trials": 3}, seed=5)
    said = finish(start(config, f"{name}:3"))
    deaths = len(retried(config))
    assert deaths >= 2
    assert complete(check(config, said, lost=deaths))


def test_drivers_and_workers_killed_together_until_the_study_is_done(tmp_path: Path, rng: random.Random) -> None:
    config = Config(str(tmp_path), strategy="asha", budget={"trials": 16}, fake=SLOW)
    kills, said = 0, None
    while said is None or said.code != 0:
        with never_left(start(config)) as process:
            kills += kill_workers(process, config, rng.randint(1, 3), rng, lambda pid: os.kill(pid, signal.SIGKILL))
            kills += config.slots
            process.kill()
            said = process.finish()
    check(config, said, lost=kills)


@pytest.mark.parametrize("fake", [{"mischief": "hang"}, {"mischief": "stop"}, {"pause": 0.5}])
def test_workers_die_with_their_driver_whatever_they_are_at(fake: dict[str, object], tmp_path: Path) -> None:
    """In an epoch, in a trainer that hangs, and stopped, when they could not even see their pipe end."""
    config = Config(str(tmp_path), fake={**fake, "at": 1})
    with never_left(start(config)) as process:
        wait_until(lambda: list(tmp_path.glob("*.done")) != [] or "pause" in fake, "the mischief")
        wait_until(lambda: len(process.workers()) == 2, "both workers")
        process.kill()
        process.finish()  # waits for the end of all that came of it


def whole(folder: Path, *flags: str, failpoint: str = "", pause: str = "0.01") -> Process:
    command = [str(Path(__file__).parent / "whole_victim.py"), str(folder), "run", "study.yaml", "--json", *flags]
    return Process(command, folder, {"PAUSE": pause, **({"HPO_FAILPOINT": failpoint} if failpoint else {})})


def journal_of(folder: Path) -> Path:
    return folder / "studies" / "whole" / "random-0" / "journal.db"


def check_whole(folder: Path, said: Said, trials: int = 6, epochs: Collection[int] = (2, 4)) -> Study:
    """All invariants of a whole run: its journal, what it said, MLflow, the published model, the report, the folder."""
    events = events_of(journal_of(folder))
    study = laws.check(events, trials)
    goal = Goal(epochs=epochs)
    best = goal.best(study.trials)
    assert best is not None
    told = json.loads(said.out)
    assert (told["closed"], told["undelivered"], told["best"]["trial"]) == ("budget", 0, best.number)
    assert complete(study)
    assert [score.trial for score in study.scores] == [best.number], "the test split was read once, for the best trial"
    assert told["test"] == {"test_accuracy": 0.5}
    orders = [line.split() for line in (folder / "published").read_text().splitlines()]
    assert all(order == [str(best.number), str(best.epoch), str(best.epoch)] for order in orders)
    runs = [run for run in stored(folder / "mlflow.pickle").values() if not run.deleted]
    feed = TrackedStudy(journal_of(folder), "whole", "random", 0, goal)
    check_delivered(runs, feed, events, live=False)
    assert {run.status for run in runs} == {"FINISHED"}
    run = journal_of(folder).parent
    assert ((run / "trials.csv").read_text(), (run / "report.html").read_text()) == ("table", "report")
    assert [path for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith(".saving")] == []
    assert list((folder / "tmp").iterdir()) == []
    return study


def test_a_run_killed_at_every_step_of_its_beginning_and_end_is_finished_by_the_next(tmp_path: Path) -> None:
    for name in IN_A_WHOLE_RUN:
        assert finish(whole(tmp_path, "--workers", "1", failpoint=name)).code == -signal.SIGKILL, name
        if name == "publish.due":
            with Journal.open(journal_of(tmp_path), read_only=True) as journal:
                assert journal.get(PUBLISHED), "so that hpo sync publishes it"
    said = finish(whole(tmp_path))
    assert said.code == 0
    first = check_whole(tmp_path, said)

    # --fresh, killed when the old study has been moved, then again
    assert finish(whole(tmp_path, "--fresh", failpoint="set-aside")).code == -signal.SIGKILL
    assert not journal_of(tmp_path).exists()
    (aside,) = (tmp_path / "studies" / "whole" / "set-aside").glob("*/journal.db")
    with Journal.open(aside, read_only=True) as journal:
        assert journal.study().trials == first.trials
    assert finish(whole(tmp_path)).code == 0
    again = Study(events_of(journal_of(tmp_path)))
    assert laws.params_of(again) == laws.params_of(first)
    assert again.reused_epochs == 0, "nothing of a study that was set aside is used again"


BUG = """
import sys
from hpo import __main__ as program
from hpo.cli.options import Request
Request.spec = lambda *_: {raising}
sys.argv = ["hpo", "status"]
program.main()
"""


@pytest.mark.parametrize(
    ("raising", "name"), [("1 / 0", "ZeroDivisionError"), ("__import__('pickle').loads(b'')", "EOFError")]
)
def test_a_bug_of_ours_is_one_line_that_names_a_file(tmp_path: Path, raising: str, name: str) -> None:
    said = finish(Process(["-c", BUG.format(raising=raising)], tmp_path))
    (kept,) = (tmp_path / "tmp").iterdir()
    assert said.error.strip() == f"{kept}: a bug of hpo, {name}; please report it with this file"
    assert said.code == 1
    assert "Traceback" in kept.read_text()


def under_way(process: Process, folder: Path, epochs: int) -> None:
    before = len(lines(folder / "witness"))
    wait_until(lambda: len(lines(folder / "witness")) >= before + epochs or not process.running, "epochs are trained")
    assert process.running


SIGNALS = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}


def test_signals_end_a_run_with_their_exit_code_and_the_same_command_goes_on(tmp_path: Path) -> None:
    said: dict[str, Said] = {}
    trainings = tmp_path / "studies" / "whole" / "trainings"
    with never_left(whole(tmp_path, pause="0.3")) as process:  # before there is a driver
        wait_until(lambda: bool(process.workers()), "workers")
        process.kill(signal.SIGTERM)
        said["early SIGTERM"] = process.finish()
    for name, number in [*SIGNALS.items(), *((f"{name} again and again", number) for name, number in SIGNALS.items())]:
        with never_left(whole(tmp_path, pause="1.5" if "again" in name else "0.1")) as process:
            under_way(process, tmp_path, 2)
            os.killpg(process.popen.pid, number)  # as a terminal does: to the workers too
            while "again" in name and process.running:
                time.sleep(0.05)
                os.killpg(process.popen.pid, number)
            said[name] = process.finish()
        study = Study(events_of(journal_of(tmp_path)))
        assert study.closed == (None if "again" in name else "interrupted"), name
        if "again" not in name:
            assert study.epochs == len(lines(tmp_path / "witness")), "every epoch under way was finished and recorded"
            assert all(checkpoints.epochs(trainings, t.training) for t in study.with_state(State.PAUSED) if t.epoch)
    assert {name: one.code for name, one in said.items()} == {name: 130 if "Ctrl-C" in name else 143 for name in said}
    assert said["Ctrl-C again and again"].error.splitlines()[-1] == "stopped; the same command resumes"
    last = finish(whole(tmp_path))
    assert last.code == 0
    check_whole(tmp_path, last)
