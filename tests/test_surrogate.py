"""What search believes: points as numbers, the Gaussian process over them, and proposals where a study is unusual."""

import hashlib
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import laws
import numpy as np
import pytest
from scipy.stats import spearmanr

import hpo
from benchmarks.prior import rows_of
from benchmarks.prior_tasks import TASKS
from benchmarks.simulated import SimulatedExecutor
from hpo import core
from hpo.core import Goal, Job, Outcome, Params, Report, Reported, Start, State, Study, TrainingFailed
from hpo.engine.components import Components
from hpo.engine.driver import Driver
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.models.families import infeasible, with_defaults
from hpo.models.parameters import CNN as PARAMETERS
from hpo.models.parameters import COSINE, SCHEDULES, TRAINING
from hpo.space.domains import PARTS, Choice, Parameter, Range
from hpo.space.space import Space
from hpo.strategies import prior
from hpo.strategies.bayesian import Bayesian
from hpo.strategies.early_stopping import Predictive
from hpo.strategies.encoding import FEATURES, Array, Images, at_epochs, encode
from hpo.strategies.gaussian_process import START, Posterior, stacked
from hpo.strategies.points import Problem, frozen
from hpo.strategies.prior import LearnedPrior
from hpo.strategies.surrogate import MOST_READINGS, Encoder, Surrogate, experience, readings, thinned
from hpo.study_file.spec import Budget
from hpo.training.optimizers import eta

Value = Callable[[Params, int], float]
CNN = Path(__file__).parent.parent / "search_spaces/cnn.yaml"
IMAGES, EPOCHS = Images((1, 16, 16), 10, 1000), np.array([1.0, 2, 5, 9, 20])


@cache
def cnn() -> Space:
    return hpo.load({"name": "x", "data": "digits", "model": "cnn", "search_space": str(CNN)}).space


def features(params: Params, images: Images = IMAGES) -> Array:
    return at_epochs(encode(params, images), params, EPOCHS)


def trainable(params: Params, images: Images = IMAGES) -> bool:
    return infeasible("cnn", params, images.shape, images.outputs, ()) is None


def points(count: int, images: Images = IMAGES) -> list[Params]:
    """Random ones of the whole space, half of them as deep as can be."""
    rng, found = random.Random(0), list[Params]()
    while len(found) < count:
        params = cnn().complete({"blocks": 4} if len(found) % 2 else {}, rng)
        found += [params] * trainable(params, images)
    return found


def test_every_parameter_changes_a_feature_and_epochs_under_cosine_alone() -> None:
    rng, changed = random.Random(0), {name: list[bool]() for name in cnn().names}
    for params in points(50):
        was = features(params)
        for name in params:
            values = {"flip": (True,), "global_pool": ("average",)}.get(name) or cnn()[name].domain.values
            other = {**params, name: rng.choice([one for one in values if one != params[name]])}
            there = {own for own in other if own in (name, "flip", "global_pool") or cnn()[own].active(other)}
            other = {own: value for own, value in other.items() if own in there}
            if trainable(other):
                changed[name].append(not np.array_equal(was, features(other)))
                assert name != "epochs" or changed[name][-1] == (params["schedule"] == COSINE)
    assert [name for name, differs in changed.items() if not any(differs)] == []
    # some are one network
    alike = {"padding", "padding_mode", "pool_stride", "convs_per_block", "global_pool", "epochs"}
    assert [n for n, differs in changed.items() if n.rpartition(".")[2] not in alike and not all(differs)] == []


def test_what_is_left_out_has_its_default_and_a_value_for_all_blocks_is_that_of_each() -> None:
    for params in points(20):
        for name in params.keys() - {"epochs"}:
            without = {own: value for own, value in params.items() if own != name}
            default = (PARAMETERS | TRAINING)[name.rpartition(".")[2]].default
            if default is not None and trainable(without):
                assert np.array_equal(features(without), features({**without, name: default})), name
        shared = {name.rpartition(".")[2]: value for name, value in params.items()}
        parts = [(name, PARTS[PARAMETERS[name].per]) for name in shared if name in PARAMETERS and PARAMETERS[name].per]
        if trainable(shared):
            own = {p.own(i, n): shared[n] for n, p in parts for i in range(1, int(params[p.counted]) + 1)}
            assert np.array_equal(features(shared), features(params | own)), params


