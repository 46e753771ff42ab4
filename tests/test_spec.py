"""What a good study file says: defaults, precedence, units, blocks, conditions, and what the other parts rely on."""

import json
import pickle
import random
import runpy
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from laws import refused, tables
from test_yamlfile import TABLES, plain

from hpo.core import UNSAFE, Goal
from hpo.engine.components import Components
from hpo.errors import BadInput
from hpo.models.families import known
from hpo.publishing.publish_best import registered
from hpo.space.domains import Choice, Condition, Parameter, Range
from hpo.space.expressions import Derived
from hpo.space.space import Space
from hpo.study_file import spec as spec_module
from hpo.study_file.fields import BYTES, TIME, Mistakes, options
from hpo.study_file.reader import read_study, template
from hpo.study_file.spec import DEFAULT_EPOCHS, DEFAULT_TRIALS, Budget, DataSpec, EarlyStopping, Split, StudySpec
from hpo.study_file.yaml_nodes import node_of, parse

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "hpo/study_file/study.schema.json"
CONDITIONS = tables("search_space_conditions")
LEAST = {"name": "x", "data": "digits", "search_space": {"learning_rate": [0.1, 0.2]}}


def read(text: str) -> Any:
    """YAML 1.2, where 1e-3 is a number, as Python values."""
    return plain(parse(text, "f").root)


def spec(text: str = "", **more: Any) -> StudySpec:
    return read_study({**LEAST, **(read(text) if text else {}), **more}, known=known)


def space_of(text: str, model: str = "cnn") -> dict[str, Any]:
    loaded = read_study({**LEAST, "model": model, "search_space": read(text)}, known=known).space
    return {parameter.name: parameter for parameter in loaded.parameters}


def test_a_study_needs_a_name_data_and_a_search_space_in_code_too() -> None:
    least = spec()
    assert least.strategy == "bayesian"
    assert (least.model, least.loss, least.workers) == ("cnn", "cross_entropy", "auto")
    assert (least.device, least.seed) == ("auto", 0)
    assert least.goal == Goal("val_accuracy", True, "last", None, set(least.space.lengths), UNSAFE)
    assert least.budget == Budget(trials=DEFAULT_TRIALS)
    assert least.early_stopping is None
    assert least.space["epochs"].domain == Choice((DEFAULT_EPOCHS,))
    assert least.execution.checkpoints == 2 * 1024**3
    assert least.tracking.enabled
    assert least.compare.strategies == ("bayesian", "random", "grid")
    loaded = StudySpec(name="x", data=DataSpec("digits"), space=Space((Parameter("dropout", Choice((0.1,))),)), seed=4)
    assert (loaded.budget, loaded.base_seed) == (Budget(trials=DEFAULT_TRIALS), 4)
    assert loaded.space.constants == {"dropout": 0.1, "epochs": DEFAULT_EPOCHS}


def test_budget_goal_loss_and_the_model_s_name_follow_from_the_rest_unless_the_file_says_otherwise() -> None:
    assert spec("budget: {time: 30m}").budget == Budget(time=1800.0)
    assert spec("budget: {patience: 5}").budget == Budget(trials=DEFAULT_TRIALS, patience=5)
    assert spec("strategy: grid").budget == Budget()
    assert spec("metric: val_loss").metric.goal == "minimize"
    assert spec("metric: {name: val_macro_f1}").metric.goal == "maximize"
    assert spec("metric: {name: val_loss, goal: maximize}").metric.goal == "maximize"
    loaded = spec("data: {source: digits, regression: true}")
    assert (loaded.loss, loaded.metric.name, loaded.metric.goal) == ("squared_error", "val_mse", "minimize")
    given = [{}, {"register": "other"}, {"register": False}, {"register": None}, {"enabled": True}]
    assert [registered(spec(name="own", tracking=one)) for one in given] == ["own", "other", None, "own", "own"]


def test_a_training_of_ones_own_needs_no_data_and_may_name_any_metric_and_parameter() -> None:
    study = {"name": "x", "train": "my.module:train", "metric": "reward", "search_space": {"depth": [1, 2]}}
    loaded = read_study(study)
    assert loaded.metric == spec_module.Metric("reward")
    assert loaded.data is None
    assert loaded.fixed()["data"] is None


@pytest.mark.parametrize(("written", "seconds"), TABLES["times in seconds"])
def test_a_time_has_units(written: str, seconds: float) -> None:
    assert spec(f"budget: {{time: {written}}}").budget.time == seconds


@pytest.mark.parametrize(("written", "size"), TABLES["sizes in bytes"])
def test_a_size_has_units(written: str, size: int) -> None:
    assert spec(f"execution: {{memory: {written}}}").execution.memory == size


