"""Made-up studies with believable learning curves, as lists of events: for the report and the comparison."""

import math
import random

from hpo import core
from hpo.core import Event, Params, Reason, Report, Reported, Scored, Started, State, training_key, training_seed

GOAL = core.Goal(metric="val_accuracy", maximize=True)


def draw(rng: random.Random) -> dict[str, int | float | str | bool]:
    """A point of a small conditional space, as `space` in test_report.py declares it."""
    activation = rng.choice(["relu", "leaky_relu", "tanh", "sigmoid"])
    params: dict[str, int | float | str | bool] = {
        "learning_rate": float(f"{10 ** rng.uniform(-4, -1):.6g}"),
        "batch_size": rng.choice([16, 32, 64, 128]),
        "activation": activation,
        "dropout": float(f"{rng.uniform(0, 0.6):.6g}"),
        "blocks": rng.choice([1, 2, 3]),
        "batch_norm": rng.random() < 0.5,
        "optimizer": "adam",
        "epochs": rng.choice([5, 10, 20]),
    }
    if activation == "leaky_relu":
        params["leaky_slope"] = float(f"{rng.uniform(0.01, 0.3):.6g}")
    return params


def quality(params: Params) -> float:
    """What a training tends to; best near learning rate 0.03 with three blocks."""
    distance = abs(math.log10(float(params["learning_rate"])) + 1.3) / 2.5
    activation = {"relu": 0.0, "leaky_relu": 0.004, "tanh": -0.01, "sigmoid": -0.06}[str(params["activation"])]
    rest = 0.012 * (int(params["blocks"]) - 1) - 0.05 * float(params["dropout"]) ** 2
    return 0.965 - 0.25 * distance**1.5 + activation + rest


def reports(params: Params, rng: random.Random, clock: float) -> list[Report]:
    """A curve that rises to `quality`, and overfits a little late; one a trial's epochs."""
    top, speed = quality(params), 0.8 * rng.uniform(0.7, 1.3)
    found = []
    for epoch in range(1, int(params["epochs"]) + 1):
        value = top - (top - 0.1) * math.exp(-speed * epoch) + rng.gauss(0, 0.004)
        loss = 2.3 * math.exp(-speed * epoch) + 0.08
        seconds = 0.05 * rng.uniform(0.9, 1.4)
        clock += seconds
        metrics = {
            "train_loss": loss * 0.8,
            "val_loss": loss + 0.004 * max(0, epoch - 8),
            "val_accuracy": round(min(max(value, 0.0), 1.0) * 270) / 270,
        }
        found.append(Report(epoch, metrics, seconds, clock))
    return found


def events(trials: int, seed: int = 0, lift: float = 0.0) -> list[Event]:
    """A study. Learning rates above 0.07 diverge at epoch 2."""
    rng, clock = random.Random(f"made-up/{seed}"), 1_700_000_000.0
    made: list[Event] = [core.Opened(clock, {"torch": "2.13.0", "commit": "abc1234"})]
    for number in range(trials):
        params = draw(rng)
        if lift and rng.random() < lift:  # a better strategy looks where it is good more often
            params["learning_rate"] = float(f"{10 ** rng.uniform(-1.8, -1.2):.6g}")
        key = training_key({**params, "trial": number}, 0, {}, True)
        made.append(Started(clock, number, params, 0, key, training_seed(0, params, 0), int(params["epochs"])))
        curve = reports(params, rng, clock)
        if float(params["learning_rate"]) > 0.07:
            length, end = 1, (State.FAILED, core.Outcome.DIVERGED, "loss 3.1e+08 at epoch 2")
        elif rng.random() < 0.15 and len(curve) > 3:
            length, end = 3, (State.PRUNED,)
        else:
            length, end = len(curve), (State.COMPLETE,)
        made += [Reported(key, report) for report in curve[:length]]
        clock = curve[length - 1].time
        made.append(core.Ended(clock, number, *end))
    made.append(core.Closed(clock, Reason.BUDGET))
    return made


def scored(made: list[Event], trial: int, accuracy: float = 0.9778) -> list[Event]:
    return [*made[:-1], Scored(1_700_009_000.0, trial, {"test_accuracy": accuracy}), made[-1]]
