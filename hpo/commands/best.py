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

from hpo import provenance
from hpo.core import Params, Value
from hpo.data.dataset import Dataset
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.models.families import FAMILIES
from hpo.models.parameters import TRAINING, setting

SCRIPT, DATA = "train.py", "data.npz"
TEMPLATE: Final = Path(__file__).parent.parent / "publishing" / "train_script.py"
MARK: Final = "Written by `hpo best --script`"  # in the template: a file with it may be overwritten
FIRST, LAST = "# == settings", "# == end of the settings"


@dataclass(frozen=True)
class ScriptSource:
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
    spec, best, goal = result.spec, result.best, result.spec.goal
    refuse_own(spec.place("train" if spec.train else "model"), spec.train or spec.model)
    dataset, report = result.data(), goal.reading(best)
    assert report is not None, "the best trial has a score"
    score = f"{goal.metric} {report.metrics[goal.metric]:.6g} after epoch {report.epoch}"
    source = ScriptSource(
        title=f"the study {spec.name} ({result.folders.run.name}), trial {best.number}: {score}",
        params=best.params,
        seed=result.study.trainings[best.training].seed,
        epoch=report.epoch,
        model=spec.model,
        loss=spec.loss,
        class_weights=spec.class_weights,
        dataset=dataset,
    )
    return write_files(source, folder)


def refuse_own(place: str, model: str) -> None:
    if model not in FAMILIES:
        rule = "a script can be written for cnn and rnn only"
        raise BadInput(Mistake(place, rule, model, "your own function is the network's code already"))


def write_files(source: ScriptSource, folder: Path) -> Path:
    """Write the script and its data into a folder; returns the script's path. Raises BadInput for files of others."""
    path, text = folder / SCRIPT, script(source)
    try:
        ours = path.exists() and MARK in path.read_text(errors="replace")
        other = next((file for file in (path, folder / DATA) if file.exists() and not ours), None)
        if other is not None:
            rule = "must not be there yet, unless `hpo best --script` wrote it"
            raise BadInput(Mistake(str(other), rule, "", "name another folder with --to"))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        write_data(source.dataset, folder / DATA)
    except OSError as error:
        why, remedy = error.strerror or type(error).__name__, "name another folder with --to"
        raise EnvironmentFailed(Mistake(str(folder), "must be writable", why, remedy)) from error
    return path


def write_data(data: Dataset, path: Path) -> None:
    """Everything of a data set in one .npz without pickle."""
    arrays = {name: getattr(data, name) for name in ("images", "targets", "train", "val", "test", "mean", "std")}
    if data.classes is not None:
        arrays["classes"] = np.array(data.classes, dtype=np.str_)
    np.savez(path, allow_pickle=False, **arrays)


# -- the settings --------------------------------------------------------------------------------------------------


def script(source: ScriptSource) -> str:
    """The text of train.py: the template with the best trial's settings."""
    head, first, rest = TEMPLATE.read_text("utf-8").partition(FIRST)
    title, (_, last, tail) = rest.partition("\n")[0], rest.partition(LAST)
    return "\n".join([head + first + title, *assignments(source), last + tail])


def assignments(source: ScriptSource) -> Iterator[str]:
    """One assignment a line: how to train, then the network's layers."""
    used = f"hpo {provenance.__version__}, torch {provenance.version('torch')}, numpy {provenance.version('numpy')}"
    yield from (f"# {line}" for line in (*source.title.splitlines(), f"found with {used}"))
    yield f"SEED = {source.seed}  # names every random stream: weights, order of the images, dropout, augmentation"
    yield f"UNTIL = {source.epoch}  # train to the end of this epoch"
    yield f"LOSS = {literal(source.loss)}  # or squared_error"
    yield f"CLASS_WEIGHTS = {source.class_weights}  # weigh every class the same, however many images it has"
    yield f"REGRESSION = {source.dataset.classes is None}  # targets are numbers, not classes"
    for name, known in TRAINING.items():
        yield f"{name.upper()} = {literal(setting(source.params, TRAINING, name))}  # {known.doc}"
    yield "LAYERS: list[tuple[str, str, dict[str, Any]]] = ["
    data = source.dataset
    for layer in FAMILIES[source.model].layers(source.params, data.shape, data.outputs):
        options = asdict(layer)
        name, kind = options.pop("name"), type(layer).__name__
        pairs = ", ".join(f"{literal(key)}: {literal(value)}" for key, value in options.items())
        yield f"    ({literal(name)}, {literal(kind)}, {{{pairs}}}),"
    yield "]"


def literal(value: Value) -> str:
    """A value as Python source; text in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
