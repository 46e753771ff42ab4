"""A study is opened: locked for this driver, checked against what its journal says, and made ready to continue."""

import json
import logging
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

from hpo import provenance
from hpo.core import EPOCHS, Event, Outcome, Params, Proposal, Reported, Start, State, Strategy, Study, digest
from hpo.data import dataset
from hpo.data.dataset import Dataset
from hpo.engine.changes import Environment, allowed, refuse_changes
from hpo.engine.components import Components, assemble, trains_whole, user_code
from hpo.engine.result import COUNTED, as_counted, studies_of
from hpo.engine.search import Search
from hpo.engine.trainings import Trainings
from hpo.errors import BadInput, EnvironmentFailed, HpoError, Mistake
from hpo.files import DriverLock, Folders, hit, holder_of
from hpo.formatting import count, listed, without_password
from hpo.journal import Journal
from hpo.models import families, user
from hpo.strategies import prior as learned_prior
from hpo.strategies.encoding import Images
from hpo.strategies.points import UNNAMED, Stream, random_points
from hpo.strategies.prior import Experience, LearnedPrior
from hpo.strategies.surrogate import ENGINE, experience
from hpo.study_file.fields import did_you_mean
from hpo.study_file.rules import measured
from hpo.study_file.spec import DEFAULT_TRIALS, Budget, StudySpec

log = logging.getLogger(__name__)

MOST_EARLIER = 10  # studies that are learned from
DRAWS = 1_000  # points over which the mean length of a trial is taken


@dataclass(frozen=True)
class OpenStudy:
    """A study that this process drives."""

    components: Components
    folders: Folders
    journal: Journal
    search: Search

    @property
    def spec(self) -> StudySpec:
        return self.components.spec


def say_notes(studies: Sequence[OpenStudy]) -> None:
    """What is to be said of how they are searched, each sentence once."""
    said = [note for one in studies for note in notes(one.spec, target_trials(one.spec, one.journal, None))]
    for note in dict.fromkeys(said):
        log.warning("%s", note)


def open_study(
    components: Components, folders: Folders, journal: Journal, trials: int | None, max_running: int | None
) -> OpenStudy:
    """trials: the new target; max_running: the most trials at a time."""
    components = replace(components, spec=as_counted(components.spec, journal))
    if (known := components.known) is not None:
        first = known_first(components.spec, known, folders, journal.environment() or {})
        components = replace(components, known=first)
    return OpenStudy(components, folders, journal, open_search(components, journal, trials, max_running))


def refuse_unknown_classes(spec: StudySpec, data: Dataset | None) -> None:
    """Raises BadInput for a metric of a class that the data do not have, and for one that is 1 whatever is trained."""
    known = (data and data.classes) or ()
    if spec.metric.name == "val_top5" and 0 < len(known) <= 5:
        rule, remedy = "must tell trials apart, and of five classes or fewer it is always 1", "write val_accuracy"
        raise BadInput(Mistake(spec.place("metric.name"), rule, f"val_top5 of {len(known)}", remedy))
    for name in measured(spec):
        own, judges = name.partition(".")[2], spec.metric.name == f"val_{name}"
        there = [known[k] for k in sorted({*data.targets[data.val].tolist()})] if judges and data and known else known
        if own and not user.is_reference(name) and own not in there:
            rule = "must be of a class that the data have" + (" among the images to validate on" if judges else "")
            place = spec.place("metric.name" if judges else "metrics")
            raise BadInput(Mistake(place, rule, own, did_you_mean(own, there)))


def refuse_impossible(spec: StudySpec, placement: Sequence[str], data: Dataset | None) -> None:
    """A space in which nothing can be trained is bad input, not an empty study."""
    refuse_unknown_classes(spec, data)
    problem = assemble(spec, data, placement).problem()
    if next(random_points(problem), None) is None:
        one = problem.feasible(spec.space.sample(random.Random(spec.seed))) or "none found"
        rule, remedy = "must hold at least one point that can be trained", "widen it; `hpo check` names the reasons"
        raise BadInput(Mistake(spec.place("search_space"), rule, one, remedy))


def take_over(specs: Sequence[StudySpec], folders: Sequence[Folders], fresh: bool, stack: ExitStack) -> list[Journal]:
    """The studies' journals, all locked for this driver until the stack unwinds. Raises Conflict, before it makes any."""
    stack.callback(DriverLock(*(place.lock for place in folders)).release)
    return [open_journal(spec, place, fresh, stack) for spec, place in zip(specs, folders, strict=True)]


