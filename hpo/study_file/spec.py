"""The sections of a study file as frozen dataclasses: types, defaults, checks, documentation.

`reader` reads a file into them; template.yaml shows every key; other_tools.json holds other tools' words for them.
"""

# ruff: noqa: RUF009 - option() is dataclasses.field

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Final, Literal

from hpo.core import EPOCHS, UNSAFE, Goal, Params
from hpo.formatting import listed
from hpo.space.domains import Choice, Parameter
from hpo.space.expressions import Constraint
from hpo.space.space import Space
from hpo.study_file.fields import BYTES, FLAG, NODE, TIME, Record, Several, flag_or, number, one_of, option, text

STRATEGIES: Final = ("bayesian", "random", "grid")  # ordered by usefulness
FAMILIES: Final = ("cnn", "rnn")
DATA_SETS: Final = ("digits", "digits-hard", "mnist", "fashion-mnist", "cifar10")
DEFAULT_TRIALS: Final = 20  # where a bayesian or random study names no budget: minutes on digits
DEFAULT_EPOCHS: Final = 10  # where the search space has no `epochs`
STOPPING: Final = ("predictive", "median", "asha", "patience")
WAIT: Final = 5  # epochs without a better one, where early_stopping: patience gives no number

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
CODE: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"

_SHARE: Final = number(above=0, high=1)
_COUNT: Final = number(1, whole=True)
_SEED: Final = number(0, 2**53, whole=True)
TPE: Final = "tpe"  # Optuna's, to compare with
_WARM_START: Final = one_of("builtin", "none", both="studies")
_STRATEGY: Final = one_of(*STRATEGIES, TPE)
_SIDES: Final = Several(number(1, 4096, whole=True), 2, broadcast=True)
_METRIC: Final = r"[A-Za-z_][A-Za-z0-9_/ -]*(?:\..+)?"
_ANY_METRIC: Final = text(f"{CODE}|{_METRIC}", "must be a metric's name, or package.module:function")
_METRICS: Final = Several(_ANY_METRIC, broadcast=True)
_LETTERS: Final = "must be letters, digits, . _ and -"
_NAME: Final = text(NAME, _LETTERS, "digits-cnn")
_LINE: Final = text(r"[^\n]{1,250}", "must be text of one line")
_COPIES: Final = one_of("keep", "drop")
_LOSS: Final = one_of("cross_entropy", "squared_error")
_ENGINE: Final = one_of("local", "inline", "ray")
_FACTOR: Final = number(2, 100, whole=True)
_WORKERS: Final = number(1, 10_000, whole=True, word="auto")
_FUNCTION: Final = text(CODE, "must be package.module:function")
_REGISTERED: Final = text(NAME, _LETTERS, off=True)
_DEVICE: Final = text(r"auto|cpu|cuda(:[0-9]{1,3})?", "must be auto, cpu, cuda or cuda:1")
_COLOUR: Final = text("white|black|#[0-9A-Fa-f]{6}", 'must be white, black or a colour as "#ff8800"')
_ADDRESS: Final = text(r"\S+", "must be the address of an MLflow store, without blanks", secret=True)
_MODEL: Final = text(f"{'|'.join(FAMILIES)}|{CODE}", "must be cnn, rnn or package.module:function")


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the data; a source that comes with its own splits keeps those."""

    train: float = option(_SHARE, 0.7, "share that is trained on")
    val: float = option(_SHARE, 0.15, "share that trials are compared on")
    test: float = option(_SHARE, 0.15, "share read once, for the best trial")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where the images are and how they are read. source: a known name or an absolute path."""

    source: str = option(
        text(rule="must be a known name or a path"),
        doc=f"{', '.join(DATA_SETS)}, a folder of images, file.npz, ...",
        example="digits",
    )
    resize: tuple[int, int] | None = option(_SIDES, None, "height and width of all images: 32 or [32, 48]")
    split: Split = option(Record(Split, "split", listed=Several(_SHARE, 3)), Split(), "shares of train, val and test")
    regression: bool = option(FLAG, False, "the targets are numbers, not classes")
    grey: bool = option(FLAG, False, "read colour images as grey")
    background: str = option(_COLOUR, "white", "the colour that transparent pixels of image files are drawn on")
    damaged: str = option(one_of("refuse", "skip"), "refuse", "what becomes of files that cannot be read as images")
    duplicates: str = option(_COPIES, "keep", "drop: one of images with the same pixels is used, of two classes none")
    limit: int | None = option(_COUNT, None, "use at most this many images")


@dataclass(frozen=True, slots=True)
class Metric:
    """The metric that is optimized."""

    name: str = option(text(_METRIC, "must be a metric's name"), "val_accuracy", "its name")
    goal: str = option(one_of("maximize", "minimize"), "maximize", "the better direction; default: by the metric")
    at: str = option(one_of("last", "best"), "last", "which epoch of a trial counts")
    target: float | None = option(number(), None, "the study ends when a trial reaches it at an epoch that counts")


