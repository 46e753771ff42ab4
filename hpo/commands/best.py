"""`hpo best --script` and `hpo best --refit`: what may be done with the best trial.

A script is a copy of publishing/train_script.py with the trial's settings and the source of hpo's own layers and augmentation;
its data lie beside it, and it needs torch and numpy only.
A refit is trained on train and val together, for use, and registered under its own alias. No split is left to choose by, so
params, epochs and seed are the trial's. The test split is read once more, and that is recorded.
"""

import ast
import math
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from hpo import provenance
from hpo.commands.reproduce import one_worker, train_job
from hpo.commands.sync import tracked_study
from hpo.core import Job, JobFailed, Params, Scored, Trial, digest, training_seed
from hpo.data.dataset import Dataset, standards
from hpo.engine.changes import load_data
from hpo.engine.components import recipe
from hpo.engine.result import Published, Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake, NoResult
from hpo.files import DriverLock
from hpo.formatting import count, decimals, nearby
from hpo.journal import Journal
from hpo.models import user
from hpo.models.families import FAMILIES
from hpo.models.parameters import TRAINING, setting
from hpo.publishing.publish_best import OnEpoch, Place, note, noted, order_for, publish, registered
from hpo.tracking.sync import Tracker
from hpo.tracking.ui import tracking_uri
from hpo.training import checkpoints
from hpo.training.recipe import Recipe

SCRIPT, DATA = "train.py", "data.npz"
PACKAGE: Final = Path(__file__).parents[1]
TEMPLATE: Final = PACKAGE / "publishing" / "train_script.py"
MARK: Final = "Written by `hpo best --script`"  # in the template: a file with it may be overwritten
FIRST, LAST, OWN = "# == settings", "# == end of the settings", "# == hpo's own code\n"
COPIED: Final = {  # what of hpo itself stands there in a copy, by its file
    "models/layers.py": "Shape Pad Conv Norm Activation Pool Dropout Flatten Dense Rows Recurrent Layer",
    "models/network.py": "Modules PADS POOLS CELLS ACTIVATIONS ImageRows FinalState Rescale initialize activation_after "
    "draw_weights draw_recurrent_weights module",
    "training/augment.py": "flipped shifted turned turned_by erased",
    "training/setup.py": "in_turns",
}

ALIAS = "refit"
META = "refitted"  # the journal's note of the last one
PREFIX = "refit_"  # of its test scores: they are not the best trial's own


@dataclass(frozen=True)
class ScriptSource:
    """What a script is written from. title: about the trial; seed: of its training; epoch: which counts."""

    title: str
    params: Params
    seed: int
    epoch: int
    recipe: Recipe
    dataset: Dataset


def write_script(result: Result, folder: Path) -> Path:
    """Write the best trial of a study as a script. Raises BadInput for a model that is not hpo's, NoResult for none."""
    spec, best, goal = result.spec, result.best, result.spec.goal
    refuse_own(spec.place("train" if spec.train else "model"), spec.train or spec.model)
    dataset, epoch = result.data(), goal.epoch(best)
    score = f"{goal.metric} {result.best_value:.6g} after epoch {epoch}"
    title = f"the study {spec.name} ({result.folders.run.name}), trial {best.number}: {score}"
    seed = result.study.trainings[best.training].seed
    return write_files(ScriptSource(title, best.params, seed, epoch, recipe(spec, dataset, "cpu"), dataset), folder)


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


def script(source: ScriptSource) -> str:
    """The text of train.py: the template with the best trial's settings, and with the source of what it imports of hpo."""
    before, first, rest = TEMPLATE.read_text("utf-8").partition(FIRST)
    title, (_, last, tail) = rest.partition("\n")[0], rest.partition(LAST)
    head = before.partition("\nfrom hpo.")[0]
    own = "\n\n\n".join(text for file, names in COPIED.items() for text in definitions(file, names.split()))
    return "\n".join([head, first + title, *assignments(source), last + tail.replace(OWN, f"{own}\n")])


def definitions(file: str, names: Collection[str]) -> Iterator[str]:
    """The source of what these names are in a file of hpo, in its order; nothing is imported for it."""
    text = (PACKAGE / file).read_text("utf-8")
    for node in ast.parse(text).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                first = node.lineno
            case _:
                continue
        if name in names:
            yield "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def assignments(source: ScriptSource) -> Iterator[str]:
    """One assignment a line: how to train, then the network's layers."""
    how = source.recipe
    used = f"hpo {provenance.__version__}, torch {provenance.version('torch')}, numpy {provenance.version('numpy')}"
    yield from (f"# {line}" for line in (*source.title.splitlines(), f"found with {used}"))
    yield f"SEED = {source.seed}  # names every random stream: weights, order of the images, dropout, augmentation"
    yield f"UNTIL = {source.epoch}  # train to the end of this epoch"
    yield f"LOSS = {how.loss!r}  # or squared_error"
    yield f"CLASS_WEIGHTS: bool | str = {how.class_weights!r}  # True: all weigh the same; 'sampling': drawn as often"
    yield from metrics(source)
    yield f"PRECISION = {how.precision!r}  # of training steps; bf16: autocast"
    yield f"REGRESSION = {source.dataset.classes is None}  # targets are numbers, not classes"
    for name, known in TRAINING.items():
        yield f"{name.upper()} = {setting(source.params, name)!r}  # {known.doc}"
    yield "\n\ndef layers() -> list[Layer]:\n    return ["
    data = source.dataset
    yield from (f"        {one!r}," for one in FAMILIES[how.model].layers(source.params, data.shape, data.outputs))
    yield "    ]\n\n"


