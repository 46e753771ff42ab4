"""The study's folder as people and machines mistreat it: the message names the file, and nothing is overwritten."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from laws import refused, tables
from survival import Process, check, events_of, finish, lines, never_left, start, wait_until
from test_faults import check_whole, journal_of, whole
from victim import Config

from hpo import files
from hpo import journal as journals
from hpo.core import Closed, Event, Opened, Paused, Report, Started, Study
from hpo.engine.changes import refuse_changes
from hpo.engine.opening import take_over
from hpo.errors import Conflict, EnvironmentFailed
from hpo.files import DriverLock, Folders
from hpo.journal import Journal
from hpo.study_file import reader as spec
from hpo.study_file.spec import StudySpec
from hpo.training import checkpoints

EVENTS: list[Event] = [
    Opened(0.0, {"host": "here"}),
    *(Started(float(n), n, {"rate": 0.1 * n, "epochs": 4}, 0, f"k{n}", n, 4) for n in range(300)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of 301 events that nobody has open."""
    return written(tmp_path / "run" / "journal.db")


def written(path: Path) -> Path:
    with Journal.open(path) as journal:
        for event in EVENTS:
            journal.append(event)
    return path


def unread(path: Path) -> str:
    """What opening and reading it says; it must leave every byte as it was."""
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(EnvironmentFailed) as failed, Journal.open(path) as journal:
        journal.study()
    after = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file() and file in before}
    assert after == before, "never overwritten"
    text = str(failed.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert failed.value.exit_code == 4
    return text.removeprefix(str(path))


def scramble(path: Path, at: float, length: int, rng: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * at))
        file.write(rng.randbytes(length))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another file": lambda path: path.write_text("dear diary\n" * 100),
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n" + bytes(5000)),
    "the first half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "without its end": lambda path: os.truncate(path, path.stat().st_size - 5000),
    "a header of noise": lambda path: scramble(path, 0, 100, random.Random(1)),
    "pages of noise": lambda path: scramble(path, 0.3, 9000, random.Random(2)),
    "a table is missing": lambda path: sql(path, "DROP TABLE events"),
    "an event of no kind": lambda path: sql(path, "UPDATE events SET kind = 'Dreamt' WHERE seq = 7"),
    "an event without a body": lambda path: sql(path, "UPDATE events SET body = '{' WHERE seq = 7"),
    "an event is missing": lambda path: sql(path, "DELETE FROM events WHERE seq = 7"),
    "without its texts": lambda path: sql(path, "DROP TABLE meta"),  # as a database of another program is
    "an event twice": lambda path: sql(path, "INSERT INTO events SELECT 999, kind, body FROM events WHERE seq = 7"),
}


