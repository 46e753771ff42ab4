"""Trains the best network of a hyperparameter search: one plain program, to be read from top to bottom.

Written by `hpo best --script`. Needs torch >= 2.10 and numpy, and data.npz beside it:

    python train.py                  # trains, scores the test split, writes model.pt
    python train.py --device cuda

Every copy has the same code; what the search found stands in the block of settings below. The score comes out as the
search reported it up to what another seed would change; on the same CPU with the same versions most trainings repeat.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from hpo.models.layers import Conv, Dense, Flatten, Layer
from hpo.models.network import Rescale, initialize, module
from hpo.training.augment import erased, flipped, shifted, turned
from hpo.training.setup import in_turns

# ruff: noqa: F401 - a copy has the source of what is imported of hpo, which needs the others

# == settings: the only lines that differ from copy to copy ============================================================
# the best of 40 trials on digits, as an example
SEED = 0  # names every random stream: weights, order of the images, dropout, augmentation
UNTIL = 5  # train to the end of this epoch
LOSS = "cross_entropy"  # or squared_error
CLASS_WEIGHTS: bool | str = False  # True: all weigh the same; "sampling": drawn as often
METRICS: dict[str, tuple[str, int | None]] = {"f1.3": ("f1", 3)}  # besides: of one class by its number, or the mean
PRECISION = "fp32"  # of training steps; bf16: autocast
REGRESSION = False  # targets are numbers, not classes
OPTIMIZER = "adam"  # the rule that turns gradients into updates
LEARNING_RATE = 0.003
MOMENTUM = 0.0
NESTEROV = False
BETA1 = 0.9
BETA2 = 0.999
RMS_DECAY = 0.99
WEIGHT_DECAY = 0.0
L1 = 0.0
L2 = 0.0
BATCH_SIZE = 32
EPOCHS = 5
SCHEDULE = "cosine"
STEP_EPOCHS = 5
DECAY = 0.9
WARMUP = 1
CLIP = 0.0
LABEL_SMOOTHING = 0.0
SHIFT = 1
FLIP = False
ROTATION = 0.0
ERASE = 0.0


def layers() -> list[Layer]:
    return [
        Conv(name="block1.conv", channels=16, kernel=3, padding=1),
        Flatten(name="flatten"),
        Dense(name="output", units=10),
    ]


# == end of the settings ===============================================================================================


# == hpo's own code


def stream(*name: int | str) -> int:
    """The seed of one named random stream."""
    text = json.dumps(["stream", SEED, *name], separators=(",", ":"))
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


class Data:
    """data.npz on the device. images: (N, C, H, W) as stored; targets: (N,) class numbers, or (N, K) floats.

    rows: "train", "val" and "test" to row numbers; mean and std, of the training split, standardize the images.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]).to(device) for name in file.files if name != "classes"}
        self.images, self.targets = arrays["images"], arrays["targets"]
        self.rows = {split: arrays[split] for split in ("train", "val", "test")}
        mean, std = arrays["mean"].view(1, -1, 1, 1), arrays["std"].view(1, -1, 1, 1)
        largest = 255.0 if self.images.dtype == torch.uint8 else 1.0  # mean and std are those of images in 0..1
        self.scale, self.offset = 1 / (std * largest), -mean / std
        self.class_weights: Tensor | None = None
        if REGRESSION:
            self.targets = self.targets.to(torch.float32).view(len(self.targets), -1)
            known = self.targets[self.rows["train"]]
            self.target_mean, self.target_std = known.mean(0), known.std(0, correction=0).clamp(min=1e-12)
        elif CLASS_WEIGHTS is True:
            counts = torch.bincount(self.targets[self.rows["train"]])
            self.class_weights = (counts.sum() / (len(counts) * counts.double())).float()

    def standardized(self, rows: Tensor) -> Tensor:
        """The images of these rows as the network takes them: (len(rows), C, H, W) float32."""
        images = self.images[rows].to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.offset, images, self.scale)


def augmented(images: Tensor, generator: Generator) -> Tensor:
    """Standardized images, each mirrored, turned, moved and blanked by its own draw."""
    if FLIP:
        images = flipped(images, generator)
    if ROTATION > 0:
        images = turned(images, ROTATION, generator)
    if SHIFT > 0:
        images = shifted(images, SHIFT, generator)
    if ERASE > 0:
        images = erased(images, ERASE, generator)
    return images.contiguous(memory_format=torch.channels_last)


