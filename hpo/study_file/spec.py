"""The sections of a study file as frozen dataclasses: types, defaults, checks, documentation, other tools' words.

`reader` reads a file into them; template.yaml shows every key; study.schema.json is for editors:

    python -m hpo.study_file.spec > hpo/study_file/study.schema.json
"""

# ruff: noqa: RUF009 - option() is dataclasses.field

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from hpo.core import EPOCHS, Goal, Params
from hpo.space.domains import Choice, Parameter
from hpo.space.expressions import Constraint
from hpo.space.space import Space
from hpo.study_file.domain_reader import CONSTRAINTS, SEARCH_SPACE, START_WITH
from hpo.study_file.fields import (
    Record,
    Several,
    anything,
    duration,
    flag,
    number,
    one_of,
    option,
    record_schema,
    size,
    text,
)
from hpo.study_file.space_reader import DEFAULT_EPOCHS

STRATEGIES: Final = ("bayesian", "random", "grid")  # ordered by usefulness
FAMILIES: Final = ("cnn", "rnn")
DATA_SETS: Final = ("digits", "digits-hard", "mnist", "fashion-mnist", "cifar10")
DEFAULT_TRIALS: Final = 20  # where a bayesian or random study names no budget: minutes on digits

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
CODE: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"

_SHARE: Final = number(above=0, high=1)
_COUNT: Final = number(1, whole=True)
_SEED: Final = number(0, 2**53, whole=True)
_STRATEGY: Final = one_of(
    bayesian="bayes tpe gp optuna bo bohb smac bayesian_optimization",
    random="randomsearch random_search",
    grid="gridsearch grid_search bruteforce",
)


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the data; a source that comes with its own splits keeps those."""

    train: float = option(_SHARE, 0.7, "share that is trained on")
    val: float = option(_SHARE, 0.15, "share that trials are compared on")
    test: float = option(_SHARE, 0.15, "share read once, for the winner")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where the images are and how they are read. source: a known name or an absolute path."""

    source: str = option(
        text(rule="must be a known name or a path"),
        doc=f"{', '.join(DATA_SETS)}, a folder of images, file.npz, ...",
        words="path name dataset folder file",
        example="digits",
    )
    resize: tuple[int, int] | None = option(
        Several(number(1, 4096, whole=True), 2, 2, broadcast=True),
        None,
        "height and width all images are brought to: 32 or [32, 48]",
        "size shape image_size",
    )
    split: Split = option(
        Record(Split, "split", listed=Several(_SHARE, 3, 3)), Split(), "shares of train, val and test"
    )
    regression: bool = option(flag(), False, "the targets are numbers, not classes")
    grey: bool = option(flag(), False, "read colour images as grey")
    limit: int | None = option(_COUNT, None, "use at most this many images", "max_samples")


@dataclass(frozen=True, slots=True)
class Metric:
    """The metric that is optimized."""

    name: str = option(
        text(r"[A-Za-z_][A-Za-z0-9_./ -]*", "must be a metric's name"),
        "val_accuracy",
        "its name",
        "objective monitor score",
    )
    goal: Literal["maximize", "minimize"] = option(
        one_of(maximize="max maximise higher up", minimize="min minimise lower down"),
        "maximize",
        "which direction is better; default: by the metric",
        "direction mode maximize minimize",
    )
    at: Literal["last", "best"] = option(
        one_of(last="", best=""), "last", "which epoch of a trial counts: its last or its best"
    )
    target: float | None = option(
        number(), None, "the study ends when a complete trial reaches it", "threshold goal_value"
    )

    def as_goal(self) -> Goal:
        return Goal(self.name, self.goal == "maximize", self.at, self.target)


