"""A Gaussian process over points and epochs, whose mean and covariance are learned from recorded trainings.

    y      a reading, turned so that larger is better and steps near the top count
    z      (n, T) what each task of the prior says of a point at an epoch; zbar its mean over the tasks
    u      (n, D) the place of each parameter in its own range
    k      covariance: level + log epoch + scale * zbar zbar' + tasks * z z' / T
                     + (residual * Matern-5/2(u) + training * [same training]) * exp(-|log epoch ratio| / fade) + noise

So which tasks a study is like, and whether the prior helps at all, is a Bayesian linear regression on its own readings.

C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, algorithm 2.1. A learned
mean and covariance: Z. Wang et al., "Pre-trained Gaussian processes for Bayesian optimization", JMLR 2024.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from hpo.strategies.encoding import Array

STEPS = 8  # of a fit
LEVEL, RISE = 1.0, 0.3  # standard deviations that are not fitted: of the study's level, and of its slope over log epoch
QUANTILES = 16  # of a reading that is yet to come
EXPECTED = 0.4  # what one standard deviation of the prior's tasks is worth in y, before any reading
# scale, tasks, residual, length, fade, training, noise: how they were chosen is in docs/searching.md
START: Final = np.log([0.3, 2.0, 0.125, 0.7, 0.6, 0.2, 0.07])
WIDTH: Final = np.array([0.5, 0.3, 0.7, 0.6, 0.5, 0.7, 0.7])  # standard deviation of each, in its logarithm


NOTHING: Final = np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class Encoded:
    """Points at epochs, n of them: z (n, T), u (n, D), log epochs, numbers of the points, chances of failing."""

    z: Array
    u: Array
    epochs: Array
    point: Array
    fails: Array
    zbar: Array

    def __getitem__(self, rows: slice) -> "Encoded":
        return Encoded(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.epochs)


def stacked(a: Encoded, b: Encoded) -> Encoded:
    return Encoded(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in Encoded.__dataclass_fields__))


def apart(a: Encoded, b: Encoded) -> Array:
    """Distances (n, m) of points; 1 is what two random ones have, whatever the number of parameters."""
    square = (a.u**2).sum(1)[:, None] + (b.u**2).sum(1)[None] - 2 * a.u @ b.u.T
    return np.asarray(np.sqrt(2 * np.maximum(square, 0) / max(1, a.u.shape[1])))


def covariance(a: Encoded, b: Encoded) -> Callable[[Array], Array]:
    """Of a (n) with b (m), (n, m), as a function of the hyperparameters; what these do not change is worked out once."""
    rise, ratio = np.outer(a.epochs, b.epochs), np.abs(a.epochs[:, None] - b.epochs[None])
    zbar, z = np.outer(a.zbar, b.zbar), a.z @ b.z.T / a.z.shape[1]
    distance, same = apart(a, b), (a.point[:, None] == b.point[None]).astype(float)

    def under(hyper: Array) -> Array:
        scale, tasks, residual, length, fade, training, _ = np.exp(hyper)
        near = math.sqrt(5) / length * distance
        own = residual**2 * (1 + near + near**2 / 3) * np.exp(-near) + training**2 * same
        known = LEVEL**2 + RISE**2 * rise + scale**2 * zbar + tasks**2 * z
        return np.asarray(known + np.exp(-ratio / fade) * own)

    return under


@dataclass(frozen=True, eq=False)
class Posterior:
    """factor: Cholesky's of the covariance of what was seen; weights: its inverse times what the prior did not expect."""

    hyper: Array
    seen: Encoded
    factor: Array
    weights: Array

    @classmethod
    def of(cls, hyper: Array, seen: Encoded, y: Array, known: Array = NOTHING) -> "Posterior":
        """known: the factor of the first of them."""
        import scipy  # here and below: 0.4 s, with what is used of it, that `hpo status` and a start do without

        factor = factored(hyper, seen, known)
        weights = scipy.linalg.cho_solve((factor, True), y - EXPECTED * seen.zbar, check_finite=False)
        return cls(hyper, seen, factor, weights)

    def __call__(self, at: Encoded) -> tuple[Array, Array]:
        """Mean and standard deviation (n,) of y there."""
        mean, known = self._by_seen(at)
        return mean, np.sqrt(np.maximum(self._paired(at, at) - (known**2).sum(0), 1e-10))

    def foreseen(self, at: Encoded, look: Encoded) -> tuple[Array, Array, Array]:
        """Mean and standard deviation (n,) of y there, and that of what the mean becomes once the same is read at `look`."""
        mean, known = self._by_seen(at)  # once for all three: half of what a decision takes
        other = self._by_seen(look)[1]
        deviation = np.sqrt(np.maximum(self._paired(at, at) - (known**2).sum(0), 1e-10))
        both = self._paired(at, look) - (known * other).sum(0)
        read = self._paired(look, look) - (other**2).sum(0) + np.exp(2 * self.hyper[-1])
        return mean, deviation, np.abs(both) / np.sqrt(np.maximum(read, 1e-10))

    def _paired(self, a: Encoded, b: Encoded) -> Array:
        """Covariance (n,) of each with its own in b, a point at another epoch, before anything is seen."""
        scale, tasks, residual, _, fade, training, _ = np.exp(self.hyper)
        known = LEVEL**2 + RISE**2 * a.epochs * b.epochs + scale**2 * a.zbar * b.zbar + tasks**2 * (a.z * b.z).mean(1)
        return np.asarray(known + np.exp(-np.abs(a.epochs - b.epochs) / fade) * (residual**2 + training**2))

    def _by_seen(self, at: Encoded) -> tuple[Array, Array]:
        """Mean (n,), and what of the covariance (seen, n) is known by what was seen."""
        k = covariance(at, self.seen)(self.hyper)
        return EXPECTED * at.zbar + k @ self.weights, solved(self.factor, k.T)

    def tasks(self) -> tuple[Array, Array]:
        """The weight of each task of the prior (T,), and by how many standard deviations it is above that of all."""
        (scale, tasks), z = np.exp(self.hyper[:2]), self.seen.z
        share = tasks**2 / z.shape[1]
        own = share * z.T @ self.weights
        variance = share - share**2 * (solved(self.factor, z) ** 2).sum(0)
        alike = (EXPECTED + scale**2 * self.seen.zbar @ self.weights) / z.shape[1]
        return alike + own, (own - own.mean()) / np.sqrt(variance)