@given(st.text("0123456789.dhmsinkMGTB ", max_size=8))
def test_any_other_text_is_neither_a_time_nor_a_size(text: str) -> None:
    for kind in (TIME, BYTES):
        value = kind.read(node_of(text, "f"), Mistakes())
        assert value is None or value > 0


def test_short_forms_mean_what_the_long_ones_do() -> None:
    assert spec("data: digits").data == spec("data: {source: digits}").data == DataSpec("digits")
    assert spec("metric: val_macro_f1").metric == spec("metric: {name: val_macro_f1}").metric
    assert spec("early_stopping: asha").early_stopping == EarlyStopping("asha")
    assert spec("early_stopping: null").early_stopping is None
    assert spec("tracking: false").tracking.enabled is False
    assert spec("execution: inline").execution.engine == "inline"
    assert spec("data: {source: digits, resize: 16}").data == DataSpec("digits", resize=(16, 16))
    assert spec("data: {source: digits, resize: [16, 8]}").data == DataSpec("digits", resize=(16, 8))
    assert spec("data: {source: digits, split: [0.8, 0.1, 0.1]}").data == DataSpec("digits", split=Split(0.8, 0.1, 0.1))
    assert spec("constraints: 'learning_rate < 1'").constraints[0].text == "learning_rate < 1"


def test_paths_start_at_the_study_file_of_spaces_also_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "pictures", here):
        folder.mkdir(parents=True)
    (home / "study.yaml").write_text("name: x\ndata: pictures\nsearch_space: space.yaml\n")
    (here / "space.yaml").write_text("dropout: [0.1]\n")
    monkeypatch.chdir(here)
    loaded = read_study("../home/study.yaml", known=known)
    assert loaded.data == DataSpec(str(home / "pictures"))
    assert loaded.space["dropout"].domain == Choice((0.1,))
    (home / "space.yaml").write_text("dropout: [0.2]\n")
    beside = read_study("../home/study.yaml", known=known)
    assert beside.space["dropout"].domain == Choice((0.2,))
    assert (beside.text, beside.space_text) == ((home / "study.yaml").read_text(), "dropout: [0.2]\n")


def test_ranges_and_values_take_the_type_of_their_parameter_else_that_in_which_they_are_written() -> None:
    loaded = space_of("{batch_size: {min: 1e1, max: 1e2}, dropout: {min: 0, max: 0.5}, l2: {min: 0, max: 1}}")
    assert loaded["batch_size"].domain == Range(10, 100, True)
    assert loaded["l2"].domain == Range(0.0, 1.0, False)
    assert isinstance(loaded["l2"].domain.low, float)
    loaded = space_of("{a: {min: 1, max: 9}, b: {min: 1.0, max: 9}, c: {min: 1, max: 9, step: 0.5}}", "my.net:build")
    assert [loaded[name].domain.integer for name in "abc"] == [True, False, False]
    loaded = space_of("{dropout: [0, 0.5], batch_size: [16.0, 32]}")
    assert [type(value) for value in loaded["dropout"].domain.values] == [float, float]
    assert [type(value) for value in loaded["batch_size"].domain.values] == [int, int]


@pytest.mark.parametrize("case", CONDITIONS, ids=lambda case: case["case"])
def test_each_parameter_exists_under_its_conditions(case: dict[str, Any]) -> None:
    loaded = read_study({**LEAST, "search_space": case["search_space"]}, known=known).space

    def conditions(when: dict[str, list[Any]]) -> tuple[Condition, ...]:
        return tuple(Condition(parent, tuple(values)) for parent, values in when.items())

    expected = {name: conditions(when) for name, when in case["when"].items()}
    assert {name: loaded[name].when for name in expected} == expected
    follows = case.get("follows", {}).items()
    assert loaded.derived == tuple(Derived(name, text, conditions(when)) for name, (text, when) in follows)


def test_a_range_is_that_of_every_block_but_one_may_differ() -> None:
    loaded = space_of("{blocks: {min: 1, max: 3}, channels: {min: 8, max: 64, log: true, per: block}}")
    assert list(loaded) == ["blocks", "block1.channels", "block2.channels", "block3.channels", "epochs"]
    assert loaded["block3.channels"].domain == Range(8, 64, True, log=True)
    default = int(known("cnn")["blocks"].default or 0)
    left = [name for name in space_of("{channels: {choices: [8], per: block}}") if "." in name]
    assert left == [f"block{i}.channels" for i in range(1, default + 1)]
    all_, second = "channels: {choices: [8, 16], per: block}", "block2.channels: 32"
    for text in (f"{all_}, {second}", f"{second}, {all_}"):
        loaded = space_of(f"{{blocks: 2, {text}}}")
        assert loaded["block1.channels"].domain == Choice((8, 16))
        assert loaded["block2.channels"].domain == Choice((32,))


