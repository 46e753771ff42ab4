"""The sections of a study file as frozen dataclasses: types, defaults, checks and documentation in one place.

`hpo.study_file.reader` reads a file into them; `hpo.study_file.schema` and `hpo.study_file.template` describe them.
"""

# ruff: noqa: RUF009 - option() is dataclasses.field

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from hpo.core import EPOCHS, Goal, Params
from hpo.space.expressions import Constraint
from hpo.space.space import Choice, Parameter, Space
from hpo.study_file import foreign
from hpo.study_file.fields import Anything, Bytes, Duration, Either, Flag, Number, OneOf, Record, Several, Text, option
from hpo.study_file.space_reader import DEFAULT_EPOCHS
from hpo.study_file.space_schema import CONSTRAINTS, SEARCH_SPACE, START_WITH

STRATEGIES: Final = ("bayesian", "random", "grid")  # ordered by usefulness, as the notes rank them
FAMILIES: Final = ("cnn", "rnn")
DATA_SETS: Final = ("digits", "digits-hard", "mnist", "fashion-mnist", "cifar10")
DEFAULT_TRIALS: Final = 20  # where a bayesian or random study names no budget: minutes on digits, never for ever


NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
CODE: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"

_SHARE: Final = Number(low=0, high=1, open_low=True)
_COUNT: Final = Number(low=1, whole=True)
_SEED: Final = Number(low=0, high=2**53, whole=True)
_STRATEGY: Final = OneOf(STRATEGIES, foreign.STRATEGIES)


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the data; a source that comes with its own splits keeps those."""

    train: float = option(_SHARE, 0.7, "learned from")
    val: float = option(_SHARE, 0.15, "chosen by")
    test: float = option(_SHARE, 0.15, "read once, for the winner")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where the images are and how they are read. source: a known name or an absolute path."""

    source: str = option(
        Text(rule="must be a known name or a path"),
        doc=f"{', '.join(DATA_SETS)}, a folder of images, file.npz, ...",
        example="digits",
    )
    resize: tuple[int, int] | None = option(
        Either(
            Number(low=1, high=4096, whole=True),
            Several(Number(low=1, high=4096, whole=True), 2, 2),
            "scalar",
            lambda side: (side, side),
        ),
        None,
        "height and width all images are brought to: 32 or [32, 48]",
    )
    split: Split = option(
        Either(Several(_SHARE, 3, 3), Record(Split, "split"), "list", lambda shares: Split(*shares)),
        Split(),
        "shares of train, val and test",
    )
    regression: bool = option(Flag(), False, "the targets are numbers, not classes")
    grey: bool = option(Flag(), False, "read colour images as grey")
    limit: int | None = option(_COUNT, None, "use at most so many images")


@dataclass(frozen=True, slots=True)
class Metric:
    """What is wanted of a trial."""

    name: str = option(Text(r"[A-Za-z_][A-Za-z0-9_./ -]*", "must be a metric's name"), "val_accuracy", "its name")
    goal: Literal["maximize", "minimize"] = option(
        OneOf(("maximize", "minimize"), foreign.GOALS), "maximize", "which way is better; else the metric's own"
    )
    at: Literal["last", "best"] = option(
        OneOf(("last", "best")), "last", "which epoch of a trial counts: its last or its best"
    )
    target: float | None = option(Number(), None, "the study ends when a complete trial reaches it")

    def as_goal(self) -> Goal:
        return Goal(self.name, self.goal == "maximize", self.at, self.target)


