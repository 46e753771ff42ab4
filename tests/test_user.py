"""A user's own model and trainer: the examples, and every way to get them wrong in one line."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import studied
from laws import tables
from mlflow_real import template
from pictures import bars, job, numbers

from hpo import api, files
from hpo.core import Outcome, Params, Report, Train, TrainingFailed
from hpo.errors import BadInput
from hpo.execution import worker
from hpo.models import user
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

TABLES = tables("user_code_tables")
EXAMPLES = Path(__file__).parent.parent / "examples"
FIT: Params = {"rate": 0.1, "momentum": 0.8, "epochs": 12}


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports or puts on the path is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "mine", "pretrained")):
            del sys.modules[name]


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def model(reference: str, folder: Path, tmp_path: Path) -> Train:
    return Recipe(reference, "cross_entropy", bars(tmp_path / "bars"), "cpu", folder=folder)()


def invalid(train: Callable[[], object]) -> str:
    """The line with which a training ends that cannot be done."""
    with pytest.raises(TrainingFailed) as caught:
        train()
    assert caught.value.outcome is Outcome.INVALID
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_goes_on(train: Train, params: Params, folder: Path) -> None:
    """Bit for bit, from any of its epochs."""
    whole = []
    for report in train(job(params, folder)):
        checkpoints.write(folder, "made-up", report)
        whole.append(numbers(report))
    for start in range(1, len(whole)):
        assert [numbers(report) for report in train(job(params, folder, start=start))] == whole[start:]


def test_the_example_model_learns_and_says_itself_what_is_impossible(tmp_path: Path) -> None:
    train = model("own_model:network", EXAMPLES, tmp_path)
    params = {"width": 8, "norm_groups": 4, "depth": 1, "learning_rate": 0.02, "batch_size": 8, "epochs": 8}
    *_, last = train(job(params, tmp_path))
    assert last.metrics["val_accuracy"] > 0.7
    said = invalid(lambda: next(train(job(params | {"norm_groups": 5}, tmp_path))))
    assert said == "stem: norm_groups 5 does not divide width 8"


def test_the_example_trainer_finds_what_made_its_data_and_goes_on_from_any_epoch(tmp_path: Path) -> None:
    train = Recipe("cnn", "cross_entropy", Path("nowhere"), "cpu", train="own_trainer:train", folder=EXAMPLES)()
    *_, last = train(job(FIT, tmp_path, seed=3))
    assert last.epoch == 12
    assert last.metrics["val_mse"] < 0.01  # the noise alone is 0.0025
    assert_goes_on(train, FIT, tmp_path)


def test_a_trainer_of_ones_own_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from hpo.training.recipe import Recipe;"
        f"Recipe('cnn', '', Path(), 'cpu', train='own_trainer:train', folder=Path({str(EXAMPLES)!r}))();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXAMPLES.parent)


def reports(text: str, folder: Path, start: int = 0) -> list[Report]:
    train = user.user_trainer("mine:train", written(folder, text))
    return list(train(job({"epochs": 3}, folder, start=start)))


def test_a_trainer_may_yield_plain_mappings_is_closed_and_its_error_is_its_own(tmp_path: Path) -> None:
    text = "import numpy\ndef train(job):\n    yield {'score': 1}\n    yield {'score': numpy.float32(0.5), 'n': numpy.int64(3)}"
    made = [(report.epoch, report.metrics, report.save) for report in reports(text, tmp_path)]
    assert made == [(1, {"score": 1.0}, None), (2, {"score": 0.5, "n": 3.0}, None)]
    assert {type(value) for _, metrics, _ in made for value in metrics.values()} == {float}
    with pytest.raises(ZeroDivisionError):
        reports("def train(job):\n    yield {'a': 1 / 0}", tmp_path / "other")
    text = "closed = []\ndef train(job):\n    try:\n        yield {'a': 1}\n        yield {'a': 1}\n"
    text += "    finally:\n        closed.append(True)"
    running = user.user_trainer("mine:train", written(tmp_path / "third", text))(job({}, tmp_path))
    next(running)
    assert isinstance(running, Iterator)
    running.close()  # type: ignore[attr-defined]
    assert sys.modules["mine"].closed == [True]


@pytest.mark.parametrize(("body", "message"), TABLES["trainers"])
def test_a_trainer_that_yields_the_wrong_thing_is_refused_in_one_line(tmp_path: Path, body: str, message: str) -> None:
    assert invalid(lambda: reports(f"def train(job):\n    {body}", tmp_path)) == f"mine:train must {message}"


PRINTING = """
import ctypes, logging, os, subprocess, sys
def train(job):
    for epoch in (1, 2):
        if job.params["rate"] > 0.1:
            print("printed", epoch); print("on stderr", file=sys.stderr); logging.getLogger("mine").info("logged")
            ctypes.CDLL(None).puts(b"from C"); subprocess.run(["echo", "by a child"])
        if job.params["rate"] == 0.3 and epoch == 2:
            print("x" * 3_000_000); print("last words"); os.kill(os.getpid(), 9)
        yield {"val_accuracy": job.params["rate"]}