def open_journal(spec: StudySpec, folders: Folders, fresh: bool, stack: ExitStack) -> Journal:
    """The journal of a study that this driver has locked."""
    if fresh and folders.journal.exists():
        set_aside(folders)
        hit("set-aside")
    hit("lock.held")
    if not folders.journal.exists():
        stack.push(partial(forget_refused, folders))
    journal = stack.enter_context(Journal.open(folders.journal))
    refuse_changes(spec, folders, journal)
    hit("journal.open")
    journal.put(COUNTED, json.dumps(sorted(as_counted(spec, journal).goal.epochs)))
    journal.put("study", json.dumps(spec.fixed()))
    journal.put("space", json.dumps(spec.space.record()))
    journal.put("text", without_password(spec.text))
    journal.put("space_text", spec.space_text)
    journal.put("path", str(spec.path.absolute()) if spec.path is not None else "")
    return journal


def forget_refused(folders: Folders, kind: type[BaseException] | None, *_: object) -> None:
    """A new study that is refused, be it at its first report, leaves nothing behind."""
    if kind is not None and issubclass(kind, BadInput):
        shutil.rmtree(folders.run, ignore_errors=True)


def set_aside(folders: Folders) -> Path:
    """Move a study out of the way; it can be looked at, and nothing reads its trainings again."""
    place = folders.study / "set-aside" / f"{folders.run.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    place.parent.mkdir(parents=True, exist_ok=True)
    folders.run.rename(place)
    folders.run.mkdir()
    (place / folders.lock.name).rename(folders.lock)  # it says who drives the new one
    return place


def lengthen(spec: StudySpec, journal: Journal) -> None:
    """Where `epochs` became longer, the best point with its new longest value comes next and continues from its checkpoint.

    It is one trial more than there are or were to be. Kept in the journal, so that every later run has the same points.
    """
    longest, study = spec.space.longest, journal.study()
    before = int(journal.get("longest") or longest)
    best = as_counted(spec, journal).goal.best(study.trials)
    further: Params = {} if best is None else {**best.params, EPOCHS: longest}
    if best is not None and longest > before and allowed(spec, further):
        target = target_trials(spec, journal, None)
        journal.put("longer", json.dumps([*longer(spec, journal), further]))
        if target is not None and learned_prior.predictive(spec):
            journal.put("trials", str(target + 1))
        elif target is not None:
            own = len(study) - len(study.replaced.intersection(noted_retries(journal)))
            journal.put("trials", str(max(target, own) + 1))
    journal.put("longest", str(max(before, longest)))


def longer(spec: StudySpec, journal: Journal) -> list[Params]:
    """The points to be trained longer that the space still has, with the default of what is younger than they are."""
    points: list[Params] = json.loads(journal.get("longer") or "[]")
    return list(map(families.completing(spec), [point for point in points if allowed(spec, point)]))


def open_search(components: Components, journal: Journal, trials: int | None, max_running: int | None) -> Search:
    """The study as its journal has it, ready to continue."""
    spec = components.spec
    study, target = journal.study(), target_trials(spec, journal, trials)
    retried = [n for n in noted_retries(journal) if n in study.replaced or allowed(spec, study.trials[n].params)]
    budget = affordable(spec, None if target is None else target + len(retried))
    name = f"{spec.name}/{journal.path.parent.name}"  # two study files are compared side by side
    further = Stream(components.problem(), iter(longer(spec, journal)))
    strategy = Enqueued(components.strategy(), retried, further, budget.trials)
    append, known = partial(record, spec, journal, study), components.known
    told = {"prior": "none"} if known is None else {"prior": known.digest, "known": str(known)}
    recorded = {**components.numerics, "engine": ENGINE, "warm_start": spec.warm_start, **told}
    for before in study.environments[-1:]:
        if changes := provenance.differences(before, recorded, ("prior", "engine")):
            log.warning("%s: %s since the last run; the search goes on with what it is now", name, ", ".join(changes))
    return Search(study, strategy, spec.goal, budget, components.identity(), append, max_running, name, recorded)


def known_first(spec: StudySpec, shipped: LearnedPrior, folders: Folders, before: Environment) -> LearnedPrior:
    """What the search knew when it first began, kept with it; anew where the file asks for something else since."""
    kept, digest = folders.study / "priors", str(before.get("prior"))
    if before.get("warm_start") != spec.warm_start or not (kept / f"{digest}.npz").exists():
        earlier = earlier_studies(spec, folders) if spec.warm_start == "studies" else {}
        digest = learned_prior.keep(learned_prior.with_studies(shipped, earlier), kept)
    return replace(learned_prior.load(kept / f"{digest}.npz", shipped.left_out, digest), regression=shipped.regression)