def test_points_to_start_with_take_the_types_of_the_space() -> None:
    loaded = spec("start_with: [{learning_rate: 0.1, epochs: 10.0}, {}]")
    assert loaded.start_with == ({"learning_rate": 0.1, "epochs": 10}, {})
    assert type(loaded.start_with[0]["epochs"]) is int


@pytest.mark.parametrize(
    ("space", "constraints", "start_with"),
    [
        (
            {f"b{i}": [4, 8, 16, 32, 64] for i in range(9)},
            [f"b{i + 1} == 2 * b{i} or b{i} == 64" for i in range(8)],
            [],
        ),
        ({"a": {"min": 0.0, "max": 1.0}, "b": {"min": 0.0, "max": 1.0}}, ["a + b > 1.9999"], [{"a": 1, "b": 1}]),
        ({name: list(range(10)) for name in "abcdefg"}, ["a + b + c + d + e + f + g == 63"], []),  # the run decides
    ],
)
def test_constraints_are_not_refused_for_being_rare(space: Any, constraints: list[str], start_with: list[Any]) -> None:
    study = {"name": "x", "train": "m:f", "search_space": space, "constraints": constraints, "start_with": start_with}
    assert read_study(study).constraints


def test_a_set_reaches_every_corner(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("blocks: 2\ndropout: {min: 0, max: 0.5}\nblock1.channels: 8\n")
    (tmp_path / "study.yaml").write_text(
        "name: x\ndata: digits\nsearch_space: space.yaml\nstart_with: [{dropout: 0.1}]\nbudget: {trials: 3}\n"
    )
    sets = ["strategy=random", "budget.trials=7", "budget.time=1h", "execution.memory=1GiB", "metric={name: val_loss}"]
    sets += ["search_space.dropout.max=0.2", "search_space.block1.channels=[8, 16]", "search_space.block2.channels=32"]
    sets += ["search_space.optimizer=[adam, sgd]", "start_with=[{dropout: 0.2}]", "constraints=[block1.channels <= 16]"]
    loaded = read_study(tmp_path / "study.yaml", sets=sets, known=known)
    assert (loaded.strategy, loaded.budget) == ("random", Budget(trials=7, time=3600.0))
    assert loaded.execution.memory == 1 << 30
    assert loaded.space["dropout"].domain == Range(0.0, 0.2, False)
    assert loaded.space["block1.channels"].domain == Choice((8, 16))
    assert loaded.space["block2.channels"].when == (Condition("blocks", (2,)),)
    assert loaded.start_with == ({"dropout": 0.2},)
    assert (loaded.metric.name, loaded.metric.goal) == ("val_loss", "minimize")
    assert loaded.constraints[0].names == ("block1.channels",)
    assert loaded.sets == tuple(sets)
    assert loaded.place("budget.trials") == "--set budget.trials"


CHANGES: list[tuple[str, bool]] = TABLES["changes between runs, and whether they matter"]


def test_every_key_of_a_study_file_either_may_change_or_is_fixed() -> None:
    free = {"name", "search_space", "warm_start", "budget", "workers", "device", "execution", "tracking", "compare"}
    assert set(options(StudySpec)) == free | set(spec("precision: bf16").fixed())


def test_with_patience_every_epoch_counts_but_no_trial_is_longer_than_the_space_has_it() -> None:
    for text, counted, kept in (
        ("asha", {1, 3, 9, 10}, 5),
        ("patience", {*range(1, 11)}, 5),
        ("{type: asha, patience: 2}", {*range(1, 11)}, 6),
    ):
        for epochs in ("10", "[7, 10]"):  # one that patience stops before the first of these has a value too
            loaded = spec(f"early_stopping: {text}\nsearch_space: {{epochs: {epochs}}}")
            assert set(loaded.goal.epochs) == (counted if text != "asha" or epochs == "10" else {7, 10})
            assert len(loaded.fixed()["early_stopping"]) == kept
    text = "{x: [1, 3], epochs: [4, 10, 20]}\nconstraints: [epochs * x <= 40]\nearly_stopping: patience"
    loaded = read_study({"name": "x", **read(f"train: own:fit\nprefix_safe: true\nsearch_space: {text}")}, known=known)
    problem = Components(loaded, None, ["cpu"], {}, None).problem()
    assert [problem.extended({"x": x, "epochs": 4})["epochs"] for x in (1, 3)] == [20, 10]


def test_a_spec_travels_to_other_processes_and_a_mapping_is_read_as_a_file_is() -> None:
    loaded = spec("constraints: ['learning_rate < 1']")
    assert pickle.loads(pickle.dumps(loaded)) == loaded
    assert replace(loaded, strategy="random").space == loaded.space
    assert loaded.space.sample(random.Random(0))["learning_rate"] in (0.1, 0.2)
    assert refused(BadInput, read_study, {**LEAST, "strategy": "grd", "budget": {"trials": 0}}).splitlines() == [
        "study strategy: must be bayesian, random, grid or tpe, got grd; did you mean grid?",
        "study budget.trials: must be a whole number of at least 1, got 0",
    ]
    assert yaml.safe_load(spec("seed: 3").text)["seed"] == 3


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_study_that_ships_is_good(validator: Draft202012Validator) -> None:
    loaded = read_study(ROOT / "study.yaml", known=known)
    assert (loaded.strategy, loaded.data, loaded.model) == ("bayesian", DataSpec("digits"), "cnn")
    assert loaded.space.size() is not None
    validator.validate(read((ROOT / "study.yaml").read_text(encoding="utf-8")))


def test_the_schema_is_up_to_date_and_refuses_nothing_that_is_a_study(validator: Draft202012Validator) -> None:
    text = runpy.run_path(str(ROOT / "docs/schema.py"))["text"]
    assert SCHEMA.read_text(encoding="utf-8") == text(), "run: python docs/schema.py"
    for path in sorted((ROOT / "search_spaces").glob("*.yaml")):
        validator.validate({**LEAST, "search_space": read(path.read_text(encoding="utf-8"))})
    for text, _ in CHANGES:
        validator.validate({**LEAST, **read(text)})


def test_the_template_is_a_good_study_and_takes_a_name(tmp_path: Path, validator: Draft202012Validator) -> None:
    (tmp_path / "study.yaml").write_text(template("my-study"), encoding="utf-8")
    loaded = read_study(tmp_path / "study.yaml", known=known)
    assert loaded.name == "my-study"
    assert f"None: {DEFAULT_TRIALS} trials" in template()
    assert all(len(line) <= 120 for line in template().splitlines())
    validator.validate(read(template()))
    (tmp_path / "study.yaml").write_text(template().replace("  #global_pool", "  global_pool"), encoding="utf-8")
    assert "global_pool" in [one.name for one in read_study(tmp_path / "study.yaml", known=known).space.parameters]


COMMENTED = [line for line in template().splitlines() if line.startswith("#") and line[1:2].isalpha()]
BESIDE = {"#prefix_safe": ["#train: package.module:function"], "#data: {source: digits, regression": ["-metric"]}


@pytest.mark.parametrize("line", COMMENTED)
def test_each_commented_line_may_be_uncommented(line: str, tmp_path: Path, validator: Draft202012Validator) -> None:
    key = line[1:].partition(":")[0]
    beside = next((more for start, more in BESIDE.items() if line.startswith(start)), [])
    dropped = {key, *(one[1:] for one in beside if one.startswith("-"))}
    kept = [row for row in template().splitlines() if row.partition(":")[0] not in dropped]
    added = [line[1:], *(one[1:] for one in beside if one.startswith("#"))]
    text = "\n".join([*kept, *added])
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    sets = ["search_space.blocks=[2]"] if "block2" in line else []
    assert key in read_study(tmp_path / "study.yaml", sets=sets, known=known).places
    validator.validate(read(text))


def test_every_key_is_documented_and_in_the_template() -> None:
    for section in vars(spec_module).values():
        for key, one in options(section).items() if hasattr(section, "__dataclass_fields__") else ():
            assert f"{key}:" in template() or f"{key} " in template() or section is Split, (section, key)
            assert one.metadata["doc"], key
            assert one.default is not MISSING or one.metadata["example"], key


SHAPES = ("an unknown key", "workers below one", "yes instead of true", "an unknown strategy", "step beside count")
SHAPES += ("no choices, written out", "a budget that is a number", "values, of W&B", "low and high, of Optuna")
SHAPES += ("a registered name with a slash", "a name with a space", "everything is missing", "min without max")


@pytest.mark.parametrize("name", SHAPES)
def test_the_schema_underlines_mistakes_of_shape(name: str, validator: Draft202012Validator) -> None:
    case = next(case for case in tables("bad_study_files") if case["case"] == name)
    study = {**({} if case.get("bare") else LEAST), **read(case["file"])}
    assert not validator.is_valid(study)