# -- network -----------------------------------------------------------------------------------------------------------


def build(data: Data) -> nn.Sequential:
    """The network on the CPU. A blank image goes through it as it grows and tells each layer the size of its input."""
    network, cpu = nn.Sequential(), torch.device("cpu")
    image = torch.zeros(1, *data.images.shape[1:])
    for layer in layers():
        block, _, own = layer.name.rpartition(".")  # block1.conv is `conv` in `block1`
        if block and block not in dict(network.named_children()):
            network.add_module(block, nn.Sequential())
        part = module(layer, tuple(image.shape[1:]), cpu)
        network.get_submodule(block).add_module(own, part)
        image = part.eval()(image)
    initialize(network, layers(), Generator().manual_seed(stream("weights")))
    if REGRESSION:
        network.add_module("rescale", Rescale(data.target_mean.cpu(), data.target_std.cpu()))
    return network


# -- training ----------------------------------------------------------------------------------------------------------


def loss(outputs: Tensor, targets: Tensor, data: Data, training: bool) -> Tensor:
    """The mean of a batch; class weights and label smoothing count in training only."""
    if REGRESSION:
        return ((outputs - targets) / data.target_std).square().mean()
    weights, smoothing = (data.class_weights, LABEL_SMOOTHING) if training else (None, 0.0)
    if LOSS == "cross_entropy":
        return F.cross_entropy(outputs, targets, weight=weights, label_smoothing=smoothing)
    one_hot = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype) * (1 - smoothing) + smoothing / outputs.shape[1]
    errors = (outputs.softmax(1) - one_hot).square().sum(1)
    weights = torch.ones_like(errors) if weights is None else weights[targets]
    return (errors * weights).sum() / weights.sum()


@torch.inference_mode()
def evaluate(network: nn.Module, data: Data, split: str) -> dict[str, float]:
    """The metrics of a split by name: {"val_loss": ..., ...}; none of an empty one."""
    network.eval()
    if len(rows := data.rows[split]) == 0:
        return {}
    outputs = torch.cat([network(data.standardized(some)) for some in torch.split(rows, 256)])
    targets = data.targets[rows]
    metrics = {"loss": loss(outputs, targets, data, training=False), **scores(outputs, targets)}
    return {f"{split}_{name}": float(value) for name, value in metrics.items()}


