"""The truth on disk: what is written is read back, whoever dies; what was written once is readable for ever."""

import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import laws
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hpo import journal as journal_module
from hpo.core import (
    Closed,
    Continued,
    Ended,
    Event,
    Opened,
    Outcome,
    Paused,
    Reason,
    Report,
    Reported,
    Retried,
    Scored,
    Started,
    State,
)
from hpo.errors import Conflict, EnvironmentFailed
from hpo.files import DriverLock, file_system, holder_of
from hpo.journal import Journal, decode, encode

TABLES = yaml.safe_load(Path(__file__).with_name("journal_tables.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("kind", "body", "event"), TABLES["written by version 2"])
def test_what_version_2_wrote_is_read_and_still_written_so(kind: str, body: str, event: str) -> None:
    assert repr(decode(kind, body)) == event
    assert encode(decode(kind, body)) == (kind, body)


def test_a_score_from_before_its_epoch_was_noted_is_read() -> None:
    assert decode("Scored", '{"time":7.0,"trial":0,"metrics":{"test_accuracy":0.9}}').epoch == 0


values = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8) | st.booleans()
params = st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=4)
times = st.floats(0, 2e9)
numbers = st.integers(0, 10**6)
events = st.one_of(
    st.builds(Opened, times, params),
    st.builds(Started, times, numbers, params, numbers, st.text(max_size=32), st.integers(0, 2**48), numbers),
    st.builds(
        Reported,
        st.text(max_size=32),
        st.builds(Report, numbers, st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False)), times, times),
        st.booleans(),
    ),
    st.builds(Paused, times, numbers),
    st.builds(Continued, times, numbers, numbers),
    st.builds(Retried, times, st.text(max_size=32), numbers, st.text(max_size=20)),
    st.builds(Ended, times, numbers, st.sampled_from(State), st.sampled_from(Outcome), st.text(max_size=20)),
    st.builds(Scored, times, numbers, st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False))),
    st.builds(Closed, times, st.sampled_from(Reason)),
)


@given(event=events)
@settings(max_examples=200 * laws.MORE, deadline=None)
def test_any_event_comes_back_as_it_was(event: Event) -> None:
    assert decode(*encode(event)) == event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "journal.db"


def read(path: Path, after: int = 0) -> list[tuple[int, Event]]:
    with Journal.open(path, read_only=True) as journal:
        return list(journal.events(after))


def test_events_are_numbered_in_order_and_read_from_any_of_them_at_once_while_the_driver_writes(path: Path) -> None:
    written = [Paused(float(number), number) for number in range(5)]
    with Journal.open(path) as journal, Journal.open(path, read_only=True) as reader:
        for number, event in enumerate(written, 1):
            assert journal.append(event) == number
            assert list(reader.events()) == list(enumerate(written[:number], 1))
    assert read(path, after=3) == [(4, written[3]), (5, written[4])]


def test_a_reader_makes_no_journal_and_writes_nothing(path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match=r"journal\.db: must be writable"):
        Journal.open(path, read_only=True)
    assert not path.exists()
    Journal.open(path).close()
    with Journal.open(path, read_only=True) as reader, pytest.raises(EnvironmentFailed, match="must be writable"):
        reader.append(Paused(0.0, 0))
    assert read(path) == []


def test_texts_beside_the_events_are_kept_and_replaced(path: Path) -> None:
    with Journal.open(path) as journal:
        assert journal.get("study") is None
        journal.put("study", "a")
        journal.put("study", "b")
    with Journal.open(path) as journal:
        assert journal.get("study") == "b"
        assert journal.get("version") == "2"


