"""What has changed under a study since it was trained: its file, its data, its user's code, the versions of hpo and torch.

Every driver records its environment (`Opened`); what is compared here is that of the last one, so that an edit once
accepted is accepted for good.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo import provenance
from hpo.core import BestSoFar, Ended, Goal, Params, State, Study, Trial, Value, without_epochs
from hpo.data import dataset
from hpo.data.dataset import Dataset
from hpo.errors import BadInput, Conflict, HpoError, Mistake
from hpo.files import Folders
from hpo.formatting import count, listed
from hpo.journal import Journal
from hpo.models import families
from hpo.space.domains import Choice, Parameter, exact
from hpo.space.space import Space
from hpo.strategies.points import CONFIRM
from hpo.study_file.spec import StudySpec

log = logging.getLogger(__name__)

Environment = Mapping[str, Value]
Live = Callable[[], Iterable[Path]]  # the journals of the studies that other drivers have now


# -- the study file ------------------------------------------------------------------------------------------------


def refuse_changes(spec: StudySpec, folders: Folders, journal: Journal) -> None:
    """What a study's trials depend on may not change under it; which points come next may."""
    before, space = journal.get("study"), journal.get("space")
    if before is None or space is None:
        return
    old, new = ({"precision": "fp32", **one} for one in (json.loads(before), json.loads(json.dumps(spec.fixed()))))
    starts = [one for one in old["start_with"] if not spec.space.conflicts(one) and spec.admits(one)]
    grown = {
        "constraints": all(one in new["constraints"] for one in old["constraints"]),
        "start_with": new["start_with"][: len(starts)] == starts,
    }
    differing = edited({key: old.get(key) for key in new}, new)
    changed = [
        f"{key} was {json.dumps(was)}, is {json.dumps(now)}" for key, was, now in differing if not grown.get(key)
    ]
    apart = clashes(Space.from_record(json.loads(space)), spec.space, families.defaults(spec))
    if spec.warm_start != "studies" and (journal.environment() or {}).get("warm_start") == "studies":
        changed.append("it has learned from earlier studies, which a comparison and another warm_start leave out")
    if changed or apart:
        remedy = "undo that, give the study another name, or set the old one aside with --fresh"
        rule = f"cannot resume {folders.run}, because the study has changed"
        place = str(spec.path or spec.name)
        raise Conflict(*(Mistake(place, f"{rule}: {what}", "", remedy) for what in [*changed, *apart]))


