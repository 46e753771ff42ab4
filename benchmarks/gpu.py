"""hpo's training on a GPU: is it right there, and how fast against a tutorial's script? One table, in a few minutes.

    make gpu, or: python3 -m benchmarks.gpu [--device cuda] [--seconds 8]

Needs torch 2.11 or newer, numpy, scikit-learn, pyyaml and pillow; no network, no MLflow. `--device cpu` rehearses it on a machine
without a GPU: every check and every figure but those of CUDA alone. Exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from hpo.core import Job, Outcome, Params, Report, TrainingFailed
from hpo.data.dataset import load_dataset
from hpo.models.families import sizes
from hpo.study_file.spec import DataSpec
from hpo.training import checkpoints, loop
from hpo.training.recipe import Recipe
from hpo.training.setup import streams

CNN: Params = {"blocks": 2, "channels": 16, "batch_norm": "before", "dropout": 0.2, "batch_size": 64, "epochs": 4}
WIDE: Params = {**CNN, "channels": 32}
SIDES: Mapping[int, Params] = {8: CNN, 28: WIDE}  # side of the images -> the network that is timed on them
AUGMENTED: Params = {"flip": True, "rotation": 9.0, "shift": 1, "erase": 0.1, "clip": 1.0}
AT_ONCE = (1, 2, 4, 8)  # processes on one device
LEFT = 2**28  # bytes that a training which ran out of memory may leave taken: those of kernels
CLOSE, IMAGES = 0.05, 6  # relative difference of losses, and validation images, between devices or precisions


@dataclass(frozen=True)
class Card:
    """The device under test; a rehearsal's is the CPU."""

    device: torch.device

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu (a rehearsal)"

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def syncs(self) -> Iterator[list[str]]:
        """The places in the block where the CPU waited for the device; in a rehearsal, where it would."""
        seen: list[str] = []
        if self.device.type != "cuda":
            with Waits(seen):
                yield seen
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield seen
            finally:
                torch.cuda.set_sync_debug_mode("default")
                seen += [f"{Path(one.filename).name}:{one.lineno}" for one in caught]


class Waits(TorchFunctionMode):
    """Notes the calls that would wait for a GPU. What has been read is on the host, and taking it apart is no wait."""

    NAMES = frozenset(
        [
            "cpu",
            "item",
            "tolist",
            "numpy",
            "tensor",
            "as_tensor",
            "from_numpy",
            "nonzero",
            "bincount",
            "masked_select",
            "__bool__",
        ]
    )
    MORE = frozenset(
        [
            "__array__",
            "__float__",
            "__int__",
            "__index__",
            "unique",
            "unique_consecutive",
            "is_nonzero",
            "equal",
            "allclose",
        ]
    )

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen, self.read = seen, None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if name in self.NAMES | self.MORE and (self.read is None or args[0] is not self.read):
            frame = next(one for one in reversed(traceback.extract_stack()[:-1]) if "torch/" not in one.filename)
            self.seen.append(f"{Path(frame.filename).name}:{frame.lineno}")
        self.read = result if name == "cpu" else self.read
        return result


# -- data and trainings ---------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """scikit-learn's digits as they are, and enlarged to 28x28."""
    digits = load_dataset(DataSpec("digits"), seed=0)
    digits.save(folder / "8")
    images = np.pad(
        np.kron(digits.images, np.ones((1, 1, 3, 3), digits.images.dtype)), ((0, 0), (0, 0), (2, 2), (2, 2))
    )
    np.savez(folder / "large.npz", images=images, labels=digits.targets)
    load_dataset(DataSpec(str(folder / "large.npz")), seed=0).save(folder / "28")


def recipe(folder: Path, side: int, device: str, precision: str = "fp32") -> Recipe:
    return Recipe("cnn", "cross_entropy", folder / str(side), device, precision=precision)


def job(params: Params, folder: Path, start: int = 0, seed: int = 1) -> Job:
    return Job(
        training="made", params=params, seed=seed, start=start, until=int(params["epochs"]), known=0, folder=folder
    )


def trained(one: Recipe, params: Params, folder: Path, start: int = 0) -> list[Report]:
    """Every epoch's report; the checkpoint after the second is saved."""
    reports = []
    for report in one()(job(params, folder, start)):
        reports.append(report)
        if report.epoch == 2 and report.save is not None:
            path = checkpoints.path(folder, "made", 2)
            path.parent.mkdir(parents=True, exist_ok=True)
            report.save(path)
    return reports


# -- checks ---------------------------------------------------------------------------------------------------------

Check = Callable[[Card, Path], str]  # "" where all is well, else what is not


def same(a: Report, b: Report) -> str:
    """How two reports differ by more than rounding may do."""
    off = abs(a.metrics["train_loss"] / b.metrics["train_loss"] - 1)
    images = abs(a.metrics["val_accuracy"] - b.metrics["val_accuracy"]) * 270
    return f"train_loss differs by {off:.1%}, {images:.0f} validation images" if off > CLOSE or images > IMAGES else ""


