"""Processes that are killed, and the checker that runs after every fault. The witness is a file the trainer writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakes
import laws
from victim import Config

from benchmarks.simulated import SimulatedExecutor
from hpo.core import Event, Goal, Opened, Reported, State, Study
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.files import holder_of
from hpo.journal import Journal
from hpo.study_file.spec import Budget

TESTS = Path(__file__).parent
PATIENCE = 60.0  # seconds after which something hangs; nothing here takes more than a few
MARK = "HPO_TEST_MARK"


@dataclass
class Process:
    """A program of its own process group, its worker processes, and what it said."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        own = {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "TMPDIR": str(temporary), MARK: self.mark}
        self.popen = subprocess.Popen(
            [sys.executable, *self.command],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **own, **self.environment},
        )

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def pids(self) -> list[int]:
        """Every process that came of this one, itself included."""
        return [pid for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")) if self._ours(pid)]

    def workers(self) -> list[int]:
        return [pid for pid in self.pids() if pid != self.popen.pid and b"worker" in _read(pid, "cmdline")]

    def _ours(self, pid: int) -> bool:
        return f"{MARK}={self.mark}".encode() in _read(pid, "environ") and b") Z " not in _read(pid, "stat")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.popen.send_signal(number)

    def finish(self) -> Said:
        """Wait for its end; whatever came of it must end with it."""
        try:
            out, error = self.popen.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            raise AssertionError(f"{self.command} hangs") from None
        wait_until(lambda: not self.pids(), "its worker processes end with their driver")
        assert "Traceback" not in error, error
        return Said(self.popen.returncode, out, error)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    error: str


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def wait_until(condition: Callable[[], bool], what: str, tick: float = 0.002) -> None:
    """Wait for something that must come; how long it takes is nobody's business here."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"this never happened: {what}"
        time.sleep(tick)


def start(config: Config, failpoint: str = "") -> Process:
    folder = Path(config.folder)
    path = config.write(folder / "config.json")
    return Process([str(TESTS / "victim.py"), str(path)], folder, {"HPO_FAILPOINT": failpoint} if failpoint else {})


def lines(witness: Path) -> list[tuple[str, int, int]]:
    """(training, epoch, pid) as they were trained; a line that a kill has torn is none."""
    if not witness.exists():
        return []
    found = []
    for line in witness.read_text().splitlines():
        with contextlib.suppress(ValueError):
            found.append(tuple(json.loads(line)))
    return found  # type: ignore[return-value]


def events_of(journal: Path) -> list[Event]:
    """What is in the journal now, of a driver that may be at work; [] before it is made."""
    if not journal.exists():
        return []
    for _ in range(100):  # a journal in the making has no tables yet
        with contextlib.suppress(Exception), Journal.open(journal, read_only=True) as reader:
            return [event for _, event in reader.events()]
        time.sleep(0.01)
    return []


def reference(config: Config) -> Study:
    """What the study must become: the same strategy on made-up time, nobody killed."""
    executor = SimulatedExecutor(fakes.Fake().train, config.slots)
    search = Search(Study(), config.make_strategy(), Goal(), Budget(**config.budget), laws.identity())
    Driver([search], executor, Trainings(Path(config.folder, "nowhere")), clock=executor.clock).run()
    return search.study


def finished(events: Sequence[Event]) -> dict[int, Any]:
    """Trials that have ended, with all that a person could have been told of them."""
    return {trial.number: trial for trial in Study(events).trials if trial.finished}


def check(config: Config, said: Said, lost: int, before: Mapping[int, Any] | None = None) -> Study:
    """All invariants of a study that has come to its end. lost: the most epochs that kills can have cost.

    before: trials that had ended at some fault.
    """
    assert said.code == 0, said
    events = events_of(config.journal)
    expected = reference(config)
    study = laws.check(events, trials=len(expected.trials))
    assert list(map(dict, laws.params_of(study))) == list(map(dict, laws.params_of(expected)))
    told = json.loads(said.out)
    best = Goal().best(study.trials)
    assert told == {"closed": "budget", "best": None if best is None else best.number}
    for number, trial in (before or {}).items():
        assert study.trials[number] == trial, "what had ended stays as it was"
    check_witness(config, study, lost)
    check_folder(config)
    return study


def check_witness(config: Config, study: Study, lost: int) -> None:
    trained = Counter((key, epoch) for key, epoch, _ in lines(config.witness))
    for key, training in study.trainings.items():
        for report in training.reports:
            assert trained[key, report.epoch] >= 1, "nobody trained this epoch"
            assert report.metrics["total"] == sum(range(1, report.epoch + 1)), "it went on from its own state"
    assert set(trained) == {(key, r.epoch) for key, one in study.trainings.items() for r in one.reports}
    repeated = sum(trained.values()) - len(trained)
    assert repeated <= lost, f"{repeated} epochs were trained again, {lost} could have been lost"


def check_folder(config: Config) -> None:
    """Nothing is left but what a study is made of."""
    folder = Path(config.folder)
    assert holder_of(config.lock) is None
    left = [path for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith((".saving", "tmp"))]
    assert left == [folder / "tmp"]
    assert list((folder / "tmp").iterdir()) == []
    workers = {str(pid) for _, _, pid in lines(config.witness)}
    assert not [path for path in Path("/dev/shm").iterdir() if workers & set(re.findall(r"\d+", path.name))]


def phase(events: Sequence[Event]) -> str:
    """What the driver that was killed behind these events was doing."""
    visits = [index for index, event in enumerate(events) if isinstance(event, Opened)]
    if not visits:
        return "before the first event"
    since = events[visits[-1] :]
    which = "first visit" if len(visits) == 1 else "resumed"
    at = "training" if any(isinstance(event, Reported) for event in since) else "opening"
    return f"{which}, {at}"


def complete(study: Study) -> bool:
    return all(trial.state is State.COMPLETE for trial in study.trials)


@contextlib.contextmanager
def never_left(process: Process) -> Iterator[Process]:
    """Whatever a test does, its processes end with it, and none is left for a later test to be warned of."""
    try:
        yield process
    finally:
        for pid in process.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with process.popen:
            pass


def finish(process: Process) -> Said:
    """Wait for the end of a process, which no test leaves running."""
    with never_left(process):
        return process.finish()
