"""One real study of colour images, MLflow included, and everything that can be done with its best trial afterwards."""

import csv
import io
import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pictures
import pytest
from click.testing import CliRunner, Result
from laws import refused, tables
from PIL import Image
from studied import hpo as program

from hpo import api
from hpo.cli.main import cli as hpo
from hpo.commands import predict
from hpo.commands.predict import Model, Prediction
from hpo.commands.report import export_onnx
from hpo.commands.run import RunOptions, run
from hpo.data.dataset import Dataset, load_dataset
from hpo.data.sources.images import Pixels
from hpo.engine import components
from hpo.engine.changes import load_data
from hpo.engine.result import read_result
from hpo.errors import BadInput, NoResult
from hpo.publishing.publish_best import about_images
from hpo.report.figures import ModelFigures
from hpo.study_file.spec import DataSpec
from hpo.training.evaluation import as_stored, load_network, outputs

CLASSES = ("column", "diagonal", "row")
PLOTS = {"best-filters.png", "best-maps.png", "best-confusion.png", "best-learning.png"}


def picture(kind: str, rng: np.random.Generator, side: int = 8) -> Image.Image:
    """A bright column, diagonal or row on coloured noise."""
    pixels = rng.integers(0, 90, (side, side, 3))
    where = int(rng.integers(1, side - 1))
    places = {"column": np.s_[:, where], "diagonal": (np.arange(side), np.arange(side)), "row": np.s_[where]}
    pixels[places[kind]] = 230
    return Image.fromarray(pixels.astype(np.uint8))


@dataclass(frozen=True)
class Place:
    folder: Path
    ran: api.Result

    def hpo(self, *words: str) -> Result:
        return CliRunner().invoke(hpo, [*words])

    @property
    def study(self) -> str:
        return str(self.folder / "study.yaml")


