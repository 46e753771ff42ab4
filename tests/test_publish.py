"""The best model in MLflow: what a process without hpo loads, and which version is the champion."""

import json
import os
import select
import shutil
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import refused
from mlflow_real import MlflowClient, fresh_store, mlflow_store
from pictures import bars, job, slopes
from PIL import Image

from hpo.commands.sync import tracked_study
from hpo.core import Goal, Opened, Params, Report, Scored, State, Trial
from hpo.data.dataset import Dataset
from hpo.engine.result import Published
from hpo.errors import EnvironmentFailed
from hpo.files import Folders
from hpo.journal import Journal
from hpo.publishing import publish_best
from hpo.publishing.publish_best import Order, Place
from hpo.report.figures import ModelFigures
from hpo.study_file.reader import read_study
from hpo.tracking.runs import History, Run, legal, score_points, study_run
from hpo.tracking.ui import sqlite_uri
from hpo.training import checkpoints
from hpo.training.evaluation import RawInputs, predictions, score
from hpo.training.recipe import Recipe

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow among itself
    from hpo.publishing import publish, registry

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export and mlflow warn about their own insides
CNN: Params = {"blocks": 1, "channels": 4, "batch_norm": "before", "dropout": 0.2, "learning_rate": 0.02, "epochs": 2}
RNN: Params = {"hidden_size": 8, "cell": "lstm", "learning_rate": 0.02, "epochs": 1}


@pytest.fixture(autouse=True)
def _process_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """publish() has a process to itself; here it must leave nothing behind."""
    for name, text in publish_best.ENVIRONMENT.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setattr(registry.mlflow, "set_tracking_uri", lambda uri: os.environ.update(MLFLOW_TRACKING_URI=uri))
    monkeypatch.setattr(registry.mlflow, "set_registry_uri", lambda uri: os.environ.update(MLFLOW_REGISTRY_URI=uri))


def store_with_run(folder: Path) -> tuple[str, str, str]:
    """A store with the study's run: its URI, the run, the experiment."""
    uri = fresh_store(folder)
    store = mlflow_store.connect(uri, "study", {})
    run = store.create(Run("random-0", {"hpo.kind": "study"}, {}, "RUNNING", 1_000, None))
    store.close()
    return uri, run, store.experiment


def order(folder: Path, data: Path, model: str = "cnn", params: Params = CNN, loss: str = "cross_entropy") -> Order:
    """A trained checkpoint, and a store with the study's run."""
    recipe = Recipe(model, loss, data, "cpu")
    reports = []
    for report in recipe()(job(params, folder)):
        checkpoints.write(folder, "made-up", report)
        reports.append(report)
    uri, run, _ = store_with_run(folder / "state")
    last = checkpoints.path(folder, "made-up", reports[-1].epoch)
    goal = Goal("val_accuracy") if loss == "cross_entropy" else Goal("val_mse", maximize=False)
    value = reports[-1].metrics[goal.metric]
    tags, epoch = {"hpo.study": "study"}, reports[-1].epoch
    return Order(recipe, params, last, uri, run, goal, value, tags, 0, epoch, "digits-cnn")


STRANGER = """
import json, sys
import numpy as np
sys.modules["hpo"] = None  # importing it is an error now
import mlflow, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model("models:/digits-cnn@champion")
images, targets = np.load(sys.argv[2]), np.load(sys.argv[3])
with torch.inference_mode():
    probabilities = model(torch.from_numpy(images))
    one = model(torch.from_numpy(images[:1]))
served = mlflow.pyfunc.load_model("models:/digits-cnn@champion")
print(json.dumps({
    "accuracy": float((probabilities.argmax(1).numpy() == targets).mean()),
    "sums": [float(probabilities.sum(1).min()), float(probabilities.sum(1).max())],
    "alone": float((one - probabilities[:1]).abs().max()),
    "served": float(np.abs(served.predict(images) - probabilities.numpy()).max()),
    "classes": served.metadata.metadata["classes"],
}))
"""


