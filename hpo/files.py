"""Where a study keeps its things, and how they are written: whole or not at all, whatever is killed meanwhile."""

import fcntl
import hashlib
import json
import os
import platform
import resource
import secrets
import shutil
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import Conflict, EnvironmentFailed, Mistake
from hpo.formatting import without_password

# File systems on which SQLite's locks cannot be trusted (https://www.sqlite.org/faq.html#q5).
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "glusterfs", "lustre", "ceph"})


@dataclass(frozen=True, slots=True)
class Folders:
    """state/studies/<name>/ has what its strategies share, and in it <strategy>-<seed>/ what is one study's own."""

    state: Path
    name: str
    strategy: str
    seed: int

    @property
    def study(self) -> Path:
        return self.state / "studies" / self.name

    @property
    def trainings(self) -> Path:
        """Checkpoints, shared by all strategies and seeds."""
        return self.study / "trainings"

    @property
    def data(self) -> Path:
        """The data set as one memory map for all workers."""
        return self.study / "data"

    @property
    def run(self) -> Path:
        return self.study / f"{self.strategy}-{self.seed}"

    @property
    def journal(self) -> Path:
        return self.run / "journal.db"

    @property
    def lock(self) -> Path:
        return self.run / "driver.lock"

    @property
    def report(self) -> Path:
        return self.run / "report.html"

    @property
    def trials_csv(self) -> Path:
        return self.run / "trials.csv"

    @property
    def model_figures(self) -> Path:
        """Arrays that show the best model: its filters, feature maps and mistakes, for the report."""
        return self.run / "model_figures.npz"

    @property
    def artifacts(self) -> Path:
        """Pictures and texts that go to MLflow as they are."""
        return self.run / "artifacts"


def log_file(study: Path, training: str) -> Path:
    """What a training printed and logged, if anything. study: the folder of all studies of its name."""
    return study / "logs" / f"{training}.txt"


def read_log(study: Path, training: str) -> str:
    with suppress(FileNotFoundError):
        return without_password(log_file(study, training).read_text(errors="replace"))
    return ""


def written_by_hpo(folder: Path) -> bool:
    """Whether hpo or MLflow wrote it: what a state folder holds, a state folder of its own (--state), `best --script`."""
    if folder.name in ("mlruns", "mlartifacts"):
        return True
    with suppress(OSError):  # of what may not be read the reader says so
        if folder.name == "studies":
            return any(any(folder.glob(file)) for file in ("*/*/journal.db", "*/data/*/dataset.json"))
        if (folder / "studies").is_dir() and written_by_hpo(folder / "studies"):
            return all(path.name in ("studies", "mlruns") for path in folder.iterdir() if path.is_dir())
        return all((folder / file).is_file() for file in ("train.py", "data.npz"))
    return False


# -- atomic writes -----------------------------------------------------------------------------------------------