def sql(path: Path, text: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(text)
    connection.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_named_and_left_alone(damage: str, path: Path) -> None:
    DAMAGES[damage](path)
    said = unread(path)
    assert said.startswith(": must be an intact journal, got ")
    assert said.endswith("; restore it from a copy, or set the study aside with --fresh")


@pytest.mark.parametrize("version", ["1", "10", "one"])
def test_a_journal_of_another_version_is_named_and_left_alone(version: str, path: Path) -> None:
    sql(path, f"UPDATE meta SET value = '{version}' WHERE key = 'version'")
    got = f"version {version}, this is 2"
    assert unread(path) == f": must be a journal this hpo can read, got {got}; use the hpo that wrote it, or --fresh"


def test_a_folder_is_no_journal_noise_is_no_log_and_an_empty_file_was_about_to_be_one(path: Path) -> None:
    """An empty file is what a crash between the file and its tables leaves."""
    (path.parent / "folder").mkdir()
    assert ": must be writable, got unable to open" in unread(path.parent / "folder")
    (log := path.with_name("journal.db-wal")).write_bytes(random.Random(3).randbytes(50_000))
    assert events_of(path) == EVENTS
    log.unlink(missing_ok=True)
    path.write_bytes(b"")
    with Journal.open(path) as journal:
        assert journal.study().trials == []


def test_a_journal_torn_anywhere_keeps_what_is_before_the_tear(path: Path, tmp_path: Path) -> None:
    """A power cut loses the end of the write-ahead log: the events before it are there, and the study goes on."""
    with Journal.open(path) as journal:
        for number in range(300):
            journal.append(Paused(1000.0, number))
        log = path.with_name("journal.db-wal")
        size = log.stat().st_size
        assert size > 100_000
        for part in range(20):
            torn = tmp_path / f"torn{part}" / "journal.db"
            torn.parent.mkdir()
            shutil.copy(path, torn)
            shutil.copy(log, torn.with_name(log.name))
            os.truncate(torn.with_name(log.name), size * part // 20)
            with Journal.open(torn) as again:
                kept = [event for _, event in again.events()]
                assert kept == [*EVENTS, *(Paused(1000.0, n) for n in range(300))][: len(kept)]
                assert len(kept) >= len(EVENTS)
                assert again.append(Closed(2000.0, "budget")) == len(kept) + 1


def test_a_journal_another_program_holds_is_said_to_be_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        with Journal.open(path) as journal:
            other.execute("BEGIN IMMEDIATE")
            rule = "must not be locked by another program"
            line = f"{path}: {rule}, got database is locked; close that program, then run the same command again"
            assert refused(EnvironmentFailed, journal.append, Closed(0.0, "budget")) == line
            assert refused(EnvironmentFailed, journal.put, "text", "x") == line
            other.execute("ROLLBACK")
            assert journal.append(Closed(0.0, "budget")) == len(EVENTS) + 1
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert rule in refused(EnvironmentFailed, Journal.open, path)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p"])
def test_nothing_is_made_on_a_network_file_system(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/far {kind} rw 0 0\n")
    real = files.file_system
    monkeypatch.setattr(files, "file_system", lambda folder: real(folder, mounts))
    rule = "must be on a local disk, because file locks cannot be trusted on a network file system"
    (tmp_path / "far").mkdir()
    for make in (Journal.open, DriverLock):
        line = f"{tmp_path}/far: {rule}, got {kind}; name a local folder with --state DIR"
        assert refused(EnvironmentFailed, make, tmp_path / "far" / "file") == line
    assert list((tmp_path / "far").iterdir()) == []


class Disk:
    """A small file system of its own. room(bytes): leave so much; free(): all of it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def room(self, size: int) -> None:
        self.free()
        left = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
        with self._ballast.open("wb") as file:
            file.write(bytes(max(0, left - size)))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("only root may mount a disk small enough to fill")
    yield Disk(folder)
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_whole_run_on_a_disk_that_fills_up_says_so_wherever_that_is_and_is_finished_later(disk: Disk) -> None:
    prepare = "import sys, whole_victim; from pathlib import Path; whole_victim.prepare(Path(sys.argv[1]))"
    assert finish(Process(["-c", prepare, str(disk.folder)], disk.folder)).code == 0
    places = set()
    for room in (16, 32):
        disk.room(room * 1024)
        said = finish(whole(disk.folder, "--workers", "1"))
        disk.free()
        assert said.code == 4, said
        last = said.error.splitlines()[-1]
        assert last.startswith(f"{disk.folder}/studies/whole/"), said
        places.add(last.partition(": ")[0].rpartition("/")[2])
    assert len(places) == 2, places  # the data set, then the journal
    assert "journal.db" in places
    said = finish(whole(disk.folder, "--workers", "1"))
    assert said.code == 0
    check_whole(disk.folder, said)


def test_a_read_only_disk_is_said_to_be_one_and_a_study_on_it_can_be_looked_at(disk: Disk) -> None:
    path = written(disk.folder / "run" / "journal.db")
    subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
    for make in (Journal.open, DriverLock):
        for place in (path, disk.folder / "new" / "journal.db"):
            with pytest.raises(EnvironmentFailed) as failed, make(place) as opened:  # type: ignore[operator]
                opened.append(EVENTS[0])
            text = str(failed.value)
            assert text.startswith(f"{place}: must be writable, got ")
            assert text.endswith("; free space or fix the permissions, or name another folder with --state DIR")
    assert events_of(path) == EVENTS


def test_a_checkpoint_of_torch_that_does_not_fit_is_the_disk_s_fault(disk: Disk) -> None:
    """torch.save says RuntimeError then, and so it does for faults of its own."""
    disk.room(300_000)
    heavy = Report(1, {}, 1.0, 0.0, lambda path: torch.save({"weights": torch.zeros(200_000)}, path))
    said = refused(EnvironmentFailed, checkpoints.write, disk.folder / "trainings", "key", heavy)
    rule, remedy = "must have room for checkpoints", "free space there, then run the same command again"
    assert said == f"{disk.folder}/trainings: {rule}, got No space left on device; {remedy}"
    assert list((disk.folder / "trainings" / "key").iterdir()) == []
    disk.free()
    checkpoints.write(disk.folder / "trainings", "key", heavy)
    assert checkpoints.epochs(disk.folder / "trainings", "key") == [1]


def test_what_a_trainer_cannot_save_is_the_trainer_s_fault(tmp_path: Path) -> None:
    def unable(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("cannot pickle that")

    for save in (unable, lambda path: (path / "nowhere").write_bytes(b"")):
        with pytest.raises((RuntimeError, OSError)) as failed:
            checkpoints.write(tmp_path, "key", Report(1, {}, 1.0, 0.0, save))
        assert not isinstance(failed.value, EnvironmentFailed)
        assert list((tmp_path / "key").iterdir()) == []


@pytest.mark.parametrize("code", sorted(checkpoints.DISK))
def test_every_fault_of_a_disk_is_told_as_one(code: int, tmp_path: Path) -> None:
    def save(path: Path) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(EnvironmentFailed, match=os.strerror(code)):
        checkpoints.write(tmp_path, "key", Report(1, {}, 1.0, 0.0, save))


LIMITED = """
import resource, sys
from pathlib import Path
from hpo.core import Paused
from hpo.errors import EnvironmentFailed
from hpo.journal import Journal
with Journal.open(Path(sys.argv[1])) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        while True:
            print(journal.append(Paused(0.0, 0)))
    except EnvironmentFailed as error:
        print(error, file=sys.stderr)
"""


def test_a_journal_that_may_not_grow_keeps_what_was_told_and_goes_on_later(tmp_path: Path) -> None:
    """The same as a full disk, for whom may mount none."""
    path = tmp_path / "journal.db"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr.startswith(f"{path}: must be writable, got ")
    told = int(done.stdout.split()[-1])
    with Journal.open(path) as journal:
        assert len(list(journal.events())) == told
        assert journal.append(Paused(0.0, 0)) == told + 1


def test_a_report_that_cannot_be_written_is_one_line_and_the_study_is_done(tmp_path: Path) -> None:
    """A folder stands where the file should be."""
    run = journal_of(tmp_path).parent
    run.mkdir(parents=True)
    for name in ("trials.csv", "report.html"):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
        said = finish(whole(tmp_path, "--workers", "1"))
        assert said.code == 4
        remedy = "free space, then run the same command again"
        last = said.error.splitlines()[-1]
        assert last == f"{run}: the report must have room here, got Is a directory; {remedy}"
        assert Study(events_of(journal_of(tmp_path))).closed == "budget"
        (run / name).rmdir()
    said = finish(whole(tmp_path, "--workers", "1"))
    assert said.code == 0
    check_whole(tmp_path, said)


COMPARED = """\
name: many
train: trainer:train
prefix_safe: true
search_space: {width: [8, 16, 32], epochs: 2}
budget: {trials: 2}
workers: 2
"""
SEEDS = int(os.environ.get("COMPARED_SEEDS", "5"))
OPEN_FILES = 90 if SEEDS < 16 else 256  # 16 journals, workers and MLflow take 70, however many studies there are


def test_a_comparison_of_any_size_does_with_few_open_files(tmp_path: Path) -> None:
    """With a file for each of its studies it could not be; `make chaos` compares 100 seeds of three strategies."""
    (tmp_path / "study.yaml").write_text(COMPARED)
    value = "{'val_accuracy': job.params['width'] / 64 + epoch / 9}"
    (tmp_path / "trainer.py").write_text(f"def train(job):\n    for epoch in (1, 2):\n        yield {value}\n")
    for command in (f"compare --seeds {SEEDS} --no-rescore", "sync"):  # which delivers what MLflow was too slow for
        limited = f"ulimit -n {OPEN_FILES}; exec {sys.executable} -m hpo {command}"
        done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, "open" in done.stderr) == (0, False), done.stderr
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as stored:
        alive = "lifecycle_stage = 'active' AND key = 'hpo.kind' AND value = 'study'"
        query = f"SELECT status, count(*) FROM runs NATURAL JOIN tags WHERE {alive} GROUP BY status"
        assert stored.execute(query).fetchall() == [("FINISHED", 4 * SEEDS)]  # beside random is random-x2


def test_a_second_driver_refuses_and_one_after_a_dead_one_takes_over(tmp_path: Path) -> None:
    config = Config(str(tmp_path))
    slow = replace(config, fake={"pause": 1.0})  # the first outlasts a start of the second
    with never_left(start(slow)) as first:
        wait_until(lambda: bool(lines(config.witness)), "the first driver trains")
        with never_left(start(slow)) as second:
            said = second.finish()
        assert said.code == 5
        (line,) = said.error.splitlines()
        holder = f"pid {first.popen.pid} on {os.uname().nodename} since 20"
        assert line.startswith(f"{config.lock.parent}: already running as {holder}")
        assert line.endswith("; wait for it, or end it with `hpo stop`")
        first.kill()
        first.finish()
    with never_left(start(config)) as third:
        check(config, third.finish(), lost=config.slots)


STUDY = """\
name: s
data: digits
strategy: random
search_space:
  learning_rate: {min: 1e-3, max: 1e-1, log: true}
  batch_size: [16, 32]
  epochs: [2, 4]
"""


def load(folder: Path, text: str = STUDY, *sets: str) -> StudySpec:
    (folder / "study.yaml").write_text(text)
    return spec.read_study(folder / "study.yaml", sets=sets)


def reopened(folder: Path, before: StudySpec, after: StudySpec) -> str:
    """What a driver with the second file says of a study that was begun with the first; "" if it goes on."""
    place = Folders(folder, "s", "random", 0)
    with ExitStack() as stack:
        take_over([before], [place], False, stack)
    try:
        with ExitStack() as stack:
            take_over([after], [place], False, stack)
    except Conflict as error:
        with Journal.open(place.journal) as journal:
            refuse_changes(before, place, journal)
        return str(error)
    return ""


TABLES = tables("journal_tables")


@pytest.mark.parametrize("change", TABLES["may change"])
def test_budget_workers_and_timeouts_may_change_and_the_space_may_widen(change: str, tmp_path: Path) -> None:
    assert reopened(tmp_path, load(tmp_path), load(tmp_path, STUDY, change)) == ""


@pytest.mark.parametrize(("change", "message"), TABLES["may not change"].items())
def test_anything_else_is_refused_with_what_it_was_and_what_it_is(change: str, message: str, tmp_path: Path) -> None:
    said = reopened(tmp_path, load(tmp_path), load(tmp_path, STUDY, change))
    rule = f"{tmp_path}/study.yaml: cannot resume {tmp_path}/studies/s/random-0, because the study has changed: "
    remedy = "; undo that, give the study another name, or set the old one aside with --fresh"
    assert Conflict.exit_code == 5
    assert message in said
    for line in said.splitlines():
        assert line.startswith(rule)
        assert line.endswith(remedy)


def test_what_only_moved_goes_on_and_several_changes_are_told_at_once(tmp_path: Path) -> None:
    """The folder with the study and its data is copied to another machine."""
    before = load(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    after = replace(load(tmp_path / "elsewhere"), path=tmp_path / "elsewhere" / "study.yaml")
    assert reopened(tmp_path, before, after) == ""
    without = STUDY.replace("  batch_size: [16, 32]\n", "")
    said = reopened(tmp_path, load(tmp_path), load(tmp_path, without, "loss=squared_error", "metric.name=val_loss"))
    changed = [line.partition("has changed: ")[2].split()[0] for line in said.splitlines()]
    assert changed == ["loss", "metric.name", "metric.goal", "batch_size"], "of a mapping what differs in it"


@pytest.mark.parametrize("damaged", [False, True])
def test_fresh_sets_the_old_study_aside_even_a_damaged_one_and_loses_nothing(damaged: bool, tmp_path: Path) -> None:
    place = Folders(tmp_path, "s", "random", 0)
    with ExitStack() as stack:
        take_over([load(tmp_path)], [place], False, stack)[0].append(EVENTS[0])
    if damaged:
        place.journal.write_text("dear diary\n")
    before = place.journal.read_bytes()
    with ExitStack() as stack:
        (journal,) = take_over([load(tmp_path, STUDY, "model=rnn")], [place], True, stack)
        assert list(journal.events()) == []
    (aside,) = (tmp_path / "studies" / "s" / "set-aside").glob("*/journal.db")
    assert aside.read_bytes() == before
    assert damaged or events_of(aside) == [EVENTS[0]]