def test_events_no_study_can_have_had_are_a_damaged_journal(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append(Paused(0.0, 3))
        with pytest.raises(EnvironmentFailed, match="must be an intact journal"):
            journal.study()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_process_writes_more_journals_than_it_keeps_open(tmp_path: Path) -> None:
    before, written = open_files(), [Paused(float(number), number) for number in range(3)]
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        journals = [stack.enter_context(Journal.open(tmp_path / str(one) / "journal.db")) for one in range(60)]
        for event in written:  # by threads, so that one lets go of what another writes
            list(pool.map(lambda journal, event=event: journal.append(event), journals))
            assert open_files() - before <= 3 * journal_module.MOST_CONNECTIONS
        assert [list(journal.events()) for journal in journals] == [list(enumerate(written, 1))] * 60
    assert open_files() == before


@pytest.fixture
def no_files() -> Iterator[list[int]]:
    """A process that has as many files open as it may; closing one of these makes room."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 100, limits[1]))
    opened: list[int] = []
    with suppress(OSError):
        while True:
            opened.append(os.dup(0))
    yield opened
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_that_a_process_may_open_no_more_files_is_said_to_be_so(path: Path, no_files: list[int]) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    rule = f"cannot be opened, because the {allowed} files that this process may have open are open"
    Path(path.parent).mkdir()
    for make in (DriverLock, Journal.open, Journal.open):  # room for none, for one file, for two of the three of SQLite
        with pytest.raises(EnvironmentFailed) as failed:
            make(path)  # type: ignore[operator]
        assert str(failed.value) == f"{path}: {rule}; raise `ulimit -n`, then run the same command again"
        os.close(no_files.pop())


# -- the machine: any history, cut by kills at will, against a dict -------------------------------------------------


def some(state: State) -> Any:
    return precondition(lambda self: any(trial[0] is state for trial in self.trials.values()))


class Histories(RuleBasedStateMachine):
    """trials[n] = [state, epochs read, until, outcome]; epochs[key] = epochs of the training."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.copies = 0
        self.trials: dict[int, list[Any]] = {}
        self.keys: dict[int, str] = {}
        self.epochs: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.written = 0

    @initialize()
    def begin(self) -> None:
        self.path = self.folder / "0" / "journal.db"
        self.journal = Journal.open(self.path)
        self.note(Opened(0.0, {}))

    def note(self, event: Event) -> None:
        self.written += 1
        assert self.journal.append(event) == self.written

    def pick(self, data: st.DataObject, state: State) -> int:
        return data.draw(st.sampled_from([n for n, trial in self.trials.items() if trial[0] is state]))

    @rule(key=st.sampled_from("abc"), until=st.integers(1, 5), width=values)
    def start(self, key: str, until: int, width: Any) -> None:
        number = len(self.trials)
        self.note(Started(0.0, number, {"width": width, "epochs": 9}, 0, key, 1, until))
        self.keys[number] = key
        self.trials[number] = [State.RUNNING, min(until, self.epochs.setdefault(key, 0)), until, Outcome.OK]

    @some(State.RUNNING)
    @rule(data=st.data(), metric=st.floats())
    def report(self, data: st.DataObject, metric: float) -> None:
        key = self.keys[self.pick(data, State.RUNNING)]
        self.epochs[key] += 1
        self.note(Reported(key, Report(self.epochs[key], {"val_accuracy": metric}, 1.0, 0.0)))
        for number, trial in self.trials.items():
            if self.keys[number] == key and trial[0] is State.RUNNING:
                trial[1] = min(trial[2], self.epochs[key])

    @some(State.RUNNING)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        number = self.pick(data, State.RUNNING)
        self.note(Paused(0.0, number))
        self.trials[number][0] = State.PAUSED

    @some(State.PAUSED)
    @rule(data=st.data(), more=st.integers(0, 4))
    def go_on(self, data: st.DataObject, more: int) -> None:
        number = self.pick(data, State.PAUSED)
        trial = self.trials[number]
        trial[0], trial[2] = State.RUNNING, trial[2] + more
        self.note(Continued(0.0, number, trial[2]))
        trial[1] = min(trial[2], self.epochs[self.keys[number]])

    @some(State.RUNNING)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        key = self.keys[self.pick(data, State.RUNNING)]
        self.attempts[key] = self.attempts.get(key, 1) + 1
        self.note(Retried(0.0, key, self.attempts[key], "SIGKILL"))

    @some(State.RUNNING)
    @rule(
        data=st.data(),
        state=st.sampled_from([State.COMPLETE, State.PRUNED, State.FAILED]),
        outcome=st.sampled_from(Outcome),
    )
    def end(self, data: st.DataObject, state: State, outcome: Outcome) -> None:
        number = self.pick(data, State.RUNNING)
        self.note(Ended(0.0, number, state, outcome))
        self.trials[number][0], self.trials[number][3] = state, outcome

    @rule()
    def kill(self) -> None:
        """What a SIGKILL leaves is the files as they are now: go on with a copy of them, unclosed."""
        self.copies += 1
        place = self.folder / str(self.copies)
        shutil.copytree(self.path.parent, place)
        self.journal.close()
        self.path = place / "journal.db"
        self.journal = Journal.open(self.path)

    @rule()
    def resume(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.path)
        self.note(Opened(0.0, {}))

    @invariant()
    def the_journal_says_what_happened(self) -> None:
        study = self.journal.study()
        assert [trial.number for trial in study.trials] == sorted(self.trials)
        for trial in study.trials:
            state, read, until, outcome = self.trials[trial.number]
            assert [trial.state, trial.epoch, trial.until, trial.outcome] == [state, read, until, outcome]
            assert trial.training == self.keys[trial.number]
        assert {key: len(one.reports) for key, one in study.trainings.items()} == self.epochs
        assert study.epochs == sum(self.epochs.values())
        assert study.attempts == self.attempts
        assert set(study.running) == {n for n, trial in self.trials.items() if trial[0] is State.RUNNING}
        assert set(study.paused) == {n for n, trial in self.trials.items() if trial[0] is State.PAUSED}

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)


