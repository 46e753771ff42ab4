"""hpo.run in somebody's own program: a script without `if __name__ == "__main__"`, and threads of it."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from studied import SPACE, Place
from survival import Process, lines, never_left, wait_until

import hpo
from hpo.commands.compare import compare_strategies
from hpo.commands.run import run_all
from hpo.errors import BadInput

OTHER = """
def train(job):
    for epoch in range(job.params["epochs"]):
        yield {"acc": 0.5, "loss": 1.0}
"""


@pytest.mark.parametrize("verb", [run_all, compare_strategies])
@pytest.mark.parametrize("at", ["last", "best"])
@pytest.mark.parametrize("space", [SPACE, {"rate": [0.05], "epochs": [1]}])
def test_a_metric_that_nobody_reports_is_refused_at_the_first_report_and_leaves_no_study(
    tmp_path: Path, verb: Any, at: str, space: dict[str, Any]
) -> None:
    place = Place.made(tmp_path)
    (tmp_path / "other.py").write_text(OTHER)

    def begin(metric: str) -> Any:
        named = {"name": metric, "at": at, "goal": "maximize"}
        spec = place.spec(train="other:train", metric=named, search_space=space)
        return verb([spec] if verb is run_all else spec, place.options)

    with pytest.raises(BadInput) as caught:
        begin("val_f1")
    place_of_it = re.escape(f"{tmp_path / 'study.yaml'}:1:")
    rule = "metric.name: must be a metric that is reported, got val_f1; reported are acc and loss"
    assert re.fullmatch(rf"{place_of_it}\d+ {rule}", str(caught.value))
    assert list(tmp_path.rglob("journal.db")) == []
    assert begin("acc")


TRAINER = """
import time

def train(job):
    with open("witness", "a") as file:
        file.write(f'["{job.training}", 1, 0]\\n')
    for epoch in range(job.start + 1, job.params["epochs"] + 1):
        time.sleep(PAUSE)
        yield {"val_accuracy": 1 - 0.5 / (epoch + job.params["learning_rate"])}
"""
SCRIPT = """
import json, signal, sys, threading
import whole_victim
whole_victim.lighten()  # no matplotlib: this is about processes

import hpo

print("this script runs once")
STUDY = {
    "name": "mine", "strategy": "random", "train": "own_trainer:train", "prefix_safe": True,
    "search_space": {"learning_rate": {"min": 0.0, "max": 1.0}, "epochs": [1, 2]},
    "budget": {"trials": 3}, "workers": 2, "tracking": {"enabled": False},
}
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
try:
    first = hpo.run(STUDY, quiet=True)
except KeyboardInterrupt:
    sys.exit(1)
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
told = [[first.study.closed, len(first.study.trials), first.stopped_by]]

def work(seed):
    result = hpo.run({**STUDY, "seed": seed}, quiet=True)
    told.append([result.study.closed, len(result.study.trials), result.stopped_by])

threads = [threading.Thread(target=work, args=[seed]) for seed in (1, 2)]
for thread in threads if not first.stopped_by else []:
    thread.start()
for thread in threads if not first.stopped_by else []:
    thread.join()
print(json.dumps(told))
"""


def script(folder: Path, pause: float = 0.0) -> Process:
    (folder / "own_trainer.py").write_text(TRAINER.replace("PAUSE", str(pause)))
    (folder / "script.py").write_text(SCRIPT)
    return Process(["script.py"], folder)


def test_a_script_without_a_main_guard_runs_studies_in_its_main_thread_and_in_others_at_once(tmp_path: Path) -> None:
    with never_left(script(tmp_path)) as process:
        said = process.finish()
    assert said.code == 0, said.error
    first, last = said.out.splitlines()
    assert first == "this script runs once"
    assert json.loads(last) == [["budget", 3, 0]] * 3


def test_ctrl_c_in_a_script_returns_what_there_is(tmp_path: Path) -> None:
    with never_left(script(tmp_path, pause=0.5)) as process:
        wait_until(lambda: bool(lines(tmp_path / "witness")), "a training begins")
        os.kill(process.popen.pid, signal.SIGINT)
        said = process.finish()
    assert said.code == 0, said.error
    ((closed, trials, stopped_by),) = json.loads(said.out.splitlines()[-1])
    assert (closed, stopped_by) == ("interrupted", signal.SIGINT)
    assert 1 <= trials <= 2


def test_every_public_name_is_there() -> None:
    assert {name: getattr(hpo, name) for name in hpo.__all__}
    assert issubclass(BadInput, hpo.HpoError)
