"""What has changed under a study since it was trained: its data, its user's code, the versions of hpo and torch.

Every driver records its environment (`Opened`); what is compared here is that of the last one, so that an edit once
accepted is accepted for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from hpo import provenance
from hpo.core import Ended, Opened, Started, State, Study, Trial, Value
from hpo.data import dataset
from hpo.data.dataset import Dataset
from hpo.errors import BadInput, Conflict, Mistake
from hpo.files import Folders
from hpo.journal import Journal
from hpo.study_file.spec import StudySpec

log = logging.getLogger(__name__)

Environment = Mapping[str, Value]

NAMED = ("hpo", *provenance.TRAINED_BY)  # what a run says of what has changed


# -- data ----------------------------------------------------------------------------------------------------------


Accept = Callable[[Dataset | None], None]


def load_data(
    spec: StudySpec, folders: Folders, before: Sequence[Environment] = (), accept: Accept = lambda data: None
) -> Dataset | None:
    """The data as one memory map for all workers; None where a user's own trainer brings its own.

    before: environments of studies that must have been trained on the same data. Raises Conflict where they are others;
    nothing has been written then, nor where `accept` raises.
    """

    def refuse(data: Dataset) -> None:
        others = [one for one in before if "data" in one and data.with_split(split_of(one, data)).digest != one["data"]]
        if others and spec.data is not None:
            remedy = "bring the old ones back, give the study another name, or start it again with --fresh"
            raise Conflict(Mistake(spec.data.source, f"the data have changed: {_change(others[0], data)}", "", remedy))
        accept(data)

    if spec.data is None:
        accept(None)
        return None
    return dataset.load_dataset(spec.data, spec.base_seed, folders.data, refuse)


def load_splits(
    specs: Sequence[StudySpec], folders: Folders, before: Sequence[Environment], accept: Accept
) -> Mapping[int, Dataset | None]:
    """Each split of the data that a study needs, by its seed; the images are stored once. Raises Conflict."""
    data = load_data(specs[0], folders, before, accept)
    return {seed: data and data.with_split(seed) for seed in {spec.base_seed for spec in specs}}


def split_of(before: Environment, data: Dataset) -> int:
    """The seed of the split that was trained on: each seed of a comparison has its own."""
    return int(before.get("split", data.split))


def _change(before: Environment, data: Dataset) -> str:
    then = str(before.get("images", ""))
    if then == data.counted:
        return f"other images, {then} as before"
    return f"{then or 'other images'}, now {data.counted.replace(' images', '').replace(' classes', '')}"


def stored_data(spec: StudySpec, folders: Folders, study: Study) -> Dataset | None:
    """The data that a study was trained on: its own copy where the source is another now, which is a warning.

    Raises Conflict or BadInput where there is no copy.
    """
    environments = study.environments[-1:]
    try:
        return load_data(spec, folders, environments)
    except (BadInput, Conflict) as error:
        copy = dataset.kept(str(environments[0].get("data")), folders.data) if environments else None
        if copy is None:
            raise
        mistake = error.mistakes[0]
        remedy = "going on with the study's copy of the old ones"
        log.warning("%s", replace(mistake, remedy=remedy) if isinstance(mistake, Mistake) else f"{mistake}; {remedy}")
        return copy


def warn_of_other_files(spec: StudySpec, folders: Folders, study: Study) -> None:
    """A line where the data's files are not those that were read last; names, sizes and times are looked at."""
    environment = study.environments[-1] if study.environments else {}
    if spec.data is None or "data" not in environment:
        return
    known = dataset.known(spec.data, spec.base_seed, folders.data)
    if known != environment["data"]:
        rule = "the files are not those that the study was trained on (changed, moved or touched since)"
        log.warning("%s", Mistake(spec.data.source, rule, "", "`hpo run` says whether the data have changed"))


# -- code and versions ---------------------------------------------------------------------------------------------


def resumed(spec: StudySpec, before: Sequence[Environment], now: Environment, accept_code: bool) -> Environment:
    """The environment to record for a run that resumes studies, with the edit of the user's code that it accepts.

    What else has changed that trains is said in one line. Raises Conflict for an edit that is not accepted.
    """
    if not accept_code:
        refuse_other_code(spec, before, now)
    changes, trained = (
        dict.fromkeys(one for then in before for one in provenance.differences(then, now, names))
        for names in (NAMED, provenance.TRAINED_BY)
    )
    if changes:
        left = ", unfinished ones are not continued" if trained else ""
        log.warning("%s since the last run: finished trials keep theirs%s", ", ".join(changes), left)
    edited = sorted({str(one["user_code"]) for one in before if one.get("user_code") != now["user_code"]} - {"None"})
    return {**now, "accepted_code": ", ".join(edited)} if edited else now


def refuse_other_code(spec: StudySpec, before: Iterable[Environment], now: Environment) -> None:
    """Raises Conflict where the user's own code is not the one that a study was last run with."""
    code = now["user_code"]
    if any(one.get("user_code", code) != code for one in before):
        rule = f"the code of {spec.train or spec.model} has changed, in more than comments and layout"
        remedy = "undo that, continue with `hpo run --accept-code`, or start again with --fresh"
        raise Conflict(Mistake(spec.place("train" if spec.train else "model"), rule, "", remedy))


def refuse_other_network(spec: StudySpec, journal: Journal, trial: Trial, code: str) -> None:
    """Raises Conflict where other code of the user's trained the trial: today's would be another network, or another trial."""
    if other_versions(journal, trial.training, {"user_code": code}):
        rule = f"the code of {spec.train or spec.model} has changed since trial {trial.number} was trained"
        remedy = "undo that, or start again with `hpo run --fresh`"
        raise Conflict(Mistake(spec.place("train" if spec.train else "model"), rule, "", remedy))


def end_outdated(journal: Journal, study: Study, now: Environment) -> None:
    """What another version of the trainer, torch or the user's code began is never continued: it ends as pruned."""
    if not any(provenance.differences(one, now, provenance.TRAINED_BY) for one in study.environments):
        return
    for trial in study.with_state(State.RUNNING, State.PAUSED):
        if changes := other_versions(journal, trial.training, now):
            error = f"not continued by another version: {', '.join(changes)}"
            ended = Ended(_last_seen(trial), trial.number, State.PRUNED, error=error)
            journal.append(ended)
            study.apply(ended)


def other_versions(journal: Journal, training: str, now: Environment) -> list[str]:
    """What has changed of the versions that a training was begun with."""
    environment: Environment = {}
    for _, event in journal.events():
        if isinstance(event, Opened):
            environment = event.environment
        elif isinstance(event, Started) and event.training == training:
            break
    return provenance.differences(environment, now, provenance.TRAINED_BY)


def _last_seen(trial: Trial) -> float:
    """When it last did something: the time since then is nobody's."""
    return trial.reports[-1].time if trial.reports else trial.started
