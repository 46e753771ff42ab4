"""An experiment of MLflow as study_sync.Store: explicit ids only, and MLflow's many exceptions made into three.

Importing this takes 2 s and some 100 MB; the writer thread does it (sync.py). MLflow's global state stays as it is.
"""

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import requests
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from hpo.files import locked, replace_file, scratch, sweep
from hpo.formatting import without_password
from hpo.tracking.runs import RUNNING, Change, Run, StoredRun
from hpo.tracking.study_sync import Gone, Outage
from hpo.tracking.ui import DATABASES, SQLITE, sqlite_path, sqlite_uri

logger = logging.getLogger(__name__)
T = TypeVar("T")

PHRASES = {
    r"Connection refused": "connection refused",
    r"Failed to resolve": "no such host",
    r"Connection aborted|Connection reset": "the connection broke",
    r"too many (\d+) error responses|failed with error code (\d+)": r"it answers with status \1\2",
    r"not in a valid JSON format": "what answers there is no MLflow",
    r"\(\w+\.\w+Error\) (.+)": r"\1",  # SQLAlchemy's, of a database
}
MISSING, EXISTS, INVALID = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"
ADDRESSES = (  # table and column of every address of an artifact (mlflow/store/*/dbmodels/models.py)
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
PAGE = 1_000  # runs a search answers at once
MEMORY, ROOM = Path("/dev/shm"), 2**24  # a new database takes 1 MB
MOST_PARAMS, MOST_ENTITIES = 100, 1_000  # a log_batch call (mlflow/utils/validation.py)


class _Refused(Exception):
    """MLflow will never take this; the text is its reason."""


class _Deleted(Exception):
    """The run or the experiment was deleted in the UI, and can be restored."""


class MlflowStore:
    """Opened by `connect`. Parts that MLflow would not take are left out, and logged."""

    def __init__(self, client: MlflowClient, uri: str, experiment: str) -> None:
        self.experiment = experiment
        self._client, self._uri = client, uri

    def find(self, tags: Mapping[str, str], status: str | None = None) -> list[StoredRun]:
        assert all(re.fullmatch(r"\w+", value) for value in tags.values()), tags  # MLflow cannot quote a quote
        conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        if status is not None:
            conditions.append(f"attributes.status = '{status}'")
        runs: list[StoredRun] = []
        token = None
        while True:
            with self._whole():
                query = [self.experiment], " and ".join(conditions), ViewType.ALL, PAGE, ["attributes.start_time ASC"]
                page = self._client.search_runs(*query, token)
            for info, data in ((run.info, run.data) for run in page):
                deleted = info.lifecycle_stage == "deleted"
                runs.append(StoredRun(info.run_id, data.tags, data.params, info.status, info.end_time, deleted))
            if not (token := page.token):
                return sorted(runs, key=lambda run: run.deleted)

    def create(self, run: Run) -> str:
        with self._whole():
            created = self._do(lambda: self._client.create_run(self.experiment, run.started, dict(run.tags), run.name))
        return str(created.info.run_id)

    def write(self, run: str, change: Change) -> None:
        """Metrics first, so that a run which looks finished is whole."""
        for batch in batches(change):
            self._batch(run, batch)
        if change.status == RUNNING:
            self._try(run, "status", lambda: self._client.update_run(run, status=RUNNING))
        elif change.status is not None:
            self._try(run, "status", lambda: self._client.set_terminated(run, change.status, change.ended))

    def upload(self, run: str, name: str, content: bytes) -> None:
        folder, _, file = name.rpartition("/")
        with scratch() as place:
            path = place / file
            path.write_bytes(content)
            self._try(run, f"artifact {name}", lambda: self._client.log_artifact(run, str(path), folder or None))

    def remove(self, run: str) -> None:
        self._try(run, "removal", lambda: self._client.delete_run(run))

    def holds(self, model: str) -> bool:
        try:
            with translated(self._uri):
                return has_files(self._client, model)
        except (Outage, _Refused, _Deleted):
            return True

    def close(self) -> None:
        """Let go of a database: MLflow keeps its connections for ever, also to a file that was deleted."""
        if self._uri.startswith(SQLITE):
            self._client._tracking_client.store.engine.dispose()

    def _batch(self, run: str, batch: Change) -> None:
        """One call; if MLflow refuses it, its parts one by one, so that only the part at fault is missing."""
        metrics = [Metric(point.name, point.value, point.time, point.step) for point in batch.points]
        params = [Param(name, text) for name, text in batch.params.items()]
        tags = [RunTag(name, text) for name, text in batch.tags.items()]
        try:
            self._do(lambda: self._client.log_batch(run, metrics, params, tags), run)
        except _Refused:
            self._try(run, "params", lambda: self._client.log_batch(run, params=params))
            self._try(run, "tags", lambda: self._client.log_batch(run, tags=tags))
            self._try(run, "metrics", lambda: self._client.log_batch(run, metrics))

    def _try(self, run: str, what: str, call: Callable[[], object]) -> None:
        """A call that is left out, with a warning, if MLflow will never take it."""
        try:
            self._do(call, run)
        except _Refused as refused:
            logger.warning("MLflow refuses the %s of run %s: %s", what, run, refused)

    def _do(self, call: Callable[[], T], run: str | None = None) -> T:
        """The call; if the run or its experiment was deleted in the UI, once again after they are restored."""
        try:
            with translated(self._uri):
                return call()
        except _Deleted as deleted:
            logger.warning("restored what was deleted in MLflow's UI: %s", deleted)
        with self._whole():
            if self._client.get_experiment(self.experiment).lifecycle_stage == "deleted":
                self._client.restore_experiment(self.experiment)
            if run is not None:
                self._client.restore_run(run)
        with translated(self._uri):
            return call()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """For calls without a part that could be left out."""
        try:
            with translated(self._uri):
                yield
        except (_Refused, _Deleted) as error:
            raise Outage(str(error)) from None


def has_files(client: MlflowClient, model: str | None) -> bool:
    """Whether the files of a logged model are there; of another kind of model (None) MLflow does not say, and they count."""
    try:
        return not model or bool(client.list_logged_model_artifacts(model))
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
    return False


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """MLflow's exceptions as ours. A server's answer counts only as JSON: a proxy says 404 too, in HTML."""
    try:
        yield
    except MlflowException as error:
        text = without_password(f"{uri}: {reason(error)}")
        if uri.startswith("http") and not isinstance(error, RestException):
            raise Outage(text) from None
        if error.error_code == MISSING:
            raise Gone(text) from None
        if error.error_code == INVALID and "'active' state" in str(error):
            raise _Deleted(text) from None
        of_database = isinstance(error.__cause__, SQLAlchemyError)  # arrives as BAD_REQUEST too
        if error.error_code in (INVALID, "BAD_REQUEST") and not of_database:
            raise _Refused(text) from None
        raise Outage(text) from None
    except (requests.RequestException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        raise Outage(without_password(f"{uri}: {reason(error)}")) from None


def reason(error: BaseException) -> str:
    """In a phrase. MLflow wraps its errors in long texts, one in another."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, TimeoutError | requests.Timeout):
            return "no answer in time"
        chain = chain.__cause__ or chain.__context__
    text = str(error).strip() or type(error).__name__
    for pattern, phrase in PHRASES.items():
        if match := re.search(pattern, text):
            return match.expand(phrase)
    return text.splitlines()[0][:300]


def batches(change: Change) -> Iterator[Change]:
    """Pieces within MLflow's limits a call; none for no change. Tags come last: hpo.state is among them."""
    params, points, tags = list(change.params.items()), list(change.points), dict(change.tags)
    assert len(tags) <= MOST_PARAMS, tags
    while params or points or tags:
        batch_params, params = dict(params[:MOST_PARAMS]), params[MOST_PARAMS:]
        room = MOST_ENTITIES - len(batch_params) - len(tags)
        batch_points, points = points[:room], points[room:]
        batch_tags = {} if params or points else tags
        yield Change(params=batch_params, points=batch_points, tags=batch_tags)
        if not (params or points):
            return


def connect(uri: str, name: str, tags: Mapping[str, str]) -> MlflowStore:
    """The experiment of this name with these tags, created or restored if need be. Raises Outage."""
    quiet()
    artifacts = None
    if uri.startswith(SQLITE):
        path = sqlite_path(uri)
        create_sqlite(path)
        artifacts = (path.parent / "mlruns" / re.sub(r"[^\w-]", "_", name)).as_uri()
    try:
        with translated(uri):
            if artifacts is not None:
                follow_moved_folder(sqlite_path(uri), name, artifacts)
            elif uri.startswith(DATABASES):
                reach(uri)
            client = MlflowClient(uri, uri)
            experiment = _experiment(client, name, artifacts, tags)
    except (Gone, _Refused, _Deleted) as error:
        raise Outage(str(error)) from None
    return MlflowStore(client, uri, experiment)


def reach(uri: str) -> None:
    """Connect to a database once: MLflow says only after 100 s that it cannot. Raises SQLAlchemyError."""
    engine = create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _experiment(client: MlflowClient, name: str, artifacts: str | None, tags: Mapping[str, str]) -> str:
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifacts, dict(tags)))
        except MlflowException as error:
            if error.error_code != EXISTS:
                raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
        logger.warning("restored experiment %s, which was deleted in MLflow's UI", name)
    for key, text in tags.items():
        if experiment.tags.get(key) != text:
            client.set_experiment_tag(experiment.experiment_id, key, text)
    return str(experiment.experiment_id)