def metrics(source: ScriptSource) -> Iterator[str]:
    """What the study names besides, and of which class; plainly what a program without the user's code cannot compute."""
    names, numbers = [], list(source.dataset.classes or ())
    for name in source.recipe.metrics:
        kind, _, of = name.partition(".")
        if user.is_reference(name):
            yield f"# what {name} measures is not computed here: it is a function of your own"
        else:
            names.append(f"{name!r}: ({kind!r}, {numbers.index(of) if of else None})")
    said = "besides: of one class by its number, or the mean"
    yield f"METRICS: dict[str, tuple[str, int | None]] = {{{', '.join(names)}}}  # {said}"


@dataclass(frozen=True, slots=True)
class Refit:
    """images: it was trained on; checkpoint: where its weights are; known: an earlier call had made it."""

    trial: Trial
    epoch: int
    images: int
    checkpoint: Path
    published: Published = field(default_factory=Published)
    known: bool = False


def refit(result: Result, environ: Mapping[str, str], on_epoch: OnEpoch = lambda report: None) -> Refit:
    """Train the best trial on train and val, score it on test, register it; twice is as once. Raises HpoError."""
    spec, folders, best = result.spec, result.folders, result.best
    if spec.train is not None or spec.data is None:
        rule = "a study with a trainer of its own has no splits that hpo could join"
        raise BadInput(Mistake(spec.place("train"), rule, str(spec.train), "train on all data in your own code"))
    uri = tracking_uri(spec, folders.state, environ) if spec.tracking.enabled else None
    with ExitStack() as stack:
        stack.callback(DriverLock(folders.lock).release)
        journal = stack.enter_context(Journal.open(folders.journal))
        result.refuse_other_code(best)
        dataset, epoch = load_data(spec, folders, result.study.environments[-1:]), spec.goal.epoch(best)
        assert dataset is not None, "the study names its data"
        joined = together(dataset)
        training = digest([best.training, epoch, joined.digest])
        checkpoint = checkpoints.path(folders.run / ALIAS, training, epoch)
        planned = Refit(best, epoch, len(joined.train), checkpoint)
        model = {"training": training, "register": registered(spec)}
        tracker = stack.enter_context(Tracker([tracked_study(spec, folders)], uri)) if uri is not None else None
        if known := noted(journal, META, model, Place.of(tracker, folders)):
            return replace(planned, published=known, known=True)
        data = joined.save(folders.data / ALIAS)  # a copy of the images, easily made again
        stack.callback(shutil.rmtree, folders.data / ALIAS, ignore_errors=True)
        if not checkpoint.exists():
            _train(result, data, planned, on_epoch)
        place = Place.of(tracker, folders)
        order = order_for(spec, data, folders, best, checkpoint, place)
        published = publish(replace(order, value=math.nan, alias=ALIAS))  # no validation split to have a value on
        scores = {f"{PREFIX}{name}": value for name, value in published.test.items()}
        journal.append(Scored(time.time(), best.number, scores, epoch))
        if published.model is not None or tracker is None:
            note(journal, META, model, place, published)
    return replace(planned, published=published)


def together(dataset: Dataset) -> Dataset:
    """Train and val as one training split, standardized by its own statistics; nothing is left to validate on."""
    train = np.union1d(dataset.train, dataset.val)
    mean, std = standards(dataset.images, train)
    name = digest([dataset.digest, "train and val"])
    return replace(dataset, train=train, val=train[:0], mean=mean, std=std, digest=name, folder=None)


def _train(result: Result, data: Dataset, planned: Refit, on_epoch: OnEpoch) -> None:
    best, epoch, checkpoint = planned.trial, planned.epoch, planned.checkpoint
    folder, components = result.folders.run / ALIAS, one_worker(result.spec, data)
    shutil.rmtree(folder, ignore_errors=True)
    seed = training_seed(result.spec.base_seed, best.params, best.repeat)
    job = Job(checkpoint.parent.name, best.params, seed, 0, epoch, 0, folder, components.limits())
    _, end = train_job(components, job, on_epoch)
    if isinstance(end, JobFailed):
        remedy = "run the same command again" if end.lost else "raise the budget and search on"
        got = f"{end.outcome}: {end.error}"
        raise NoResult(Mistake(f"trial {best.number}", "must train on train and val together too", got, remedy))
    if not checkpoint.exists():
        rule = "must be there to register the model"
        raise EnvironmentFailed(Mistake(str(checkpoint), rule, "no file", "run the same command again"))


def refit_lines(done: Refit) -> Iterator[str]:
    data = f"{count(done.images, 'image')} of train and val, {count(done.epoch, 'epoch')}"
    scores = sorted(done.published.test.items(), key=lambda item: item[0].endswith("_loss"))
    test = ", ".join(f"{name} {decimals(value)}" for name, value in scores)
    again = " (made earlier)" if done.known else ""
    yield f"refit:  trial {done.trial.number} on {data}: {test or 'no test split to score it on'}{again}"
    yield f"model:  {done.published.said}{'; the same command logs it later' if done.published.failed else ''}"
    yield f"        its weights are in {nearby(done.checkpoint)}"
