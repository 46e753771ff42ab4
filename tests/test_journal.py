"""The truth on disk: what is written is read back, whoever dies; what was written once is readable for ever."""

import os
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import laws
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo import core
from hpo import journal as journal_module
from hpo.core import Continued, Ended, Event, Outcome, Paused, Reason, Report, Reported, Retried, Scored, Started, State
from hpo.errors import Conflict, EnvironmentFailed
from hpo.files import DriverLock, file_system, holder_of
from hpo.journal import Journal, decode, encode

TABLES = laws.tables("journal_tables")


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
    st.builds(core.Opened, times, params),
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
    st.builds(core.Closed, times, st.sampled_from(Reason)),
)


@given(event=events)
@settings(max_examples=200 * laws.MORE)
def test_any_event_comes_back_as_it_was(event: Event) -> None:
    assert decode(*encode(event)) == event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "journal.db"


def read(path: Path, after: int = 0) -> list[tuple[int, Event]]:
    with Journal.open(path, read_only=True) as journal:
        return list(journal.events(after))


def test_events_are_numbered_and_read_from_any_of_them_by_a_reader_that_writes_nothing(path: Path) -> None:
    assert "journal.db: must be writable" in laws.refused(EnvironmentFailed, Journal.open, path, read_only=True)
    assert not path.exists()
    written = [Paused(float(number), number) for number in range(5)]
    with Journal.open(path) as journal, Journal.open(path, read_only=True) as reader:
        for number, event in enumerate(written, 1):
            assert journal.append(event) == number
            assert list(reader.events()) == list(enumerate(written[:number], 1))
        assert "must be writable" in laws.refused(EnvironmentFailed, reader.append, Paused(0.0, 0))
    assert read(path, after=3) == [(4, written[3]), (5, written[4])]


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
        line = f"{path}: {rule}; raise `ulimit -n`, then run the same command again"
        assert laws.refused(EnvironmentFailed, make, path) == line
        os.close(no_files.pop())


STEPS = ["kill", "start", "report", "report", "pause", "continue", "retry", "end"]


@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.integers(1, 5)), max_size=40))
@settings(max_examples=30 * laws.MORE)
def test_any_history_cut_by_kills_is_read_as_it_happened(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against plain lists. What a SIGKILL leaves is the files as they are: the study goes on with a copy, unclosed."""
    folder = tmp_path_factory.mktemp("history")
    journal = Journal.open(folder / "0" / "journal.db")
    state, read, until, keys = list[State](), list[int](), list[int](), list[str]()
    epochs, attempts = Counter[str](), dict[str, int]()
    for at, (step, pick, number) in enumerate([("start", 0, 3), *steps], 1):
        running, paused = ([n for n, one in enumerate(state) if one is kind] for kind in (State.RUNNING, State.PAUSED))
        chosen = paused if step == "continue" else running
        if step == "kill":
            shutil.copytree(journal.path.parent, folder / str(at))
            journal.close()
            journal = Journal.open(folder / str(at) / "journal.db")
        elif step == "start":
            journal.append(Started(0.0, len(state), {"epochs": 9}, 0, key := "abc"[pick % 3], 1, number))
            state, keys, until = [*state, State.RUNNING], [*keys, key], [*until, number]
            read.append(min(number, epochs[key]))
        elif chosen:
            key = keys[trial := chosen[pick % len(chosen)]]
            if step == "report":
                epochs[key] += 1
                journal.append(Reported(key, Report(epochs[key], {"val_accuracy": number / 5}, 1.0, 0.0)))
                for other in (one for one in running if keys[one] == key):
                    read[other] = min(until[other], epochs[key])
            elif step == "retry":
                attempts[key] = attempts.get(key, 1) + 1
                journal.append(Retried(0.0, key, attempts[key], "SIGKILL"))
            elif step == "continue":
                state[trial], until[trial] = State.RUNNING, until[trial] + number - 1
                read[trial] = min(until[trial], epochs[key])
                journal.append(Continued(0.0, trial, until[trial]))
            else:
                state[trial] = State.PAUSED if step == "pause" else State.PRUNED
                journal.append(Paused(0.0, trial) if step == "pause" else Ended(0.0, trial, State.PRUNED))
    study = journal.study()
    journal.close()
    found = [(one.state, one.epoch, one.until, one.training) for one in study.trials]
    assert found == list(zip(state, read, until, keys, strict=True))
    assert {key: len(one.reports) for key, one in study.trainings.items()} == {key: epochs[key] for key in keys}
    assert study.epochs == epochs.total()
    assert all(max(one.attempt for one in study.readers(key)) == attempts.get(key, 1) for key in keys)
    for kind, told in ((State.RUNNING, study.running), (State.PAUSED, study.paused)):
        assert sorted(told) == [number for number, one in enumerate(state) if one is kind]


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


def test_a_second_driver_is_told_who_drives_and_since_when(held: DriverLock) -> None:
    for _ in range(2):  # a look takes nothing
        assert (holder_of(held.paths[0]) or {})["pid"] == os.getpid()
    with pytest.raises(Conflict, match=f"already running as pid {os.getpid()} on {os.uname().nodename} since 20"):
        DriverLock(held.paths[0])
    held.paths[0].write_text('{"pid": 1')  # half written by its driver
    assert "pid ?" in laws.refused(Conflict, DriverLock, held.paths[0])


@pytest.mark.parametrize(("folder", "kind"), TABLES["file systems"].items())
def test_the_file_system_of_a_folder_is_that_of_the_deepest_mount(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(TABLES["mounts"])
    assert file_system(Path(folder), mounts) == kind
    assert file_system(Path(folder), tmp_path / "none") == ""
