"""`hpo best --script`: the best trial as one Python file that needs torch and numpy only, with its data beside it.

The file is a copy of publishing/train_script.py in which the block of settings is the trial's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from hpo import __version__, provenance
from hpo.core import Params, Value
from hpo.data.dataset import Dataset
from hpo.engine.opening import load_data
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.models.families import FAMILIES
from hpo.models.parameters import TRAINING, setting

SCRIPT, DATA = "train.py", "data.npz"
TEMPLATE: Final = Path(__file__).parent.parent / "publishing" / "train_script.py"
MARK: Final = "Written by `hpo best --script`"  # in the template: whoever has it may be written over
FIRST, LAST = "# == settings", "# == end of the settings"


@dataclass(frozen=True)
class Winner:
    """What a script is written from. title: a line about the trial; seed: of its training; epoch: the one that counts."""

    title: str
    params: Params
    seed: int
    epoch: int
    model: str
    loss: str
    class_weights: bool
    dataset: Dataset


def write_script(result: Result, folder: Path) -> Path:
    """Write the best trial of a study as a script. Raises BadInput for a model that is not hpo's, NoResult for none."""
    spec, best, goal = result.spec, result.best, result.spec.metric.as_goal()
    refuse_own(spec.place("train" if spec.train else "model"), spec.train or spec.model)
    dataset, report = load_data(spec, result.folders), goal.reading(best)
    assert dataset is not None, "a model of ours has data"
    assert report is not None, "the best trial has a score"
    score = f"{goal.metric} {report.metrics[goal.metric]:.6g} after epoch {report.epoch}"
    winner = Winner(
        title=f"the study {spec.name} ({result.folders.run.name}), trial {best.number}: {score}",
        params=best.params,
        seed=result.study.trainings[best.training].seed,
        epoch=report.epoch,
        model=spec.model,
        loss=spec.loss,
        class_weights=spec.class_weights,
        dataset=dataset,
    )
    return write(winner, folder)


def refuse_own(place: str, model: str) -> None:
    if model not in FAMILIES:
        rule = "a script can be written for cnn and rnn only"
        raise BadInput(Mistake(place, rule, model, "your own function is the network's code already"))


def write(winner: Winner, folder: Path) -> Path:
    """Write the script and its data into a folder; returns the script's path. Raises BadInput for files of others."""
    path = folder / SCRIPT
    text = script(winner)
    try:
        _refuse_files_of_others(path, folder / DATA)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        write_data(winner.dataset, folder / DATA)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise EnvironmentFailed(
            Mistake(str(folder), "must be writable", why, "name another folder with --to")
        ) from error
    return path


def _refuse_files_of_others(path: Path, data: Path) -> None:
    """The script says whose it is, and whose the data beside it are."""
    if path.exists() and MARK in path.read_text(errors="replace"):
        return
    for one in (path, data):
        if one.exists():
            rule = "must not be there yet, unless `hpo best --script` wrote it"
            raise BadInput(Mistake(str(one), rule, "", "name another folder with --to"))


def write_data(data: Dataset, path: Path) -> None:
    """Everything of a data set in one .npz without pickle."""
    arrays = {name: getattr(data, name) for name in ("images", "targets", "train", "val", "test", "mean", "std")}
    if data.classes is not None:
        arrays["classes"] = np.array(data.classes, dtype=np.str_)
    np.savez(path, allow_pickle=False, **arrays)


# -- the settings --------------------------------------------------------------------------------------------------


def script(winner: Winner) -> str:
    """The text of train.py: the template with the winner's settings."""
    lines = TEMPLATE.read_text("utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(FIRST))
    last = next(i for i, line in enumerate(lines) if line.startswith(LAST))
    return "\n".join([*lines[: first + 1], *settings(winner), *lines[last:], ""])


def settings(winner: Winner) -> Iterator[str]:
    """One assignment a line: how to train, then the network's layers."""
    used = f"hpo {__version__}, torch {provenance.version('torch')}, numpy {provenance.version('numpy')}"
    yield from (f"# {line}" for line in (*winner.title.splitlines(), f"found with {used}"))
    yield f"SEED = {winner.seed}  # names every random stream: weights, order of the images, dropout, augmentation"
    yield f"UNTIL = {winner.epoch}  # train to the end of this epoch"
    yield f"LOSS = {literal(winner.loss)}  # or squared_error"
    yield f"CLASS_WEIGHTS = {winner.class_weights}  # weigh every class the same, however many images it has"
    yield f"REGRESSION = {winner.dataset.classes is None}  # targets are numbers, not classes"
    for name, known in TRAINING.items():
        yield f"{name.upper()} = {literal(setting(winner.params, TRAINING, name))}  # {known.doc}"
    yield "LAYERS: list[tuple[str, str, dict[str, Any]]] = ["
    data = winner.dataset
    for layer in FAMILIES[winner.model].layers(winner.params, data.shape, data.outputs):
        options = asdict(layer)
        name, kind = options.pop("name"), type(layer).__name__
        pairs = ", ".join(f"{literal(key)}: {literal(value)}" for key, value in options.items())
        yield f"    ({literal(name)}, {literal(kind)}, {{{pairs}}}),"
    yield "]"


def literal(value: Value) -> str:
    """A value as Python source; text in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