"""


def test_what_own_code_prints_is_kept_with_its_trial_and_in_mlflow_and_silence_makes_no_file(tmp_path: Path) -> None:
    space = "{rate: [0.1, 0.2, 0.3], epochs: 2}"
    study = f"{{name: loud, strategy: grid, train: mine:train, search_space: {space}, workers: 1}}"
    written(written(tmp_path, PRINTING), study, "study.yaml")
    shutil.copy(template(), tmp_path)
    studied.hpo(tmp_path, "run")
    trials = api.open(tmp_path / "study.yaml").trials.set_index("params.rate")
    logs = {rate: files.read_log(tmp_path / "studies/loud", trials.training[rate]) for rate in trials.index}
    lines = ["on stderr", "logged", "from C", "by a child"]
    assert sorted(logs[0.2].splitlines()) == sorted([*lines, *lines, "printed 1", "printed 2"])
    assert logs[0.2] == studied.hpo(tmp_path, "show", str(trials.trial[0.2]), "--log").stdout
    assert len(logs[0.3]) == worker.LOG_BYTES
    assert logs[0.3].endswith("x\nlast words\n")
    assert trials.error[0.3].endswith("(SIGKILL); last words")
    assert logs[0.1] == ""
    for engine, where in (("local", "nothing was printed"), ("ray", "Ray keeps it in session_latest/logs/worker-* of")):
        shown = studied.hpo(tmp_path, "show", str(trials.trial[0.1]), "--log", "--set", f"execution.engine={engine}")
        assert (shown.stdout, shown.stderr.startswith(f"trial {trials.trial[0.1]} has no log: {where}")) == ("", True)
    assert len([*tmp_path.glob("studies/loud/logs/*")]) == 2
    assert {path.read_text() for path in tmp_path.glob("mlruns/**/log.txt")} == {logs[0.2], logs[0.3]}


MODELS = """
from torch import nn
def number(params, shape, classes): return 3
def narrow(params, shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))
def mistaken(params, shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(63, classes))
def normed(params, shape, classes): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))
def dropped(params, shape, classes): return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.LazyLinear(classes))
"""


@pytest.mark.parametrize(("name", "params", "message"), TABLES["models"])
def test_a_model_that_cannot_be_trained_is_one_line(tmp_path: Path, name: str, params: Params, message: str) -> None:
    train = model(f"mine:{name}", written(tmp_path, MODELS), tmp_path)
    assert invalid(lambda: next(train(job(params, tmp_path)))).startswith(message)


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES.glob("*.yaml")])
def test_the_example_studies_run(name: str, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("studies", "ml*"))
    if name == "pretrained":
        subprocess.run([sys.executable, "examples/pretrained.py"], cwd=tmp_path, check=True)
    study = tmp_path / "examples" / f"{name}.yaml"
    sets = ["budget.trials=2", "tracking=false", "execution.engine=inline"]
    result = api.run(study, quiet=True, workers=1, sets=sets)
    assert {trial.outcome for trial in result.study.trials} == {Outcome.OK}
    assert "pretrained.pt" in result.study.trials[0].params.values() or name != "pretrained"


def test_a_users_model_with_lazy_layers_goes_on_bit_for_bit(tmp_path: Path) -> None:
    assert_goes_on(model("mine:dropped", written(tmp_path, MODELS), tmp_path), {"epochs": 3}, tmp_path)


def refusal(reference: str, folder: Path | None) -> str:
    with pytest.raises(BadInput) as caught:
        user.resolve(reference, folder, "study.yaml:5:8 model")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    written(tmp_path, "def network(): ...\ndef train(): ...\nx = 3")
    place = "study.yaml:5:8 model:"
    line = f"{place} must be package.module:function, got 'mine:'; name a function of a module"
    assert refusal("mine:", tmp_path) == line
    absent = refusal("mine_absent:f", tmp_path)
    assert absent.startswith(f"{place} module mine_absent does not import, got ModuleNotFoundError: ")
    assert absent.endswith(f"; fix it or put it into {tmp_path}")
    assert refusal("mine:netwrok", tmp_path) == f"{place} no function netwrok in mine; functions there: network, train"
    assert "no function x in mine" in refusal("mine:x", tmp_path)


@pytest.mark.parametrize(("text", "why"), TABLES["modules"])
def test_a_module_that_does_not_import_says_why(tmp_path: Path, text: str, why: str) -> None:
    assert f"module mine does not import, got {why}" in refusal("mine:f", written(tmp_path, text))


def test_modules_are_found_in_packages_and_the_current_folder_and_may_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "mine_package", "", "__init__.py")
    written(tmp_path / "mine_package", "from mine_other import f", "inner.py")
    written(tmp_path, "def f(): return 5", "mine_other.py")
    monkeypatch.chdir(tmp_path)
    assert user.resolve("mine_package.inner:f", None, "model")() == 5
    one, two = (written(tmp_path / name, f"def f(): return {name!r}") for name in ("one", "two"))
    answers = [user.resolve("mine:f", folder, "model")() for folder in (one, two, one)]
    assert answers == ["one", "two", "one"]


OWN = {
    "mine_net.py": "import mine_parts.layers\nfrom mine_one import width\n\ndef build(params, shape, classes):\n"
    "    from mine_late import late\n    return mine_parts.layers.Layer(width, late)\n",
    "mine_parts/__init__.py": "",
    "mine_parts/layers.py": 'from . import shapes\n\nclass Layer:\n    """Doc."""\n\n    size = f"{shapes.SIZE!r}"\n',
    "mine_parts/shapes.py": "SIZE = 0.001\n",
    "mine_one.py": "width = 3\n",
    "mine_late.py": "late = 1\n",
    "mine_other.py": "nobody = 'imports it'\n",
}
SAME = {
    "a comment": ("mine_one.py", "# how wide\nwidth = 3  # is it\n"),
    "layout": ("mine_one.py", "width=(\n  3\n)\n"),
    "a number in another spelling": ("mine_parts/shapes.py", "SIZE = 1e-3\n"),
    "a docstring": ("mine_parts/layers.py", OWN["mine_parts/layers.py"].replace("Doc.", "Another.")),
    "no docstring": ("mine_parts/layers.py", OWN["mine_parts/layers.py"].replace('    """Doc."""\n\n', "")),
    "a module that is not imported": ("mine_other.py", "nobody = 1\n"),
}
OTHER = {
    "the module": ("mine_net.py", OWN["mine_net.py"].replace("width, late", "late, width")),
    "what it imports by name": ("mine_one.py", "width = 4\n"),
    "what it imports later": ("mine_late.py", "late = 2\n"),
    "a package it imports": ("mine_parts/__init__.py", "import math\n"),
    "a module of a package": ("mine_parts/layers.py", OWN["mine_parts/layers.py"].replace("!r", "!s")),
    "what that imports relatively": ("mine_parts/shapes.py", "SIZE = 2\n"),
    "what is no Python": ("mine_late.py", "late = = 2\n"),
}


@pytest.mark.parametrize("change", [*SAME, *OTHER])
def test_the_identity_of_ones_own_code_changes_with_whatever_may_change_a_training(tmp_path: Path, change: str) -> None:
    for name, text in OWN.items():
        written((tmp_path / name).parent, text, (tmp_path / name).name)
    before = user.code_digest("mine_net:build", tmp_path, "study.yaml")
    name, text = {**SAME, **OTHER}[change]
    (tmp_path / name).write_text(text)
    assert (user.code_digest("mine_net:build", tmp_path, "study.yaml") == before) == (change in SAME)
    assert (user.code_digest("os.path:join", tmp_path, "study.yaml") == before) is False


def test_the_identity_of_ones_own_code_is_that_of_every_version_of_python(tmp_path: Path) -> None:
    text = 'def f(a, /, *b: int, c=-1e-4, **d):\n    return f"{a!r:>{c}} x" + "y" "z", [*b], lambda: (yield), b[1:, ...], {**d}\n'
    written(tmp_path, text)
    assert user.code_digest("mine:f", tmp_path, "study.yaml") == "6afbf3ceff8c8e48"
