"""What went wrong in a training, if anything did: one tag, one sentence with the numbers. Imports no torch.

A pure function of what the probes put into the reports (training/probes.py). Thresholds were set on random trainings of
`digits`; benchmarks/diagnosis.py measures how often they are right on another data set.

    skill    1 - loss / chance, of the training loss: 0 knows nothing, 1 knows all
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from hpo.core import Outcome, Params, Report, Trial
from hpo.formatting import count, listed
from hpo.models.layers import spoken

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
    MISSED = "classes never predicted"
    NAN = "not a number"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What went wrong, in a word and in a phrase with the numbers."""

    tag: str
    text: str

    @property
    def sentence(self) -> str:
        return f"{self.tag}: {self.text}"


@dataclass(frozen=True, slots=True)
class Course:
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

    @property
    def chance(self) -> float:
        """The loss of knowing nothing: skill = 1 - loss / chance. Not a number where they are not reported."""
        loss = self.last.get("train_loss", math.nan)
        return loss / (1 - self.skill) if self.skill < 1 else math.nan

    @property
    def val_skill(self) -> float:
        """Of the validation loss; that of the training loss where there is none."""
        losses = self.series("val_loss")
        return 1 - losses[-1] / self.chance if losses and self.chance > 0 else self.skill

    def series(self, name: str) -> list[float]:
        return [report.metrics[name] for report in self.reports if name in report.metrics]

    def of(self, kind: str) -> list[str]:
        """The metrics `kind/PLACE`, from input to output."""
        return [name for name in self.reports[0].metrics if name.startswith(f"{kind}/")]

    def worst(self, kind: str, above: float) -> tuple[str, int] | None:
        """The metric that is worst in the last epoch, if it is above the threshold, and the first epoch it was."""
        worst = max(self.of(kind), key=lambda name: self.last.get(name, 0.0), default=None)
        if worst is None or not self.last.get(worst, 0.0) > above:
            return None
        return worst, next(report.epoch for report in self.reports if report.metrics.get(worst, 0.0) > above)

    @property
    def rate(self) -> str:
        value = self.params.get("learning_rate")
        return f", learning rate {value:g}" if isinstance(value, int | float) else ""


def diagnosis_of(trial: Trial) -> Diagnosis | None:
    """None where there is nothing to say yet."""
    known = trial.reports or trial.finished
    return diagnose(trial.reports, trial.params, trial.outcome, trial.error) if known else None


def diagnose(reports: Sequence[Report], params: Params, outcome: Outcome = Outcome.OK, error: str = "") -> Diagnosis:
    """The first rule that applies; healthy if none does. error: what a training that diverged said of it."""
    course = Course(reports, params, outcome)
    if outcome is Outcome.NAN and reports and (broken := _not_a_number(course)):
        return Diagnosis(Tag.NAN, broken)
    if outcome in (Outcome.NAN, Outcome.DIVERGED):
        return _diverged(course, error)
    if outcome is not Outcome.OK:
        return Diagnosis(outcome.value, f"ended after {count(len(reports), 'epoch')}")
    if not reports:
        return Diagnosis(Tag.HEALTHY, "not trained yet")
    found = {tag: text for tag, rule in RULES.items() if (text := rule(course))}
    first = next(iter(found), None)
    if first is None:
        return _healthy(course)
    beside = [f"; {tag}: {text.removesuffix(course.rate)}" for tag, text in found.items() if first != tag == Tag.MISSED]
    return Diagnosis(first, "".join([found[first], *beside]))  # its cause comes first


def _diverged(course: Course, error: str) -> Diagnosis:
    """The loss that was too high is in the error alone: an epoch that fails has no report."""
    losses = course.series("train_loss")
    rose = f"loss rose after {losses[-1]:.3g} in epoch {len(losses)}" if losses else "loss rose in epoch 1"
    unsaid = f"loss is not a number in epoch {len(losses) + 1}" if course.outcome is Outcome.NAN else rose
    text = error.partition("\n")[0] or f"{unsaid}{course.rate}"
    exploding = _exploding(course) if course.reports else None
    return Diagnosis(Tag.DIVERGED, f"{text}; {exploding.removesuffix(course.rate)}" if exploding else text)


def _exploding(course: Course) -> str | None:
    names = course.of("ratio")
    ratios = [(r.metrics[name], r.epoch, name) for r in course.reports for name in names if name in r.metrics]
    ratio, epoch, name = max(ratios, key=lambda each: each[0], default=(0.0, 0, ""))
    if course.learned or ratio <= EXPLODES:
        return None
    return f"{_place(name)}'s gradient is {_digits(ratio)} times its weights in epoch {epoch}{course.rate}"


def _dead(course: Course) -> str | None:
    if course.learned or (worst := course.worst("dead", DEAD)) is None:
        return None
    name, since = worst
    return f"{_percent(course.last[name])} of {_place(name)} since epoch {since}{course.rate}"


