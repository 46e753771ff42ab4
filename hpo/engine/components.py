"""The composition root: the only place where the names in a study file become objects."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hpo import provenance
from hpo.core import Factory, Feasible, Limits, Params, Strategy, Value, training_key, training_seed
from hpo.data.dataset import Dataset
from hpo.engine.search import Identity
from hpo.errors import BadInput, Mistake
from hpo.execution import local
from hpo.execution.job_runner import InlineExecutor
from hpo.execution.local import LocalExecutor
from hpo.models import families, user
from hpo.models.parameters import prefix_safe
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Asha, Median, Patience, Predictive
from hpo.strategies.encoding import Images
from hpo.strategies.points import CONFIRM, RANDOM_X2, WITH_ASHA, Grid, Problem, Random, Repeats
from hpo.strategies.surrogate import Surrogate
from hpo.study_file.rules import measured
from hpo.study_file.spec import EarlyStopping, StudySpec
from hpo.training.recipe import Recipe

if TYPE_CHECKING:
    from hpo.execution.ray import RayExecutor


def tpe(problem: Problem, late: bool = False) -> Strategy:
    from hpo.strategies.tpe import Tpe  # optuna: 0.3 s

    return Tpe(problem, late)


Maker = Callable[[Problem], Strategy]
MAKERS: Mapping[str, Maker] = {"bayesian": tpe, "tpe": tpe, "random": Random, "grid": Grid}  # where there is no prior
OTHERS: Mapping[str, Maker] = {CONFIRM: Repeats, RANDOM_X2: Random}
STRATEGIES = {**MAKERS, **OTHERS, **{asha: MAKERS[name] for name, asha in WITH_ASHA.items()}}
HEAVY = ("torch", "hpo.training.loop")  # what a worker imports while the driver reads the data


@dataclass(frozen=True)
class Components:
    """The objects of one study once its data are known. dataset is None where a user's own trainer needs none."""

    spec: StudySpec
    dataset: Dataset | None
    placement: Sequence[str]  # the device of each worker
    numerics: Mapping[str, Value]
    known: prior.LearnedPrior | None  # what its search knows before it begins, where it asks for that

    def problem(self) -> Problem:
        spec, data, feasible, goal = self.spec, self.dataset, self.feasible(), self.spec.goal
        images = None if data is None else Images(data.shape, data.outputs, len(data.train))
        own = spec.start_with, spec.constraints, families.completing(spec)
        problem = Problem(spec.space, goal, spec.seed, feasible, *own, images=images)
        today = replace(goal, epochs={*goal.epochs} & {*spec.space.lengths})  # not all that counts can be asked for
        return replace(problem, extended=partial(today.extended, feasible=feasible)) if spec.early_stopping else problem

    def strategy(self) -> Strategy:
        spec, problem = self.spec, self.problem()
        surrogate = self.surrogate(problem)
        if spec.strategy == "bayesian" and surrogate is not None:
            strategy: Strategy = Bayesian(problem, surrogate)
        elif spec.strategy == "bayesian" and (spec.train is not None or spec.model != "cnn"):
            strategy = tpe(problem, late=True)  # names of parameters that do not say what they mean
        else:
            strategy = STRATEGIES[spec.strategy](problem)
        return stopping(None if trains_whole(spec) else spec.early_stopping, strategy, problem, surrogate)

    def surrogate(self, problem: Problem) -> Surrogate | None:
        """None where nothing asks for it, or nothing is known before."""
        own, budget = self.known, self.spec.budget
        timed = budget.trials is None and budget.total_epochs is None and budget.time is not None
        return None if own is None else Surrogate(problem, own, timed)

    def feasible(self) -> Feasible:
        """Why a point can never be trained: an impossible architecture, or a constraint it breaks."""
        model = "" if self.spec.train else self.spec.model
        shape, outputs = (self.dataset.shape, self.dataset.outputs) if self.dataset else ((), 0)
        return lambda params: families.infeasible(model, params, shape, outputs, self.spec.constraints)

    def identity(self) -> Identity:
        declared = self.spec.prefix_safe

        def name(params: Params, repeat: int) -> tuple[str, int]:
            seed = training_seed(self.spec.base_seed, params, repeat)
            safe = bool(declared) if self.spec.train else prefix_safe(params)
            return training_key(params, seed, self.numerics, safe), seed

        return name

    def limits(self) -> Limits:
        execution = self.spec.execution
        return Limits(execution.report_timeout, execution.trial_timeout, execution.memory)

    def factories(self) -> Sequence[Factory]:
        return [recipe(self.spec, self.dataset, device) for device in self.placement]


