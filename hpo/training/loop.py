"""The training loop: a generator of one report an epoch. Read `_epoch` first.

Everything random in epoch e is drawn from streams named by (training seed, e). So a checkpoint holds no random state, a
training that goes on from epoch 3 equals one that never stopped, and trainings that take turns in one process do not
notice each other.
"""

from __future__ import annotations

import gc
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from hpo.core import Job, Outcome, Params, Report, Train, epochs_of
from hpo.models.failure import TrainingFailed
from hpo.models.parameters import TRAINING, setting
from hpo.training import checkpoints, probes
from hpo.training.augment import augmentation
from hpo.training.device_data import Resident
from hpo.training.evaluation import Predictions, evaluate, load_network, predictions, score
from hpo.training.losses import Loss
from hpo.training.optimizers import Rule, rule
from hpo.training.recipe import Recipe
from hpo.training.setup import Setup, setup, streams

__all__ = ["Predictions", "Recipe", "TrainingFailed", "load_network", "predictions", "prepare", "score"]

log = logging.getLogger(__name__)

CHUNK_BYTES = (
    8 * 2**20
)  # of images made ready at once: as much as a core's cache holds, many batches of a small data set
DIVERGED = 4.0  # times the loss of the first step, or of a predictor that knows nothing, whichever is higher ...
DIVERGED_EPOCHS = 2  # ... for so many whole epochs in a row

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Learner:
    """One training in progress."""

    network: nn.Module
    rule: Rule
    loss: Loss
    augment: Augment | None
    places: probes.Places
    batch_size: int
    epoch: int = 0
    start: float = 0.0  # the loss of the very first step
    lost_epochs: int = 0  # so many in a row were above what DIVERGED allows

    def save(self, epoch: int, path: Path) -> None:
        assert epoch == self.epoch, "a report is saved before the next epoch is asked for"
        torch.save(
            {
                "epoch": epoch,
                "network": self.network.state_dict(),
                "optimizer": self.rule.optimizer.state_dict(),
                "start": self.start,
                "lost_epochs": self.lost_epochs,
            },
            path,
        )

    def load(self, path: Path, device: torch.device) -> None:
        state = torch.load(path, map_location=device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.rule.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.start, self.lost_epochs = state["epoch"], state["start"], state["lost_epochs"]


def prepare(recipe: Recipe) -> Train:
    """Load what the recipe needs, once in this process. Raises BadInput."""
    ready = setup(recipe)

    def train(job: Job) -> Iterator[Report]:
        return _surviving(_reports(ready, job), ready.data.device)

    return train


def _reports(ready: Setup, job: Job) -> Iterator[Report]:
    learner = _learner(ready, job)
    for epoch in range(learner.epoch + 1, epochs_of(job.params) + 1):
        began = time.perf_counter()
        with streams(ready.data.device, job.seed, epoch) as generator:
            metrics = _epoch(learner, ready.data, epoch, generator)
        learner.epoch = epoch
        now = time.perf_counter()
        if epoch > job.start:
            yield Report(epoch, metrics, now - began, time.time(), partial(learner.save, epoch))


def _learner(ready: Setup, job: Job) -> Learner:
    """As it was after epoch job.start. A checkpoint that cannot be read costs time, never a result: begin again."""
    learner = _fresh(ready, job)
    if job.start == 0:
        return learner
    path = checkpoints.path(job.folder, job.training, job.start)
    try:
        learner.load(path, ready.data.device)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        log.warning("%s cannot be read (%s): training epochs 1 to %d again", path, error, job.start)
        return _fresh(ready, job)
    return learner


def _fresh(ready: Setup, job: Job) -> Learner:
    _refuse_faults(job.params)
    network = ready.network(job.params, job.seed)
    return Learner(
        network=network,
        rule=rule(job.params, network),
        loss=ready.criterion(job.params),
        augment=augmentation(job.params),
        places=probes.places(network, ready.ours),
        batch_size=int(setting(job.params, TRAINING, "batch_size")),
    )


def _refuse_faults(params: Params) -> None:
    """What `check` does for our own models: nobody has compared a user's search space with what the loop knows."""
    for name, known in TRAINING.items():
        fault = known.fault(params[name]) if name in params else None
        if fault is not None:
            raise TrainingFailed(Outcome.INVALID, f"{name} {fault}, got {params[name]}")


def _epoch(learner: Learner, data: Resident, epoch: int, generator: torch.Generator) -> dict[str, float]:
    """One pass over the training split, then validation. Nothing is read from the device before the end of both."""
    network, loss, rule = learner.network.train(), learner.loss, learner.rule
    gradients = probes.Gradients(learner.places)
    sizes = _sizes(len(data.splits["train"]), learner.batch_size)
    losses: list[Tensor] = []
    for images, targets in _shuffled(learner, data, sizes, generator):
        value = loss(network(images), targets)
        value.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it out
        if gradients.due(len(losses), len(sizes)):
            gradients.look()
        rule.update(epoch - 1 + (len(losses) + 1) / len(sizes))
        losses.append(value.detach())
    with probes.activations(learner.places) as activity:
        validated = evaluate(network, data, loss, "val")
    return _judged(learner, torch.stack(losses), sizes, {**validated, **gradients.metrics(), **activity})


def _sizes(rows: int, batch_size: int) -> list[int]:
    """How the rows are dealt out. A single row left over joins the last batch: one image has no batch statistics."""
    full, rest = divmod(rows, batch_size)
    sizes = [batch_size] * full
    if rest == 1 and full:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def _shuffled(
    learner: Learner, data: Resident, sizes: list[int], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a new order: standardized, augmented, channels last. Many batches are made ready in one go."""
    order = torch.randperm(sum(sizes), generator=generator, device=data.device)
    rows = data.splits["train"][order]
    channels, height, width = data.shape
    together = max(1, CHUNK_BYTES // (4 * channels * height * width * learner.batch_size))
    for first in range(0, len(sizes), together):
        some = sizes[first : first + together]
        own = rows[sum(sizes[:first]) :][: sum(some)]
        images = data.pixels(own)
        if learner.augment is not None:
            images = learner.augment(images, generator).contiguous(memory_format=torch.channels_last)
        yield from zip(torch.split(images, some), torch.split(data.targets[own], some), strict=True)


def _judged(learner: Learner, losses: Tensor, sizes: list[int], more: dict[str, Tensor]) -> dict[str, float]:
    """The epoch's metrics as numbers, read from the device at once. Raises TrainingFailed: nan, diverged."""
    weighted = losses * torch.tensor(sizes, dtype=losses.dtype, device=losses.device) / sum(sizes)
    norms = torch.stack(torch._foreach_norm(list[Tensor](learner.rule.parameters))).sum()
    named = {"train_loss": weighted.sum(), "spikes": probes.spikes(losses, learner.loss.chance), **more}
    *values, weights, first = torch.stack([value.double() for value in (*named.values(), norms, losses[0])]).tolist()
    found = dict(zip(named, values, strict=True))
    if learner.epoch == 0:
        learner.start = first
    _refuse_what_is_lost(learner, found, weights)
    found["train_skill"] = 1 - found["train_loss"] / learner.loss.chance
    return found


def _refuse_what_is_lost(learner: Learner, found: dict[str, float], weights: float) -> None:
    epoch, rate = learner.epoch + 1, setting(learner.rule.params, TRAINING, "learning_rate")
    for name, value in (
        ("train_loss", found["train_loss"]),
        ("the weights", weights),
        ("val_loss", found.get("val_loss", 0.0)),
    ):
        if not abs(value) < float("inf"):
            verb = "are" if name.startswith("the") else "is"
            raise TrainingFailed(Outcome.NAN, f"{name} {verb} not finite in epoch {epoch}, learning rate {rate:g}")
    level = max(learner.loss.chance, learner.start)
    learner.lost_epochs = learner.lost_epochs + 1 if found["train_loss"] > DIVERGED * level else 0
    if learner.lost_epochs >= DIVERGED_EPOCHS:
        text = f"loss {found['train_loss']:.3g} in epoch {epoch}, {found['train_loss'] / level:.1f} times its start"
        raise TrainingFailed(Outcome.DIVERGED, f"{text}, for {learner.lost_epochs} epochs, learning rate {rate:g}")


def _surviving(reports: Iterator[Report], device: torch.device) -> Iterator[Report]:
    """What torch says of too little memory, or of a batch of one, as a TrainingFailed that leaves the worker sound."""
    try:
        yield from reports
        return
    except (MemoryError, RuntimeError, ValueError) as error:
        failure = _failure(error)
        if failure is None:
            raise
    # Here the exception, and with it the frames that hold the training's tensors, is gone.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise failure


def _failure(error: Exception) -> TrainingFailed | None:
    said = str(error).splitlines()[0] if str(error) else "no more memory"
    short = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in short):
        return TrainingFailed(Outcome.OOM, f"out of memory: {said}")
    if "more than 1 value per channel" in said:
        return TrainingFailed(Outcome.INVALID, f"batch norm at batch size 1: {said}")
    return None