def scores(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    if REGRESSION:
        errors, deviations = (outputs - targets).square(), (targets - targets.mean(0)).square()
        return {"mse": errors.mean(), "r2": 1 - errors.sum() / deviations.sum()}
    classes, said = outputs.shape[1], outputs.double().softmax(1)
    pairs = torch.bincount(targets * classes + outputs.argmax(1), minlength=classes**2)
    confusion = pairs.view(classes, classes).double()  # rows: the truth; columns: the prediction
    hits, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    sizes = {"precision": predicted, "recall": truth, "f1": (truth + predicted) / 2}
    each = {name: (hits / size.clamp(min=0.5)).where(truth + predicted > 0, math.nan) for name, size in sizes.items()}
    each["top5"] = (outputs.topk(min(5, classes)).indices == targets[:, None]).any(1).double()
    if any(kind == "auc" for kind, _ in METRICS.values()):
        each["auc"] = torch.stack([auc(said[:, k], targets == k) for k in range(classes)])
    named = {name: each[kind].nanmean() if k is None else each[kind][k] for name, (kind, k) in METRICS.items()}
    mean = {"balanced_accuracy": each["recall"][truth > 0].mean(), "macro_f1": each["f1"].nanmean()}
    return {"accuracy": hits.sum() / truth.sum(), **mean, **named}


def auc(said: Tensor, own: Tensor) -> Tensor:
    """How often an image of the class has more probability of it than one of another class; half where they tie."""
    others = said[~own].sort().values
    below = [torch.searchsorted(others, said[own], right=right) for right in (False, True)]
    return torch.stack(below).double().mean() / len(others)


def learning_rate(start: float, end: float) -> float:
    """Of the step from `start` to `end`, in epochs done: a linear warm-up to its end, then the schedule's at its start."""
    if start < WARMUP:
        return LEARNING_RATE * end / WARMUP
    done = start - WARMUP
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done / max(1.0, EPOCHS - WARMUP))))
    factors = {"cosine": cosine, "step": DECAY ** (done // STEP_EPOCHS), "exponential": DECAY ** (done // 1)}
    return float(LEARNING_RATE * factors.get(SCHEDULE, 1.0))


def prepared(batches: list[Tensor], data: Data, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of rows with their images, augmented many batches at once, as in the search: one by one the draws are others."""
    many = max(1, 8 * 2**20 // (4 * data.images[0].numel() * BATCH_SIZE))
    for first in range(0, len(batches), many):
        some = batches[first : first + many]
        images = augmented(data.standardized(torch.cat(some)), generator)
        yield from zip(some, torch.split(images, [len(batch) for batch in some]), strict=True)


def optimizer_of(weights: list[nn.Parameter], others: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Only the weights decay."""
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    match OPTIMIZER:
        case "sgd":
            return torch.optim.SGD(groups, LEARNING_RATE, MOMENTUM, nesterov=NESTEROV and MOMENTUM > 0, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, LEARNING_RATE, alpha=RMS_DECAY, momentum=MOMENTUM, foreach=True)
        case "adam":
            return torch.optim.Adam(groups, LEARNING_RATE, betas=(BETA1, BETA2), fused=True)
    return torch.optim.AdamW(groups, LEARNING_RATE, betas=(BETA1, BETA2), fused=True)


def train(data: Data, device: torch.device) -> nn.Module:
    """The network after epoch UNTIL; prints the metrics of every epoch."""
    network = build(data)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    weights = [parameter for parameter in network.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in network.parameters() if parameter.ndim < 2]  # biases, gamma and beta
    optimizer = optimizer_of(weights, others)
    for epoch in range(1, UNTIL + 1):
        torch.manual_seed(stream(epoch, "global"))  # dropout draws from it
        generator = Generator(device).manual_seed(stream(epoch))
        rows = data.rows["train"]
        rows = rows[torch.randperm(len(rows), generator=generator, device=device)]
        if CLASS_WEIGHTS == "sampling":
            counts = torch.unique_consecutive(data.targets[rows].sort().values, return_counts=True)[1]
            rows = in_turns(rows, data.targets[rows], counts, generator)
        batches = list(torch.split(rows, BATCH_SIZE))
        if len(batches) > 1 and len(batches[-1]) == 1:  # one image has no batch statistics: it joins the last batch
            batches[-2:] = [torch.cat(batches[-2:])]
        network.train()
        total = torch.zeros((), device=device)
        for done, (batch, images) in enumerate(prepared(batches, data, generator)):
            with torch.autocast(device.type, torch.bfloat16, enabled=PRECISION == "bf16"):
                outputs = network(images)
            value = loss(outputs.float(), data.targets[batch], data, training=True)
            total += value.detach() * len(batch) / len(rows)
            for factor, size in ((L1, torch.abs), (L2, torch.square)):  # they are clipped too, unlike weight decay
                if factor > 0:
                    value = value + factor * torch.stack([size(weight).sum() for weight in weights]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(value)
            if CLIP > 0:
                nn.utils.clip_grad_norm_(weights + others, CLIP)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch - 1 + done / len(batches), epoch - 1 + (done + 1) / len(batches))
            optimizer.step()
        print_metrics(f"epoch {epoch}/{UNTIL}", {"train_loss": float(total), **evaluate(network, data, "val")})
    return network


def print_metrics(title: str, metrics: dict[str, float]) -> None:
    print(title, *(f"{name} {value:.6g}" for name, value in metrics.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    here, device = Path(__file__).parent, torch.device(parser.parse_args().device)
    torch.set_num_threads(1)  # as the search did; another number rounds differently
    torch.set_flush_denormal(True)  # dying units breed denormal numbers, which are many times slower
    data = Data(here / "data.npz", device)
    network = train(data, device)
    print_metrics("test", evaluate(network, data, "test"))
    torch.save(network.state_dict(), here / "model.pt")


if __name__ == "__main__":
    main()