def test_a_process_without_hpo_feeds_raw_pixels_and_gets_the_reported_score(tmp_path: Path) -> None:
    data, begun = bars(tmp_path / "data", channels=3), publish_best.begin(to_mlflow=True)
    published = publish_best.publish(ordered := order(tmp_path, data), begun)
    assert begun.returncode == 0, "the process that was begun ahead is the one that published"
    assert published.champion
    assert published.said == "models:/digits-cnn@champion is version 1"
    dataset = Dataset.open(data)
    np.save(tmp_path / "x.npy", dataset.images[dataset.test])
    np.save(tmp_path / "y.npy", dataset.targets[dataset.test])
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", STRANGER, ordered.uri, str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["accuracy"] == published.test["test_accuracy"]
    assert told["sums"] == pytest.approx([1, 1], abs=1e-5)
    assert told["alone"] == pytest.approx(0, abs=1e-6)
    assert told["served"] == 0
    assert told["classes"] == ["0", "1", "2"]
    client = MlflowClient(ordered.uri, ordered.uri)
    assert client.get_run(ordered.run).info.status == "RUNNING"  # that is the tracker's to say
    (used,) = client.get_run(ordered.run).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("made up", dataset.digest[:36])
    assert json.loads(used.dataset.profile)["shape"] == [3, 8, 8]
    scores = client.get_logged_model(str(published.model).rpartition("/")[2]).metrics
    assert {one.dataset_digest for one in scores} == {dataset.digest[:36]}
    assert {one.key: one.value for one in scores} == published.test


@pytest.fixture
def ordered(tmp_path: Path) -> Order:
    return order(tmp_path, bars(tmp_path / "data"))


@pytest.mark.parametrize("copied", [False, True])
def test_where_the_state_folder_moved_the_champion_loads(copied: bool, tmp_path: Path, ordered: Order) -> None:
    publish.score_and_log(ordered)
    old, new = tmp_path / "state", tmp_path / "100%_new" / "state"
    shutil.copytree(old, new)
    shutil.rmtree(old / "mlruns" if copied else old)  # what is still found is found in the new place
    store = mlflow_store.connect(uri := sqlite_uri(new / "mlflow.db"), "study", {})
    store.upload(ordered.run, "plots/a.txt", b"hello")
    mlflow_store.connect(uri, "study", {}).close()  # once is enough
    module, about = registry.loaded(uri, "models:/digits-cnn@champion")
    assert predictions(module, Dataset.open(ordered.recipe.data).images[:2]).shape == (2, len(about["classes"]))
    assert [path.read_text() for path in new.glob("mlruns/*/*/artifacts/plots/a.txt")] == ["hello"]
    assert not (old / "mlruns").exists()
    with closing(sqlite3.connect(new / "mlflow.db")) as database:
        assert str(old) not in "".join(database.iterdump())
    store.close()


def test_a_model_whose_files_were_deleted_is_published_again_as_champion(tmp_path: Path, ordered: Order) -> None:
    first = publish.score_and_log(ordered)
    store = mlflow_store.connect(ordered.uri, "study", {})
    assert store.holds(str(first.model).rpartition("/")[2])
    shutil.rmtree(tmp_path / "state" / "mlruns")
    assert not store.holds(str(first.model).rpartition("/")[2])
    again = publish.score_and_log(ordered)
    assert (again.champion, again.version, again.test) == (True, "2", first.test)
    registry.loaded(ordered.uri, "models:/digits-cnn@champion")
    assert not store.holds(str(first.model).rpartition("/")[2])  # deleted in MLflow
    store.close()


def test_a_model_that_is_not_to_be_registered_is_logged_only(ordered: Order) -> None:
    published = publish.score_and_log(replace(ordered, register=None))
    assert (published.version, published.champion) == (None, False)
    assert published.said == f"{published.model}, not registered"
    assert MlflowClient(ordered.uri, ordered.uri).search_registered_models() == []