@dataclass(frozen=True, slots=True)
class Budget:
    """Totals of the study; whichever is reached first ends it. time in seconds, patience in epochs."""

    trials: int | None = option(
        _COUNT,
        None,
        f"trials started; {DEFAULT_TRIALS} where no budget is named (grid: all)",
        "n_trials max_trials num_trials num_samples run_cap runs count n_iter",
    )
    total_epochs: int | None = option(_COUNT, None, "epochs trained, over all trials", "epochs max_epochs n_epochs")
    time: float | None = option(
        duration(),
        None,
        "active time, summed over resumes: 30m, 2h, 90s",
        {"time": "timeout max_time seconds wall_time time_budget_s", "time: 2h": "hours", "time: 30m": "minutes"},
    )
    patience: int | None = option(_COUNT, None, "epochs trained without a new best", "early_stopping no_improvement")


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Which trials are paused or stopped before their last epoch."""

    type: Literal["median", "asha"] = option(
        one_of(
            {"null, or leave it out": "none off false no"},
            median="medianpruner median_stopping",
            asha="hyperband sha successive_halving successivehalving",
        ),
        "median",
        "median or asha",
        "rule name method",
    )
    min_epochs: int = option(
        _COUNT, 1, "no trial is stopped before this epoch", "min_iter grace_period min_resource n_warmup_steps warmup"
    )
    reduction: int = option(
        number(2, 100, whole=True), 3, "asha: one in this many continues at each rung", "eta reduction_factor"
    )
    interval: int = option(_COUNT, 1, "median: epochs between two judgements", "interval_steps every")
    min_trials: int = option(_COUNT, 5, "median: trials to compare with before one is stopped", "n_startup_trials")


@dataclass(frozen=True, slots=True)
class Execution:
    """Where trials run and what each may use. Times in seconds, sizes in bytes."""

    engine: Literal["local", "inline", "ray"] = option(
        one_of(local="process processes multiprocessing joblib", inline="thread sync serial", ray=""),
        "local",
        "local: worker processes; inline: this process; ray: a cluster",
        "backend executor type name",
    )
    address: str | None = option(text(), None, "ray: the cluster, auto or ray://host:10001")
    cpus: float = option(number(above=0), 1, "cores a trial", "cpu num_cpus n_cpus cores")
    gpus: float | None = option(number(0), None, "GPUs a trial; a fraction shares one", "gpu num_gpus n_gpus")
    memory: int | None = option(
        size(), None, "most memory a worker may use: 2GiB; more ends the trial as oom", "ram max_memory"
    )
    report_timeout: float | None = option(duration(), None, "a worker silent for this long is replaced: 10m")
    trial_timeout: float | None = option(
        duration(), None, "longest time of one training: 1h", "timeout time_limit max_time"
    )
    checkpoints: int = option(size(), 2 << 30, "most disk space for checkpoints")


@dataclass(frozen=True, slots=True)
class Tracking:
    """MLflow. uri None: mlflow.db beside the state; experiment None: the study's name."""

    uri: str | None = option(
        text(r"\S+", "must be the address of an MLflow store", secret=True),
        None,
        "address of the store; default: MLFLOW_TRACKING_URI, else mlflow.db beside the study",
        "url tracking_uri server store storage",
    )
    experiment: str | None = option(
        text(r"[^\n]{1,250}", "must be text of one line"), None, "default: the study's name", "experiment_name project"
    )
    register: str | None = option(
        text(NAME, "must be letters, digits, . _ and -"),
        None,
        "name under which the best model is registered",
        "registered_model_name model_name",
    )
    enabled: bool = option(flag(), True, "false: no MLflow at all", "enable on")