def recipe(spec: StudySpec, dataset: Dataset | None, device: str) -> Recipe:
    data, split = (dataset.folder, dataset.split) if dataset is not None else (None, None)
    folder = spec.path.parent.resolve() if spec.path is not None else None
    own = spec.class_weights, spec.train, folder, measured(spec)
    return Recipe(spec.model, spec.loss, data or Path(), device, *own, split=split, precision=spec.precision)


def assemble(spec: StudySpec, dataset: Dataset | None, placement: Sequence[str]) -> Components:
    own = spec.loss, spec.class_weights, user_code(spec), spec.precision, measured(spec)
    numerics = provenance.numerics(dataset.digest if dataset is not None else "none", placement[0], *own)
    numerics |= {"split": dataset.split} if dataset is not None else {}
    return Components(spec, dataset, placement, numerics, prior.of(spec))


def trains_whole(spec: StudySpec) -> bool:
    """Whether an epoch of the user's own trainer may depend on how many follow, so that none can be predicted."""
    rule, unsafe = spec.early_stopping, spec.train is not None and not spec.prefix_safe
    return unsafe and rule is not None and rule.type in ("predictive", "patience")


def stopping(rule: EarlyStopping | None, strategy: Strategy, problem: Problem, surrogate: Surrogate | None) -> Strategy:
    """Nothing can be predicted without a surrogate: asha does as well then."""
    if rule is None:
        return strategy
    if rule.type == "predictive" and surrogate is not None:
        strategy = Predictive(strategy, surrogate, problem.goal, rule)
    elif rule.type == "median":
        strategy = Median(strategy, problem.goal, rule)
    elif rule.type != "patience":
        strategy = Asha(strategy, problem.goal, rule)
    return Patience(strategy, problem.goal, rule) if rule.waits else strategy


def user_code(spec: StudySpec) -> str:
    """The digest of the user's own code that trains; "none" where all of it is ours. Raises BadInput."""
    folder, place = spec.path.parent if spec.path else None, str(spec.path or "study")
    every = (spec.model, spec.train or "", *spec.metrics)
    own = [reference for reference in every if user.is_reference(reference)]
    return "+".join(user.code_digest(one, folder, f"{place}: {one}") for one in own) or "none"


def start_executor(spec: StudySpec, placement: Sequence[str]) -> "LocalExecutor | InlineExecutor | RayExecutor":
    """Workers that start at once; `begin` gives them their trainers when the data are there."""
    modules = HEAVY if spec.train is None else ()
    match spec.execution.engine:
        case "inline":
            return InlineExecutor()
        case "ray":
            return _ray(spec, placement, modules)
        case _:
            return LocalExecutor(len(placement), modules)


def _ray(spec: StudySpec, placement: Sequence[str], modules: Sequence[str]) -> "RayExecutor":
    refuse_missing_ray(spec)
    from hpo.execution.cluster import Resources
    from hpo.execution.ray import RayExecutor

    own, most = spec.execution, None if spec.workers == "auto" else int(spec.workers)
    resources = Resources(own.cpus, float(placement[0] != "cpu") if own.gpus is None else own.gpus)
    return RayExecutor(resources, most, modules, own.address, place=spec.place("execution.address"))


def placement(spec: StudySpec) -> Sequence[str]:
    """The device of each worker. Raises BadInput for a device that is not there."""
    if spec.execution.engine == "ray":
        refuse_missing_ray(spec)
        from hpo.execution.cluster import cluster_devices

        return cluster_devices(spec)
    own = spec.execution
    all_devices = local.worker_devices(spec.device, spec.workers, spec.place, cpus=own.cpus, gpus=own.gpus)
    return all_devices[:1] if own.engine == "inline" else all_devices


def refuse_missing_ray(spec: StudySpec) -> None:
    """Ray is an extra, imported for a study that asks for it only. Raises BadInput where it is not installed."""
    if importlib.util.find_spec("ray") is None:
        remedy = "in a checkout of hpo: pip install '.[ray]'"
        raise BadInput(Mistake(spec.place("execution.engine"), "needs the package ray", "none here", remedy))
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # read at import; what Ray prints is not for the user
