"""The command line as a person uses it: real processes, exit codes, what is said and what is left behind."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from mlflow_real import free_port, start_server
from PIL import Image
from studied import Place, hpo

from hpo import __main__ as program
from hpo import provenance
from hpo.cli.console import Utilization
from hpo.cli.options import load
from hpo.cli.summary import exit_code, failures, summary_lines
from hpo.commands.run import run
from hpo.core import Closed
from hpo.engine.result import command
from hpo.errors import EnvironmentFailed, Stopped
from hpo.journal import read_events
from hpo.tracking.sync import Tracker

Captured = pytest.CaptureFixture[str]
STUDY = """\
name: tiny
train: trainer:train
prefix_safe: true
tracking: false
search_space:
  learning_rate: {min: 1e-4, max: 1e-1, log: true}
  width: [8, 16]
  epochs: [2, 4]
budget: {trials: 6}
workers: 2
"""
FEW = "data: {source: digits, limit: 200}"
GRID = "search_space.learning_rate=[0.0001, 0.001, 0.01, 0.03, 0.1]"
TRAINER = """\
import math

def train(job):
    if job.params["width"] == 13:
        raise ValueError("thirteen is no width")
    for epoch in range(1, job.params["epochs"] + 1):
        yield {"loss": 0.25, "val_accuracy": 1 - abs(math.log10(job.params["learning_rate"]) + 2) / 10 - 0.5 / (epoch + 1)}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "trainer.py").write_text(TRAINER)
    return tmp_path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run to its budget, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "printed").write_text(hpo(folder, "run").stdout)
    return folder