def made(folder: Path, tracking: object) -> Place:
    """A study of one network on 90 images that are resized, run by a process of its own."""
    rng = np.random.default_rng(3)
    for kind in CLASSES:
        (folder / "images" / kind).mkdir(parents=True)
        for number in range(30):
            picture(kind, rng).save(folder / "images" / kind / f"{number}.png")
    (folder / "new").mkdir()
    for number, kind in enumerate(CLASSES):
        picture(kind, rng).save(folder / "new" / f"{number}.png")
    picture("row", rng, 16).save(folder / "new" / "larger.png")
    space = {"blocks": 1, "channels": 6, "dense_units": 8, "learning_rate": 0.02, "batch_size": 8, "epochs": 6}
    given = {"name": "bars", "data": {"source": "images", "resize": 8}, "search_space": space, "device": "cpu"}
    given |= {"tracking": tracking, "workers": 1, "budget": {"trials": 1}}
    (folder / "study.yaml").write_text(json.dumps(given))
    program(folder, "run")
    spec = api.load(folder / "study.yaml")
    result = read_result(spec, folder)
    return Place(folder, replace(result, dataset=load_data(spec, result.folders)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return made(tmp_path_factory.mktemp("place"), False)


def test_the_figures_of_the_best_model_agree_with_its_score_and_are_in_the_report(place: Place) -> None:
    seen = ModelFigures.open(place.ran.folders.model_figures)
    assert (seen.trial, seen.classes, seen.split) == (0, CLASSES, "test")
    assert (seen.filters.shape, seen.samples.shape) == ((6, 3, 3, 3), (3, 3, 8, 8))
    assert seen.maps.shape == (3, 6, 8, 8)
    counts = np.asarray(seen.confusion, dtype=int)
    assert counts.trace() / counts.sum() == pytest.approx(place.ran.test["test_accuracy"])
    assert len(seen.mistakes) == counts.sum() - counts.trace()
    text = place.ran.folders.report.read_text()
    assert 'aria-label="First-layer filters of trial 0"' in text
    assert 'aria-label="Confusion matrix of trial 0 on the test split"' in text
    assert {path.name for path in (place.ran.folders.artifacts / "plots").glob("best-*.png")} >= PLOTS


def test_new_images_are_named_as_the_network_itself_does(place: Place) -> None:
    done = place.hpo("predict", str(place.folder / "new"), place.study)
    assert done.exit_code == 0, done.stderr
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["file", "class", "confidence"]
    wanted = {"0.png": "column", "1.png": "diagonal", "2.png": "row", "larger.png": "row"}
    assert [(Path(file).name, said) for file, said, _ in rows[1:]] == [*wanted.items()]
    assert all(0.3 < float(sure) <= 1 for _, _, sure in rows[1:])


def test_every_image_of_the_test_split_gets_the_very_probabilities_it_was_scored_with(place: Place) -> None:
    data = place.ran.dataset
    assert isinstance(data, Dataset)
    recipe = components.recipe(place.ran.spec, data, "cpu")
    ready = recipe.setup()
    network = load_network(ready, place.ran.best.params, place.ran.checkpoint())
    expected = outputs(network, ready.data, ready.data.splits["test"]).softmax(1).numpy()
    folder = place.folder / "tested"
    folder.mkdir()
    for number, row in enumerate(data.test):
        Image.fromarray(np.moveaxis(data.images[row], 0, -1)).save(folder / f"{number:03}.png")
    found = predict.predict(predict.trained(place.ran), folder)
    assert np.array([one.numbers for one in found]) == pytest.approx(expected, abs=1e-5)


def test_an_onnx_runtime_says_of_the_test_split_what_torch_says(place: Place, tmp_path: Path) -> None:
    said = place.hpo("export", place.study, "--state", str(place.folder), "--onnx", str(tmp_path / "best.onnx"))
    assert (said.exit_code, said.stdout) == (0, f"{tmp_path / 'best.onnx'}\n"), said.exception
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx")
    images = place.ran.data().images[place.ran.data().test]
    for some in (images, images[:1]):
        assert session.run(None, {"images": some})[0] == pytest.approx(place.ran.predict(some), abs=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(CLASSES)


@pytest.mark.parametrize(("model", "regression"), [("cnn", False), ("rnn", False), ("cnn", True)])
def test_an_onnx_runtime_says_of_resized_digits_what_torch_says(model: str, regression: bool, tmp_path: Path) -> None:
    data = {"source": "digits", "limit": 300, "resize": 10, "regression": regression}
    given = {"name": "digits", "data": data, "model": model, "search_space": {"epochs": 1, "dropout": 0.2}}
    spec = api.load(given | {"budget": {"trials": 1}, "execution": "inline", "tracking": False})
    ran = run(spec, RunOptions(tmp_path, publish=False))
    export_onnx(ran, tmp_path / "best.onnx")
    images, session = ran.data().images, onnxruntime.InferenceSession(tmp_path / "best.onnx")
    assert images.shape[1:] == (1, 10, 10) == tuple(session.get_inputs()[0].shape[1:])
    for some in (images, images[:1]):
        assert session.run(None, {"images": some})[0] == pytest.approx(ran.predict(some), abs=1e-4)
    assert len(json.loads(session.get_modelmeta().custom_metadata_map["classes"])) == (0 if regression else 10)


def test_what_is_no_image_is_left_out_and_counted_unless_nothing_is_left(place: Place, tmp_path: Path) -> None:
    picture("row", np.random.default_rng(0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    done = place.hpo("predict", str(tmp_path), place.study)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["file", f"{tmp_path}/a.png"]
    assert done.stderr == f"left out 2 files that cannot be read as images: {tmp_path}/b.png, {tmp_path}/c.png\n"
    (tmp_path / "a.png").unlink()
    done = place.hpo("predict", str(tmp_path), place.study)
    assert isinstance(done.exception, BadInput) and done.stdout == ""
    kinds = "png, jpg, bmp, gif, webp, tiff, ppm, avif or jp2"
    assert str(done.exception).splitlines() == [
        f"{tmp_path}/b.png: must be an image ({kinds}), got another file; remove it",
        f"{tmp_path}/c.png: is damaged and cannot be decoded; replace or remove it",
    ]


def test_a_model_must_be_named_as_mlflow_names_it_and_without_one_the_study_must_have_run(place: Place) -> None:
    done = place.hpo("predict", str(place.folder / "new"), place.study, "--model", "bars")
    remedy = "write models:/NAME@champion or models:/NAME/VERSION"
    assert str(done.exception) == f"--model: must be the name of a model in MLflow, got bars; {remedy}"
    done = place.hpo("predict", str(place.folder / "new"), place.study, "--seed", "9")
    assert isinstance(done.exception, NoResult)


def stored(images: np.ndarray, resize: tuple[int, int] | None = None) -> Dataset:
    return replace(pictures.dataset(images, np.arange(len(images)) % 2, 2, (len(images) - 4, 2)), resize=resize)


@pytest.mark.parametrize(("data", "largest", "kind", "pixel", "said"), tables("training_tables")["scales of pixels"])
def test_images_on_another_scale_are_refused(data: str, largest: float, kind: str, pixel: float, said: str) -> None:
    images = np.zeros((12, 1, 4, 4), data)
    images[-1, 0, 0, 0] = largest
    given = np.full((2, 4, 4), pixel, kind)
    if said:
        assert said in refused(BadInput, as_stored, given, stored(images))
    else:
        assert (as_stored(given, stored(images)) == given).all()


def test_images_that_are_no_array_of_numbers_are_refused_in_one_line() -> None:
    data = stored(np.ones((12, 1, 4, 4), np.uint8))
    one_size = "images: must be all of one size, to be one array, got a list of several sizes; resize them, or predict one at a time"
    assert refused(BadInput, as_stored, [np.zeros((4, 4)), np.zeros((5, 5))], data) == one_size
    finite = "images: must be finite numbers, got nan; leave out what is missing"
    assert refused(BadInput, as_stored, np.full((2, 4, 4), np.nan), data) == finite


@pytest.mark.parametrize("resize", [None, (6, 5)])
def test_one_image_may_come_alone(resize: tuple[int, int] | None) -> None:
    colour = np.random.RandomState(0).randint(0, 256, (12, 3, 6, 5)).astype(np.uint8)
    data = stored(colour, resize)
    for given in (colour[0], colour[0].transpose(1, 2, 0), colour[:1]):
        assert np.array_equal(as_stored(given, data), colour[:1])
    grey = stored(colour[:, :1], resize)
    assert np.array_equal(as_stored(colour[0, 0], grey), colour[:1, :1])
    assert np.array_equal(as_stored(colour[:, 0], grey), colour[:, :1])
    assert np.array_equal(as_stored(colour[0, 0, ..., None], grey), colour[:1, :1])
    for other in (colour[0].transpose(1, 2, 0), colour[0, 0] > 9):  # no six images of 5 x 3; no pixels up to 255
        with pytest.raises(
            BadInput, match="as the data are, got shape" if other.ndim == 3 else "hand them over undivided"
        ):
            as_stored(other, grey)


def bright(images: np.ndarray) -> np.ndarray:
    """Two classes by the mean pixel, of 16 levels."""
    share = images.reshape(len(images), -1).mean(axis=1, keepdims=True) / 16
    return np.hstack([1 - share, share])


SIXTEEN = Model(bright, ("dark", "bright"), Pixels((1, 2, 2)), 16.0)


def grey(folder: Path, **pixels: int) -> Path:
    for name, value in pixels.items():
        Image.new("L", (2, 2), value).save(folder / f"{name}.png")
    return folder


def test_files_of_256_levels_are_brought_to_the_scale_of_data_with_16_unless_they_are_on_it(tmp_path: Path) -> None:
    notes: list[str] = []
    found = predict.predict(SIXTEEN, grey(tmp_path, a=8, b=16), notes.append)
    assert [one.numbers[1] for one in found] == [0.5, 1.0]
    plain = replace(SIXTEEN, largest=255.0)
    assert [one.numbers[1] for one in predict.predict(plain, tmp_path, notes.append)] == [0.5, 1.0]
    assert notes == []
    found = predict.predict(SIXTEEN, grey(tmp_path, a=0, b=51, c=255), notes.append)
    assert [one.numbers[1] for one in found] == [0.0, 3 / 16, 1.0]
    assert notes == ["the data's pixels go up to 16, those of the files higher: scaled by 0.0627"]


@pytest.mark.parametrize(("saved", "largest"), [("files", 255.0), ("deep files", 90.0), ("npz", 90.0)])
def test_files_learned_from_files_are_not_scaled_others_by_all_rows(saved: str, largest: float, tmp_path: Path) -> None:
    dtype = np.uint16 if saved == "deep files" else np.uint8
    images = np.random.RandomState(0).randint(0, 60, (5000, 3, 3)).astype(dtype)
    images[-1] = 90  # beyond the first few thousand, and in the last class
    source = tmp_path / "data"
    if saved == "npz":
        source = tmp_path / "data.npz"
        np.savez(source, X=images, y=np.arange(5000) // 4900)
    for number, image in enumerate(images if saved != "npz" else ()):
        path = source / ("dark" if number < 4900 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    for _ in range(2):  # read, and opened as it was kept
        about = about_images(load_dataset(DataSpec(str(source)), 0, tmp_path / "cache"))
        assert about["largest_pixel"] == largest
    if saved == "files":
        model = Model.of(lambda found: found.reshape(len(found), -1)[:, :2] / 255, about)
        notes: list[str] = []
        new = tmp_path / "new.png"
        Image.new("L", (3, 3), 200).save(new)
        assert predict.predict(model, new, notes.append)[0].numbers[0] == pytest.approx(200 / 255)
        assert notes == []


def test_files_of_more_than_eight_bits_are_given_as_they_are_to_a_model_of_such_alone(tmp_path: Path) -> None:
    deep = replace(SIXTEEN, pixels=Pixels((1, 2, 2), "float32"))
    Image.fromarray(np.full((2, 2), 12, np.uint16)).save(tmp_path / "a.png")
    assert [one.numbers[1] for one in predict.predict(deep, tmp_path)] == [0.75]
    with pytest.raises(BadInput, match="must have 8 bits a pixel, as the data have, got more than 8 bits"):
        predict.predict(SIXTEEN, tmp_path)
    Image.fromarray(np.full((2, 2), 1200, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="scale of the data, whose pixels go up to 16, got pixels up to 1200"):
        predict.predict(deep, tmp_path)


def test_however_few_fit_into_memory_the_answers_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = grey(tmp_path, a=1, b=2, c=3, d=4, e=5)
    whole = predict.predict(SIXTEEN, folder)
    monkeypatch.setattr(predict, "CHUNK_BYTES", 8)
    assert predict.predict(SIXTEEN, folder) == whole
    (tmp_path / "aa.png").write_text("bad")
    (tmp_path / "ee.png").write_text("bad")
    notes: list[str] = []
    assert predict.predict(SIXTEEN, folder, notes.append) == whole
    assert notes == [f"left out 2 files that cannot be read as images: {folder}/aa.png, {folder}/ee.png"]
    for name in ("ab", "ef"):
        Image.new("L", (3, 3)).save(tmp_path / f"{name}.png")
    with pytest.raises(BadInput, match="must be 2x2, as the data are, got 3x3") as caught:
        predict.predict(SIXTEEN, folder)
    assert len(caught.value.mistakes) == 2


def test_numbers_have_values_and_no_classes_and_a_row_of_them_may_be_small_or_far_out() -> None:
    found = [Prediction(Path("a, b.png"), (), (1234.56789,)), Prediction(Path("c.png"), (), (-0.5,))]
    assert predict.as_csv(found) == 'file,value\n"a, b.png",1234.57\nc.png,-0.5\n'
    assert json.loads(predict.as_json(found))[1] == {"file": "c.png", "value": -0.5}
    data = stored(np.linspace(0, 1, 60, dtype=np.float32).reshape(12, 1, 1, 5))
    assert as_stored(np.full((1, 5), 3.0), data).max() == 3
    assert as_stored(np.full((1, 5), 0.5), stored(100 * data.images)).max() == 0.5


def test_the_verb_writes_the_script_and_says_how_to_run_it(place: Place, tmp_path: Path) -> None:
    done = place.hpo("best", place.study, "--script", "--to", str(tmp_path / "out"))
    path = tmp_path / "out" / "train.py"
    assert done.stdout == f"{path} is written, with data.npz beside it; run: python {path}\n"
    assert "the study bars (bayesian-0), trial 0: val_accuracy" in path.read_text()
    own = place.hpo("best", place.study, "--script").stdout
    assert own.startswith(str(place.ran.folders.run / "best" / "train.py"))
    assert place.hpo("best", place.study, "--to", "x").exit_code == 2


@pytest.mark.slow  # a minute of a busy core: four processes that import mlflow
def test_with_mlflow_the_models_are_there_under_their_aliases_and_say_what_the_checkpoint_says(tmp_path: Path) -> None:
    place = made(tmp_path, {"uri": f"sqlite:///{tmp_path}/mlflow.db"})
    assert {path.name for path in (tmp_path / "mlruns").rglob("artifacts/plots/best-*.png")} >= PLOTS

    words = ("predict", str(tmp_path / "new"), place.study, "--json")
    mine = json.loads(place.hpo(*words).stdout)
    theirs = json.loads(program(tmp_path, *words, "--model", "models:/bars@champion").stdout)
    assert [list(one["probabilities"]) for one in mine] == [list(CLASSES)] * 4
    for one, other in zip(mine, theirs, strict=True):
        assert (one["file"], one["class"]) == (other["file"], other["class"])
        assert list(one["probabilities"].values()) == pytest.approx(list(other["probabilities"].values()), abs=1e-5)

    lines = program(tmp_path, "best", "--refit").stdout.splitlines()
    assert lines[0].startswith("refit:  trial 0 on 77 images of train and val, 6 epochs: test_accuracy ")
    assert lines[1] == "model:  models:/bars@refit is version 2"
    again = program(tmp_path, "best", "--refit").stdout.splitlines()
    assert again == [f"{lines[0]} (made earlier)", *lines[1:]]
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        aliases = store.execute("SELECT alias, version FROM registered_model_aliases ORDER BY alias").fetchall()
    assert aliases == [("champion", 1), ("refit", 2)]
    study = read_result(place.ran.spec, tmp_path)
    assert dict(study.test) == dict(place.ran.test), "the best trial's own score stays"
    assert len(study.study.scores) == 2, "and both readings of the test split are on record"