def follow_moved_folder(path: Path, name: str, artifacts: str) -> None:
    """Where a store was moved with its artifacts, their absolute addresses in it follow. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path)) as database, database:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        (known,) = database.execute(query, (name,)).fetchone() or (artifacts,)
        new, folder = artifacts.rpartition("/")[::2]
        old, known_folder = known.rpartition("/")[::2]
        if old == new or known_folder != folder or not old.endswith("/mlruns"):
            return
        for table, column in ADDRESSES:
            change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
            database.execute(change, (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"))
    logger.warning("%s was moved or copied here: its artifacts are looked for in %s", path, path.parent / "mlruns")


def quiet() -> None:
    """MLflow logs a traceback at ERROR for what is logged here in one line."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def create_sqlite(path: Path) -> None:
    """Make MLflow's SQLite store, if it is not there, so that no two processes do and no half of one is ever seen.

    Processes that first touch a new file together break it for good (11 of 12 clients failed), hence the lock and the rename.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            sweep(path.parent)
            if not path.exists():
                with replace_file(path) as draft, translated(sqlite_uri(path)):
                    _migrate(draft, (path.parent / "mlruns").as_uri())
    except OSError as error:
        raise Outage(f"{path}: {error.strerror or error}") from None


def _migrate(path: Path, artifacts: str) -> None:
    """In memory, if there is room: a disk flushes each of MLflow's 60 migrations, which took 4 s where this takes 0.4."""
    memory = MEMORY if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM else None
    with scratch(memory or path.parent) as folder:
        new = f"{folder}/new.db"  # not quoted: MLflow would make a folder of the quoted name too
        SqlAlchemyStore(SQLITE + new, artifacts).engine.dispose()  # type: ignore[no-untyped-call]
        shutil.copyfile(new, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