def earlier_studies(spec: StudySpec, folders: Folders) -> dict[str, Experience]:
    """What the latest studies of other names in the state folder have read of the metric; what is of no use is said."""
    last = {path.parents[1].name: path.stat().st_mtime for path in (folders.state / "studies").glob("*/*/journal.db")}
    names = sorted(last.keys() - {spec.name}, key=lambda name: (-last[name], name))[:MOST_EARLIER]
    found = {name: read for name in names if (read := earlier_study(spec, folders.state, name)) is not None}
    if len(found) < len(names) or not names:
        unused = listed([name for name in names if name not in found]) or f"{folders.state}, which has no other study"
        rule = f"it takes a study of cnn that reports {spec.metric.name} and still has its data"
        log.warning("warm_start: nothing is learned from %s; %s", unused, rule)
    return found


def earlier_study(spec: StudySpec, state: Path, name: str) -> Experience | None:
    """What all studies of a name have read of the metric; None for nothing that is of use."""
    studies, images = [], None
    for one in studies_of(state, name):
        with suppress(HpoError), Journal.open(one.journal, read_only=True) as journal:
            file, environment = json.loads(journal.get("study") or "{}"), journal.environment() or {}
            data = dataset.kept(str(environment.get("data")), one.data)
            if data is not None and file.get("model") == "cnn" and file.get("train") is None:
                studies.append(journal.study())
                images = Images(data.shape, data.outputs, len(data.train))
    return None if images is None else experience(studies, spec.goal, images)


def notes(spec: StudySpec, trials: int | None) -> Iterator[str]:
    """What is to be said of how a study is searched before it begins. trials: its target."""
    if trials is not None and (most := affordable(spec, trials)).trials is None:
        why = "their mean length each, because with early_stopping: predictive a trial may end after one"
        yield f"budget: {count(trials, 'trial')} count as {count(most.total_epochs or 0, 'epoch')}, {why}"
    total, needed = spec.budget.total_epochs, in_epochs(spec, trials or 0)
    if trials is not None and total is not None and total < needed:
        ended = f"budget: total_epochs ({total}) may end the study before its {count(trials, 'trial')}"
        yield f"{ended}, which take {needed} epochs at their mean length; raise it: --set budget.total_epochs={needed}"
    if total is not None and total < (least := epochs_to_count(spec)):
        may = "budget: total_epochs may end the study before a trial comes to an epoch that counts, which takes some"
        yield f"{may} {least} epochs with early stopping; raise it: --set budget.total_epochs={least}"
    whole = trains_whole(spec)
    if whole:
        rule = "no point is stopped early, because an epoch of your trainer may depend on how many follow"
        yield f"early_stopping: {rule}; prefix_safe: true says that none does"
    asked = spec.strategy == "bayesian" and "strategy" in spec.places
    other = ["strategy bayesian searches as tpe"] if asked else []
    other += ["early_stopping predictive stops as asha"] if learned_prior.predictive(spec) and not whole else []
    other += ["warm_start learns from no earlier study"] if spec.warm_start == "studies" else []
    if other and spec.strategy not in UNNAMED and (why := learned_prior.unknown(spec)):
        yield f"{listed(other)}, because {why}"


def affordable(spec: StudySpec, trials: int | None) -> Budget:
    """The budget with this target. With predictive early stopping a trial may be one epoch, so trials count as epochs."""
    budget = replace(spec.budget, trials=trials)
    if trials is None or budget.total_epochs is not None or not learned_prior.predictive(spec):
        return budget
    return replace(budget, trials=None, total_epochs=in_epochs(spec, trials))


