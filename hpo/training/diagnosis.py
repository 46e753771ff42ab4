"""What went wrong in a training, if anything did: one tag, one sentence with the numbers. Imports no torch.

A pure function of what the probes put into the reports (training/probes.py). Thresholds were set on random trainings of
`digits`; benchmarks/diagnosis.py measures how often they are right on another data set.

    skill    1 - loss / chance, of the training loss: 0 knows nothing, 1 knows all
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hpo.core import Outcome, Params, Report, Value

LEARNED = 0.8  # skill above which nothing that concerns gradients is called a fault
EXPLODES = 5.0  # norm of a layer's gradient to that of its weights
DEAD = 0.5  # share of a place's units
SATURATED = 0.6  # share of a place's values
VANISHES = 1 / 25  # first layer's gradient to the largest
SPIKES = 0.03  # share of the steps after the first epoch
OVERFITS = 0.2  # rise of the validation loss above its lowest, as a share of that ...
GAP = 1.5  # ... while it is so many times the training loss
SLOW = 0.02  # fall of the loss an epoch, over the last epochs ...
SLOW_SKILL = 0.88  # ... while the validation skill is below this;
FAR_SLOW, FAR_SKILL = 0.005, 0.5  # with so much left to learn, less of a fall says the same
STUCK = 0.1  # skill
CRAWLS = 3.0  # times chance: a loss that was above this did not crawl, it had to come back
LAST = 3  # epochs that "at the end" means


class Tag(StrEnum):
    """The tags, in the order in which they are looked for: what explains the others comes first."""

    DIVERGED = "diverged"
    EXPLODING = "exploding gradients"
    DEAD = "dead ReLUs"
    SATURATED = "saturation"
    VANISHING = "vanishing gradients"
    SPIKES = "loss spikes"
    OVERFITS = "overfits"
    SLOW = "too slow"
    STUCK = "learns nothing"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """cures: changes of the params, each of which removes the named cause; the first is the one to try."""

    tag: str
    sentence: str
    cures: tuple[Mapping[str, Value], ...] = ()


@dataclass(frozen=True, slots=True)
class Course:
    """A training as it went."""

    reports: Sequence[Report]
    params: Params
    outcome: Outcome

    @property
    def last(self) -> Mapping[str, float]:
        return self.reports[-1].metrics

    @property
    def skill(self) -> float:
        return self.last.get("train_skill", math.nan)

    @property
    def learned(self) -> bool:
        return self.skill >= LEARNED

    def series(self, name: str) -> list[float]:
        return [report.metrics[name] for report in self.reports if name in report.metrics]

    def of(self, kind: str) -> list[str]:
        """The metrics `kind/PLACE`, from input to output."""
        return [name for name in self.reports[0].metrics if name.startswith(f"{kind}/")]

    def first_worst(self, kind: str, above: float) -> tuple[int, str, float] | None:
        """(epoch, place, share): the worst place of the last epoch, if it is above the threshold, and since when."""
        names = self.of(kind)
        worst = max(names, key=lambda name: self.last.get(name, 0.0), default=None)
        if worst is None or not self.last.get(worst, 0.0) > above:
            return None
        since = next(report.epoch for report in self.reports if report.metrics.get(worst, 0.0) > above)
        return since, said(worst), self.last[worst]

    @property
    def rate(self) -> str:
        value = self.params.get("learning_rate")
        return f", learning rate {value:g}" if isinstance(value, int | float) else ""

    def rates(self, *factors: float) -> tuple[Mapping[str, Value], ...]:
        """The learning rate times each factor, as cures."""
        value = self.params.get("learning_rate")
        if not isinstance(value, int | float):
            return ()
        return tuple({"learning_rate": float(f"{value * factor:.6g}")} for factor in factors)


Rule = Callable[[Course], Diagnosis | None]


def diagnose(reports: Sequence[Report], params: Params, outcome: Outcome = Outcome.OK) -> Diagnosis:
    """The first rule that applies; healthy if none does."""
    course = Course(reports, params, outcome)
    if outcome in (Outcome.NAN, Outcome.DIVERGED):
        return _diverged(course)
    if outcome is not Outcome.OK:
        return Diagnosis(outcome.value, f"{outcome.value}: ended after {_epochs(len(reports))}")
    if not reports:
        return Diagnosis(Tag.HEALTHY, f"{Tag.HEALTHY}: not trained yet")
    return next((found for rule in RULES if (found := rule(course)) is not None), _healthy(course))


def _diverged(course: Course) -> Diagnosis:
    losses = course.series("train_loss")
    how = (
        "loss is not a number"
        if course.outcome is Outcome.NAN
        else f"loss rose to {losses[-1]:.3g}"
        if losses
        else "loss rose"
    )
    exploding = _exploding(course) if course.reports else None
    why = exploding.sentence.removeprefix(f"{Tag.EXPLODING}: ") if exploding else ""
    text = f"{Tag.DIVERGED}: {how} in epoch {len(losses) + 1}{course.rate}" + (f"; {why}" if why else "")
    return Diagnosis(Tag.DIVERGED, text, course.rates(0.1, 0.01))


def _exploding(course: Course) -> Diagnosis | None:
    if course.learned:
        return None
    ratios = [(report, name) for report in course.reports for name in course.of("ratio") if name in report.metrics]
    worst = max(((r.metrics[name], r.epoch, name) for r, name in ratios), key=lambda found: found[0], default=None)
    if worst is None or worst[0] <= EXPLODES:
        return None
    ratio, epoch, name = worst
    text = f"{Tag.EXPLODING}: {said(name)}'s gradient is {_count(ratio)} times its weights in epoch {epoch}"
    clipped = () if course.params.get("clip") else ({"clip": 1.0},)
    return Diagnosis(Tag.EXPLODING, text + course.rate, (*clipped, *course.rates(0.1, 0.01)))


def _dead(course: Course) -> Diagnosis | None:
    found = None if course.learned else course.first_worst("dead", DEAD)
    if found is None:
        return None
    epoch, place, share = found
    text = f"{Tag.DEAD}: {_percent(share)} of {place} since epoch {epoch}{course.rate}"
    return Diagnosis(Tag.DEAD, text, course.rates(0.1, 0.01))


def _saturated(course: Course) -> Diagnosis | None:
    found = None if course.learned else course.first_worst("saturated", SATURATED)
    if found is None:
        return None
    epoch, place, share = found
    kind = course.params.get("activation", "its activation")
    text = f"{Tag.SATURATED}: {_percent(share)} of {place}'s values are at an end of {kind} since epoch {epoch}"
    return Diagnosis(Tag.SATURATED, text + course.rate, (*course.rates(0.1, 0.01), *_relu(course.params)))


def _vanishing(course: Course) -> Diagnosis | None:
    names = course.of("gradient")
    if course.learned or len(names) < 2:
        return None
    first, *others = (math.sqrt(_mean([x * x for x in course.series(name)])) for name in names)
    largest = max(others)
    if first >= VANISHES * largest:
        return None
    share = f"1/{_count(largest / first)}" if first > 0 else "nothing"
    top = said(names[1 + others.index(largest)])
    text = f"{Tag.VANISHING}: {said(names[0])} receives {share} of {top}'s gradient{_kind(course.params)}"
    return Diagnosis(Tag.VANISHING, text, (*_relu(course.params), *course.rates(0.1, 0.01)))


def _spiking(course: Course) -> Diagnosis | None:
    later = course.series("spikes")[1:]
    if not later or _mean(later) <= SPIKES:
        return None
    text = (
        f"{Tag.SPIKES}: {_percent(_mean(later))} of the steps after epoch 1 are worse than knowing nothing{course.rate}"
    )
    return Diagnosis(Tag.SPIKES, text, course.rates(0.1, 0.01))


def _overfitting(course: Course) -> Diagnosis | None:
    val, train = course.series("val_loss"), course.series("train_loss")
    if len(val) < 3 or len(train) != len(val):
        return None
    best = val.index(min(val))
    after = val[best + 1 :]
    risen = len(after) >= 2 and min(after[-2:]) > (1 + OVERFITS) * val[best]
    if not risen or train[-1] >= train[best] or val[-1] < GAP * train[-1]:
        return None
    text = f"{Tag.OVERFITS}: val loss rose from epoch {best + 2} ({val[best]:.3g} to {val[-1]:.3g}), train loss fell on"
    return Diagnosis(Tag.OVERFITS, text + f" to {train[-1]:.3g}", _regularized(course.params))


def _slow(course: Course) -> Diagnosis | None:
    train, val = course.series("train_loss"), course.series("val_loss") or course.series("train_loss")
    crawls = max(train, default=math.nan) <= CRAWLS * _chance(course)
    if len(train) < 2 or len(val) != len(train) or not crawls or not _val_skill(course) < SLOW_SKILL:
        return None
    fall = max(_fall(train[-LAST:]), _fall(val[-LAST:]))
    if not fall > (FAR_SLOW if _val_skill(course) < FAR_SKILL else SLOW) or not _fall(val[-LAST:]) > 0:
        return None
    text = f"{Tag.SLOW}: loss still falling {_percent(fall)} an epoch at the end{course.rate}"
    more = ({"epochs": 3 * len(course.reports)},) if "epochs" in course.params else ()
    return Diagnosis(Tag.SLOW, text, (*more, *course.rates(10.0, 100.0)))


def _fall(losses: Sequence[float]) -> float:
    """The share by which they fall from one to the next, on geometric average."""
    if not losses[0] > 0 or not losses[-1] > 0:
        return math.nan
    return 1 - float((losses[-1] / losses[0]) ** (1 / (len(losses) - 1)))


def _stuck(course: Course) -> Diagnosis | None:
    if not course.skill < STUCK or not _chance(course) > 0:
        return None
    text = f"{Tag.STUCK}: train loss is {course.last['train_loss']:.3g} after {_epochs(len(course.reports))}"
    text += f", {_chance(course):.3g} is knowing nothing{course.rate}"
    return Diagnosis(Tag.STUCK, text, course.rates(0.1, 0.01, 10.0, 100.0))


def _healthy(course: Course) -> Diagnosis:
    losses = course.series("val_loss") or course.series("train_loss")
    loss = (
        f"loss {losses[0]:.3g} to {losses[-1]:.3g} in {_epochs(len(losses))}"
        if losses
        else "nothing to hold against it"
    )
    return Diagnosis(Tag.HEALTHY, f"{Tag.HEALTHY}: {loss}")


RULES: tuple[Rule, ...] = (_exploding, _dead, _saturated, _vanishing, _spiking, _overfitting, _slow, _stuck)


def _chance(course: Course) -> float:
    """The loss of knowing nothing: skill = 1 - loss / chance. Not a number where they are not reported."""
    loss = course.last.get("train_loss", math.nan)
    return loss / (1 - course.skill) if course.skill < 1 else math.nan


def _val_skill(course: Course) -> float:
    """Of the validation loss; that of the training loss where there is none."""
    losses = course.series("val_loss")
    return 1 - losses[-1] / _chance(course) if losses and _chance(course) > 0 else course.skill


def _relu(params: Params) -> tuple[Mapping[str, Value], ...]:
    """Gradients that get through, as a cure."""
    change: dict[str, Value] = {"activation": "relu"} if params.get("activation") in ("sigmoid", "tanh") else {}
    if params.get("blocks", 0) and params.get("batch_norm", "off") == "off":
        change["batch_norm"] = "before"
    return (change,) if change else ()


def _regularized(params: Params) -> tuple[Mapping[str, Value], ...]:
    change: dict[str, Value] = {"l2": 1e-3}
    if params.get("dense_layers"):
        change["dropout"] = 0.5
    if params.get("blocks"):
        change["conv_dropout"] = 0.2
    return (change,)


def _kind(params: Params) -> str:
    """(sigmoid, no batch norm)."""
    known = [str(params["activation"])] if "activation" in params else []
    known += ["no batch norm"] if params.get("blocks", 0) and params.get("batch_norm", "off") == "off" else []
    return f" ({', '.join(known)})" if known else ""


def said(metric: str) -> str:
    """gradient/block3.conv -> block 3; block3.conv2 -> block 3's second convolution; dense1 -> dense 1."""
    first, *inner = metric.partition("/")[2].split(".")
    word = first.rstrip("0123456789")
    name = f"{word} {first[len(word) :]}".strip()
    return name if not inner or inner == ["conv"] else f"{name} ({'.'.join(inner)})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0095 else f"{100 * share:.1g} %"


def _count(number: float) -> str:
    """Two significant digits: 4,000; 24; 1e+06 from a million on."""
    return f"{float(f'{number:.2g}'):,.0f}" if number < 1e6 else f"{number:.0e}"