@pytest.fixture
def ran(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(first, tmp_path, dirs_exist_ok=True)


def test_a_study_runs_to_its_budget_and_says_what_it_found(first: Path) -> None:
    lines = (first / "printed").read_text().splitlines()
    assert lines[0] == "tiny (bayesian): 3 parameters of trainer:train, 6 trials, 2 workers"
    assert "nothing was trained" not in "".join(lines) and "report: studies/tiny/bayesian-0/report.html" in lines
    assert sum(line.startswith("trial ") for line in lines) == 6
    assert any(line.startswith("tiny: budget spent; 6 trials (6 complete)") for line in lines), lines
    assert any(line.startswith("best:   trial ") for line in lines)
    assert (first / "studies/tiny/bayesian-0/report.html").exists()
    assert (first / "studies/tiny/bayesian-0/trials.csv").read_text().count("\n") == 7


def test_the_same_command_is_the_same_study_with_more_trials_a_larger_one_and_with_fresh_another(ran: Path) -> None:
    assert json.loads(hpo(ran, "run", "--trials", "9", "--json").stdout)["trials"] == 9
    remembered = json.loads(hpo(ran, "run", "--json").stdout)
    assert remembered["trials"] == 9
    assert re.search(r"Budget</dt>\s*<dd>9 trials", (ran / "studies/tiny/bayesian-0/report.html").read_text())
    longer, spent = ["--set", "search_space.epochs=[2, 4, 8]"], f"budget.total_epochs={remembered['epochs']}"
    said = hpo(ran, "run", *longer, "--set", "budget.trials=99", "--set", spent).stdout
    assert "nothing was trained: to go on, with longer `epochs` too, raise budget.total_epochs" in said
    fresh = json.loads(hpo(ran, "run", "--fresh", "--trials", "2", "--json").stdout)
    assert (fresh["trials"], fresh["reused_epochs"]) == (2, 0)


def test_another_strategy_is_another_study_and_show_and_best_print_a_trial_in_words_and_as_json(ran: Path) -> None:
    hpo(ran, "run", "--strategy", "random", "--seed", "3")
    rows = json.loads(hpo(ran, "status", "--json").stdout)
    assert [row["study"] for row in rows] == ["bayesian-0", "random-3"]
    assert all(row["trials"] == 6 and row["driver"] is None for row in rows)
    best = json.loads(hpo(ran, "best", "--json").stdout)["best"]
    shown = json.loads(hpo(ran, "show", str(best["trial"]), "--json").stdout)
    assert shown == best
    said = hpo(ran, "best").stdout
    assert f"trial {best['trial']} of bayesian-0: complete" in said
    assert {"  loss          0.2500", f"  val_accuracy  {best['value']:.4f}"} < {*said.splitlines()}, "a metric a line"
    missing = hpo(ran, "show", "77", code=2)
    assert missing.stderr.endswith("bayesian-0: there must be a trial of that number, got 77; trials: 0 to 5\n")


def test_init_writes_a_file_for_the_data_that_lie_there_and_never_overwrites_one(tmp_path: Path) -> None:
    def data(*words: str) -> str:
        said = hpo(folder, "init", "my study.yaml", *words).stdout
        text = (folder / "my study.yaml").read_text()
        assert load((folder / "my study.yaml").rename(folder / "x.yaml")).name == "my-study"
        (line,) = re.findall("^data: (.*)$", text, re.MULTILINE)
        assert said.endswith("; look at it, then: hpo check 'my study.yaml', hpo run 'my study.yaml'\n")
        return str(line)

    folder = tmp_path / "here"
    (folder / "studies").mkdir(parents=True)
    assert data() == "digits"
    for place, side in (("2 sizes/cat/a", 20), ("2 sizes/dog/b", 30), ("train/0/c", 8), ("train/1/d", 8)):
        (path := folder / f"{place}.png").parent.mkdir(parents=True)
        Image.new("L", (side, side)).save(path)
    assert data() == '{source: "2 sizes", resize: 64}'
    shutil.move(folder / "2 sizes", tmp_path)
    assert data() == ".", "which comes split"
    assert data("--data", "../2 sizes") == '{source: "../2 sizes", resize: 64}'
    (folder / "a.npz").touch()
    assert data() == ".", "an array without images and labels is not chosen"
    np.savez(folder / "a.npz", X=np.zeros((4, 8, 8)), y=[0, 1, 0, 1])
    (folder / "._a.npz").touch()  # what macOS leaves beside a file
    assert data() == "a.npz"
    (folder / "a.npz").rename(tmp_path / "null")
    for name, said in (("digits", "./digits"), ("true", '"true"')):
        assert data("--data", str((tmp_path / "2 sizes").rename(folder / name))) == f"{{source: {said}, resize: 64}}"
        (folder / name).rename(tmp_path / "2 sizes")
    hpo(folder, "init")
    assert hpo(folder, "init", code=2).stderr.startswith("study.yaml: must not exist yet")


def test_failures_that_differ_in_their_numbers_alone_are_one_line_and_none_is_left_out() -> None:
    errors = [f"loss {n}.5 in epoch {n}" for n in range(4)] + ["too deep"] * 3 + ["of a user", "another", "a third"]
    failed = [SimpleNamespace(number=n, outcome="invalid", error=error) for n, error in enumerate(errors)]
    study = SimpleNamespace(with_state=lambda state: failed, replaced=())
    assert [*failures(SimpleNamespace(study=study))] == [  # type: ignore[arg-type]
        "failed: 4 trials, as invalid: loss 0.5 in epoch 0",
        "failed: 3 trials, invalid: too deep",
        "failed: 1 trial, invalid: of a user",
        "failed: 2 trials otherwise",
    ]


def test_before_the_first_run_every_looking_verb_says_how_to_begin(study: Path) -> None:
    for verb in (["status"], ["best"], ["show", "0"], ["report"], ["export", "--csv", "x.csv"]):
        done = hpo(study, *verb, code=3)
        assert "hpo run" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1


def test_a_bad_file_or_a_module_that_does_not_import_is_refused_and_nothing_is_created(study: Path) -> None:
    (study / "trainer.py").write_text("import nothing_of_that_name\n")
    done = hpo(study, "run", code=2)
    assert len(done.stderr.splitlines()) == 1
    assert "nothing_of_that_name" in done.stderr
    bad = "name: x\ndata: nowhere.npz\nn_trials: 3\nsearch_space: {learning_rate: {min: 1, max: 0.1}}\n"
    (study / "study.yaml").write_text(bad)
    done = hpo(study, "run", code=2)
    assert [line[:13] for line in done.stderr.splitlines()] == ["study.yaml:2:", "study.yaml:3:", "study.yaml:4:"]
    assert {path.name for path in study.iterdir()} - {"__pycache__"} == {"study.yaml", "trainer.py"}


def test_a_trainer_that_always_fails_ends_the_study_with_exit_3_and_names_the_traceback(study: Path) -> None:
    done = hpo(study, "run", "--set", "search_space.width=13", "--set", "budget.trials=40", code=3)
    assert "thirteen is no width" in done.stdout
    rows = json.loads(hpo(study, "status", "--set", "search_space.width=13", "--json").stdout)
    assert rows[0]["trials"] <= 5
    trace = next((study / "studies/tiny/errors").glob("*.txt"))
    assert "thirteen is no width" in trace.read_text()


def test_a_copy_and_a_broken_study_are_skipped_with_a_line(ran: Path) -> None:
    place = ran / "studies/tiny"
    for name in ("bayesian-0.bak", "bayesian-00", "backup-0", "bayesian-7"):
        shutil.copytree(place / "bayesian-0", place / name)
    (place / "bayesian-7/journal.db").write_text("torn")
    (place / "bayesian-7/journal.db-wal").unlink(missing_ok=True)
    (place / "bayesian-8").mkdir()
    (place / "notes").touch()
    skipped = {"bayesian-0.bak", "bayesian-00", "backup-0", "bayesian-7/journal.db"}
    for verb in ("status", "sync", "report", "run"):
        done = hpo(ran, verb, "--set", "tracking=false")
        told = {line.partition(": ")[0].rpartition("tiny/")[2] for line in done.stderr.splitlines()}
        assert told == (set() if verb == "report" else skipped)
    assert [one["study"] for one in json.loads(hpo(ran, "status", "--json").stdout)] == ["bayesian-0"]


def test_failed_trials_are_tried_again_once_the_cause_is_fixed(study: Path) -> None:
    cause = 'if job.params["width"] == 13'
    fixable = TRAINER.replace(cause, f'{cause} and Path(__file__).with_name("broken").exists()')
    (study / "trainer.py").write_text(f"from pathlib import Path\n{fixable}")
    (study / "broken").touch()
    space = "search_space={width: [8, 13], learning_rate: [0.01, 0.001], epochs: [1, 2]}"
    words = ("--json", "--strategy", "grid", "--set", space, "--trials", "8")
    first = json.loads(hpo(study, "run", *words).stdout)
    assert (first["states"]["complete"], first["states"]["failed"]) == (4, 4)
    (study / "broken").unlink()
    assert json.loads(hpo(study, "run", *words).stdout)["trials"] == 8, "what failed is not tried again by itself"
    again = json.loads(hpo(study, "run", *words, "--retry-failed").stdout)
    assert (again["states"]["complete"], again["states"]["failed"]) == (8, 4)
    once = hpo(study, "run", *words[1:], "--retry-failed").stdout
    assert " 12 trials (" in once and "failed: " not in once, "and once is enough"


def test_the_time_of_the_budget_is_a_reason_to_end_in_the_report_too(study: Path) -> None:
    (study / "trainer.py").write_text(TRAINER.replace("import math", "import math, time; time.sleep(0.3)"))
    done = hpo(study, "run", "--time", "0.1s", "--trials", "100000")
    assert "tiny: time limit reached; " in done.stdout
    assert "time limit reached" in (study / "studies/tiny/bayesian-0/report.html").read_text()
    assert "time limit reached" in hpo(study, "status").stdout


def test_help_names_the_strategies_in_their_order_and_an_unknown_verb_or_flag_is_exit_2(tmp_path: Path) -> None:
    assert "bayesian, random or grid" in hpo(tmp_path, "run", "--help").stdout
    assert hpo(tmp_path, "--version").stdout == f"hpo, version {provenance.__version__}\n"
    assert "No such command" in hpo(tmp_path, "rum", code=2).stderr
    assert "No such option" in hpo(tmp_path, "run", "--trails", "3", code=2).stderr


@pytest.mark.parametrize(
    "verb", [["run"], ["compare", "--strategies", "random,grid", "--seeds", "1", "--no-rescore", "--set", GRID]]
)
def test_a_study_goes_on_when_nobody_reads_what_it_prints(study: Path, verb: list[str]) -> None:
    """As behind `| head -1`: what is trained is worth more than a line nobody wants."""
    command = [sys.executable, "-m", "hpo", *verb]
    with subprocess.Popen(command, cwd=study, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert (process.wait(), said) == (0, "")
    rows = json.loads(hpo(study, "status", "--json").stdout)
    assert {row["state"] for row in rows} == {"budget"}


def test_compare_says_undecided_for_one_seed_and_shares_trainings(study: Path) -> None:
    space = ["--set", GRID]
    done = hpo(study, "compare", "--seeds", "1", *space, "--no-rescore")
    assert "undecided" in done.stdout
    assert "random x2" in done.stdout
    first = (
        "tiny: compare bayesian, random, grid over 1 seed, 18 epochs each; beside them random-x2, which --strategies"
    )
    assert done.stdout.startswith(first)
    trained, charged = next(line.split()[1:5:3] for line in done.stdout.splitlines() if line.startswith("trained "))
    assert int(trained) < int(charged)
    told = json.loads(hpo(study, "compare", "--seeds", "1", *space, "--no-rescore", "--json").stdout)
    assert told["said"] == done.stdout.splitlines()[-3]
    rows = json.loads(hpo(study, "status", *space, "--strategy", "random", "--json").stdout)
    assert [row["study"] for row in rows] == ["random-0"]
    shutil.copytree(study / "studies/tiny/random-0", stopped := study / "studies/tiny/random-asha-0")
    assert hpo(study, "status", *space, "--strategy", "random").stdout.count("random-") == 2, "as compare calls it"
    shutil.rmtree(stopped)
    none = hpo(study, "status", *space, "--strategy", "bayesian", "--seed", "7", code=3)
    assert "no study of strategy bayesian and seed 7" in none.stderr
    anew = hpo(study, "compare", "--seeds", "1", *space, "--no-rescore", "--fresh")
    assert anew.stdout.splitlines()[-3:-1] == done.stdout.splitlines()[-3:-1]


def test_compare_refuses_a_grid_over_a_range_and_offers_one(study: Path) -> None:
    done = hpo(study, "compare", "--seeds", "2", code=2)
    assert "count: 5" in done.stderr
    assert "or leave grid out: --strategies bayesian,random" in done.stderr
    assert not (study / "studies").exists()


def test_confirm_retrains_the_finalists_with_fresh_seeds(ran: Path) -> None:
    *finalists, _ = hpo(ran, "confirm", "--top", "2", "--seeds", "2").stdout.splitlines()
    assert [line.startswith("trial ") and "on fresh seeds" in line for line in finalists] == [True, True]
    assert [one["study"] for one in json.loads(hpo(ran, "status", "--json").stdout)] == ["bayesian-0"]
    assert len(hpo(ran, "status").stdout.splitlines()) == 2, "a row a study, not folded in a pipe"
    (confirmation,) = json.loads(hpo(ran, "status", "--strategy", "confirm", "--json").stdout)
    assert confirmation["study"].startswith("confirm-")
    for verb in (["show", "0"], ["best"], ["status", "--watch"], ["check"], ["confirm", "--top", "2", "--seeds", "2"]):
        lines = on_a_terminal(ran, 60, *verb).splitlines()
        assert len(lines) > 1 and max(map(len, lines)) <= 60, (verb, lines)


def on_a_terminal(folder: Path, columns: int, *words: str) -> str:
    """What a window of so many columns shows, without the escapes."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    ends: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen([sys.executable, "-m", "hpo", *words], cwd=folder, env=environ, **ends):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so where a terminal has no writer any more
            while more := os.read(ours, 65536):
                shown += more
    os.close(ours)
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "\n")


def test_a_signal_while_a_finished_study_is_published_does_not_call_it_unfinished(tmp_path: Path) -> None:
    space = "search_space: {blocks: 1, channels: 4, learning_rate: [0.01, 0.02], epochs: 1}"
    (tmp_path / "study.yaml").write_text(f"name: few\n{FEW}\n{space}\nbudget: {{trials: 1}}\ntracking: false\n")
    command, journal = [sys.executable, "-m", "hpo", "run"], tmp_path / "studies/few/random-0/journal.db"
    flags = ["--strategy", "random", "--workers", "1"]
    with subprocess.Popen([*command, *flags], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        while not (journal.exists() and any(isinstance(event, Closed) for event in read_events(journal))):
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        said = run.communicate()[0]
    assert run.returncode == 130, said
    assert "few: budget spent; 1 trial (1 complete)" in said
    assert "resume" not in said
    assert (
        "test_accuracy" not in said and "the search is over: hpo run study.yaml --strategy random --workers 1" in said
    )
    assert ", test_accuracy 0." in hpo(tmp_path, "run", *flags).stdout


def signal_at_the_last(tracker: Tracker, timeout: float) -> int:
    """Instead of waiting until MLflow has it."""
    if tracker._closing:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return 0


def test_a_signal_while_mlflow_gets_the_last_shows_the_study_and_hides_no_failure_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tracker, "drain", signal_at_the_last)
    place = Place.made(tmp_path)
    spec = place.spec(tracking={"uri": f"http://127.0.0.1:{free_port()}"})
    result = run(spec, replace(place.options, publish=True))
    assert (str(result.study.closed), result.stopped_by, exit_code(result)) == ("budget", signal.SIGTERM, 143)
    *_, sync, over = summary_lines(result, Utilization(1))
    assert f"deliver it later with `hpo sync {spec.path}`" in sync
    assert f"the search is over: hpo run {spec.path}" in over
    for reused in (0, 2):  # epochs that were another study's are no nothing
        said = [line.strip() for line in summary_lines(result, Utilization(1, reused=reused))]
        assert ("nothing was trained: to go on raise budget.trials" in said) == (reused == 0)
    assert result.folders.report.exists()
    monkeypatch.setattr("hpo.commands.report.save", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(EnvironmentFailed, match="the report must have room here, got No space left on device"):
        run(spec, replace(place.options, publish=True))


@pytest.mark.parametrize(
    ("leaving", "words", "said", "code"),
    [
        (Stopped(15), ["run"], "stopped; the same command resumes", 143),
        (Stopped(2), ["run", "--fresh"], "stopped; the same command without --fresh resumes", 130),
        (KeyboardInterrupt(), ["check"], "stopped", 130),
    ],
)
def test_a_stopped_command_says_what_resumes_it_only_where_something_does(
    leaving: BaseException, words: list[str], said: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def leave(standalone_mode: bool) -> None:
        raise leaving

    monkeypatch.setattr(program.cli, "main", leave)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "argv", ["hpo", *words])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert (left.value.code, capsys.readouterr().err) == (code, f"{said}\n")


def test_mlflow_away_costs_the_model_s_entry_only_and_the_printed_sync_delivers_that_too(tmp_path: Path) -> None:
    space = "search_space: {blocks: 1, channels: 4, epochs: 1}"
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    (tmp_path / "s.yaml").write_text(f"name: away\n{FEW}\n{space}\ntracking: {{uri: '{uri}'}}\n")
    flags = ["--strategy", "random", "--state", "there", "--set", "budget.trials=1", "--workers", "1"]
    said = hpo(tmp_path, "run", "s.yaml", *flags, code=4).stdout
    assert "model:  MLflow did not answer: the model was scored, not logged to MLflow" in said
    (line,) = re.findall("deliver it later with `hpo (.+)`", said)
    sync = shlex.split(line)
    refused = hpo(tmp_path, *sync, "--timeout", "0", code=4).stderr
    assert sorted(shlex.split(refused.partition("start it, then: hpo ")[2])) == sorted(sync)
    (tmp_path / "server").mkdir()
    server = start_server(tmp_path / "server", port)
    try:
        delivered = hpo(tmp_path, *sync).stdout
        best = json.loads(hpo(tmp_path, "best", "s.yaml", *flags[:-2], "--json").stdout)
    finally:
        server.stop()
    assert delivered == "MLflow has everything of random-0; models:/away@champion is version 1\n"
    assert best["model"].startswith("models:/m-")


WIDTH = "search_space.width=[8, 16]"


@pytest.mark.parametrize(
    ("sets", "seed", "state", "typed"),
    [
        ((), 0, ".", "hpo run {study}"),
        (("strategy=random", "budget.time=1h"), 3, ".", "hpo run {study} --strategy random --time 1h --seed 3"),
        (("seed=1",), 1, ".", "hpo run {study} --seed 1"),
        ((WIDTH,), 0, "runs", f"hpo run {{study}} --set '{WIDTH}' --state {{state}}"),
    ],
)
def test_what_to_type_names_the_study(sets: tuple[str, ...], seed: int, state: str, typed: str, study: Path) -> None:
    path = study / "study.yaml"
    spec = replace(load(path, sets=sets), seed=seed)
    assert command("run", spec, study / state) == typed.format(study=path, state=study / state)
    as_set = typed.replace("hpo run", "hpo sync").replace("--time 1h", "--set budget.time=1h")  # no flag of `hpo sync`
    assert command("sync", spec, study / state) == as_set.format(study=path, state=study / state)


def test_a_port_that_is_taken_is_one_line(study: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        (study / "mlflow.db").touch()
        done = hpo(study, "ui", "--set", "tracking=true", "--port", str(port), code=4)
    said = f"127.0.0.1:{port}: must be free for the server, got Address already in use; hpo ui --port {port + 1}\n"
    assert (done.stdout, done.stderr) == ("", said)


@pytest.mark.timeout(300)
def test_the_ui_says_where_the_study_is_once_it_answers_and_ends_with_its_server(study: Path) -> None:
    said = hpo(study, "run", "--set", "tracking=true", "--set", "workers=1").stdout
    assert "MLflow: hpo ui study.yaml --set tracking=true\n" in said, "what it needs to know, in a line that fits"
    command = [sys.executable, "-m", "hpo", "ui", "--set", "tracking=true", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=study, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        assert ui.stdout.readline() == "MLflow shows this study, until Ctrl-C:\n"
        address = ui.stdout.readline().strip()
        server = address.partition("/#")[0]
        found = re.search("/#/experiments/([0-9]+)/runs", address)
        assert found is not None, address
        with urllib.request.urlopen(f"{server}/api/2.0/mlflow/experiments/get?experiment_id={found[1]}") as answer:
            assert json.load(answer)["experiment"]["name"] == "tiny"
        ui.terminate()
        assert ui.communicate() == ("", "")
        assert ui.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server)


def test_a_space_in_which_nothing_can_be_trained_is_exit_2_for_check_as_for_run(tmp_path: Path) -> None:
    space = "search_space: {blocks: 1, epochs: 1, learning_rate: [0.01, 0.1]}\nconstraints: ['model_parameters < 3']\n"
    (tmp_path / "study.yaml").write_text(f"name: none\ndata: digits\n{space}")
    done = hpo(tmp_path, "check", code=2)
    assert "warning: no possible configuration meets the constraints; relax one of them" in done.stdout
    assert "time:" not in done.stdout
    assert "must hold at least one point that can be trained" in done.stderr
    assert "must hold at least one point that can be trained" in hpo(tmp_path, "run", "--workers", "1", code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_export_writes_what_optuna_can_read(ran: Path) -> None:
    hpo(ran, "export", "--optuna", "journal.log", "--csv", "trials.csv")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    read = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(ran / "journal.log"))))
    rows = list(csv.DictReader((ran / "trials.csv").read_text().splitlines()))
    assert rows == list(csv.DictReader((ran / "studies/tiny/bayesian-0/trials.csv").read_text().splitlines()))
    assert all(row["diagnosis"] for row in rows)
    assert [(t.datetime_start.timestamp(), t.datetime_complete.timestamp()) for t in read.trials] == [
        tuple(pytest.approx(datetime.fromisoformat(row[name]).timestamp()) for name in ("started", "ended"))
        for row in rows
    ]
    assert read.best_value == pytest.approx(json.loads(hpo(ran, "best", "--json").stdout)["best"]["value"])
    assert "must not exist yet" in hpo(ran, "export", "--optuna", "journal.log", code=2).stderr