def _saturated(course: Course) -> str | None:
    if course.learned or (worst := course.worst("saturated", SATURATED)) is None:
        return None
    name, since = worst
    function = course.params.get("activation", "its activation")
    share = _percent(course.last[name])
    return f"{share} of {_place(name)}'s values are at an end of {function} since epoch {since}{course.rate}"


def _vanishing(course: Course) -> str | None:
    names = course.of("gradient")
    if course.learned or len(names) < 2:
        return None
    first, *others = (math.sqrt(fmean([x * x for x in course.series(name)])) for name in names)
    largest = max(others)
    if first >= VANISHES * largest:
        return None
    share = f"1/{_digits(largest / first)}" if first > 0 else "nothing"
    top = _place(names[1 + others.index(largest)])
    return f"{_place(names[0])} receives {share} of {top}'s gradient{_kind(course.params)}"


def _spiking(course: Course) -> str | None:
    later = course.series("spikes")[1:]
    if not later or fmean(later) <= SPIKES:
        return None
    return f"{_percent(fmean(later))} of the steps after epoch 1 are above that of a constant prediction{course.rate}"


def _overfitting(course: Course) -> str | None:
    val, train = course.series("val_loss"), course.series("train_loss")
    if len(val) < 3 or len(train) != len(val):
        return None
    best = val.index(min(val))
    after = val[best + 1 :]
    risen = len(after) >= 2 and min(after[-2:]) > (1 + OVERFITS) * val[best]
    if not risen or train[-1] >= train[best] or val[-1] < GAP * train[-1]:
        return None
    rose = f"val loss rose from epoch {best + 2} ({val[best]:.3g} to {val[-1]:.3g})"
    return f"{rose}, train loss fell on to {train[-1]:.3g}"


def _slow(course: Course) -> str | None:
    train, val = course.series("train_loss"), course.series("val_loss") or course.series("train_loss")
    crawls = max(train, default=math.nan) <= CRAWLS * course.chance
    if len(train) < 2 or len(val) != len(train) or not crawls or not course.val_skill < SLOW_SKILL:
        return None
    fall = max(_fall(train[-LAST:]), _fall(val[-LAST:]))
    if not fall > (FAR_SLOW if course.val_skill < FAR_SKILL else SLOW) or not _fall(val[-LAST:]) > 0:
        return None
    return f"loss still falling {_percent(fall)} an epoch at the end{course.rate}"


def _fall(losses: Sequence[float]) -> float:
    """The share by which they fall from one to the next, on geometric average."""
    if not losses[0] > 0 or not losses[-1] > 0:
        return math.nan
    return 1 - float((losses[-1] / losses[0]) ** (1 / (len(losses) - 1)))


def _stuck(course: Course) -> str | None:
    if not course.skill < STUCK or not course.chance > 0:
        return None
    loss = f"train loss is {course.last['train_loss']:.3g} after {count(len(course.reports), 'epoch')}"
    return f"{loss}, {course.chance:.3g} is that of a constant prediction{course.rate}"


def _missed(course: Course) -> str | None:
    last, accuracy = course.reports[-1], course.last.get("val_accuracy", math.nan)  # it may be read at an earlier epoch
    return f"{last.missed} in epoch {last.epoch}, accuracy {accuracy:.3g}{course.rate}" if last.missed else None


def _not_a_number(course: Course) -> str | None:
    names = [name for name, value in course.last.items() if not math.isfinite(value)]
    return f"{listed(names)} in epoch {course.reports[-1].epoch}{course.rate}" if names else None


def _healthy(course: Course) -> Diagnosis:
    losses = course.series("val_loss") or course.series("train_loss")
    if not losses:
        return Diagnosis(Tag.HEALTHY, "no problem found")
    return Diagnosis(Tag.HEALTHY, f"loss {losses[0]:.3g} to {losses[-1]:.3g} in {count(len(losses), 'epoch')}")


RULES: dict[Tag, Callable[[Course], str | None]] = {
    Tag.EXPLODING: _exploding,
    Tag.DEAD: _dead,
    Tag.SATURATED: _saturated,
    Tag.VANISHING: _vanishing,
    Tag.SPIKES: _spiking,
    Tag.OVERFITS: _overfitting,
    Tag.SLOW: _slow,
    Tag.STUCK: _stuck,
    Tag.MISSED: _missed,
    Tag.NAN: _not_a_number,
}


def _kind(params: Params) -> str:
    """(sigmoid, no batch norm)."""
    known = [str(params["activation"])] if "activation" in params else []
    known += ["no batch norm"] if params.get("blocks") and params.get("batch_norm", "off") == "off" else []
    return f" ({', '.join(known)})" if known else ""


def _place(metric: str) -> str:
    """gradient/block3.conv -> block 3."""
    return spoken(metric.partition("/")[2])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0095 else f"{100 * share:.1g} %"


def _digits(number: float) -> str:
    """Two significant digits: 4,000; 24; 1e+06 from a million on."""
    return f"{float(f'{number:.2g}'):,.0f}" if number < 1e6 else f"{number:.0e}"