@contextmanager
def replace_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A draft beside `path` to be written in the block; at its end the draft takes the place of `path`.

    durable: write the draft to the disk first, so that a power cut leaves the old file or the new one. If the block raises,
    the draft goes and `path` is as it was. The folder is created if it is missing. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_draft_prefix()}{secrets.token_hex(4)}-{path.name}")
    try:
        yield draft
        if durable:
            _flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], None], good: Callable[[Path], bool]) -> None:
    """Have `write` fill a new folder that becomes `folder`, unless a good one is there by then. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.parent) as drafts:
        new = drafts / "new"
        new.mkdir()
        write(new)
        for path in new.iterdir():
            _flush(path)
        with locked(folder.parent):
            if folder.exists():
                if good(folder):
                    return
                folder.rename(drafts / "old")
            new.rename(folder)


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder for the block, in `parent` or where temporary files go; those that killed processes left are removed."""
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    with tempfile.TemporaryDirectory(prefix=_draft_prefix(), dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def sweep(folder: Path) -> None:
    """Remove the drafts in it that processes of this machine left which were killed while they wrote."""
    for path in folder.glob(f"{_HOST}*"):
        process = "-".join(path.name.removeprefix(_HOST).split("-")[:2])
        pid = process.partition("-")[0]
        if not pid.isdigit() or process == _process(int(pid)):
            continue
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder to oneself, among processes that use this. Leaves no file behind, and a killed process no lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    return Path(f"/proc/{pid}").exists()


def number_in(table: Path, name: str) -> int:
    """The number after a name in a file of the kernel's; 0 if it is missing. Raises OSError."""
    lines = map(str.split, table.read_text().splitlines())
    return next((int(line[1]) for line in lines if line[:1] == [name]), 0)


_HOST = f".saving-{platform.node()}+"  # no host has a plus in its name


def _draft_prefix() -> str:
    return f"{_HOST}{_process(os.getpid())}-"


def _process(pid: int) -> str:
    """pid-birth, because pids are used again; the birth of a process that is gone, or is a zombie, is empty."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{pid}-"
    return f"{pid}-" if state == "Z" else f"{pid}-{fields[18]}"


def _flush(path: Path) -> None:
    """Have the file on the disk, so that a power cut after the rename leaves no empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- where tests kill it

_failpoint, _, _count = os.environ.get("HPO_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def hit(name: str) -> None:
    """Die here, as by SIGKILL, if HPO_FAILPOINT is this name, or at the seventh hit if it is append.after:7."""
    global _left
    if name != _failpoint:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def refuse_network_file_system(folder: Path) -> None:
    """SQLite and flock need a local disk."""
    kind = file_system(folder.resolve())
    if kind in NETWORK_FILE_SYSTEMS:
        rule = "must be on a local disk, because file locks cannot be trusted on a network file system"
        raise EnvironmentFailed(Mistake(str(folder), rule, kind, "name a local folder with --state DIR"))


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system a folder is on ("ext4", "nfs4", ...); "" where the system does not tell."""
    try:
        rows = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    kinds = {point.replace("\\040", " "): kind for point, kind in rows}
    return next((kinds[str(place)] for place in (folder, *folder.parents) if str(place) in kinds), "")


# -- one driver a study


class DriverLock:
    """Held by the one driver of studies of one name. The kernel frees it when the process dies, however it dies.

    paths: a file in each study's folder that says who has it. What is locked is a byte for each study of a file beside
    these folders, so that one descriptor is enough for all (open file description locks, fcntl(2)).
    """

    def __init__(self, *paths: Path) -> None:
        self.paths, path = paths, paths[0]
        try:
            refuse_network_file_system(path.parent)
            _common(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = _common(path).open("ab")
            try:
                for path in paths:
                    fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _byte(path, fcntl.F_WRLCK))
                for path in paths:
                    path.parent.mkdir(exist_ok=True)
                    me = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
                    path.write_text(json.dumps(me))
            except OSError:
                self._file.close()
                raise
        except BlockingIOError:
            holder = _holder(path)
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("time", 0)))
            rule = f"already running as pid {holder.get('pid', '?')} on {holder.get('host', '?')} since {since}"
            raise Conflict(Mistake(str(path.parent), rule, "", "wait for it, or end it with `hpo stop`")) from None
        except OSError as error:
            raise EnvironmentFailed(cannot_write(path, error.strerror or str(error))) from None

    def release(self) -> None:
        self._file.close()


def holder_of(path: Path) -> Mapping[str, Any] | None:
    """Which process drives the study now; None for none."""
    try:
        with _common(path).open("rb") as file:
            found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _byte(path, fcntl.F_RDLCK))
    except FileNotFoundError:
        return None
    return None if struct.unpack_from("h", found)[0] == fcntl.F_UNLCK else _holder(path)


def _common(path: Path) -> Path:
    return path.parent.parent / "drivers.lock"


def _byte(path: Path, kind: int) -> bytes:
    """A struct flock for the byte that stands for a study."""
    start = int.from_bytes(hashlib.sha256(path.parent.name.encode()).digest()[:7])
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 1, 0)


def _holder(path: Path) -> Mapping[str, Any]:
    """What a lock says of its driver, as far as it has been written."""
    try:
        holder: Mapping[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return holder


def cannot_write(path: Path, why: str) -> Mistake:
    """SQLite does not say why it cannot open a file, so that the limit of open files is looked at."""
    opened: list[int] = []
    with suppress(OSError):
        opened += (os.open(os.devnull, os.O_RDONLY) for _ in range(4))  # a database takes three
    for descriptor in opened:
        os.close(descriptor)
    if len(opened) < 4:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        rule = f"cannot be opened, because the {most} files that this process may have open are open"
        return Mistake(str(path), rule, "", "raise `ulimit -n`, then run the same command again")
    remedy = "free space or fix the permissions, or name another folder with --state DIR"
    return Mistake(str(path), "must be writable", why, remedy)


def allow_files() -> None:
    """As many open files as the system allows this process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
