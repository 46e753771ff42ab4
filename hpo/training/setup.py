"""What trainings of one recipe share in a worker: the data on its device, the loss, and how params become a network.

K   outputs        outputs (N, K) as the network gives them; targets (N,) classes or (N, K) numbers
classes, cross entropy    -ln softmax(outputs)[target]                     chance: ln K
classes, squared error    sum_k (softmax(outputs)_k - [k = target])^2      chance: 1 - 1/K     (the quadratic cost)
numbers, squared error    mean_k ((outputs - target)_k / spread_k)^2       chance: 1, the mean predictor
"""

import math
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.core import Outcome, Params, TrainingFailed, Value, digest
from hpo.data.dataset import Dataset
from hpo.models import user
from hpo.models.families import FAMILIES
from hpo.models.layers import Impossible, Shape
from hpo.models.network import Rescale, build, checked
from hpo.models.parameters import setting
from hpo.training.optimizers import Update

CROSS_ENTROPY = "cross_entropy"
SQUARED_ERROR = "squared_error"
SPARE = 2  # images go to a GPU when they leave at least half of its free memory; otherwise batch by batch
WARM_STEPS, TIMED_STEPS = 2, 3


@dataclass(frozen=True)
class Loss:
    """The mean loss of a batch. `plain` is what validation reports: unweighted, unsmoothed.

    spread: of the training targets (K,), for numbers; weights: of the classes (K,), on average 1 over training rows.
    """

    kind: str
    outputs: int
    spread: Tensor | None = None
    weights: Tensor | None = None
    smoothing: float = 0.0

    @classmethod
    def of(cls, kind: str, outputs: int, targets: Tensor, weights: Tensor | None = None) -> Self:
        """For these training targets: int64 (N,) are classes, floats (N, K) numbers, which have the squared error alone."""
        if targets.dtype == torch.int64:
            return cls(kind, outputs, weights=weights)
        assert kind == SQUARED_ERROR, kind  # study_file/rules.py refuses any other
        return cls(kind, outputs, spread=targets.std(0, correction=0).clamp(min=1e-12))

    @property
    def chance(self) -> float:
        if self.spread is not None:
            return 1.0
        return math.log(self.outputs) if self.kind == CROSS_ENTROPY else 1 - 1 / self.outputs

    @property
    def plain(self) -> Self:
        return replace(self, weights=None, smoothing=0.0)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.spread is not None:
            return ((outputs - targets) / self.spread).square().mean()
        if self.kind == CROSS_ENTROPY:
            return F.cross_entropy(outputs, targets, weight=self.weights, label_smoothing=self.smoothing)
        one_hot = F.one_hot(targets, self.outputs).to(outputs.dtype)
        smooth = one_hot * (1 - self.smoothing) + self.smoothing / self.outputs
        errors = (outputs.softmax(1) - smooth).square().sum(1)
        if self.weights is None:
            return errors.mean()
        weights = self.weights[targets]
        return (errors * weights).sum() / weights.sum()


@dataclass(frozen=True)
class DeviceData:
    """A data set on the device; batches are selected by index and standardized on the way.

    images (N, C, H, W) as stored, on the CPU where the device is too small; targets (N,) int64 classes, or (N, K) float32.
    """

    dataset: Dataset
    device: torch.device
    images: Tensor
    targets: Tensor
    scale: Tensor  # standardized = stored * scale + offset, each (1, C, 1, 1)
    offset: Tensor
    splits: dict[str, Tensor]  # "train", "val", "test" -> row numbers
    besides: Callable[..., Mapping[str, float]] | None = None  # a Besides: what else a study measures
    balanced: Tensor | None = None  # of an epoch with as many images of each class: how many each has

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.dataset.shape

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """The rows of an epoch, in a new order; balanced: as many, of each class in turn, over again where it has too few."""
        rows = self.splits["train"]
        rows = rows[torch.randperm(len(rows), generator=generator, device=self.device)]
        if (counts := self.balanced) is None:
            return rows
        return in_turns(rows, self.targets[rows], counts, generator)

    def pixels(self, rows: Tensor) -> Tensor:
        """Rows as the network takes them: (len(rows), C, H, W) float32, channels last."""
        stored = self.images.index_select(0, rows.to(self.images.device)).to(self.device, non_blocking=True)
        floats = stored.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.offset, floats, self.scale)


