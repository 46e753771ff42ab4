"""What a study's readings and the learned prior say of points and epochs that nobody has trained.

Everything is a function of (study, problem, prior) alone: hyperparameters are fitted to the first 15 * floor(n / 15)
readings in the journal's order, from a fixed start; the prior is asked point by point, whatever else is asked.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from threadpoolctl import ThreadpoolController

from hpo.core import Goal, Params, State, Study, Trial, epochs_of, without_epochs
from hpo.formatting import listed
from hpo.space.domains import Choice, Parameter
from hpo.strategies import encoding
from hpo.strategies import gaussian_process as gp
from hpo.strategies.encoding import Array, Images
from hpo.strategies.gaussian_process import EXPECTED, Encoded, Posterior
from hpo.strategies.points import Point, Problem, frozen
from hpo.strategies.prior import Experience, Prior, in_words

Candidate = tuple[Params, int]  # a point, and the epoch it is trained to
Reading = tuple[Params, int, float]  # a point, an epoch, the cost there

# epochs read of each training, besides its last
LADDER: Final = (1, 2, 3, 4, 6, 9, 13, 19, 27, 40, 60, 90, 135, 200)
MOST_READINGS = 400  # beyond, those of the best and of the latest trainings
EVERY, MOST_FITTED = 15, 210  # readings between two fits, and in the last of them
TRUST = 3.0  # trials that the prior's chance of failing weighs as much as
SLIGHT = 0.1  # of the differences that the prior expects: less is hardly used
CLEARLY = 2.5  # standard deviations by which the weight of a task that is named is above that of all
LIMITING: Final = threading.Lock()
ENGINE: Final = 3  # version of what proposes from a surrogate: raise it when proposals change


@cache
def blas() -> ThreadpoolController:
    """numpy's BLAS and scipy's, which is another."""
    import scipy.linalg  # noqa: F401 - what is not loaded yet is not found; see gaussian_process.py

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads of BLAS wait for cores that workers have, and round otherwise. The limit is the process's: one at a time."""
    with LIMITING, blas().limit(limits=1):
        yield


