"""What docs/design.md promises of a seed, each promise a test."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import laws
import pytest
from scripted import Scripted
from survival import Process, Said, events_of, finish, never_left, wait_until
from test_driver import STRATEGIES, drive
from test_faults import check_whole, journal_of

from hpo.core import Event, Job, Opened, Params, Report, Reported, Retried, Study, Value
from hpo.engine import components
from hpo.engine.changes import load_data
from hpo.files import Folders
from hpo.journal import decode
from hpo.study_file import reader as spec
from hpo.study_file.spec import Budget
from hpo.training import checkpoints
from hpo.training.evaluation import score

# The first points of the streams for seed 3. A change here makes another study of every study that was begun.
FIRST: dict[str, list[Params]] = {
    "random": [
        {"learning_rate": 0.00143544, "width": 8, "activation": "leaky_relu", "slope": 0.284621, "epochs": 2},
        {"learning_rate": 0.0217845, "width": 8, "activation": "relu", "epochs": 8},
        {"learning_rate": 0.0483394, "width": 8, "activation": "relu", "epochs": 8},
    ],
    "grid": [
        {"learning_rate": 0.001, "activation": "leaky_relu", "slope": 0.1, "epochs": 4},
        {"learning_rate": 0.001, "activation": "relu", "epochs": 4},
        {"learning_rate": 0.1, "activation": "relu", "epochs": 4},
    ],
}


def listed(name: str, slots: int, folder: Path, events: Sequence[Event] = ()) -> list[Event]:
    return drive(folder, STRATEGIES[name](3), Budget(trials=16), Scripted(slots, now=len(events or ()) * 1e4), events)


@pytest.mark.parametrize("name", ["random", "grid"])
def test_any_number_of_workers_and_ten_kills_give_the_same_list(name: str, tmp_path: Path) -> None:
    alone = laws.params_of(Study(listed(name, 1, tmp_path / "1")))
    assert (
        alone[:3] == FIRST[name] != laws.params_of(Study(drive(tmp_path / "0", STRATEGIES[name](0), Budget(trials=3))))
    )
    for slots in (2, 8):
        assert laws.params_of(Study(listed(name, slots, tmp_path / f"{slots}"))) == alone
    rng = random.Random(name)
    events: list[Event] = []
    for _ in range(10):
        events = listed(name, rng.choice([1, 2, 8]), tmp_path / "killed", events)[: len(events) + rng.randint(2, 9)]
    events = listed(name, 8, tmp_path / "killed", events)
    assert sum(isinstance(event, Opened) for event in events) == 11
    assert laws.params_of(laws.check(events, trials=16)) == alone


ELSEWHERE = """
import json, sys
from pathlib import Path
import laws
from hpo.core import Study
from hpo.journal import decode, encode
from test_driver import STRATEGIES, drive
from hpo.study_file.spec import Budget
name, trials, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
before = [decode(*pair) for pair in json.load(sys.stdin)]
events = drive(folder, STRATEGIES[name](3), Budget(trials=trials), events=before)
json.dump([encode(event) for event in events], sys.stdout)
"""


def elsewhere(name: str, trials: int, folder: Path, before: str = "[]", hashes: str = "0") -> str:
    """The same in a process of its own, where every set and dict of strings has another order."""
    command = [sys.executable, "-c", ELSEWHERE, name, str(trials), str(folder)]
    paths = os.pathsep.join(str(path) for path in (Path(__file__).parent, Path(__file__).parent.parent))
    environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": paths}
    done = subprocess.run(command, input=before, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def read(text: str) -> list[Event]:
    return [decode(*pair) for pair in json.loads(text)]


def test_bayesian_with_one_worker_is_the_same_straight_and_in_three_pieces(tmp_path: Path) -> None:
    whole = drive(tmp_path / "whole", STRATEGIES["bayesian"](3), Budget(trials=14))
    first = elsewhere("bayesian", 3, tmp_path / "pieces", hashes="1")
    second = read(elsewhere("bayesian", 11, tmp_path / "pieces", first, hashes="2"))
    third = drive(tmp_path / "pieces", STRATEGIES["bayesian"](3), Budget(trials=14), events=second)
    assert laws.params_of(laws.check(third, trials=14)) == laws.params_of(Study(whole))


EPOCHS = 12  # so many that it is still training when a fault comes
FLAGS = f"--trials 1 --workers 1 --set search_space.epochs={EPOCHS} --set search_space.batch_size=2".split()


def real(folder: Path) -> Process:
    command = [str(Path(__file__).parent / "whole_victim.py"), str(folder), "run", "study.yaml", "--json", *FLAGS]
    return Process(command, folder, {"REAL": "1"})


def reports(folder: Path) -> list[Report]:
    return [event.report for event in events_of(journal_of(folder)) if isinstance(event, Reported)]


def until_epoch(process: Process, folder: Path, epoch: int) -> None:
    wait_until(lambda: len(reports(folder)) >= epoch or not process.running, f"epoch {epoch}", 0.01)
    assert process.running, f"it ended before the fault behind epoch {epoch} came: {process.popen.communicate()}"


def test_a_real_training_goes_on_bit_for_bit_after_each_kind_of_fault(tmp_path: Path) -> None:
    """Its worker killed, its driver killed, a SIGTERM; compared with the same training in one piece in this process."""
    with never_left(real(tmp_path)) as process:
        until_epoch(process, tmp_path, 1)
        os.kill(process.workers()[0], signal.SIGKILL)
        until_epoch(process, tmp_path, 2)
        process.kill(signal.SIGKILL)
        assert process.finish().code == -signal.SIGKILL
    with never_left(real(tmp_path)) as process:
        until_epoch(process, tmp_path, 3)
        os.killpg(process.popen.pid, signal.SIGTERM)
        assert process.finish().code == 128 + signal.SIGTERM
    said: Said = finish(real(tmp_path))
    assert said.code == 0
    study = check_whole(tmp_path, said, trials=1, epochs=(EPOCHS,))
    assert sum(isinstance(event, Retried) for event in events_of(journal_of(tmp_path))) == 1

    text = [flag.partition("search_space.")[2] for flag in FLAGS if flag.startswith("search_space.")]
    one = spec.read_study(tmp_path / "study.yaml", sets=[f"search_space.{flag}" for flag in text])
    recipe = components.recipe(one, load_data(one, Folders(tmp_path, "whole", "random", 0)), "cpu")
    trial = study.trials[0]
    check_environments([event.environment for event in events_of(journal_of(tmp_path)) if isinstance(event, Opened)])
    seed = study.trainings[trial.training].seed
    straight = list(recipe()(Job(trial.training, trial.params, seed, 0, EPOCHS, 0, tmp_path / "whole")))
    assert [report.metrics for report in reports(tmp_path)] == [report.metrics for report in straight]
    best = checkpoints.path(tmp_path / "studies" / "whole" / "trainings", trial.training, trial.epoch)
    found = score(recipe.setup(), trial.params, best, "val")
    assert found["val_accuracy"] == trial.reports[-1].metrics["val_accuracy"], "the loaded model scores the same"


def check_environments(visits: Sequence[Mapping[str, Value]]) -> None:
    """What a run depends on is recorded whenever a driver comes, and was the same here."""
    wanted = {"hpo", "python", "torch", "numpy", "optuna", "host", "pid", "processor", "commit", "dirty", "threads"}
    assert wanted | {"device", "data", "trainer", "user_code", "study_file"} <= set(visits[0])
    assert (visits[0]["threads"], visits[0]["device"]) == (1, "cpu")
    assert [{**one, "pid": 0} for one in visits] == [{**visits[0], "pid": 0}] * len(visits)
    assert len({one["pid"] for one in visits}) == len(visits) == 3