@dataclass(frozen=True, slots=True)
class Compare:
    """What `hpo compare` compares."""

    strategies: tuple[str, ...] = option(
        Several(_STRATEGY, 1, unique=True), STRATEGIES, "which strategies", "methods samplers strategy"
    )
    seeds: int = option(number(1, 1000, whole=True), 10, "studies of each strategy", "repeats n_seeds runs")
    margin: float = option(number(0), 0.002, "smaller differences are practically equal", "rope tolerance")


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study as its file says it, with every default filled in."""

    name: str = option(
        text(NAME, "must be letters, digits, . _ and -", "digits-cnn"),
        doc="names the study's folder and its MLflow experiment",
        words="study study_name experiment_name title",
        example="digits-cnn",
    )
    strategy: Literal["bayesian", "random", "grid"] = option(
        _STRATEGY,
        "bayesian",
        "the search strategy: bayesian, random or grid, ordered by usefulness",
        "method sampler search_algorithm search_alg algorithm algo tuner",
    )
    data: DataSpec | None = option(
        Record(DataSpec, "data", short="source"),
        None,
        f"{', '.join(DATA_SETS)}, a folder of images, file.npz, a folder of IDX files, or a mapping with source",
        "dataset datasets input source",
    )
    model: str = option(
        text(f"{'|'.join(FAMILIES)}|{CODE}", "must be cnn, rnn or package.module:function"),
        "cnn",
        "cnn, rnn, or package.module:function of your own (params, input shape, outputs) -> nn.Module",
        "network architecture net",
    )
    train: str | None = option(
        text(CODE, "must be package.module:function"),
        None,
        "your own generator of reports; replaces the whole training",
        "program command entrypoint trainer",
    )
    prefix_safe: bool | None = option(
        flag(), None, "your own training: epoch e does not depend on how many follow, so trials share epochs"
    )
    loss: Literal["cross_entropy", "squared_error"] = option(
        one_of(
            cross_entropy="ce nll crossentropy categorical_crossentropy log_loss",
            squared_error="mse mean_squared_error l2 quadratic",
        ),
        "cross_entropy",
        "what SGD minimizes; squared_error where data.regression is true",
        "criterion loss_function",
    )
    class_weights: bool = option(flag(), False, "weigh rare classes up in the loss")
    metric: Metric = option(
        Record(Metric, "metric", short="name"), Metric(), "what is optimized: a name, or {name, goal, at, target}"
    )
    space: Space = option(
        anything(SEARCH_SPACE),
        doc="the parameters, or a .yaml file of them beside this file",
        words={
            "search_space": "parameters params space config param_space hyperparameters configspace",
            "search_space.epochs": "epochs n_epochs num_epochs",
            "search_space.learning_rate": "lr learning_rate",
            "search_space.batch_size": "batch_size",
            "search_space.optimizer": "optimizer",
        },
        key="search_space",
        example="search_spaces/cnn-small.yaml",
    )
    constraints: tuple[Constraint, ...] = option(
        anything(CONSTRAINTS), (), "conditions that every point must meet", "constraint"
    )
    start_with: tuple[Params, ...] = option(
        anything(START_WITH),
        (),
        "points tried first; the rest of each is drawn",
        "enqueue initial points_to_evaluate initial_points warm_start",
    )
    budget: Budget = option(Record(Budget, "budget"), Budget(), "totals of the study; whichever is reached first")
    early_stopping: EarlyStopping | None = option(
        Record(EarlyStopping, "early_stopping", short="type"),
        None,
        "median or asha, or a mapping",
        "early_terminate early_termination pruner scheduler earlystopping stopper",
    )
    workers: int | Literal["auto"] = option(
        number(1, 10_000, whole=True, word="auto"),
        "auto",
        "trials at a time; auto: one a core, or a GPU",
        "n_jobs num_workers jobs parallelism max_concurrent concurrency",
    )
    device: str = option(
        text(r"auto|cpu|cuda(:[0-9]{1,3})?", "must be auto, cpu, cuda or cuda:1"),
        "auto",
        "auto, cpu, cuda, cuda:1",
        "gpu cuda accelerator",
    )
    execution: Execution = option(
        Record(Execution, "execution", short="engine"), Execution(), "where trials run", "resources backend executor"
    )
    seed: int = option(_SEED, 0, "seed of the search", "random_state random_seed rng")
    training_seed: int = option(_SEED, None, "seed of SGD; default: seed")
    tracking: Tracking = option(
        Record(Tracking, "tracking", short="enabled"),
        Tracking(),
        "where MLflow keeps the runs",
        "mlflow wandb logging",
    )
    compare: Compare = option(
        Record(
            Compare,
            "compare",
            gone={"parallel": "drop it: each study runs one trial at a time, and the studies share the workers"},
        ),
        Compare(),
        "what `hpo compare` compares",
    )

    path: Path | None = field(default=None, compare=False)
    text: str = field(default="", compare=False, repr=False)  # the file as written
    space_text: str = field(default="", compare=False, repr=False)  # the space's own file, if it has one
    sets: tuple[str, ...] = field(default=(), compare=False)  # `--set`s on top
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.training_seed is None:
            object.__setattr__(self, "training_seed", self.seed)
        if EPOCHS not in self.space:
            constant = Parameter(EPOCHS, Choice((DEFAULT_EPOCHS,)))
            object.__setattr__(self, "space", Space((*self.space.parameters, constant)))
        endless = self.budget.trials is None and self.budget.total_epochs is None and self.budget.time is None
        if endless and self.strategy != "grid":
            object.__setattr__(self, "budget", replace(self.budget, trials=DEFAULT_TRIALS))

    def place(self, path: str) -> str:
        """Where the file gives a value, for a message: "study.yaml:7:12 search_space.learning_rate.min"."""
        known = path
        while known and known not in self.places:
            known = known.rpartition(".")[0]
        return f"{self.places.get(known, self.path or 'the study')} {path}".strip()

    def fixed(self) -> dict[str, Any]:
        """What may not change between runs of one study, as JSON; the space is compared by `Space.widens`."""
        same = ("strategy", "model", "train", "prefix_safe", "loss", "class_weights", "seed", "training_seed")
        return {
            **{name: getattr(self, name) for name in same},
            "data": None if self.data is None else {**_plain(asdict(self.data)), "source": self.source(self.data)},
            "metric": {"name": self.metric.name, "goal": self.metric.goal, "at": self.metric.at},
            "constraints": [constraint.text for constraint in self.constraints],
            "start_with": [dict(point) for point in self.start_with],
            "early_stopping": None if self.early_stopping is None else asdict(self.early_stopping),
        }

    def source(self, data: DataSpec) -> str:
        """Where the data are, as seen from the study file, so that a folder with both may move."""
        folder = None if self.path is None else self.path.absolute().parent
        source = Path(data.source)
        return str(source.relative_to(folder)) if folder and source.is_relative_to(folder) else data.source


def template(name: str = "digits-cnn") -> str:
    """The study file that `hpo init` writes: it runs as it is, and every other key is in it as a comment."""
    return Path(__file__).with_name("template.yaml").read_text(encoding="utf-8").replace("digits-cnn", name)


def schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12: the shape of a study file, not what its parts mean together."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpo study",
        "description": "A hyperparameter study: what is searched, on which data, how and for how long",
        **record_schema(StudySpec),
        "anyOf": [{"required": ["data"]}, {"required": ["train"]}],  # a training of one's own may need no data
    }


def schema_text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


if __name__ == "__main__":
    sys.stdout.write(schema_text())
