"""What the surrogate should believe before a study has any reading: the hyperparameters under which recorded tasks are likeliest.

    python -m benchmarks.beliefs

Each recorded task is two studies of 24 of its trainings, read at 1, 3, 9 and 27 epochs, and judged by networks that have seen
no task of its kind. One set of hyperparameters for all of them is found by maximum likelihood, beside START's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from benchmarks import prior
from benchmarks.measuring import machine
from benchmarks.prior_tasks import TASKS
from hpo.strategies import encoding
from hpo.strategies.gaussian_process import EXPECTED, START, Encoded, covariance, noisy
from hpo.strategies.prior import WHOLE, LearnedPrior
from hpo.strategies.surrogate import Scale, places

NAMES = ("scale", "tasks", "residual", "length", "fade", "training", "noise")
EPOCHS, TRAININGS, TIMES = (1, 3, 9, 27), 24, 2

Read = tuple[Encoded, np.ndarray]


def studies() -> list[Read]:
    records = prior.records_of()
    table = prior.tabulated(records)
    centre, spread = table.features.mean(0), table.features.std(0) + 1e-3
    rng, found = np.random.default_rng(0), []
    for family in sorted({TASKS[name].family for name in table.names}):
        own = table.without([family])
        networks = tuple(tuple(one) for one in prior.fitted(own, centre, spread))
        unseen = LearnedPrior(own.names, 0, centre, spread, networks, WHOLE)
        for name in (name for name in table.names if TASKS[name].family == family):
            data = TASKS[name].dataset()
            images = encoding.Images(data.shape, data.outputs, TASKS[name].train)
            rows = [row for (_, task), rows in sorted(records.items()) if task == name for row in rows]
            for _ in range(TIMES):
                found.append(study([rows[i] for i in rng.permutation(len(rows))[:TRAININGS]], unseen, images))
    return found


def study(rows: list[dict[str, Any]], unseen: LearnedPrior, images: encoding.Images) -> Read:
    z, u, epochs, point, costs = [], [], [], [], []
    for number, row in enumerate(rows):
        if row["outcome"] != "ok":
            continue
        read = [epoch for epoch in EPOCHS if epoch <= len(row["curve"])]
        features = encoding.at_epochs(encoding.encode(row["params"], images), row["params"], np.array(read, float))
        z.append(unseen.predict(features)[0])
        u += [places(prior.SPACE.parameters, row["params"])] * len(read)
        epochs += np.log(read).tolist()
        point += [float(number)] * len(read)
        costs += [-row["curve"][epoch - 1][0] for epoch in read]
    said = np.vstack(z)
    none = np.zeros(len(said))
    return Encoded(said, np.array(u), np.array(epochs), np.array(point), none, said.mean(1)), Scale()(np.array(costs))


def unlikely(hyper: np.ndarray, read: Read, known: Callable[[np.ndarray], np.ndarray]) -> float:
    seen, y = read
    factor = cholesky(noisy(known(hyper), hyper), lower=True)
    half = solve_triangular(factor, y - EXPECTED * seen.zbar, lower=True)
    return float(0.5 * half @ half + np.log(np.diag(factor)).sum())


def main() -> None:
    found = [(one, covariance(one[0], one[0])) for one in studies()]

    def mean(hyper: np.ndarray) -> float:
        return float(np.mean([unlikely(hyper, *one) for one in found]))

    options = {"maxiter": 400, "xatol": 0.03, "fatol": 0.02}
    best = minimize(mean, START, method="Nelder-Mead", options=options)
    print(
        f"machine: {machine()}; n = {len(found)} studies, {np.mean([len(one[0][1]) for one in found]):.0f} readings each"
    )
    print(f"{'':10}{'START':>8}{'likeliest':>11}")
    for name, began, ended in zip(NAMES, np.exp(START), np.exp(best.x), strict=True):
        print(f"{name:10}{began:8.3f}{ended:11.3f}")
    print(f"negative log likelihood of a study: {mean(START):.1f}, {best.fun:.1f}")


if __name__ == "__main__":
    main()