class Surrogate:
    """Judges candidates for the study as it stands. timed: the budget is a time, and an epoch costs what it may last."""

    def __init__(self, problem: Problem, prior: Prior, timed: bool = False) -> None:
        self._goal, self._prior, self._timed = problem.goal, prior, timed
        self._encoder = Encoder(problem, prior)
        self._hyper: tuple[Sequence[Reading], Array] | None = None
        self._factor: tuple[tuple[Sequence[Reading], bytes], Array] | None = None
        self._last: tuple[list[Trial], tuple[Scale, Posterior]] | None = None

    def expected(self, points: Sequence[Params]) -> Array:
        """What the prior alone thinks of each at its full length, above the worst of them, where it does not fail."""
        with one_thread():
            full = self._encoder.encode([(params, epochs_of(params)) for params in points])
        return np.asarray((1 - full.fails) * (full.zbar - full.zbar.min()))

    def worth(self, study: Study, candidates: Sequence[Candidate], looks: Sequence[int] = ()) -> Array:
        """Expected improvement of each at its full length, per epoch or second that it still takes, where it does not fail.

        looks: at which epoch each may be given up; without them none is. Then what a resting one is expected to become
        counts as reached, so that new points are judged by what they may add to it.
        """
        with one_thread():
            scale, belief = self._belief(study)
            full = self._encoder.encode([(params, epochs_of(params)) for params, _ in candidates])
            begun = np.array([epoch for _, epoch in candidates], float)
            left = np.maximum(1, np.array([epochs_of(params) for params, _ in candidates]) - begun)
            if looks:
                read = [on_ladder(params, look) for (params, _), look in zip(candidates, looks, strict=True)]
                mean, deviation, told = belief.foreseen(full, self._encoder.encode(read))
                best, first = max([self._best(study, scale, mean), *mean[begun > 0].tolist()]), looks - begun
                gain = gp.improvement_per_epoch(mean, deviation, told, best, first, left - first)
            else:
                mean, deviation = belief(full)
                gain = gp.improvement(mean, deviation, self._best(study, scale, mean)) / left
            worth: Array = gain * (1 - self._failing(study, full))
            return worth / self._seconds(study, full) if self._timed else worth

    def curve(self, study: Study, params: Params) -> tuple[Array, Array, Array]:
        """Epochs of a point's ladder, and mean and standard deviation of y at each."""
        epochs, (_, belief) = ladder(params), self._belief(study)
        return np.array(epochs, float), *belief(self._encoder.encode([(params, epoch) for epoch in epochs]))

    def learned(self, study: Study) -> str:
        """What the readings say of the prior, in a sentence; "" as long as they are too few."""
        read = thinned(readings(study, self._goal))
        if len(read) < EVERY:
            return ""
        with one_thread():
            scale, belief = self._belief(study)
            y, seen = scale(np.array([cost for _, _, cost in read])), belief.seen[: len(read)]
            one, other = np.triu_indices(len(y), 1)
            pairs = (y[one] != y[other]) & (seen.epochs[one] == seen.epochs[other])
            found, expected = ((of[one] - of[other])[pairs] for of in (y, seen.zbar))
            if not expected.any():
                return ""
            weights, clear = belief.tasks()
            blend = seen.z @ weights
            kept = expected @ (blend[one] - blend[other])[pairs] / (EXPECTED * expected @ expected)
        right = 100 * np.mean((expected > 0) == (found > 0))
        clearly = [i for i in np.argsort(-clear, kind="stable")[:2] if clear[i] > CLEARLY and weights[i] > 0]
        if clearly:
            use = f"the study is most like {listed([in_words(self._prior.tasks[i]) for i in clearly])}"
        elif kept < SLIGHT:
            use = "it has been turned around" if kept < -SLIGHT else "it is hardly used any more"
        else:
            use = "the study is like none of its tasks in particular"
        return f"The prior was right about which of two trainings is better in {right:.0f} of 100 cases; {use}."

    def _best(self, study: Study, scale: "Scale", mean: Array) -> float:
        """The best reading that counts; as long as there is none, the best that is expected."""
        scores = [self._goal.score(trial) for trial in study.trials if self._goal.counted(trial)]
        finite = [score for score in scores if math.isfinite(score)]
        return float(scale(np.array([min(finite)]))[0]) if finite else float(mean.max())

    def _belief(self, study: Study) -> tuple["Scale", Posterior]:
        if self._last is None or self._last[0] != study.trials:
            read, running = readings(study, self._goal), [study.trials[number] for number in study.running]
            at_work = [on_ladder(one.params, one.until) for one in [*running, *study.interrupted()]]
            self._last = list(study.trials), self._judged(thinned(read), self._fitted(read), at_work)
        return self._last[1]

    def _fitted(self, read: Sequence[Reading]) -> Array:
        """Hyperparameters, from the first readings alone, so that they change once in EVERY readings."""
        first = read[: min(EVERY * (len(read) // EVERY), MOST_FITTED)]
        if self._hyper is None or self._hyper[0] != first:
            costs = np.array([cost for _, _, cost in first])
            seen = self._encoder.encode([(params, epoch) for params, epoch, _ in first])
            self._hyper = first, gp.fitted(seen, Scale.of(costs, self._goal)(costs))
        return self._hyper[1]

    def _judged(self, read: Sequence[Reading], hyper: Array, running: Sequence[Candidate]) -> tuple["Scale", Posterior]:
        costs = np.array([cost for _, _, cost in read])
        scale = Scale.of(costs, self._goal)
        seen, y = self._encoder.encode([(params, epoch) for params, epoch, _ in read]), scale(costs)
        first = read[: min(EVERY * (len(read) // EVERY), MOST_READINGS)]  # as of `thinned`: they stay a while
        if self._factor is None or self._factor[0] != (first, hyper.tobytes()):
            self._factor = (first, hyper.tobytes()), gp.factored(hyper, seen[: len(first)])
        belief = Posterior.of(hyper, seen, y, self._factor[1])
        if running:  # what is being trained is taken to come out as expected
            pending = self._encoder.encode(running)
            expected = np.concatenate([y, belief(pending)[0]])
            belief = Posterior.of(hyper, gp.stacked(seen, pending), expected, belief.factor)
        return scale, belief

    def _failing(self, study: Study, at: Encoded) -> Array:
        """The chance that each fails: the prior's, and what became of trials near it."""
        ended = [trial for trial in study.trials if trial.state is State.FAILED or trial.epoch]
        if not any(trial.state is State.FAILED for trial in ended):
            return at.fails
        near = self._near(at, ended)
        failed = np.array([float(trial.state is State.FAILED) for trial in ended])
        return np.asarray((TRUST * at.fails + near @ failed) / (TRUST + near.sum(axis=1)))

    def _seconds(self, study: Study, at: Encoded) -> Array:
        """How long an epoch of each lasts: the geometric mean of all trials' epochs, and of those near it."""
        trained = [trial for trial in study.trials if trial.epoch]
        if not trained:
            return np.ones(len(at))
        last = np.log([np.mean([report.seconds for report in trial.reports]) + 1e-6 for trial in trained])
        near = self._near(at, trained)
        return np.asarray(np.exp((0.1 * last.mean() + near @ last) / (0.1 + near.sum(axis=1))))

    def _near(self, at: Encoded, trials: Sequence[Trial]) -> Array:
        """How much each (n) has to do with each of the trials (m), 0 to 1."""
        own = self._encoder.encode([(trial.params, trial.epochs) for trial in trials])
        return np.asarray(np.exp(-4 * gp.apart(at, own) ** 2))


def readings(study: Study, goal: Goal) -> list[Reading]:
    """Every training at the epochs of its ladder, in the journal's order; one that failed is infinitely bad at its end."""
    found: list[tuple[int, Reading]] = []
    for key in study.trainings:
        trial = max(study.readers(key), key=lambda one: one.epoch)
        for epoch in ladder(trial.params):
            if epoch <= trial.epoch:
                cost = goal.cost(trial.reports[epoch - 1])
                read = trial.params, epoch, cost if math.isfinite(cost) else math.inf
                found.append((study.charged[key][epoch - 1], read))
        if trial.state is State.FAILED:
            found.append((study.spent[trial.number], (trial.params, trial.epochs, math.inf)))
    found.sort(key=lambda one: one[0])
    return [one for _, one in found]


def ladder(params: Params) -> list[int]:
    """The epochs at which a training of this point is read."""
    full = epochs_of(params)
    return sorted({full, *(epoch for epoch in LADDER if epoch < full)})


def on_ladder(params: Params, epoch: int) -> Candidate:
    """The last epoch that a training is read at up to this one."""
    return params, max(one for one in ladder(params) if one <= max(1, epoch))


def experience(studies: Sequence[Study], goal: Goal, images: Images) -> Experience | None:
    """What studies on the same pictures have read of a metric, each training once; None if they never did."""
    every = {(frozen(one[0]), *one[1:]): one for study in studies for one in readings(study, goal)}
    read = thinned([*every.values()])
    costs = np.array([cost for _, _, cost in read])
    if not np.isfinite(costs).any():
        return None
    points = {frozen(params): encoding.encode(params, images) for params, _, _ in read}
    rows = [encoding.at_epochs(points[frozen(p)], p, np.array([float(epoch)])) for p, epoch, _ in read]
    return np.vstack(rows), Scale.of(costs, goal)(costs) / EXPECTED


def thinned(read: Sequence[Reading]) -> list[Reading]:
    """At most MOST_READINGS of the first EVERY * floor(n / EVERY), their best and latest halves, and the rest, in order."""
    whole = EVERY * (len(read) // EVERY)
    if whole <= MOST_READINGS:
        return list(read)
    latest = range(whole - MOST_READINGS // 2, len(read))
    best = sorted(range(latest.start), key=lambda index: (read[index][-1], index))[: MOST_READINGS // 2]
    return [read[index] for index in (*sorted(best), *latest)]


@dataclass(frozen=True)
class Scale:
    """How costs become y: a share of 1 by what is missing of it, others by their spread; an infinite one is the worst."""

    share: bool = True
    log: bool = False
    middle: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, costs: Array, goal: Goal) -> "Scale":
        costs = costs[np.isfinite(costs)]
        if goal.maximize and (costs >= -1).all() and (costs <= 0).all():
            return cls()
        log = bool((costs > 0).all())
        turned = np.log(costs) if log else costs
        low, middle, high = np.quantile(turned, [0.25, 0.5, 0.75]) if len(turned) else (0.0, 0.0, 1.0)
        return cls(False, log, float(middle), max(float(high - low), 1e-9 * max(1.0, abs(float(middle)))))

    def __call__(self, costs: Array) -> Array:
        if self.share:
            return np.asarray(-np.log(1.02 + np.clip(costs, -1, 0)))
        turned = np.log(np.maximum(costs, 1e-300)) if self.log else costs
        return np.asarray(np.clip((self.middle - turned) / self.spread, -3, 6) * EXPECTED)


# -- points as numbers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Known:
    """One point: its number, u, and at each epoch of its ladder z and the chance of failing."""

    number: int
    u: Array
    z: Array
    fails: Array
    row: dict[int, int]  # epoch -> row of z and fails


class Encoder:
    """Points of one problem as the surrogate sees them; each is looked at once, by itself, at every epoch of its ladder."""

    def __init__(self, problem: Problem, prior: Prior) -> None:
        self._problem, self._prior = problem, prior
        self._known: dict[Point, Known] = {}
        self._numbers: dict[Point, int] = {}
        self._width = len(places(problem.space.parameters, {}))

    def encode(self, wanted: Sequence[tuple[Params, int]]) -> Encoded:
        """Points at epochs of their ladders."""
        known = [(self._look(params), epoch) for params, epoch in wanted]
        z = np.array([one.z[one.row[epoch]] for one, epoch in known]).reshape(len(known), len(self._prior.tasks))
        return Encoded(
            z=z,
            u=np.array([one.u for one, _ in known]).reshape(len(known), self._width),
            epochs=np.log(np.array([epoch for _, epoch in known], float)),
            point=np.array([one.number for one, _ in known], float),
            fails=np.array([one.fails[one.row[epoch]] for one, epoch in known], float),
            zbar=z.mean(axis=1),
        )

    def _look(self, params: Params) -> Known:
        point = frozen(params)
        if point not in self._known:
            assert self._problem.images is not None
            epochs = ladder(params)
            own = encoding.encode(params, self._problem.images)
            features = encoding.at_epochs(own, params, np.array(epochs, float))
            z, fails = self._prior.predict(features)
            number = self._numbers.setdefault(frozen(without_epochs(params)), len(self._numbers))
            u = places(self._problem.space.parameters, self._problem.whole(params))
            self._known[point] = Known(number, u, z, fails, {epoch: i for i, epoch in enumerate(epochs)})
        return self._known[point]


def places(parameters: Sequence[Parameter], params: Params) -> Array:
    """Where each value lies in its range, -1 to 1; kinds as bits; whether a conditional parameter is there."""
    found: list[float] = []
    for parameter in parameters:
        domain, value = parameter.domain, params.get(parameter.name)
        if domain.levels == 1 or parameter.name == "epochs":
            continue
        if isinstance(domain, Choice) and any(isinstance(one, str | bool) for one in domain.values):
            found += [0.7 * (value == one) for one in domain.values]
        else:
            inside = None if value is None else domain.coerce(value)
            found.append(0.0 if inside is None else 2 * domain.encode(inside) - 1)
        if parameter.when:
            found.append(0.5 * (value is not None))
    return np.array(found)
