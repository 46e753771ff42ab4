"""`hpo reproduce`: a trial trained again from nothing, and every number of every epoch compared bit for bit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hpo import provenance
from hpo.core import Job, JobEnded, JobFailed, Opened, Outcome, Report, Reported, Started, State, Trial, Value
from hpo.data.dataset import Dataset
from hpo.engine.changes import load_data
from hpo.engine.components import Components, assemble, placement, start_executor
from hpo.engine.opening import open_study
from hpo.engine.result import Result, studies_of
from hpo.errors import HpoError, NoResult
from hpo.files import scratch
from hpo.formatting import count
from hpo.journal import Journal
from hpo.publishing.publish_best import OnEpoch, restore, run_job
from hpo.study_file.spec import StudySpec
from hpo.training import checkpoints


@dataclass(frozen=True, slots=True)
class Reproduced:
    """difference: the first one, "" for none; changed: what is other now; restored: its pruned checkpoint is back."""

    trial: Trial
    epochs: int
    numbers: int
    difference: str
    changed: Sequence[str]
    restored: bool = False

    @property
    def identical(self) -> bool:
        return not self.difference


def reproduce(result: Result, number: int, on_epoch: OnEpoch = lambda report: None) -> Reproduced:
    """Train a trial again, in a folder of its own, ignoring what is known of it. Raises BadInput for a wrong number."""
    folders, trial = result.folders, result.trial(number)
    components = one_worker(result.spec, load_data(result.spec, folders, result.study.environments[-1:]))
    seed = result.study.trainings[trial.training].seed
    until = trial.epochs if trial.state is State.FAILED else trial.epoch
    reading = result.spec.goal.reading(trial)
    kept = reading.epoch if reading is not None else until
    with scratch(folders.run) as folder:
        job = Job(trial.training, trial.params, seed, 0, until, 0, folder / "trainings", components.limits())
        reports, end = train_job(components, job, on_epoch, kept)
        difference = _difference(trial, reports, end)
        same = components.identity()(trial.params, trial.repeat) == (trial.training, seed)
        same = same and not any(map(first_difference, trial.reports[:kept], reports))  # later it may have failed
        restored = same and _restore(job, folders.trainings, kept)
    changed = provenance.differences(trained_in(result, trial), provenance.environment(components.numerics))
    numbers = len(trial.reports[0].metrics) if trial.reports else 0
    return Reproduced(trial, len(reports), numbers, difference, changed, restored)


def _restore(job: Job, folder: Path, epoch: int) -> bool:
    """Put the checkpoint where it was, if it is gone: the same training has the same state."""
    place, again = (checkpoints.path(where, job.training, epoch) for where in (folder, job.folder))
    if place.exists() or not again.exists():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    again.replace(place)
    return True


def one_worker(spec: StudySpec, dataset: Dataset | None) -> Components:
    """The study's parts for one worker on this machine, whatever cluster it runs on. Raises BadInput for its device."""
    execution = spec.execution if spec.execution.engine == "inline" else replace(spec.execution, engine="local")
    here = replace(spec, execution=execution)
    return assemble(here, dataset, placement(here)[:1])


def stored(result: Result, trial: Trial, epoch: int) -> Path:
    """The checkpoint after the epoch that a trial is read at; one that is gone is trained again, as for publishing."""
    with suppress(NoResult):
        return result.checkpoint(trial)
    here, folders = one_worker(result.spec, result.dataset), result.folders
    with closing(start_executor(here.spec, here.placement)) as executor, Journal.open(folders.journal) as journal:
        executor.begin(here.factories())
        return restore(open_study(here, folders, journal, None, None), executor, trial, epoch)


def train_job(
    components: Components, job: Job, on_epoch: OnEpoch, kept: int | None = None
) -> tuple[list[Report], JobEnded | JobFailed]:
    """Train the job to its end, and keep the last checkpoint and that of epoch `kept`; on_epoch gets every report."""
    reports: list[Report] = []

    def keep(report: Report) -> None:
        reports.append(report)
        on_epoch(report)
        if report.epoch - 1 != kept:
            checkpoints.forget(job.folder, job.training, report.epoch - 1)

    with closing(start_executor(components.spec, components.placement)) as executor:
        executor.begin(components.factories())
        return reports, run_job(executor, job, keep)


def _difference(trial: Trial, reports: Sequence[Report], end: JobEnded | JobFailed) -> str:
    """The first difference in a phrase, "" if there is none."""
    for then, now in zip(trial.reports, reports, strict=False):
        if difference := first_difference(then, now):
            return difference
    outcome, why = (end.outcome, f": {end.error}") if isinstance(end, JobFailed) else (Outcome.OK, "")
    if outcome is not trial.outcome:
        return f"after epoch {len(reports)} it ended as {outcome}{why}; then it was {trial.outcome}"
    same_length = len(reports) == len(trial.reports)
    return "" if same_length else f"{count(len(reports), 'epoch')} came of it; then it was {len(trial.reports)}"


def first_difference(then: Report, now: Report) -> str:
    """The first metric that is not the same, bit for bit; seconds are no result."""
    if then.metrics.keys() != now.metrics.keys():
        other = ", ".join(sorted(then.metrics.keys() ^ now.metrics.keys()))
        return f"epoch {then.epoch}: only one of them reports {other}"
    apart = [name for name, value in then.metrics.items() if float(value).hex() != float(now.metrics[name]).hex()]
    if not apart:
        return ""
    name, more = apart[0], f" ({len(apart) - 1} more of that epoch differ)" if len(apart) > 1 else ""
    return f"epoch {then.epoch}: {name} was {then.metrics[name]!r}, is {now.metrics[name]!r}{more}"


def trained_in(result: Result, trial: Trial) -> Mapping[str, Value]:
    """What the run depended on that trained the trial's first epoch, in whichever study, or else that started it."""
    here = result.folders
    started: Mapping[str, Value] = {}
    for other in sorted(studies_of(here.state, here.name), key=lambda one: one != here):
        environment: Mapping[str, Value] = {}
        with suppress(HpoError), Journal.open(other.journal, read_only=True) as journal:  # another's may be broken
            for _, event in journal.events():
                if isinstance(event, Opened):
                    environment = event.environment
                elif isinstance(event, Started) and event.trial == trial.number and other == here:
                    started = environment
                elif isinstance(event, Reported) and event.training == trial.training and not event.reused:
                    return environment
    return started


def lines(reproduced: Reproduced) -> Iterator[str]:
    number, outcome = reproduced.trial.number, reproduced.trial.outcome
    again = "" if outcome is Outcome.OK else f", and {outcome} again"
    if reproduced.identical:
        epochs, numbers = count(reproduced.epochs, "epoch"), count(reproduced.numbers, "number")
        yield f"trial {number}: identical, {epochs} of {numbers} bit for bit{again}"
    else:
        yield f"trial {number}: different. {reproduced.difference}"
    if reproduced.changed:
        yield f"changed since: {', '.join(reproduced.changed)}"
    elif not reproduced.identical:
        yield "nothing has changed that is recorded: versions, processor, device, threads, data and code are the same"
    if reproduced.restored:
        yield "its checkpoint had been pruned away and is back"
