"""The training loop: a generator of one report an epoch.

Everything random in epoch e is drawn from streams named by (training seed, e). So a checkpoint holds no random state, a
training that goes on from epoch 3 equals one that never stopped, and trainings that take turns in one process do not
affect each other.
"""

import gc
import logging
import math
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from hpo.core import Job, Outcome, Params, Report, Train, TrainingFailed, epochs_of
from hpo.models.parameters import TRAINING, number, setting
from hpo.training import checkpoints, probes
from hpo.training.augment import augmented
from hpo.training.evaluation import evaluate, read
from hpo.training.optimizers import Update
from hpo.training.setup import DeviceData, Loss, Setup, forward, streams

log = logging.getLogger(__name__)

CHUNK_BYTES = 8 * 2**20  # of images prepared at once: they fit a core's cache, and are many batches of a small data set
DIVERGED = 4.0  # times the loss of the first step, or of a predictor that knows nothing, whichever is higher ...
DIVERGED_EPOCHS = 2  # ... for so many whole epochs in a row ...
DIVERGED_STEPS = 20  # ... and so many steps: after fewer, one in seven came back


@dataclass
class TrainingState:
    network: nn.Module
    update: Update
    loss: Loss
    places: probes.Places
    batch_size: int
    precision: str
    epoch: int = 0
    first_loss: float = 0.0  # of the very first step
    high_epochs: int = 0  # so many in a row had a loss above what DIVERGED allows

    def save(self, epoch: int, path: Path) -> None:
        assert epoch == self.epoch, "a report is saved before the next epoch is trained"
        torch.save(
            {
                "epoch": epoch,
                "network": self.network.state_dict(),
                "optimizer": self.update.state_dict(),
                "first_loss": self.first_loss,
                "high_epochs": self.high_epochs,
            },
            path,
        )

    def load(self, path: Path, device: torch.device) -> None:
        state = torch.load(path, map_location=device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.update.load_state_dict(state["optimizer"])
        self.epoch, self.first_loss, self.high_epochs = state["epoch"], state["first_loss"], state["high_epochs"]


def trainer(ready: Setup) -> Train:
    return lambda job: translate_errors(train_epochs(ready, job), ready.data.device)


def train_epochs(ready: Setup, job: Job) -> Iterator[Report]:
    """From the checkpoint after epoch job.start to the last epoch; from the first where it cannot be read."""
    state = resume(ready, job)
    for epoch in range(state.epoch + 1, epochs_of(job.params) + 1):
        began = time.perf_counter()
        with streams(ready.data.device, job.seed, epoch) as generator:
            metrics, missed = train_epoch(state, ready.data, generator)
        state.epoch = epoch
        yield Report(epoch, metrics, time.perf_counter() - began, time.time(), partial(state.save, epoch), missed)


def train_epoch(state: TrainingState, data: DeviceData, generator: torch.Generator) -> tuple[dict[str, float], str]:
    """One pass over the training split, then validation, before whose end nothing is read: metrics and Report.missed."""
    network = state.network.train()
    gradients = probes.Gradients(state.places)
    sizes = batch_sizes(len(data.splits["train"]), state.batch_size)
    losses: list[Tensor] = []
    for images, targets in batches(state, data, sizes, generator):
        loss = state.loss(forward(network, images, state.precision), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs leave it out
        if gradients.due(len(losses), len(sizes)):
            gradients.add()
        start = state.epoch + len(losses) / len(sizes)
        losses.append(loss.detach())
        state.update.step(start, end=state.epoch + len(losses) / len(sizes))
    with probes.activations(state.places) as activity:
        validation = evaluate(network, data, state.loss, "val")
    return read_metrics(state, data, torch.stack(losses), sizes, {**validation, **gradients.metrics(), **activity})


def resume(ready: Setup, job: Job) -> TrainingState:
    """The state after epoch job.start. A checkpoint that cannot be read costs time, never a result: begin again."""
    state = new_state(ready, job)
    if job.start > 0:
        path = checkpoints.path(job.folder, job.training, job.start)
        try:
            state.load(path, ready.data.device)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s): training epochs 1 to %d again", path, error, job.start)
            return new_state(ready, job)
    return state


def new_state(ready: Setup, job: Job) -> TrainingState:
    refuse_invalid(job.params)
    network = ready.network(job.params, job.seed)
    return TrainingState(
        network=network,
        update=Update.of(job.params, network),
        loss=replace(ready.loss, smoothing=number(job.params, "label_smoothing")),
        places=probes.probe_places(network, ours=ready.function is None),
        batch_size=int(setting(job.params, "batch_size")),
        precision=ready.precision,
    )


def refuse_invalid(params: Params) -> None:
    """For a user's own model, whose search space `check` has not compared with what the loop accepts."""
    for name, known in TRAINING.items():
        fault = known.fault(params[name]) if name in params else None
        if fault is not None:
            raise TrainingFailed(Outcome.INVALID, f"{name} {fault}, got {params[name]}")


def batch_sizes(rows: int, batch_size: int) -> list[int]:
    """How the rows are split. A single row left over joins the last batch: one image has no batch statistics."""
    full, rest = divmod(rows, batch_size)
    if rest == 1 and full:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (rest > 0)


def batches(
    state: TrainingState, data: DeviceData, sizes: list[int], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in a new order: standardized, augmented, channels last. Many batches are prepared at once."""
    rows = data.shuffled(generator)
    channels, height, width = data.shape
    chunk = max(1, CHUNK_BYTES // (4 * channels * height * width * state.batch_size))  # in batches
    for first in range(0, len(sizes), chunk):
        chunk_sizes = sizes[first : first + chunk]
        chunk_rows = rows[sum(sizes[:first]) :][: sum(chunk_sizes)]
        images = augmented(data.pixels(chunk_rows), state.update.params, generator)
        targets = data.targets[chunk_rows]
        yield from zip(torch.split(images, chunk_sizes), torch.split(targets, chunk_sizes), strict=True)


def read_metrics(
    state: TrainingState, data: DeviceData, losses: Tensor, sizes: list[int], others: dict[str, Tensor]
) -> tuple[dict[str, float], str]:
    """The epoch's metrics and Report.missed, read from the device at once. Raises TrainingFailed: nan, diverged."""
    rows = torch.full_like(losses, sizes[0])
    rows[-1:].fill_(sizes[-1])  # the only batch of another size
    weighted = losses * rows / sum(sizes)
    norms = torch.stack([parameter.detach().norm() for parameter in state.update.parameters]).sum()
    tensors = {"train_loss": weighted.sum(), "spikes": probes.spikes(losses, state.loss.chance), **others}
    metrics, missed = read({**tensors, "weights": norms, "first_loss": losses[0]}, data, "val")
    weights, first_loss = metrics.pop("weights"), metrics.pop("first_loss")
    if state.epoch == 0:
        state.first_loss = first_loss
    of_val = metrics.get("val_loss", 0.0)  # a split may be empty
    checked = {"train_loss is": metrics["train_loss"], "the weights are": weights, "val_loss is": of_val}
    for name, value in checked.items():
        if not math.isfinite(value):
            raise TrainingFailed(Outcome.NAN, f"{name} not finite in epoch {state.epoch + 1}, {_rate(state)}")
    refuse_divergence(state, metrics["train_loss"], len(sizes))
    return {**metrics, "train_skill": 1 - metrics["train_loss"] / state.loss.chance}, missed


def refuse_divergence(state: TrainingState, loss: float, steps: int) -> None:
    level = max(state.loss.chance, state.first_loss)
    state.high_epochs = state.high_epochs + 1 if loss > DIVERGED * level else 0
    if state.high_epochs >= max(DIVERGED_EPOCHS, DIVERGED_STEPS / steps):
        text = f"loss {loss:.3g} in epoch {state.epoch + 1}, {loss / level:.3g} times its start"
        since = f"above {DIVERGED:g} times since epoch {state.epoch + 2 - state.high_epochs}"
        raise TrainingFailed(Outcome.DIVERGED, f"{text}, {since}, {_rate(state)}")


def _rate(state: TrainingState) -> str:
    return f"learning rate {setting(state.update.params, 'learning_rate'):g}"


def translate_errors(reports: Iterator[Report], device: torch.device) -> Iterator[Report]:
    """torch's errors about memory and batches of one become a TrainingFailed, after which the worker is sound."""
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
    message = str(error).splitlines()[0] if str(error) else "no more memory"
    short = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in short):
        return TrainingFailed(Outcome.OOM, f"out of memory: {message}")
    if "more than 1 value per channel" in message:
        return TrainingFailed(Outcome.INVALID, f"batch norm at batch size 1: {message}")
    return None
