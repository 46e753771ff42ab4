"""Bayesian search: Optuna's TPE on an in-memory study that mirrors the trials.

    trial                        is for Optuna
    complete, pruned, or resting COMPLETE with its score (smaller is better); as PRUNED, any would be worse than all complete
    failed                       COMPLETE with a violated constraint; as FAIL, TPE would not see it and try it again
    running, or interrupted      RUNNING: TPE keeps away from it (constant liar)

TPE: J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; the multivariate, group-wise form is
S. Falkner et al., "BOHB", ICML 2018.
"""

import math
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.core import Params, Proposal, Start, State, Study, Trial, Value, digest, epochs_of
from hpo.space.domains import Choice, Domain, Parameter, Range, rounded
from hpo.strategies.points import Problem, Stream, frozen, random_points, start_points

STARTUP = 10  # trials before TPE has anything to go by
MOST_ASKS = 32  # proposals in a row that are known or infeasible before a random point is taken

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Tpe:
    """Asks once a trial, seeded by (study seed, trial number): with one worker, any interruption gives the same trials.

    Its first random points are random search's at the same seed, so that a comparison shares them and luck does not decide it.
    late: it begins once ten trials have come to a third of their epochs, not with any ten. Most have one epoch under early
    stopping, and where a point has neighbours without end it would stay with those that looked good there.
    """

    def __init__(self, problem: Problem, late: bool = False) -> None:
        self._problem, self._late = problem, late
        self._first = {frozen(params) for params in start_points(problem)}
        self._stream = Stream(problem, random_points(problem))
        self._coordinates = {p.name: Coordinate(p.domain) for p in problem.space.parameters}
        self._conditional = any(parameter.when for parameter in problem.space.parameters)
        self._seen: list[Trial] = []
        self._optuna = optuna.create_study(direction="minimize")

    def propose(self, study: Study, slots: int) -> Proposal:
        tried = self._stream.tried(study)
        number = len(study)
        far = [trial for trial in study.trials if trial.finished or 3 * trial.epoch >= trial.epochs]
        if (len(far) if self._late else number) >= STARTUP and tried >= self._first:
            self._follow(study)
            for attempt in range(MOST_ASKS):
                params = self._problem.extended(self._ask(number, attempt))
                if frozen(params) not in tried and self._problem.feasible(params) is None:
                    return [Start(params, epochs_of(params))]
        return self._stream.propose(study, 1)

    def _follow(self, study: Study) -> None:
        """Make the study that Optuna sees again from the trials whenever one of them has changed."""
        if len(self._seen) == len(study) and all(map(operator.is_, self._seen, study.trials)):
            return
        self._seen, replaced, whole = list(study.trials), study.replaced, self._problem.whole
        self._optuna = optuna.create_study(direction="minimize")
        kept = (trial for trial in study.trials if trial.number not in replaced)
        self._optuna.add_trials(for_optuna(whole(one.params), self._coordinates, **self._result(one)) for one in kept)

    def _ask(self, number: int, attempt: int) -> Params:
        """A point from TPE's posterior; a function of the trials, the number and the attempt."""
        seed = int(digest(["tpe", self._problem.seed, number, attempt])[:8], 16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group=True, wanted here
            self._optuna.sampler = TPESampler(
                n_startup_trials=STARTUP, seed=seed, multivariate=True, group=self._conditional, constant_liar=True
            )
        trial = self._optuna.ask()
        params: dict[str, Value] = {}
        for parameter in self._problem.space.parameters:
            if parameter.active(params):
                params[parameter.name] = self._coordinates[parameter.name].suggest(trial, parameter)
        self._optuna.tell(trial, state=TrialState.FAIL)  # which no sampler looks at: it may never be started
        return self._problem.space.with_derived(params)

    def _result(self, trial: Trial) -> dict[str, Any]:
        score = self._problem.goal.score(trial)
        rests = trial.finished or (trial.state is State.PAUSED and trial.epoch >= trial.until)
        if trial.state is State.FAILED or (rests and not math.isfinite(score)):
            return {"state": TrialState.COMPLETE, "value": math.inf, "constraints": {"trainable": 1.0}}
        return {"state": TrialState.COMPLETE, "value": score} if rests else {"state": TrialState.RUNNING}


class Coordinate:
    """One parameter as Optuna sees it: levels in an order become whole numbers, so that neighbours are near."""

    def __init__(self, domain: Domain, plain: bool = False) -> None:
        """plain: as one would write it for Optuna, with the values themselves."""
        self.domain = domain
        self._by_index = not plain and _ordered(domain)
        self.distribution = self._distribution()

    def _distribution(self) -> BaseDistribution:
        domain = self.domain
        if self._by_index:
            return IntDistribution(0, (domain.levels or 1) - 1)
        if isinstance(domain, Choice) or domain.gridded:
            return CategoricalDistribution([domain.level(index) for index in range(domain.levels or 1)])
        if domain.integer:
            return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return FloatDistribution(float(domain.low), float(domain.high), log=domain.log)

    def coordinate(self, value: Value) -> Value | None:
        """The value as Optuna sees it; None for one outside the space."""
        return self.domain.index(value) if self._by_index else self.domain.coerce(value)

    def suggest(self, trial: optuna.Trial, parameter: Parameter) -> Value:
        name, distribution = parameter.name, self.distribution
        if isinstance(distribution, IntDistribution):
            number = trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
            return self.domain.level(number) if self._by_index else number
        if isinstance(distribution, FloatDistribution):
            drawn = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
            return min(max(rounded(drawn), distribution.low), distribution.high)
        assert isinstance(distribution, CategoricalDistribution)
        value: Value = trial.suggest_categorical(name, distribution.choices)  # type: ignore[assignment]
        return value


def for_optuna(params: Params, coordinates: Mapping[str, Coordinate], **result: Any) -> FrozenTrial:
    """A trial with those of these params that lie in the space. result: its state, value and the like."""
    inside = {name: coordinates[name].coordinate(value) for name, value in params.items() if name in coordinates}
    own = {name: value for name, value in inside.items() if value is not None}
    return create_trial(params=own, distributions={name: coordinates[name].distribution for name in own}, **result)


def _ordered(domain: Domain) -> bool:
    """Whether the levels stand in an order worth telling."""
    if isinstance(domain, Range):
        return domain.gridded
    numbers = [value for value in domain.values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(domain.values) > 2 and numbers == sorted(numbers)