def test_a_model_is_published_once_with_all_it_needs(tmp_path: Path, ordered: Order) -> None:
    published = publish.score_and_log(ordered)
    assert publish.score_and_log(ordered) == published
    client = MlflowClient(ordered.uri, ordered.uri)
    assert len(client.search_model_versions("name = 'digits-cnn'")) == 1
    assert len(client.search_logged_models(["1"])) == 1
    module, about = registry.loaded(ordered.uri, "models:/digits-cnn@champion")
    data = Dataset.open(ordered.recipe.data)
    said = predictions(module, data.images[data.test]).argmax(1)
    assert (said == data.targets[data.test]).mean() == published.test["test_accuracy"]
    assert {name: about[name] for name in publish_best.about_images(data)} == publish_best.about_images(data)
    assert (about["classes"], about["shape"], about["dtype"]) == (["0", "1", "2"], [1, 8, 8], "uint8")
    assert (about["resized"], about["largest_pixel"]) == (False, 220.0)
    weights = next((tmp_path / "state" / "mlruns").rglob("state_dict.pt"))  # beside the model
    trained = torch.load(ordered.checkpoint, weights_only=True)["network"]
    kept = torch.load(weights, weights_only=True)
    assert kept.keys() == trained.keys()
    assert all(torch.equal(kept[name], trained[name]) for name in kept)
    told = json.loads(weights.with_name("params.json").read_text())
    assert (told["params"], told["classes"]) == (dict(CNN), ["0", "1", "2"])


def test_a_name_that_mlflow_refuses_is_published_as_the_trials_have_it(tmp_path: Path, ordered: Order) -> None:
    (tmp_path / "at_five.py").write_text("def at(targets, outputs): return {'recall@5 (small)': float('inf')}")
    recipe = replace(ordered.recipe, metrics=("at_five:at", "f1.0"), folder=tmp_path)
    named = replace(ordered, recipe=recipe, params={**CNN, "width(px)": "9" * 7_000})
    published = publish.score_and_log(named)
    assert published.champion
    assert {"test_recall@5 (small)", "test_f1.0"} <= published.test.keys()
    client, points = MlflowClient(ordered.uri, ordered.uri), score_points(Scored(0.0, 0, published.test), 1)
    model = client.get_logged_model(str(published.model).rpartition("/")[2])
    assert {one.key for one in model.metrics} == {point.name for point in points}
    assert (legal("width(px)") in model.params, "width(px)" in model.params) == (True, False)
    tags = client.get_model_version("digits-cnn", str(published.version)).tags
    assert tags[legal("hpo.test_recall@5 (small)")] == "inf"


def test_a_model_that_is_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with registry.mlflow.start_run():
        options = {"name": "x", "serialization_format": "pickle", "pip_requirements": []}
        model = registry.mlflow.pytorch.log_model(torch.nn.Flatten(), **options)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # as a person may have it
    assert "pickle is disallowed" in refused(registry.MlflowException, registry.loaded, uri, model.model_uri)


def test_without_mlflow_there_are_the_trainings_score_and_figures(tmp_path: Path, ordered: Order) -> None:
    path = tmp_path / "model_figures.npz"
    test = publish.score_and_log(replace(ordered, run=None, figures=path, trial=7)).test
    assert test == pytest.approx(score(ordered.recipe.setup(), ordered.params, ordered.checkpoint), abs=1e-5)
    assert set(test) == {"test_loss", "test_accuracy", "test_balanced_accuracy", "test_macro_f1"}
    seen = ModelFigures.open(path)
    assert (seen.trial, seen.classes, seen.split) == (7, ("0", "1", "2"), "test")
    counts = np.asarray(seen.confusion, dtype=int)
    assert counts.trace() / counts.sum() == pytest.approx(test["test_accuracy"])