Histories.TestCase.settings = settings(
    max_examples=15 * laws.MORE, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase


# -- one driver a study ---------------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Iterator[DriverLock]:
    lock = DriverLock(tmp_path / "driver.lock")
    yield lock
    lock.release()


def test_a_driver_that_starts_while_status_looks_is_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "random-0" / "driver.lock"
    looking = threading.Event()

    def look() -> None:
        while not looking.is_set():
            holder_of(path)

    with ThreadPoolExecutor() as pool:
        pool.submit(look)
        for _ in range(200):
            DriverLock(path).release()
        looking.set()


def test_the_driver_of_many_studies_has_one_descriptor_and_is_refused_before_it_makes_any(tmp_path: Path) -> None:
    paths = [tmp_path / f"random-{seed}" / "driver.lock" for seed in range(50)]
    before = open_files()
    one = DriverLock(paths[7])
    with pytest.raises(Conflict, match=r"random-7: already running"):
        DriverLock(*paths)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["random-7"]
    one.release()
    all_of_them = DriverLock(*paths)
    assert open_files() == before + 1
    assert all(holder_of(path) for path in paths)
    assert holder_of(tmp_path / "random-50" / "driver.lock") is None
    DriverLock(tmp_path / "random-50" / "driver.lock").release()
    for path in paths:
        with pytest.raises(Conflict):
            DriverLock(path)
    all_of_them.release()
    assert not any(holder_of(path) for path in paths)


def test_of_drivers_that_start_together_one_drives(tmp_path: Path) -> None:
    def start(_: int) -> DriverLock | None:
        try:
            return DriverLock(tmp_path / "driver.lock")
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            (driver,) = filter(None, pool.map(start, range(8)))
            driver.release()


def test_a_second_driver_is_told_who_drives_and_since_when(held: DriverLock) -> None:
    for _ in range(2):  # a look takes nothing
        assert (holder_of(held.paths[0]) or {})["pid"] == os.getpid()
    with pytest.raises(Conflict) as refused:
        DriverLock(held.paths[0])
    text = str(refused.value)
    assert f": already running as pid {os.getpid()} on {os.uname().nodename} since 20" in text
    assert text.endswith("; wait for it, or end it with `hpo stop`")
    assert refused.value.exit_code == 5
    held.paths[0].write_text('{"pid": 1')  # half written by its driver
    with pytest.raises(Conflict, match=r"pid \?"):
        DriverLock(held.paths[0])


def test_a_lock_that_was_left_is_free(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    path.write_text('{"pid": 1, "host": "gone", "time": 1')
    assert holder_of(path) is None
    lock = DriverLock(path)
    assert (holder_of(path) or {})["pid"] == os.getpid()
    lock.release()
    assert holder_of(path) is None


# -- where it lies --------------------------------------------------------------------------------------------------

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/fast tmpfs rw 0 0
//box/share /mnt/my\\040share cifs rw 0 0
"""


FILE_SYSTEMS = {
    "/var/x": "ext4",
    "/home/a/b": "nfs4",
    "/homework": "ext4",
    "/home/fast/a": "tmpfs",
    "/mnt/my share/a": "cifs",
}


@pytest.mark.parametrize(("folder", "kind"), FILE_SYSTEMS.items())
def test_the_file_system_of_a_folder_is_that_of_the_deepest_mount(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert file_system(Path(folder), mounts) == kind
    assert file_system(Path(folder), tmp_path / "none") == ""
