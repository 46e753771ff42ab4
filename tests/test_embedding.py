"""hpo in somebody's own program: a script without `if __name__ == "__main__"`, threads of it, a notebook."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from laws import refused
from studied import SPACE, Place
from survival import Process, lines, never_left, wait_until

import hpo
from hpo.commands.compare import compare_strategies
from hpo.commands.run import run_all
from hpo.core import Ended, Event, Study
from hpo.errors import BadInput, NoResult
from hpo.journal import read_events

NOTEBOOK = Path(__file__).parent.parent / "examples" / "digits.ipynb"
EXECUTED = """
import json, sys, nbclient, nbformat
book = nbclient.NotebookClient(nbformat.read(sys.argv[1], 4), timeout=240).execute()
print(json.dumps([output for cell in book.cells for output in cell.get("outputs", []) if "data" in output]))
"""
OTHER = """
def train(job):
    for epoch in range(job.params["epochs"]):
        yield {"acc": 0.5, "loss": 1.0}
"""


@pytest.mark.parametrize("verb", [run_all, compare_strategies])
@pytest.mark.parametrize("at", ["last", "best"])
@pytest.mark.parametrize("space", [SPACE, {"rate": [0.05], "epochs": [1]}])
def test_a_metric_that_nobody_reports_is_refused_and_leaves_no_study(
    tmp_path: Path, verb: Any, at: str, space: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.commands.compare.write_report", lambda *about: Path("report.html"))
    place = Place.made(tmp_path)
    (tmp_path / "other.py").write_text(OTHER)

    def begin(metric: str) -> Any:
        named = {"name": metric, "at": at, "goal": "maximize"}
        spec = place.spec(train="other:train", metric=named, search_space=space)
        return verb([spec] if verb is run_all else spec, place.options)

    place_of_it = re.escape(f"{tmp_path / 'study.yaml'}:1:")
    rule = "metric.name: must be a metric that is reported, got val_f1; reported are acc and loss"
    assert re.fullmatch(rf"{place_of_it}\d+ {rule}", refused(BadInput, begin, "val_f1"))
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


def test_a_study_is_opened_while_it_runs_and_nothing_is_written(tmp_path: Path) -> None:
    spec, events, same = Place.made(tmp_path).spec(), [], []

    def look(event: Event) -> None:
        there = sorted(tmp_path.rglob("*"))
        events.append(event)
        same.append(hpo.open(tmp_path / "study.yaml").study.trials == Study(events).trials)
        same.append(sorted(tmp_path.rglob("*")) == there)

    hpo.run(spec, quiet=True, on_event=look)
    assert all(same)
    assert events == [*read_events(tmp_path / "studies/made-up/random-0/journal.db")]
    with pytest.raises(NoResult, match=r"random-1: this study has not been run; `hpo run .*` begins it"):
        hpo.open(tmp_path / "study.yaml", seed=1)
    assert not (tmp_path / "studies" / "made-up" / "random-1").exists()


def test_what_a_function_for_events_raises_is_its_own_fault_in_one_line_and_the_study_resumes(tmp_path: Path) -> None:
    spec = Place.made(tmp_path).spec()
    with pytest.raises(hpo.HpoError, match=r"^on_event, at Ended: must not raise, got KeyError: 'mine'; the same call"):
        hpo.run(spec, quiet=True, on_event=lambda event: {}["mine"] if isinstance(event, Ended) else None)
    assert len(hpo.open(spec).study) < 6
    whole = Place.made(tmp_path / "other").run()
    assert hpo.run(spec, quiet=True).trials[["value", "epochs"]].equals(whole.trials[["value", "epochs"]])


def test_a_notebook_shows_the_best_trials_and_the_best_so_far_and_any_figure_of_the_report(tmp_path: Path) -> None:
    place = Place.made(tmp_path)
    space = {**SPACE, "kind": ["<script>", "y"]}
    result = place.run(search_space=space, start_with=[{"kind": "<script>"}], budget={"trials": 3})
    shown = result._repr_html_()
    assert shown.count("<tr") == 1 + 3
    assert "&lt;script&gt;" in shown
    assert not re.search(r"<img|<script|<link|@import|(?:src|href)=[\"'][^#]|url\((?!#)", shown)
    assert "<svg" in shown
    defined = re.findall(r"--\w+", shown.split("<svg")[0])
    assert {f"--{name}" for name in re.findall(r"var\(--(\w+)\)", shown)} <= {*defined}
    one = r"trial \d: complete, ok, epoch (\d) of \1; rate=0[.\d]* width=\d epochs=\1 kind=\S*; val_accuracy 0[.\d]+; total [.\d]+"
    assert re.fullmatch(one, repr(result.best))
    assert result.figure("best-so-far").get_axes()[0].get_ylabel() == "val_accuracy"
    assert "got none; there are: best-so-far, learning-curves, slice-0, " in refused(BadInput, result.figure, "none")


def test_keywords_go_the_way_of_the_flags_and_every_public_name_is_there(tmp_path: Path) -> None:
    place = Place.made(tmp_path)
    place.spec()
    keywords: dict[str, Any] = {"strategy": "grid", "seed": 4, "workers": 1, "device": "cpu"}
    result = hpo.run(tmp_path / "study.yaml", quiet=True, sets="budget.trials=2", **keywords)
    assert (result.folders.run.name, len(result.study)) == ("grid-4", 2)
    assert {name: getattr(result.spec, name) for name in keywords} == keywords
    with pytest.raises(BadInput, match="must be a file or a mapping to be changed, got a StudySpec and seed=5"):
        hpo.run(result.spec, seed=5)
    assert {name: getattr(hpo, name) for name in dir(hpo)}.keys() == {*hpo.__all__}
    assert issubclass(BadInput, hpo.HpoError)


def test_a_comparison_has_its_verdict_and_its_strategies_as_a_table(tmp_path: Path) -> None:
    Place.made(tmp_path).spec()
    compared = hpo.compare(tmp_path / "study.yaml", strategies="grid,random", seeds=2, rescore=False, quiet=True)
    assert compared.verdict.startswith("At ")
    assert compared.verdict in repr(compared)
    assert compared.strategies.set_index("strategy").seeds.to_dict() == dict.fromkeys(["grid", "random"], (0, 1))


def test_the_notebook_runs_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EXECUTED, NOTEBOOK], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)
    assert any("<svg" in "".join(output["data"].get("text/html", "")) for output in outputs)
    assert sum("image/png" in output["data"] for output in outputs) == 1
    assert all(not cell.get("outputs") for cell in json.loads(NOTEBOOK.read_text())["cells"])