@dataclass(frozen=True, slots=True)
class Budget:
    """Totals of the study; whichever is reached first ends it. time in seconds, patience in epochs."""

    trials: int | None = option(_COUNT, None, f"trials started; {DEFAULT_TRIALS} where no budget is named (grid: all)")
    total_epochs: int | None = option(_COUNT, None, "epochs trained, over all trials")
    time: float | None = option(Duration(), None, "active time, summed over resumes: 30m, 2h, 90s")
    patience: int | None = option(_COUNT, None, "epochs trained without a new best")


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Which trials are paused or stopped before their last epoch."""

    type: Literal["median", "asha"] = option(OneOf(("median", "asha"), foreign.RULES), "median", "median or asha")
    min_epochs: int = option(_COUNT, 1, "no trial is judged before")
    reduction: int = option(Number(low=2, high=100, whole=True), 3, "asha: one of so many goes on at each rung")
    interval: int = option(_COUNT, 1, "median: epochs between two judgements")
    min_trials: int = option(_COUNT, 5, "median: trials to compare with before one is stopped")


@dataclass(frozen=True, slots=True)
class Execution:
    """Where trials run and what each may use. Times in seconds, sizes in bytes."""

    engine: Literal["local", "inline", "ray"] = option(
        OneOf(("local", "inline", "ray"), foreign.ENGINES),
        "local",
        "local: worker processes; inline: this process; ray: a cluster",
    )
    address: str | None = option(Text(), None, "ray: the cluster, auto or ray://host:10001")
    cpus: float = option(Number(low=0, open_low=True), 1, "cores a trial")
    gpus: float | None = option(Number(low=0), None, "GPUs a trial; a fraction shares one")
    memory: int | None = option(Bytes(), None, "most memory a worker may use: 2GiB; more ends the trial as oom")
    report_timeout: float | None = option(Duration(), None, "silence after which a worker is replaced: 10m")
    trial_timeout: float | None = option(Duration(), None, "longest time of one training: 1h")
    checkpoints: int = option(Bytes(), 2 << 30, "most disk space for checkpoints")


@dataclass(frozen=True, slots=True)
class Tracking:
    """MLflow. uri None: mlflow.db beside the state; experiment None: the study's name."""

    uri: str | None = option(
        Text(r"\S+", "must be the address of an MLflow store", secret=True), None, "else MLFLOW_TRACKING_URI, else here"
    )
    experiment: str | None = option(Text(r"[^\n]{1,250}", "must be text of one line"), None, "else the study's name")
    register: str | None = option(
        Text(NAME, "must be letters, digits, . _ and -"), None, "name under which the best model is registered"
    )
    enabled: bool = option(Flag(), True, "false: no MLflow at all")