EXTREME = {"learning_rate": 1e-30, "momentum": 1 - 1e-9, "clip": 1e-12, "weight_decay": 1e9, "l1": 1e9, "epochs": 1}
EXTREME |= {"batch_size": 10**6, "schedule": "step", "step_epochs": 10**6, "decay": 1e-30, "warmup": 10**4}


@pytest.mark.parametrize("images", [Images((3, 32, 32), 1, 1), Images((1, 8, 8), 1000, 10**6)], ids=str)
def test_every_feature_of_what_can_be_trained_is_a_number(images: Images) -> None:
    for params in (*points(10, images), EXTREME, EXTREME | {"optimizer": "sgd"}, {"beta1": 0.0, "blocks": 0}):
        found = features({"epochs": 1} | params, images)
        assert found.shape == (len(EPOCHS), len(FEATURES))
        assert np.isfinite(found).all(), params


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_features_of_an_epoch_follow_the_trainers_schedule(kind: str) -> None:
    params = {"schedule": kind, "decay": 0.5, "step_epochs": 3, "learning_rate": 0.01, "batch_size": 10, "epochs": 20}
    rates = np.log([eta(params, epoch, epoch + 1) / 0.01 if kind != COSINE else 1.0 for epoch in EPOCHS])
    wanted = [np.log(EPOCHS), np.log(100 * EPOCHS), rates, EPOCHS / 20 * (kind == COSINE)]
    assert features(params)[:, -4:] == pytest.approx(np.stack(wanted, axis=1))
    assert FEATURES[-4:] == ("epoch", "steps", "rate by schedule", "way through")


RATE, LENGTH = Parameter("learning_rate", Range(1e-4, 0.3, False, log=True)), Parameter("epochs", Choice((9,)))
NORM, OPTIMIZER = Parameter("batch_norm", Choice(("off", "before"))), Parameter("optimizer", Choice(("sgd", "adam")))
SPACE = Space((RATE, NORM, Parameter("dropout", Range(0, 0.6, False)), OPTIMIZER, LENGTH))
GOAL, LOSS = Goal("m", epochs=(9,)), Goal("m", False, epochs=(9,))
SHIPPED = prior.load()


def turned(one: LearnedPrior, sign: float, fails: float) -> LearnedPrior:
    """With its values times sign, and `fails` added to the log odds of failing."""
    by, shift = (np.append(np.full(len(one.tasks), a), b).astype(np.float32) for a, b in ((sign, 1), (0, fails)))
    last = [(*network[:-1], (network[-1][0] * by, network[-1][1] * by + shift)) for network in one.networks]
    return replace(one, networks=tuple(last))


def quality(params: Params) -> float:
    """What a point can do: not what experience says of learning rates and norms."""
    rate, dropout = float(params.get("learning_rate", 1e-3)), float(params.get("dropout", 0.0))
    kinds = 0.05 * (params.get("batch_norm") == "before") + 0.03 * (params.get("optimizer") == "adam")
    return 0.95 - 0.08 * (math.log10(rate) + 3) ** 2 - 0.2 * abs(dropout - 0.3) - kinds


def accuracy(params: Params, epoch: int) -> float:
    return max(0.05, quality(params) - 0.6 * math.exp(-0.4 * epoch))


def at_random(count: int, seed: int) -> list[Params]:
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def made(
    points: Sequence[Params], value: Value = accuracy, failing: int = 0, lasts: Value = lambda params, epoch: 1.0
) -> Iterator[core.Event]:
    """Trials of these points one after another, whole; the last few fail at once."""
    for number, params in enumerate(points):
        failed, key = number >= len(points) - failing, f"t{number}"
        yield core.Started(0.0, number, params, 0, key, 0, 9)
        until = 1 if failed else 10
        yield from (Reported(key, Report(e, {"m": value(params, e)}, lasts(params, e), 0.0)) for e in range(1, until))
        yield core.Ended(0.0, number, *((State.FAILED, Outcome.DIVERGED) if failed else (State.COMPLETE,)))


def worth(study: Study, asked: Sequence[Params], of: Surrogate | LearnedPrior = SHIPPED) -> Array:
    one = of if isinstance(of, Surrogate) else Surrogate(Problem(SPACE, GOAL, images=IMAGES), of)
    return one.worth(study, [(params, 0) for params in asked])


def curves(job: Job, value: Value, fails: int) -> Iterator[Report]:
    """fails: the epoch at which a learning rate above 0.01 diverges; 0: never."""
    for epoch in range(1, core.epochs_of(job.params) + 1):
        if epoch == fails and float(job.params["learning_rate"]) > 0.01:
            raise TrainingFailed(Outcome.DIVERGED, f"loss of {job.seed}")
        yield Report(epoch, {"m": value(job.params, epoch)}, 1.0, 0.0)