def in_turns(rows: Tensor, targets: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows, of each class in turn: its own in this order, over again where it has too few. counts: of each class."""
    order = targets.argsort(stable=True)
    turns = torch.arange(len(rows) // len(counts) + 1, device=rows.device)[:, None]
    rounds = order[counts.cumsum(0) - counts + turns % counts]  # (turns, classes)
    places = torch.rand(rounds.shape, generator=generator, device=rows.device).argsort(1)
    return rows[rounds.gather(1, places).flatten()[: len(rows)]]


def to_device(dataset: Dataset, device: torch.device, images: Tensor | None = None) -> DeviceData:
    """On the CPU the images stay the memory map that all workers share. images: the data set's, if they are there."""
    mean, std = (torch.from_numpy(np.array(part, np.float32)).view(1, -1, 1, 1) for part in (dataset.mean, dataset.std))
    largest = 255.0 if dataset.images.dtype == np.uint8 else 1.0  # mean and std are those of images in 0..1
    targets = torch.from_numpy(np.array(dataset.targets))  # a copy: the map is read-only
    if dataset.classes is None:
        targets = targets.to(torch.float32).view(len(targets), -1)
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return DeviceData(
        dataset=dataset,
        device=device,
        images=_images(dataset, device) if images is None else images,
        targets=targets.to(device),
        scale=(1 / (std * largest)).to(device),
        offset=(-mean / std).to(device),
        splits={name: torch.from_numpy(np.array(rows, np.int64)).to(device) for name, rows in splits.items()},
    )


def _images(dataset: Dataset, device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor does anything here write to it
        images = torch.from_numpy(dataset.images)
    fits = device.type == "cuda" and images.nbytes * SPARE <= torch.cuda.mem_get_info(device)[0]
    return images.to(device) if fits else images


@dataclass(frozen=True)
class Setup:
    """function: a user's own model; None for one of our families. precision: of training steps, fp32 or bf16."""

    model: str
    function: user.Function | None
    data: DeviceData
    loss: Loss
    precision: str = "fp32"

    def network(self, params: Params, seed: int) -> nn.Module:
        """A fresh network on the device, its weights drawn from the seed. Raises TrainingFailed where there is none."""
        try:
            with streams(torch.device("cpu"), seed, "init"):
                network = self._family(params, seed) if self.function is None else self._own(self.function, params)
        except Impossible as impossible:
            said = impossible.why if self.function is None else str(impossible)  # ours name the place in words
            raise TrainingFailed(Outcome.INVALID, said) from None
        network.to(self.data.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        return network

    def _family(self, params: Params, seed: int) -> nn.Module:
        layers = FAMILIES[self.model].layers(params, self.data.shape, self.data.dataset.outputs)
        network = build(layers, self.data.shape, torch.Generator().manual_seed(stream(seed, "weights")))
        if self.loss.spread is not None:
            network.add_module("rescale", self._rescale(self.loss.spread))
        return network

    def _own(self, function: user.Function, params: Params) -> nn.Module:
        shape, outputs = self.data.shape, self.data.dataset.outputs
        network = checked(function(dict(params), shape, outputs), self.model, shape, outputs)
        if self.loss.spread is None:
            return network
        return nn.Sequential(OrderedDict(network=network, rescale=self._rescale(self.loss.spread)))

    def _rescale(self, spread: Tensor) -> Rescale:
        targets = self.data.targets[self.data.splits["train"]]
        return Rescale(targets.mean(0).cpu(), spread.cpu())


def compute_as_workers(device: str, threads: int = 1) -> None:
    """On a GPU products of matrices are in TF32, as cuDNN's convolutions are."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest" if device == "cpu" else "high")


def forward(network: nn.Module, images: Tensor, precision: str) -> Tensor:
    """What a network says of images in a training step, as float32; in bf16 it computes with 8 significant bits."""
    if precision == "fp32":
        return network(images)  # type: ignore[no-any-return]
    with torch.autocast(images.device.type, torch.bfloat16):
        outputs: Tensor = network(images)
    return outputs.float()


def time_step(
    model: str, shape: Shape, outputs: int, device: str = "cpu", clock: Callable[[], float] | None = None
) -> Callable[[Params, str], float]:
    """For `hpo check`: params, precision -> seconds of a step on random images, the fastest of some; inf: no memory."""
    clock = clock or (time.process_time if device == "cpu" else time.perf_counter)

    def seconds(params: Params, precision: str) -> float:
        generator, taken = torch.Generator().manual_seed(0), list[float]()
        compute_as_workers(device)
        with suppress(torch.OutOfMemoryError):
            network = build(FAMILIES[model].layers(params, shape, outputs), shape, generator).to(device).train()
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
            update, batch_size = Update.of(params, network), int(setting(params, "batch_size"))
            images = torch.randn((batch_size, *shape), generator=generator)
            images = images.to(device, memory_format=torch.channels_last)
            targets = torch.randint(outputs, (batch_size,), generator=generator).to(device)
            for _ in range(WARM_STEPS + TIMED_STEPS):
                began = clock()
                loss = F.cross_entropy(forward(network, images, precision), targets)
                torch.autograd.backward(loss)
                update.step(0.0, 1.0)
                loss.item()  # waits for the device
                taken.append(clock() - began)
            return min(taken[WARM_STEPS:])
        return math.inf

    return seconds


def stream(seed: int, *name: Value) -> int:
    """The seed of one named random stream of a training."""
    return int(digest(["stream", seed, *name])[:15], 16)


@contextmanager
def streams(device: torch.device, seed: int, *name: Value) -> Iterator[torch.Generator]:
    """torch's global streams (dropout draws from them) set for a while and put back; and a generator of our own."""
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), denormals_flushed():
        torch.manual_seed(stream(seed, *name, "global"))
        yield torch.Generator(device).manual_seed(stream(seed, *name))


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Denormal numbers are 0 for a while. Dying units make them, and they are many times slower than others."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # as every process begins; torch cannot tell what it was