def as_on_the_cpu(card: Card, folder: Path) -> str:
    here, there = (trained(recipe(folder, 8, name), CNN, folder)[1] for name in ("cpu", str(card.device)))
    return same(there, here)


def resumed(card: Card, folder: Path) -> str:
    """Bit for bit under torch's deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    try:
        whole = trained(recipe(folder, 28, str(card.device)), WIDE, folder)
        rest = trained(recipe(folder, 28, str(card.device)), WIDE, folder, start=2)
    finally:
        torch.use_deterministic_algorithms(False)
    differing = [name for name, value in whole[-1].metrics.items() if rest[-1].metrics[name] != value]
    return f"after a resume {', '.join(differing)} differ" if differing or len(rest) != 2 else ""


def too_wide(card: Card) -> Params:
    """Its weights fit the host; on a card its first map does not fit. In a rehearsal the host gives out."""
    if card.device.type != "cuda":
        return {**CNN, "blocks": 0, "dense_layers": 1, "dense_units": 2**40}
    rows, pixels = 1_024, 8 * 8
    channels = 2 * torch.cuda.mem_get_info(card.device)[1] // (4 * rows * pixels)
    return {**CNN, "blocks": 1, "channels": channels, "global_pool": "average", "batch_size": rows}


def out_of_memory(card: Card, folder: Path) -> str:
    """It is an outcome that leaves nothing taken; the next training and one beside it have their own numbers."""
    train = recipe(folder, 8, str(card.device))()
    before = next(iter(train(job(CNN, folder)))).metrics
    (undisturbed,) = answers(started(card, folder, 8, 1, seconds=0.5, exact=True))
    beside = started(card, folder, 8, 1, seconds=20.0 if card.device.type == "cuda" else 1.0, exact=True)
    try:
        next(iter(train(job(too_wide(card), folder))))
    except TrainingFailed as failed:
        if failed.outcome is not Outcome.OOM:
            return f"the outcome is {failed.outcome}"
    else:
        return "a network that is too large was trained"
    taken = torch.cuda.memory_reserved(card.device) if card.device.type == "cuda" else 0
    if taken > LEFT:
        return f"{taken / 2**20:.0f} MiB of the card stay taken"
    if beside[0].poll() is not None:
        return "the training beside it has ended before"
    after = next(iter(train(job(CNN, folder)))).metrics
    if not math.isclose(before["train_loss"], after["train_loss"], rel_tol=1e-3):
        return "the next training is another"
    return as_alone(undisturbed, answers(beside))


def half_precision(card: Card, folder: Path) -> str:
    full, half = (trained(recipe(folder, 28, str(card.device), one), WIDE, folder)[-1] for one in ("fp32", "bf16"))
    return same(half, full)


def without_waiting(card: Card, folder: Path) -> str:
    """Within an epoch the CPU never waits for the device; all that it measures is read once, at the end."""
    plain = recipe(folder, 28, str(card.device))
    for one in (plain, replace(plain, metrics=("f1", "auc.3"), class_weights="sampling")):
        ready = one.setup()
        state = loop.new_state(ready, job({**WIDE, **AUGMENTED}, folder))
        for _ in range(2):  # the first one makes kernels and memory
            with streams(card.device, 0, 1) as generator, card.syncs() as seen:
                loop.train_epoch(state, ready.data, generator)
        if len(seen) != 1:
            return f"{len(seen)} waits: {', '.join(dict.fromkeys(seen))}"
    return ""


def four_at_once(card: Card, folder: Path) -> str:
    (one,) = answers(started(card, folder, 8, 1, seconds=0.5, exact=True))
    return as_alone(one, answers(started(card, folder, 8, 4, seconds=1.0, exact=True)))


def as_alone(one: Answer, others: Sequence[Answer]) -> str:
    """Whether trainings had, epoch by epoch and bit for bit, the losses of one that had the device to itself."""
    for epoch, (alone, *beside) in enumerate(zip(one.losses, *(other.losses for other in others), strict=False), 2):
        if set(beside) != {alone}:
            return f"beside others the loss of epoch {epoch} is {beside[0]!r}, alone {alone!r}"
    return ""


CHECKS: Mapping[str, Check] = {
    "two epochs as on the CPU": as_on_the_cpu,
    "resumed bit for bit": resumed,
    "out of memory is an outcome": out_of_memory,
    "bf16 learns as fp32": half_precision,
    "no wait within an epoch": without_waiting,
    "four trainings at once": four_at_once,
}


# -- speed ----------------------------------------------------------------------------------------------------------


def rate(epoch: Callable[[], object], card: Card, seconds: float) -> float:
    """Epochs a second, after one that does not count."""
    epoch()
    card.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        epoch()
        card.wait()
        count += 1
    return count / (time.perf_counter() - began)


def ours(one: Recipe, params: Params, folder: Path) -> Callable[[], float]:
    """An epoch of hpo's own loop: training, validation, probes. Returns its loss."""
    ready = one.setup()
    state = loop.new_state(ready, job(params, folder))

    def epoch() -> float:
        with streams(ready.data.device, 0, 1) as generator:
            return loop.train_epoch(state, ready.data, generator)[0]["train_loss"]

    return epoch