def epochs_to_count(spec: StudySpec, luck: bool = False) -> int:
    """Epochs of a study until a trial has passed the first that counts (asha: L. Li et al., MLSys 2020, algorithm 2).

    As a rule one of `reduction` trials at a rung goes on. luck: at least, where each trial is better than all before it
    and those that differ in `epochs` alone share a training. Where the points of the space are fewer, the best goes on.
    """
    rule, first, lengths = spec.early_stopping, min(spec.goal.epochs or spec.space.lengths), len(spec.space.lengths)
    if rule is None or rule.type not in (("asha", "predictive") if learned_prior.unknown(spec) else ("asha",)):
        return first
    rungs, factor = sorted(rule.rungs(first)), rule.reduction
    if (spec.space.size() or math.inf) < factor ** (len(rungs) - 1):
        return first
    above = range(len(rungs) - 1, -1, -1)
    trials = [-(-(1 + k * (factor - 1)) // lengths) if luck else factor**k for k in above]
    return sum(n * (rung - before) for n, before, rung in zip(trials, [0, *rungs[:-1]], rungs, strict=True))


def total_epochs(spec: StudySpec) -> int:
    """The budget in epochs; trials of different length are no equal budget, so they count as epochs at their mean length."""
    return spec.budget.total_epochs or in_epochs(spec, spec.budget.trials or DEFAULT_TRIALS)


def in_epochs(spec: StudySpec, trials: int) -> int:
    """Epochs of so many trials that nothing stops, at their mean length over the space."""
    rng = random.Random("mean length")
    return max(1, round(trials * mean(int(spec.space.sample(rng)[EPOCHS]) for _ in range(DRAWS))))


def record(spec: StudySpec, journal: Journal, study: Study, event: Event) -> None:
    """Raises BadInput for a study's first report if it lacks the metric: without it no trial can be the best."""
    name = spec.metric.name
    if isinstance(event, Reported) and study.epochs == 0 and name not in event.report.metrics:
        reported = listed(sorted(event.report.metrics)) or "nothing"
        place = spec.place("metric.name")
        raise BadInput(Mistake(place, "must be a metric that is reported", name, f"reported are {reported}"))
    journal.append(event)


def retry_failed(components: Components, journal: Journal) -> None:
    """Note the failed trials that are to be started again; of nan and diverged only those that could end otherwise."""
    spec, study, identity = components.spec, journal.study(), components.identity()
    retried = noted_retries(journal)
    for trial in study.with_state(State.FAILED):
        same = trial.outcome in (Outcome.NAN, Outcome.DIVERGED)
        same = same and identity(trial.params, trial.repeat)[0] == trial.training
        if trial.number not in retried and allowed(spec, trial.params) and not same:
            retried.append(trial.number)
    journal.put("retried", json.dumps(retried))


def noted_retries(journal: Journal) -> list[int]:
    return [*json.loads(journal.get("retried") or "[]")]


class Enqueued:
    """A strategy: these failed trials again, in order, each once and as far as it was to go; then `longer`, each to
    its end, whatever early stopping says; then the wrapped one.

    most: trials of the study, beyond which the first two would only be in the way of trials that can be continued.
    """

    def __init__(self, strategy: Strategy, failed: Sequence[int], longer: Strategy, most: int | None) -> None:
        self._strategy, self._failed, self._longer, self._most = strategy, failed, longer, most

    def propose(self, study: Study, slots: int) -> Proposal:
        if self._most is None or len(study) < self._most:
            replaced = study.replaced if self._failed else set[int]()
            again = [study.trials[number] for number in self._failed if number not in replaced]
            if again:
                return [Start(trial.params, trial.until, trial.repeat) for trial in again[:slots]]
            if longer := self._longer.propose(study, slots):
                return longer
        return self._strategy.propose(study, slots)


def target_trials(spec: StudySpec, journal: Journal, requested: int | None) -> int | None:
    """--trials raises the target and is remembered; a file that asks for more wins over what is remembered."""
    if requested is not None:
        journal.put("trials", str(requested))
        return requested
    remembered = journal.get("trials")
    if remembered is None or spec.budget.trials is None:
        return spec.budget.trials
    return max(spec.budget.trials, int(remembered))


def open_trainings(spec: StudySpec, folders: Folders, own: Sequence[Journal]) -> Trainings:
    """What all studies of this name have trained so far."""
    ours = {journal.path for journal in own}

    def others() -> list[Path]:
        elsewhere = (path for path in folders.study.glob("*/journal.db") if path not in ours)
        return [path for path in elsewhere if holder_of(path.with_name(folders.lock.name)) is not None]

    trainings = Trainings(folders.trainings, spec.goal, spec.execution.checkpoints, others)
    for journal in own:
        study, retried = journal.study(), noted_retries(journal)
        again = [study.trials[number] for number in set(retried) - study.replaced]
        begun = study.with_state(State.RUNNING, State.PAUSED)  # such as retries that were interrupted
        trainings.retried |= {trial.training for trial in [*again, *begun]}
    for other in studies_of(folders.state, folders.name):
        if other.journal in ours:
            continue
        try:
            with Journal.open(other.journal, read_only=True) as journal:
                trainings.learn(journal.study(), other.journal)
        except HpoError as error:
            log.warning("%s; its trainings are not shared", error)
    return trainings


def environments(specs: Sequence[StudySpec], folders: Sequence[Folders], fresh: bool) -> list[Environment]:
    """What the last drivers of these studies ran on; nothing is written. Raises Conflict, BadInput."""
    user_code(specs[0])
    found: list[Environment] = []
    for spec, place in zip(specs, folders, strict=True):
        if not fresh and place.journal.exists():
            # a journal that cannot be read is for `take_over` to say
            with suppress(EnvironmentFailed), Journal.open(place.journal, read_only=True) as journal:
                refuse_changes(spec, place, journal)
                found += [one for one in [journal.environment()] if one is not None]
    return found


def recorded_environment(components: Components) -> Environment:
    """What to look at when two runs differ."""
    spec = components.spec
    about = {"study_file": digest([spec.text, spec.space_text, spec.sets])[:16], "precision": spec.precision}
    if components.dataset is not None:
        about["images"] = components.dataset.counted
    return provenance.environment(components.numerics) | about