@dataclass(frozen=True, slots=True)
class Budget:
    """Totals of the study; whichever is reached first ends it. time in seconds, patience in epochs."""

    trials: int | None = option(_COUNT, None, f"trials started; default: {DEFAULT_TRIALS} (grid: all)")
    total_epochs: int | None = option(_COUNT, None, "epochs trained, over all trials")
    time: float | None = option(TIME, None, "active time, summed over resumes: 30m, 2h, 90s")
    patience: int | None = option(_COUNT, None, "epochs trained without a new best")


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Which trials are paused or stopped before their last epoch."""

    type: str = option(one_of(*STOPPING, absent="null, or leave it out"), "median", listed(STOPPING, "or"))
    min_epochs: int = option(_COUNT, 1, "no trial is stopped before this epoch")
    reduction: int = option(_FACTOR, 3, "asha: one in this many continues; predictive: factor between rungs")
    interval: int = option(_COUNT, 1, "median: epochs between two judgements")
    min_trials: int = option(_COUNT, 5, "median: trials to compare with before one is stopped")
    epochs: int | None = option(_COUNT, None, f"patience: epochs without a better one; default: {WAIT}")
    patience: int | None = option(_COUNT, None, "the same beside another type")

    @property
    def waits(self) -> int | None:
        return (self.epochs or WAIT) if self.type == "patience" else self.patience

    def rungs(self, epochs: int) -> Collection[int]:
        """Where a trial of so many epochs may rest by its type, its end included."""
        if self.type in ("median", "patience"):
            return {*range(self.min_epochs, epochs if self.type == "median" else 0, self.interval), epochs}
        powers = takewhile(lambda rung: rung < epochs, (self.min_epochs * self.reduction**k for k in count()))
        return {*powers, epochs}


@dataclass(frozen=True, slots=True)
class Execution:
    """Where trials run and what each may use. Times in seconds, sizes in bytes."""

    engine: str = option(_ENGINE, "local", "local: worker processes; inline: this process; ray: a cluster")
    address: str | None = option(text(), None, "ray: the cluster, auto or ray://host:10001")
    cpus: float = option(number(above=0), 1, "cores a trial")
    gpus: float | None = option(number(0), None, "GPUs a trial; a fraction shares one")
    memory: int | None = option(BYTES, None, "most memory a worker may use: 2GiB; more ends the trial as oom")
    report_timeout: float | None = option(TIME, None, "a worker silent for this long is replaced: 10m")
    trial_timeout: float | None = option(TIME, None, "longest time of one training: 1h")
    checkpoints: int = option(BYTES, 2 << 30, "most disk space for checkpoints")


@dataclass(frozen=True, slots=True)
class Tracking:
    """MLflow. uri None: mlflow.db beside the state; experiment None: the study's name."""

    uri: str | None = option(_ADDRESS, None, "the store; default: MLFLOW_TRACKING_URI, else mlflow.db beside the study")
    experiment: str | None = option(_LINE, None, "default: the study's name")
    register: str | Literal[False] | None = option(
        _REGISTERED, None, "name of the best model in the registry, or false; default: the study's name"
    )
    enabled: bool = option(FLAG, True, "false: no MLflow at all")