def edited(old: Mapping[str, Any], new: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each key that differs, as `--set` names it, with both its values; mappings are compared key by key."""
    for key in {**old, **new}:
        was, now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from edited(was, now, f"{inside}{key}.")
        elif was != now:
            yield f"{inside}{key}", was, now


def allowed(spec: StudySpec, params: Params) -> bool:
    """Whether today's file has a point with these values, and with the default of what is younger than they are."""
    whole = families.completing(spec)(params)
    return not spec.space.conflicts(whole) and spec.admits(whole)


def clashes(old: Space, new: Space, defaults: Params) -> list[str]:
    """Why trials of the old space, with defaults of what is new, cannot stand beside those of the new one."""
    gone = [old[name] for name in old.names if name not in new]  # which is well where the new one cannot have it
    reasons = [f"{one.name} is gone" for one in gone if all(_when(one, old, new).values())]
    absent: set[str] = set()  # new parameters that no old point can have
    for parameter in new.parameters:
        name = parameter.name
        if name in old:
            reasons += _clashes_of(old, new, name)
        elif any(
            c.name in absent
            or (c.name in old and not c.among(old[c.name].domain))
            or (c.name not in old and c.name in defaults and not c.allows(defaults[c.name]))
            for c in parameter.when
        ):
            absent.add(name)
        elif name not in defaults:
            reasons.append(f"{name} is new, and the trials so far have no value of it")
        elif parameter.domain.coerce(defaults[name]) is None:
            default = exact(defaults[name])
            reasons.append(f"{name} is new, and the trials so far have its default, {default}, which is no value of it")
    was, now = ({one.name: one.text for one in space.derived} for space in (old, new))
    differ = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return reasons + [
        f"{name} followed from {was.get(name, 'nothing')}, now from {now.get(name, 'nothing')}" for name in differ
    ]


def _clashes_of(old: Space, new: Space, name: str) -> list[str]:
    """Why the old trials and later ones cannot share a parameter."""
    before, after = old[name], new[name]
    reasons = [f"{name} exists under another condition"] if _when(before, old, new) != _when(after, old, new) else []
    was, now = before.domain, after.domain
    if isinstance(was, Choice):
        kept = [(value, now.coerce(value)) for value in was.values]
        other = any(same is not None and type(same) is not type(value) for value, same in kept)
    elif isinstance(now, Choice):
        other = was.levels != 1
    elif (was.integer, was.log) != (now.integer, now.log):
        return [*reasons, f"{name} counts in another way (whole numbers or log)"]
    else:
        other = False
    return [*reasons, f"{name} was {was} and is {now} now"] if other else reasons


def _when(parameter: Parameter, old: Space, new: Space) -> dict[str, set[Value]]:
    """The conditions of a parameter, as far as they speak of values that both spaces have."""
    return {
        c.name: {value for value in c.among(old[c.name].domain) if new[c.name].domain.coerce(value) is not None}
        if c.name in old and c.name in new
        else set()
        for c in parameter.when
    }


# -- data ----------------------------------------------------------------------------------------------------------


Accept = Callable[[Dataset | None], None]


def load_data(
    spec: StudySpec, folders: Folders, before: Sequence[Environment] = (), accept: Accept = lambda data: None
) -> Dataset | None:
    """The data as one memory map for all workers; None where a user's own trainer brings its own.

    before: environments of studies that must have been trained on the same data; Conflict where not. Nothing is written then.
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
    """What a study was trained on: its own copy, with a warning, where the source is another now. Raises HpoError."""
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
    """The environment of a run that resumes studies; what else trains differently is said. Raises Conflict."""
    code = now["user_code"]
    if not accept_code and any(one.get("user_code", code) != code for one in before):
        rule = f"the code of {spec.train or spec.model} has changed, in more than comments and layout"
        remedy = "undo that, continue with `hpo run --accept-code`, or start again with --fresh"
        raise Conflict(Mistake(spec.place("train" if spec.train else "model"), rule, "", remedy))
    changes, trained = (
        dict.fromkeys(one for then in before for one in provenance.differences(then, now, names))
        for names in (("hpo", *provenance.TRAINED_BY), provenance.TRAINED_BY)
    )
    if changes:
        left = ", unfinished ones are not continued" if trained else ""
        log.warning("%s since the last run: finished trials keep theirs%s", ", ".join(changes), left)
    edited = sorted({str(one["user_code"]) for one in before if one.get("user_code") != code} - {"None"})
    return {**now, "accepted_code": ", ".join(edited)} if edited else now


def refuse_other_network(spec: StudySpec, study: Study, trial: Trial, code: str, first: str = "undo that") -> None:
    """Raises Conflict where other code of the user's trained the trial: today's would be another network, or another trial."""
    if other_versions(study, trial.training, {"user_code": code}):
        rule = f"the code of {spec.train or spec.model} has changed since trial {trial.number} was trained"
        remedy = f"{first}, or start again with `hpo run --fresh`"
        raise Conflict(Mistake(spec.place("train" if spec.train else "model"), rule, "", remedy))


def end_unfinished(spec: StudySpec, journal: Journal, now: Environment) -> None:
    """Trials that are never continued end as pruned: what another version of the trainer, torch or the user's code began,
    and what today's file no longer has, which is said in one line. Where `epochs` became longer, the shorter may go on.
    """
    study = journal.study()
    forbidden: list[int] = []
    for trial in study.with_state(State.RUNNING, State.PAUSED):
        point = trial.params if trial.epochs > spec.space.longest else without_epochs(trial.params)
        if changes := other_versions(study, trial.training, now):
            error = f"not continued by another version: {', '.join(changes)}"
        elif spec.strategy == CONFIRM or (allowed(spec, point) and spec.admits(trial.params)):
            continue  # what is confirmed may be older than the file
        else:
            forbidden.append(trial.number)
            error = "not continued: the study file no longer allows it"
        last = trial.reports[-1].time if trial.reports else trial.started  # the time since then is nobody's
        journal.append(Ended(last, trial.number, State.PRUNED, error=error))
    if forbidden:
        which = f"{count(len(forbidden), 'unfinished trial')} ({listed(list(map(str, forbidden)))})"
        log.warning("%s: the study file no longer allows %s; they end as pruned", journal.path.parent, which)


def other_versions(study: Study, training: str, now: Environment) -> list[str]:
    """What has changed of the versions that a training was begun with."""
    return provenance.differences(study.began[training], now, provenance.TRAINED_BY)


# -- other drivers -------------------------------------------------------------------------------------------------


class Elsewhere:
    """The studies of a name that this driver does not drive."""

    def __init__(self, goal: Goal, live: Live) -> None:
        self.goal, self._live = goal, live
        self.known: dict[Path, BestSoFar] = {}  # journal -> the study, as it was when last read
        self._changing: set[Path] = set()  # journals that other drivers have had since then

    def changing(self) -> bool:
        """Whether other drivers are at work, or have been since the last `update`."""
        self._changing.update(self._live())
        return bool(self._changing)

    def update(self) -> set[str]:
        """Read again what has changed; returns the trainings of the studies that other drivers have now."""
        live = set(self._live())
        for journal in self._changing | live:  # one that has ended a last time
            with suppress(HpoError), Journal.open(journal, read_only=True) as opened:
                self.known[journal] = BestSoFar(opened.study(), self.goal)
        self._changing = live
        return {key for journal in live & self.known.keys() for key in self.known[journal].study.trainings}