@pytest.mark.parametrize(("model", "params", "loss"), [("rnn", RNN, "cross_entropy"), ("cnn", CNN, "squared_error")])
def test_every_family_and_regression_can_be_published(tmp_path: Path, model: str, params: Params, loss: str) -> None:
    regression = loss == "squared_error"
    data = slopes(tmp_path / "data", 60) if regression else bars(tmp_path / "data")
    made = order(tmp_path, data, model, params, loss)
    published = publish.score_and_log(made)
    assert published.test == pytest.approx(score(made.recipe.setup(), params, made.checkpoint), rel=1e-4, abs=1e-5)
    assert ("test_mse" in published.test) == regression


@dataclass(frozen=True)
class Contest:
    client: MlflowClient
    order: Order
    data: Dataset
    model: str

    def enter(self, name: str, trial: int, digest: str = "made up", **changes: object) -> Published:
        """Register a version; the model behind it is empty."""
        one = replace(self.order, register=name, trial=trial, **changes)  # type: ignore[arg-type]
        published = Published(model=self.model, test={"test_accuracy": 0.5})
        return registry.register(self.client, one, replace(self.data, digest=digest), published)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    folder = tmp_path_factory.mktemp("contest")
    uri, run, experiment = store_with_run(folder)
    client = MlflowClient(uri, uri)
    model = client.create_logged_model(experiment, "empty", run)
    (folder / "files").mkdir()
    (folder / "files" / "MLmodel").touch()
    client.log_model_artifacts(model.model_id, str(folder / "files"))
    recipe = Recipe("cnn", "cross_entropy", bars(folder / "data"), "cpu")
    made = Order(recipe, CNN, folder / "key" / "1.ckpt", uri, run, Goal(), 0.5, {"hpo.study": "study"}, 0, 1, "unset")
    return Contest(client, made, Dataset.open(recipe.data), f"models:/{model.model_id}")


@pytest.fixture
def contest(empty: Contest, monkeypatch: pytest.MonkeyPatch) -> Contest:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty.order.uri)
    return empty


OTHER = "because it was chosen on other data or by another metric"
CASES = {
    "better": ({"value": 0.75}, None),
    "equal": ({"value": 0.5}, "because its val_accuracy is 0.5 and this one's 0.5"),
    "worse": ({"value": 0.25}, "because its val_accuracy is 0.5 and this one's 0.25"),
    "data": ({"value": 0.75, "digest": "other"}, OTHER),
    "metric": ({"value": 0.75, "goal": Goal("val_macro_f1")}, OTHER),
}


@pytest.mark.parametrize("case", CASES)
def test_the_champion_gives_way_only_to_a_better_one(contest: Contest, case: str) -> None:
    change, stays = CASES[case]
    assert contest.enter(case, 0).said == f"models:/{case}@champion is version 1"
    found = contest.enter(case, 1, **change)
    said = f"models:/{case}/2; champion stays version 1, {stays}" if stays else f"models:/{case}@champion is version 2"
    assert (found.champion, found.said) == (stays is None, said)
    holder = contest.client.get_model_version_by_alias(case, "champion")
    assert str(holder.version) == ("1" if stays else "2")


def test_a_version_says_what_it_was_chosen_by_and_another_alias_leaves_the_champion_alone(contest: Contest) -> None:
    contest.enter("tags", 7)
    tags = contest.client.get_model_version("tags", "1").tags
    expected = {"hpo.study": "study", "hpo.trial": "7", "hpo.data": "made up", "hpo.metric": "val_accuracy"}
    assert tags.items() >= (expected | {"hpo.value": "0.5", "hpo.test_accuracy": "0.5"}).items()
    goal = Goal("val_loss", maximize=False)
    contest.enter("loss", 0, goal=goal)
    assert not contest.enter("loss", 1, goal=goal, value=0.75).champion
    assert contest.enter("loss", 2, goal=goal, value=0.25).champion
    contest.enter("both", 0)
    for trial, value in ((1, 0.9), (2, float("nan"))):
        found = contest.enter("both", trial, alias="refit", value=value)
        assert found.said == f"models:/both@refit is version {trial + 1}"
        assert not found.champion
    aliases = contest.client.get_registered_model("both").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "1", "refit": "3"}