def factored(hyper: Array, seen: Encoded, known: Array = NOTHING) -> Array:
    """Cholesky's factor of the covariance of what was seen, of which the first rows are known."""
    old, new = seen[: len(known)], seen[len(known) :]
    across = solved(known, covariance(old, new)(hyper))
    corner = cholesky(noisy(covariance(new, new)(hyper), hyper) - across.T @ across)
    return np.block([[known, np.zeros_like(across)], [across.T, corner]])


def noisy(k: Array, hyper: Array) -> Array:
    k[np.diag_indices_from(k)] += np.exp(2 * hyper[-1]) + 1e-6
    return k


def cholesky(k: Array) -> Array:
    import scipy

    return scipy.linalg.cholesky(k, lower=True, check_finite=False)


def solved(factor: Array, right: Array) -> Array:
    """The inverse of a lower factor times what stands right."""
    import scipy

    return scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)


def fitted(seen: Encoded, y: Array) -> Array:
    """The most probable hyperparameters, as far as a few steps from the start lead."""
    import scipy

    if not len(y):
        return START
    own, rest = covariance(seen, seen), y - EXPECTED * seen.zbar

    def loss(hyper: Array) -> float:
        factor = cholesky(noisy(own(hyper), hyper))
        half = solved(factor, rest)
        far = (hyper - START) / WIDTH
        return float(0.5 * half @ half + np.log(np.diag(factor)).sum() + 0.5 * far @ far)

    bounds = scipy.optimize.Bounds(START - 3 * WIDTH, START + 3 * WIDTH)
    found = scipy.optimize.minimize(loss, START, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    return np.asarray(found.x)


def improvement(mean: Array, deviation: Array, best: float) -> Array:
    """How much better than the best each is expected to be, where it is better."""
    import scipy

    gap = (mean - best) / deviation
    return np.asarray(deviation * (gap * scipy.special.ndtr(gap) + np.exp(-0.5 * gap**2) / math.sqrt(2 * math.pi)))


def improvement_per_epoch(mean: Array, deviation: Array, told: Array, best: float, first: Array, rest: Array) -> Array:
    """Improvement an epoch of trainings that are given up where their next reading is below the best threshold for that.

    told: standard deviation of what that reading makes of the mean; first, rest: epochs to it, and from it to the end.
    Such an index of what may be given up: M. L. Weitzman, "Optimal search for the best alternative", Econometrica 1979.
    """
    import scipy

    told = np.minimum(told, 0.999 * deviation)
    share = ((np.arange(QUANTILES) + 0.5) / QUANTILES)[::-1]  # from the best that may come of it to the worst
    after = mean[:, None] + told[:, None] * scipy.special.ndtri(share)
    gain = improvement(after, np.sqrt(deviation**2 - told**2)[:, None], best).cumsum(axis=1) / QUANTILES
    epochs = first[:, None] + rest[:, None] * np.arange(1, QUANTILES + 1) / QUANTILES
    return np.asarray((gain / epochs).max(axis=1))