@dataclass(frozen=True, slots=True)
class Compare:
    """What `hpo compare` compares."""

    strategies: tuple[str, ...] = option(Several(_STRATEGY), STRATEGIES, "which strategies")
    seeds: int = option(number(1, 1000, whole=True), 10, "studies of each strategy")
    margin: float = option(number(0), 0.002, "smaller differences are practically equal")


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study as its file says it, with every default filled in."""

    name: str = option(_NAME, doc="names the study's folder and MLflow experiment", example="digits-cnn")
    strategy: str = option(_STRATEGY, "bayesian", "bayesian, random or grid, ordered by usefulness; or Optuna's tpe")
    warm_start: str = option(
        _WARM_START, "builtin", "known before: recorded trainings, your own studies too, or nothing"
    )
    data: DataSpec | None = option(
        Record(DataSpec, "data", short="source"),
        None,
        f"{', '.join(DATA_SETS)}, a folder of images, file.npz, a folder of IDX files, or a mapping with source",
    )
    model: str = option(
        _MODEL, "cnn", "cnn, rnn, or package.module:function of your own (params, input shape, outputs) -> nn.Module"
    )
    train: str | None = option(_FUNCTION, None, "your own generator of reports; replaces the training")
    prefix_safe: bool | None = option(
        FLAG, None, "your own training: epoch e does not depend on how many follow, so trials share epochs"
    )
    loss: str = option(_LOSS, "cross_entropy", "what SGD minimizes; squared_error for regression")
    class_weights: bool | str = option(
        flag_or("sampling"), False, "weigh rare classes up in the loss; sampling: draw more of them"
    )
    metric: Metric = option(Record(Metric, "metric", short="name"), Metric(), "a name, or {name, goal, at, target}")
    metrics: tuple[str, ...] = option(
        _METRICS, (), "recorded besides: val_auc, val_f1, val_f1.cat of a class, your own function (targets, outputs)"
    )
    space: Space = option(
        NODE,
        doc="the parameters, a .yaml file of them, or a shipped space: cnn-small, cnn, rnn, training-only",
        key="search_space",
        example="cnn-small",
    )
    constraints: tuple[Constraint, ...] = option(NODE, (), "conditions that every point must meet")
    start_with: tuple[Params, ...] = option(NODE, (), "points tried first; the rest of each is drawn")
    budget: Budget = option(Record(Budget, "budget"), Budget(), "totals of the study; whichever is reached first")
    early_stopping: EarlyStopping | None = option(
        Record(EarlyStopping, "early_stopping", short="type"), None, f"{', '.join(STOPPING)}, or a mapping"
    )
    workers: int | Literal["auto"] = option(_WORKERS, "auto", "trials at a time; auto: one a core, or a GPU")
    device: str = option(_DEVICE, "auto", "auto, cpu, cuda, cuda:1")
    precision: str = option(one_of("fp32", "bf16"), "fp32", "of training steps: fp32 or bf16")
    execution: Execution = option(Record(Execution, "execution", short="engine"), Execution(), "where trials run")
    seed: int = option(_SEED, 0, "seed of the search")
    training_seed: int | None = option(_SEED, None, "seed of SGD and of the split; default: seed")
    tracking: Tracking = option(Record(Tracking, "tracking", short="enabled"), Tracking(), "where MLflow has the runs")
    compare: Compare = option(Record(Compare, "compare"), Compare(), "what `hpo compare` compares")

    path: Path | None = field(default=None, compare=False)
    text: str = field(default="", compare=False, repr=False)  # the file as written
    space_text: str = field(default="", compare=False, repr=False)  # the space's own file, if it has one
    sets: tuple[str, ...] = field(default=(), compare=False)  # `--set`s on top
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    counted: Collection[int] = field(default=(), compare=False)  # epochs that ever counted in this study

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", with_epochs(self.space))
        if self.strategy != "grid" and not (self.budget.trials or self.budget.total_epochs or self.budget.time):
            object.__setattr__(self, "budget", replace(self.budget, trials=DEFAULT_TRIALS))

    @property
    def base_seed(self) -> int:
        """Of SGD and of the split: each seed of a comparison has another, unless the file gives one for all."""
        return self.seed if self.training_seed is None else self.training_seed

    @property
    def goal(self) -> Goal:
        """What counts: the values of `epochs`; where it has one, the epochs at which a trial may rest too; with patience all."""
        own, stopping, longest = self.metric, self.early_stopping, self.space.longest
        lengths: Collection[int] = self.space.lengths
        if stopping is not None and (stopping.waits or len(lengths) == 1):
            lengths = range(1, longest + 1) if stopping.waits else stopping.rungs(longest)
        unsafe = UNSAFE if self.train is None else None  # a trainer of one's own is safe for all trials, or for none
        lengths = () if self.train is not None and not self.prefix_safe else {*lengths, *self.counted}
        return Goal(own.name, own.goal == "maximize", own.at, own.target, lengths, unsafe)

    def place(self, path: str) -> str:
        """Where the file gives a value, for a message: "study.yaml:7:12 search_space.learning_rate.min"."""
        known = path
        while known and known not in self.places:
            known = known.rpartition(".")[0]
        return f"{self.places.get(known, self.path or 'the study')} {path}".strip()

    def fixed(self) -> dict[str, Any]:
        """What may not change between runs of one study, as JSON; the space is compared when it is opened."""
        same = ("strategy", "model", "train", "prefix_safe", "loss", "class_weights", "seed")
        return {
            "training_seed": self.base_seed,
            **{name: getattr(self, name) for name in same},
            **({"precision": self.precision} if self.precision != "fp32" else {}),  # as journals without it mean fp32
            "data": None if self.data is None else {**asdict(self.data), "source": self.source(self.data)},
            "metric": {"name": self.metric.name, "goal": self.metric.goal, "at": self.metric.at},
            "metrics": [*self.metrics] or None,
            "constraints": [constraint.text for constraint in self.constraints],
            "start_with": [dict(point) for point in self.start_with],
            "early_stopping": (rule := self.early_stopping)
            and {k: v for k, v in asdict(rule).items() if v is not None},
        }

    def admits(self, params: Params) -> bool:
        """Whether these values meet the constraints, as far as they decide them."""
        return all(constraint.holds(params) for constraint in self.constraints)

    def source(self, data: DataSpec) -> str:
        """Where the data are, as seen from the study file, so that a folder with both may move."""
        folder, source = self.path and self.path.absolute().parent, Path(data.source)
        return str(source.relative_to(folder)) if folder and source.is_relative_to(folder) else data.source


def with_epochs(space: Space) -> Space:
    """The space itself if it has `epochs`, else with the default as a constant."""
    constant = Parameter(EPOCHS, Choice((DEFAULT_EPOCHS,)))
    return space if EPOCHS in space else Space((*space.parameters, constant), space.derived)