class Watched(SimulatedExecutor):
    """Notes how many jobs are at work whenever the driver waits."""

    def wait(self, timeout: float | None) -> list[core.Message]:
        self.__dict__.setdefault("busy", []).append(len(self._due))
        return super().wait(timeout)


def searched(
    value: Value = accuracy,
    space: Space = SPACE,
    goal: Goal = GOAL,
    slots: int = 1,
    trials: int = 30,
    known: LearnedPrior = SHIPPED,
    fails: int = 0,
) -> Study:
    """A study by bayesian search under predictive early stopping, through the driver; a loss is a regression's."""
    problem, events = Problem(space, goal, images=replace(IMAGES, outputs=10 if goal.maximize else 1)), []
    belief = Surrogate(problem, known)
    strategy = Predictive(Bayesian(problem, belief), belief, goal)
    search = Search(Study(), strategy, goal, Budget(trials=trials), laws.identity(), events.append)
    executor = Watched(partial(curves, value=value, fails=fails), slots)
    Driver([search], executor, Trainings(Path("unused"), goal), clock=executor.clock).run()
    study = laws.check(events, resting=False)
    assert len({frozen(trial.params) for trial in study.trials}) == len(study.trials), "no point twice"
    assert all(laws.is_point(trial.params, space) for trial in study.trials)
    if len(study.trials) == trials:
        assert set(executor.__dict__["busy"][: trials // slots]) == {slots}, "no worker waits while a trial may start"
    return study


def test_readings_without_noise_are_met_and_certainty_falls_with_distance() -> None:
    encoder, tried = Encoder(Problem(SPACE, GOAL, images=IMAGES), SHIPPED), at_random(12, 0)
    beside = [{**params, "learning_rate": float(params["learning_rate"]) * 1.02} for params in tried]
    seen, near, far = (encoder.encode([(p, 9) for p in some]) for some in (tried, beside, at_random(40, 10)))
    y = np.random.default_rng(0).normal(size=len(seen))
    belief = Posterior.of(np.append(START[:-1], math.log(1e-4)), seen, y)
    assert belief(seen)[0] == pytest.approx(y, abs=0.01)
    assert belief(seen)[1].max() < belief(near)[1].min()
    assert belief(near)[1].mean() < belief(far)[1].mean()
    assert (belief(far)[1] < Posterior.of(START, seen[:0], y[:0])(far)[1]).all(), "what is read only ever narrows"


def test_what_is_read_later_is_believed_as_if_it_had_been_there_at_first() -> None:
    encoder = Encoder(Problem(SPACE, GOAL, images=IMAGES), SHIPPED)
    seen, asked = (encoder.encode([(p, epoch) for p in at_random(30, seed) for epoch in (1, 9)]) for seed in (0, 1))
    y, belief = np.random.default_rng(0).normal(size=60), Posterior.of(START, seen[:0], np.empty(0))
    for much in (1, 30, 59, 60, 60):
        belief = Posterior.of(START, seen[:much], y[:much], belief.factor)
    for said, whole in zip(belief(asked), Posterior.of(START, seen, y)(asked), strict=True):
        assert said == pytest.approx(whole, abs=1e-8)


def test_what_the_next_reading_will_tell_is_the_doubt_that_it_takes_away() -> None:
    encoder = Encoder(Problem(SPACE, GOAL, images=IMAGES), SHIPPED)
    seen, y = encoder.encode([(params, 9) for params in at_random(12, 0)]), np.random.default_rng(0).normal(size=12)
    belief = Posterior.of(START, seen, y)
    for params in at_random(5, 1):
        full, look = (encoder.encode([(params, epoch)]) for epoch in (9, 1))
        after = Posterior.of(START, stacked(seen, look), np.append(y, 0.0))
        assert belief.foreseen(full, look)[2] ** 2 == pytest.approx(
            belief(full)[1] ** 2 - after(full)[1] ** 2, rel=1e-3
        )


def answers(other_way: bool = False) -> str:
    """What is said after some trials, the last with 150 readings; in another way: with other questions before, and by other clocks."""
    tried, kept = at_random(40, 1), Surrogate(Problem(SPACE, GOAL, images=IMAGES), SHIPPED)
    told, clock = list[bytes](), random.Random(0)
    if other_way:
        worth(Study([*made(tried[::-1], lambda params, epoch: 0.5)]), tried[5:9], kept)
    study = Study()
    for event in made(tried[:28], failing=2):
        if other_way and isinstance(event, Reported):
            event = replace(event, report=replace(event.report, seconds=clock.random(), time=clock.random()))
        study.apply(event)
        told += [worth(study, tried[28:], kept).tobytes()] * (isinstance(event, core.Ended) and event.trial % 9 == 0)
    assert worth(study, tried[28:]).tobytes() == told[-1], "a fresh instance"
    return hashlib.sha256(b"".join(told)).hexdigest()


BEFORE_SCIPY = "from hpo.strategies import surrogate; surrogate.blas()"  # as a driver has them: this file imports both


def test_the_answer_is_the_studys_alone_in_any_process_by_any_clock_whatever_was_asked_before() -> None:
    words = [
        sys.executable,
        "-c",
        f"{BEFORE_SCIPY}; import test_surrogate; print(test_surrogate.answers(other_way=True))",
    ]
    there = {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(words, env=os.environ | there, capture_output=True, text=True, check=True)
    assert other.stdout.split() == [answers()]
    first, second = (Study([*made(at_random(6, seed), lambda params, epoch: 0.5)]) for seed in (1, 2))
    kept, asked = Surrogate(Problem(SPACE, GOAL, images=IMAGES), SHIPPED), at_random(8, 3)
    worth(first, asked, kept)
    assert worth(second, asked, kept).tobytes() == worth(second, asked).tobytes()


def test_a_trial_older_than_a_parameter_is_where_its_default_is() -> None:
    asked, whole = at_random(8, 3), partial(with_defaults, space=SPACE, defaults={"dropout": 0.0})
    older = [{name: value for name, value in params.items() if name != "dropout"} for params in at_random(20, 1)]
    belief = Surrogate(Problem(SPACE, GOAL, images=IMAGES, whole=whole), SHIPPED)
    since = worth(Study([*made([whole(params) for params in older])]), asked)
    assert worth(Study([*made(older)]), asked, belief).tobytes() == since.tobytes()


def test_of_5_000_readings_the_best_and_the_latest_are_kept_and_a_point_is_proposed() -> None:
    tried, problem = at_random(835, 4), Problem(SPACE, GOAL, images=IMAGES)
    study = Study([*made(tried)])
    read = readings(study, GOAL)
    kept = [(tried.index(params), epoch) for params, epoch, _ in thinned(read)]
    assert len(read) == 5_010
    assert len(kept) == MOST_READINGS
    assert kept == sorted(kept), "in the journal's order"
    best = max(range(835), key=lambda number: quality(tried[number]))
    assert {(best, 9), *((number, epoch) for number in range(815, 835) for epoch in (1, 2, 3, 4, 6, 9))} <= {*kept}
    (proposed,) = Bayesian(problem, Surrogate(problem, SHIPPED)).propose(study, 1)
    assert isinstance(proposed, Start)
    assert quality(proposed.params) > 0.85


RANDOM = float(np.mean([quality(params) for params in at_random(300, 9)]))


@pytest.mark.parametrize("sign", [1, -1], ids=["shipped", "negated"])
def test_readings_overrule_a_prior_that_misleads(sign: int) -> None:
    """The order of unseen points follows what was read of 30 others, and what is proposed is better than at random."""
    asked, known = at_random(100, 5), turned(SHIPPED, sign, 0)
    order = worth(Study([*made(at_random(30, 6))]), asked, known)
    assert spearmanr(order, [quality(params) for params in asked]).statistic > 0.5
    assert np.mean([quality(trial.params) for trial in searched(known=known).trials[15:]]) > RANDOM + 0.05


def test_an_earlier_study_moves_the_order_to_what_it_read_and_one_that_misleads_is_overruled(tmp_path: Path) -> None:
    asked, orders = at_random(100, 5), list[float]()
    for sign in (1, 0, -1):
        first = Study([*made(at_random(20, 6), lambda params, epoch, sign=sign: 0.5 + sign * (quality(params) - 0.5))])
        read = experience([first, first], GOAL, IMAGES)
        assert read is not None
        assert len(read[1]) == len(readings(first, GOAL)), "each training counts once"
        digest = prior.keep(prior.with_studies(SHIPPED, {"first": read} if sign else {}), tmp_path)
        began = prior.load(tmp_path / f"{digest}.npz", began=digest)
        orders.append(
            spearmanr(
                Surrogate(Problem(SPACE, GOAL, images=IMAGES), began).expected(asked),
                [quality(params) for params in asked],
            ).statistic
        )
        assert np.mean([quality(trial.params) for trial in searched(known=began).trials[15:]]) > RANDOM + 0.05
    assert orders == sorted(orders, reverse=True)
    assert orders[0] > orders[2] + 0.02
    assert experience([first], Goal("other"), IMAGES) is None


def recorded(task: str, trainings: int = 36) -> tuple[Study, Images]:
    """The first trainings that the package has of a task, as one study of its pictures."""
    data, study = TASKS[task].dataset(), Study()
    rows = [row for row in rows_of() if row[1] == task][:trainings]
    for number, (_, _, params, curve, _, _) in enumerate(rows):
        study.apply(core.Started(0.0, number, {"epochs": 27} | params, 0, key := f"t{number}", 0, len(curve)))
        for epoch, (value, _) in enumerate(curve, 1):
            study.apply(Reported(key, Report(epoch, {"m": value}, 1.0, 0.0)))
        study.apply(core.Paused(0.0, number))
    return study, Images(data.shape, data.outputs, len(data.train))


@pytest.mark.parametrize(
    "task", ["colours-4-16-200", "dots-3-12-noise", "places-3-12", "strokes-12-28", "templates-20-12"]
)
def test_a_study_on_the_pictures_of_a_recorded_task_is_said_to_be_most_like_it(task: str, tmp_path: Path) -> None:
    """Or like the user's own study of them; and a prior that says the opposite is turned around."""
    study, images = recorded(task)

    def said(known: LearnedPrior, of: Study = study) -> str:
        return Surrogate(Problem(cnn(), Goal("m", epochs=(27,)), images=images), known).learned(of)

    sure = re.fullmatch(
        r"The prior was right about which of two trainings is better in (\d+) of 100 cases; (.*)\.", said(SHIPPED)
    )
    assert sure is not None
    assert int(sure[1]) > 70
    assert sure[2].startswith(f"the study is most like {prior.in_words(task)}")
    assert said(turned(SHIPPED, -1, 0)) == sure[0].replace(sure[1], f"{100 - int(sure[1])}").replace(
        sure[2], "it has been turned around"
    )
    read = {
        name: experience([recorded(of)[0]], Goal("m"), images) for name, of in (("like", task), ("other", "grain-8-10"))
    }
    digest = prior.keep(prior.with_studies(SHIPPED, {name: one for name, one in read.items() if one}), tmp_path)
    assert "; the study is most like your study like" in said(prior.load(tmp_path / f"{digest}.npz", began=digest))
    assert said(turned(SHIPPED, 0, 0)) == "", "a prior that says nothing"
    assert said(SHIPPED, Study()) == said(SHIPPED, recorded(task, 2)[0]) == ""


def test_a_point_is_worth_less_as_it_or_its_neighbours_fail_more() -> None:
    asked = at_random(30, 7)
    encoder = Encoder(Problem(SPACE, GOAL, images=IMAGES), turned(SHIPPED, 1, 3))
    fails = encoder.encode([(params, 9) for params in asked]).fails
    never = worth(Study(), asked, turned(SHIPPED, 1, -99))
    assert worth(Study(), asked, turned(SHIPPED, 1, 3)) == pytest.approx((1 - fails) * never)
    assert fails.max() > 2 * fails.min() > 0
    tried = at_random(12, 8)
    near, far = ([{**tried[0], "learning_rate": rate} for rate in rates] for rates in ((0.05, 0.07), (5e-4, 7e-4)))
    studies = Study([*made(tried)]), Study([*made([*tried, *({**one, "dropout": 0.0} for one in near)], failing=2)])
    before, after = (worth(study, near).sum() / worth(study, far).sum() for study in studies)
    assert after < before / 3


def test_where_the_budget_is_a_time_alone_a_point_is_worth_less_the_longer_its_epochs_last() -> None:
    slow, fast = ([{**one, "optimizer": kind} for one in at_random(30, 9)] for kind in ("adam", "sgd"))
    study = Study([*made(at_random(30, 8), lasts=lambda params, epoch: 1.0 if params["optimizer"] == "sgd" else 8.0)])

    def better(budget: str) -> float:
        """How much more the fast ones are worth than the slow ones."""
        spec = hpo.load(CNN.parent.parent / "study.yaml", sets=[f"budget={budget}"])
        belief = Components(spec, None, ["cpu"], {}, SHIPPED).surrogate(Problem(SPACE, GOAL, images=IMAGES))
        assert belief is not None
        return float(worth(study, fast, belief).sum() / worth(study, slow, belief).sum())

    assert better("{time: 9}") > 2 * better("{total_epochs: 9}")
    assert better("{total_epochs: 9, time: 9}") == better("{trials: 9}") == better("{total_epochs: 9}")


@pytest.mark.parametrize("fails", [1, 4])
def test_search_keeps_away_from_where_trainings_fail(fails: int) -> None:
    """Two in five points do, those that experience likes; one trial in five is random search's, whatever is known."""
    study = searched(fails=fails)
    assert sum(trial.state is State.FAILED for trial in study.trials) <= 8
    assert max(quality(trial.params) for trial in study.trials if trial.epoch == 9) > 0.85


COSINES = Space((*SPACE.parameters[:-1], Parameter("schedule", Choice(("step", COSINE))), LENGTH))
UNKNOWN = Space((*(Parameter(f"p{i}", Range(0, 1, False)) for i in range(200)), LENGTH))
KERNEL, BATCH = Parameter("kernel_size", Choice((3, 5))), Parameter("batch_size", Choice((16, 64)))
MIXED = Space((*SPACE.parameters[:-1], KERNEL, BATCH, *UNKNOWN.parameters[:193], LENGTH))
EXTREMES: dict[str, tuple[int, dict[str, Any]]] = {  # trials, and what is unusual
    "200 unknown parameters": (10, {"space": UNKNOWN, "trials": 10}),
    "200 parameters, 7 of them known": (10, {"space": MIXED, "trials": 10}),
    "one point": (1, {"space": Space((LENGTH,))}),
    "two points": (2, {"space": Space((OPTIMIZER, LENGTH))}),
    "one parameter": (20, {"space": Space((RATE, LENGTH)), "trials": 20}),
    "8 workers": (20, {"slots": 8, "trials": 20}),
    "64 workers": (66, {"slots": 64, "trials": 66}),
    "nan alone": (8, {"value": lambda params, epoch: math.nan, "trials": 8}),
    "infinities": (8, {"value": lambda params, epoch: math.inf, "trials": 8}),
    "always the same": (12, {"value": lambda params, epoch: 0.0, "goal": LOSS, "trials": 12}),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_a_search_of_anything_comes_to_its_end(name: str) -> None:
    trials, unusual = EXTREMES[name]
    assert len(searched(**unusual).trials) == trials


SCALES: dict[str, tuple[Goal, Value]] = {
    "times 1e6": (GOAL, lambda params, epoch: 1e6 * accuracy(params, epoch)),
    "shifted": (GOAL, lambda params, epoch: 1000 + accuracy(params, epoch)),
    "negative": (GOAL, lambda params, epoch: -50 + accuracy(params, epoch)),
    "a loss": (LOSS, lambda params, epoch: 1.1 - accuracy(params, epoch)),
    "a negative loss": (LOSS, lambda params, epoch: -accuracy(params, epoch)),
    "heavy tails": (LOSS, lambda p, epoch: (1.1 - accuracy(p, epoch)) * (1e30 if quality(p) < 0.7 else 1)),
    "beyond 1 at last": (GOAL, lambda params, epoch: 3 * accuracy(params, epoch) ** 4),
    "often none": (GOAL, lambda p, epoch: accuracy(p, epoch) if float(p["learning_rate"]) < 0.02 else math.nan),
}


@pytest.mark.parametrize("name", SCALES)
def test_search_learns_whatever_the_scale_of_its_metric(name: str) -> None:
    """Its last trials are better than random ones are on the mean."""
    goal, value = SCALES[name]
    study = searched(value, goal=goal)
    assert np.mean([quality(trial.params) for trial in study.trials[20:]]) > RANDOM + 0.05


def test_under_predictive_a_point_on_a_cosine_is_trained_whole() -> None:
    study = searched(space=COSINES, goal=replace(GOAL, unsafe=("schedule", COSINE)), trials=20)
    cosine = [trial for trial in study.trials if trial.params["schedule"] == COSINE]
    assert {(trial.state, trial.epoch) for trial in cosine} == {(State.COMPLETE, 9)}
    assert {trial.epoch for trial in study.trials} > {9}, "while others rest at a rung"