def test_a_version_and_a_run_name_their_study_by_the_same_tags(tmp_path: Path) -> None:
    given = {"name": "s", "data": "digits", "search_space": {"epochs": 1}, "strategy": "grid", "seed": 3}
    spec = read_study(given)
    folders, data = Folders(tmp_path, "s", "grid", 3), Dataset.open(bars(tmp_path / "data"))
    trial = Trial(0, {"epochs": 1}, 0, "t", 1, (Report(1, {"val_accuracy": 0.5}, 1.0, 1.0),), State.COMPLETE)
    order = publish_best.order_for(spec, data, folders, trial, Path("1.ckpt"), Place("", None))
    assert order.study == {"hpo.study": "s", "hpo.strategy": "grid", "hpo.seed": "3"}
    Journal.open(folders.journal).close()
    history = History(tracked_study(spec, folders))
    history.apply(Opened(1.0, {}))
    assert order.study.items() <= study_run(history, live=True, comparison=None).tags.items()


def test_resizing_is_inside_and_as_the_data_set_was_resized(tmp_path: Path) -> None:
    data = replace(Dataset.open(bars(tmp_path / "data", channels=3)), resize=(8, 8))
    pixels = RawInputs(torch.nn.Identity(), replace(data, classes=None)).eval()
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 256, (4, 3, 23, 17), dtype=np.uint8)
    planes = [Image.fromarray(plane).resize((8, 8), Image.Resampling.BILINEAR) for image in raw for plane in image]
    small = torch.from_numpy(np.stack(list(map(np.asarray, planes))).reshape(4, 3, 8, 8))
    apart = (pixels(torch.from_numpy(raw)) - pixels(small)).abs() / pixels.scale
    assert apart.max() <= 1.01  # Pillow rounds between its two passes
    assert (apart > 0.5).float().mean() < 0.15
    plain = RawInputs(torch.nn.Identity(), replace(data, classes=None, resize=None))
    assert torch.equal(pixels(small), plain(small))


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    recipe = Recipe("cnn", "cross_entropy", bars(tmp_path / "data"), "cpu")
    made = Order(recipe, CNN, tmp_path / "gone.ckpt", "sqlite:///x.db", None, Goal(), 0.5, "s", 1, 2)
    assert publish.answer(made) == {"error": f"[Errno 2] No such file or directory: '{tmp_path}/gone.ckpt'"}
    lost = replace(made, recipe=replace(recipe, data=tmp_path / "nowhere"))
    assert "is no saved data set or is damaged" in str(publish.answer(lost)["error"])


BEGIN = "from hpo.publishing.publish_best import begin; import time"
ORPHAN = f"{BEGIN}; print(begin(False).pid, flush=True); time.sleep(60)"


def test_a_process_without_an_order_ends_in_silence_and_with_its_driver() -> None:
    with publish_best.begin(to_mlflow=False) as process:
        assert process.communicate(b"") == (b"", b"")
    assert process.returncode == 0
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        ended = os.pidfd_open(int(driver.stdout.readline()))
        driver.kill()
    assert select.select([ended], [], [], 60)[0]
    os.close(ended)


ENDS = {
    "disk full": 'echo chatter; echo \'{"error": "disk full"}\'',
    "MemoryError: no more": "echo 'Traceback ...' >&2; echo 'MemoryError: no more' >&2; exit 1",
    "exit code 137": "exit 137",
    "exit code 0": "echo no json",
}


@pytest.mark.parametrize("why", ENDS)
def test_whatever_becomes_of_the_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\n{ENDS[why]}\n")
    program.chmod(0o755)
    monkeypatch.setattr(publish_best.sys, "executable", str(program))
    made = Order(Recipe("cnn", "x", tmp_path, "cpu"), CNN, tmp_path, "uri", None, Goal(), 0.5, "s", 1, 2)
    line = f"the best model: could not be published, got {why}; fix it, then run the same command again"
    assert refused(EnvironmentFailed, publish_best.publish, made) == line
