"""The spaces that ship: each loads, is complete, says its true size, and yields nothing but what can be trained."""

import random
import re
import runpy
from pathlib import Path

import pytest
from laws import is_point

from hpo.models.families import FAMILIES, feasibility, known
from hpo.models.parameters import ACTIVATIONS, CNN, RNN, TRAINING
from hpo.study_file.reader import read_study
from hpo.study_file.spec import StudySpec

ROOT = Path(__file__).parent.parent
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
MODELS = {"rnn": "rnn"}  # the others are of the convolutional network


def loaded(path: Path, folder: Path, name: str = "") -> StudySpec:
    """name: of the space, in place of its path."""
    file, model = folder / "study.yaml", MODELS.get(path.stem, "cnn")
    file.write_text(f"name: x\ndata: digits\nmodel: {model}\nsearch_space: {name or path}\n", encoding="utf-8")
    return read_study(file, known=known)


def bare(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_model_knows_every_value_and_a_parameter_exists_where_it_has_an_effect(path: Path, tmp_path: Path) -> None:
    """Otherwise two points of the space would be one training, and the strategies would pay for it twice."""
    spec = loaded(path, tmp_path)
    rng, table = random.Random(0), known(spec.model)
    for _ in range(1_000):
        params = spec.space.sample(rng)
        assert is_point(params, spec.space)
        for name, value in params.items():
            block, _, short = name.rpartition(".")
            assert table[short].fault(value) is None, (name, value)
            assert int(block.removeprefix("block") or 0) <= params["blocks"] if block else True, (name, params)
            for condition in table[short].when:
                own = f"{block}.{condition.name}"
                parent = params.get(own if own in params else condition.name, table[condition.name].default)
                assert parent in condition.allowed, (name, condition, params)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_shipped_space_is_named_from_any_folder_and_is_as_large_as_its_file_states(
    path: Path, tmp_path: Path
) -> None:
    spec = loaded(path, tmp_path, path.stem)
    assert (spec.space, spec.space_text) == (loaded(path, tmp_path).space, path.read_text(encoding="utf-8"))
    stated = re.search(r"^# As a grid: ([\d,]+) points", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    assert stated[1] == f"{loaded(path, tmp_path).space.grid().size:,}"


def test_the_spaces_name_every_parameter_of_their_model_or_of_training(tmp_path: Path) -> None:
    space = loaded(ROOT / "search_spaces/cnn.yaml", tmp_path).space
    assert bare(space.names) == set(CNN) | set(TRAINING)
    for activation in ACTIVATIONS:
        assert space.conflicts({"activation": activation}) == []
    assert space.conflicts({"blocks": 0, "dense_layers": 0}) == []  # a perceptron
    assert bare(loaded(ROOT / "search_spaces/rnn.yaml", tmp_path).space.names) >= set(RNN)
    space = loaded(ROOT / "search_spaces/training-only.yaml", tmp_path).space
    assert bare(space.names) >= set(TRAINING)
    searched = {name for name in space.names if name not in space.constants}
    assert searched - set(TRAINING) == {"dropout", "conv_dropout"}


@pytest.mark.parametrize("name", ["cnn-small", "training-only", "rnn"])
def test_nothing_is_impossible_on_the_smallest_images(name: str, tmp_path: Path) -> None:
    spec, rng = loaded(ROOT / f"search_spaces/{name}.yaml", tmp_path), random.Random(3)
    for _ in range(300):
        assert feasibility(spec.model, spec.space.sample(rng), (1, 8, 8), 10).reason is None


def test_the_page_of_parameters_is_up_to_date_and_names_every_one() -> None:
    written = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    page = runpy.run_path(str(ROOT / "docs/parameters.py"))["page"]
    assert written == page(), "run: python docs/parameters.py"
    for family in FAMILIES:
        for name in known(family):
            assert f"| `{name}`" in written