def tutorial(one: Recipe, params: Params) -> Callable[[], None]:
    """An epoch as tutorials write it: a DataLoader, each batch sent to the device, the loss read at every step."""
    ready = one.setup()
    data, device = ready.data, ready.data.device
    network = ready.network(params, seed=0).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    parts = {
        name: TensorDataset(data.pixels(data.splits[name]).cpu().contiguous(), data.targets[data.splits[name]].cpu())
        for name in ("train", "val")
    }
    batches = DataLoader(parts["train"], batch_size=int(params["batch_size"]), shuffle=True)
    validation = DataLoader(parts["val"], batch_size=256)

    def epoch() -> None:
        network.train()
        for images, targets in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images.to(device)), targets.to(device))
            loss.backward()
            optimizer.step()
            loss.item()
        network.eval()
        with torch.no_grad():
            for images, targets in validation:
                (network(images.to(device)).argmax(1).cpu() == targets).sum().item()

    return epoch


@dataclass(frozen=True)
class Answer:
    """What a process says: epochs a second, and the loss of each epoch that it trained while the others did."""

    rate: float
    losses: Sequence[float]


def started(
    card: Card, folder: Path, side: int, count: int, seconds: float, precision: str = "fp32", exact: bool = False
) -> list[subprocess.Popen[str]]:
    """`count` processes that have trained an epoch, and from now on train at the same time."""
    words = [str(folder), str(side), str(card.device), precision, str(seconds), "exact" * exact]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", "--alone", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in running:  # each says that it is ready, so that none has the device to itself
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return running


def answers(running: Sequence[subprocess.Popen[str]]) -> list[Answer]:
    return [Answer(**json.loads(process.communicate()[0])) for process in running]


def alone(folder: str, side: str, device: str, precision: str, seconds: str, exact: str) -> None:
    torch.use_deterministic_algorithms(bool(exact))
    epoch = ours(recipe(Path(folder), int(side), device, precision), SIDES[int(side)], Path(folder))
    epoch()
    print("ready", flush=True)
    sys.stdin.readline()
    losses: list[float] = []
    speed = rate(lambda: losses.append(epoch()), Card(torch.device(device)), float(seconds))
    print(json.dumps({"rate": speed, "losses": losses}))


def peak(card: Card, dtype: torch.dtype) -> float:
    """Multiply-adds a second of a large product of matrices."""
    side = 8192 if card.device.type == "cuda" else 512
    a = torch.randn(side, side, device=card.device, dtype=dtype)
    return rate(lambda: a @ a, card, 1.0) * side**3


def speed(
    card: Card, folder: Path, seconds: float, sides: Iterable[int] = SIDES, at_once: Iterable[int] = AT_ONCE
) -> Iterator[tuple[str, ...]]:
    """Rows: images, precision, trainings at a time, epochs a second, against the tutorial's script, share of the peak."""
    for side in sides:
        params, one = SIDES[side], recipe(folder, side, str(card.device))
        script = rate(tutorial(one, params), card, seconds)
        yield f"{side}x{side}", "the script", "1", f"{script:.1f}", "1.0x", ""
        data = one.open_data()
        work = 3 * sizes("cnn", params, data.shape, data.outputs).multiply_adds * len(data.train)
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            top = peak(card, dtype)
            for count in at_once:
                rates = sum(one.rate for one in answers(started(card, folder, side, count, seconds, precision)))
                yield (
                    f"{side}x{side}",
                    precision,
                    f"{count}",
                    f"{rates:.1f}",
                    f"{rates / script:.1f}x",
                    f"{rates * work / top:.1%}",
                )


def main() -> int:
    if sys.argv[1:2] == ["--alone"]:
        alone(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no GPU that torch can use here; `python3 -m benchmarks.gpu --device cpu` rehearses it")
        return 1
    card = Card(torch.device(options.device))
    rows: list[tuple[str, ...]] = []
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for what, check in CHECKS.items():
            fault = check(card, folder)
            faults += bool(fault)
            rows.append(("check", what, "", fault or "ok", "", ""))
            print(f"{what}: {fault or 'ok'}", flush=True)
        for row in speed(card, folder, options.seconds):
            rows.append(row)
            print(*row, flush=True)
    head = ("images", "precision", "at a time", "epochs a second", "script", "of the peak")
    print(f"\n{card.name}, torch {torch.__version__}; {options.seconds:g} s each")
    print("\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)))
    return min(1, faults)


if __name__ == "__main__":
    sys.exit(main())