@dataclass(frozen=True, slots=True)
class Compare:
    """What `hpo compare` compares."""

    strategies: tuple[str, ...] = option(Several(_STRATEGY, 1, unique=True), STRATEGIES, "which strategies")
    seeds: int = option(Number(low=1, high=1000, whole=True), 10, "studies of each strategy")
    margin: float = option(Number(low=0), 0.002, "differences below are practically equal")
    parallel: int = option(_COUNT, 1, "trials at a time in each study, in virtual time")


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study as its file says it, with every default filled in."""

    name: str = option(
        Text(NAME, "must be letters, digits, . _ and -", "digits-cnn"),
        doc="names the study's folder and its MLflow experiment",
        example="digits-cnn",
    )
    strategy: Literal["bayesian", "random", "grid"] = option(
        _STRATEGY, "bayesian", "who proposes: bayesian, random, grid (ordered by usefulness)"
    )
    data: DataSpec | None = option(
        Either(
            Text(rule="must be a known name or a path"),
            Record(DataSpec, "data", foreign.DATA),
            "scalar",
            lambda source: DataSpec(source),
        ),
        None,
        f"{', '.join(DATA_SETS)}, a folder of images, file.npz, a folder of IDX files, or a mapping with source",
    )
    model: str = option(
        Text(f"{'|'.join(FAMILIES)}|{CODE}", "must be cnn, rnn or package.module:function"),
        "cnn",
        "cnn, rnn, or package.module:function of your own (params, input shape, outputs) -> nn.Module",
    )
    train: str | None = option(
        Text(CODE, "must be package.module:function"),
        None,
        "your own generator of reports; replaces the whole training",
    )
    prefix_safe: bool | None = option(
        Flag(), None, "your own training: epoch e does not depend on how many follow, so trials share epochs"
    )
    loss: Literal["cross_entropy", "squared_error"] = option(
        OneOf(
            ("cross_entropy", "squared_error"),
            foreign.LOSSES,
        ),
        "cross_entropy",
        "what SGD minimizes; squared_error where data.regression is true",
    )
    class_weights: bool = option(Flag(), False, "weigh rare classes up in the loss")
    metric: Metric = option(
        Either(
            Text(rule="must be a metric's name"),
            Record(Metric, "metric", foreign.METRIC),
            "scalar",
            lambda name: Metric(name),
        ),
        Metric(),
        "what is wanted: a name, or {name, goal, at, target}",
    )
    space: Space = option(
        Anything(SEARCH_SPACE),
        doc="the parameters, or a .yaml file of them beside this file",
        key="search_space",
        example="search_spaces/cnn-small.yaml",
    )
    constraints: tuple[Constraint, ...] = option(Anything(CONSTRAINTS), (), "conditions that every point must meet")
    start_with: tuple[Params, ...] = option(Anything(START_WITH), (), "points tried first; the rest of each is drawn")
    budget: Budget = option(
        Record(Budget, "budget", foreign.BUDGET),
        Budget(),
        "totals of the study; whichever is reached first",
    )
    early_stopping: EarlyStopping | None = option(
        Either(
            OneOf(("median", "asha"), foreign.RULES),
            Record(EarlyStopping, "early_stopping", foreign.EARLY_STOPPING),
            "scalar",
            lambda rule: EarlyStopping(rule),
        ),
        None,
        "median or asha, or a mapping",
    )
    workers: int | Literal["auto"] = option(
        Number(low=1, high=10_000, whole=True, words=("auto",)), "auto", "trials at a time; auto: one a core, or a GPU"
    )
    device: str = option(
        Text(r"auto|cpu|cuda(:[0-9]{1,3})?", "must be auto, cpu, cuda or cuda:1"), "auto", "auto, cpu, cuda, cuda:1"
    )
    execution: Execution = option(
        Either(
            OneOf(("local", "inline", "ray"), foreign.ENGINES),
            Record(Execution, "execution", foreign.EXECUTION),
            "scalar",
            lambda engine: Execution(engine),
        ),
        Execution(),
        "where trials run",
    )
    seed: int = option(_SEED, 0, "of the search")
    training_seed: int = option(_SEED, None, "of SGD; else the seed")
    tracking: Tracking = option(
        Either(
            Flag(),
            Record(Tracking, "tracking", foreign.TRACKING),
            "scalar",
            lambda enabled: Tracking(enabled=enabled),
        ),
        Tracking(),
        "where MLflow keeps what happened",
    )
    compare: Compare = option(
        Record(Compare, "compare", foreign.COMPARE),
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
        found = self.places.get(known, str(self.path or "the study"))
        return f"{found} {path}".strip()

    def fixed(self) -> dict[str, Any]:
        """What may not change between runs of one study, as JSON; the space is compared by `Space.widens`."""
        metric = {"name": self.metric.name, "goal": self.metric.goal, "at": self.metric.at}
        return {
            "strategy": self.strategy,
            "data": None if self.data is None else {**_plain(asdict(self.data)), "source": self.source(self.data)},
            "model": self.model,
            "train": self.train,
            "prefix_safe": self.prefix_safe,
            "loss": self.loss,
            "class_weights": self.class_weights,
            "metric": metric,
            "constraints": [constraint.text for constraint in self.constraints],
            "start_with": [dict(point) for point in self.start_with],
            "early_stopping": None if self.early_stopping is None else asdict(self.early_stopping),
            "seed": self.seed,
            "training_seed": self.training_seed,
        }

    def source(self, data: DataSpec) -> str:
        """Where the data are, as seen from the study file, so that a folder with both may move."""
        folder = None if self.path is None else self.path.absolute().parent
        source = Path(data.source)
        return str(source.relative_to(folder)) if folder and source.is_relative_to(folder) else data.source


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
