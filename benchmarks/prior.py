"""The recorded trainings that search arrives with: trains them, and makes what the package ships of them.

    python -m benchmarks.prior [--records FOLDER] [--rounds 8] [--minutes 480]    train, resumable, any number of processes
    python -m benchmarks.prior --build                                            hpo/strategies/prior.npz from the records
    python -m benchmarks.prior --again 17                                         train one row of the table once more

A round is one group of trainings of every task: points of benchmarks/prior.yaml, most of their parameters left out; all of a
group train to the first rung, the best half to the next, the best half of these and one other to the end. Each line
of the records is a group, written when it is done, so a run that is cut off loses one group. One core a process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import hpo
from benchmarks.prior_tasks import TASKS, Task
from hpo import provenance
from hpo.core import Job, Params, Report, Train, TrainingFailed, training_seed
from hpo.files import replace_file
from hpo.models.families import feasibility
from hpo.strategies import prior as learned
from hpo.strategies.encoding import FEATURES, Images, at_epochs, encode
from hpo.strategies.prior import FAR
from hpo.strategies.surrogate import LADDER, Scale
from hpo.training.recipe import Recipe

GROUP, RUNGS = 12, (3, 9, 27)
KEPT = 0.3  # of the parameters that are not CORE, in a point
CORE = {
    "blocks",
    "channels",
    "kernel_size",
    "batch_norm",
    "conv_dropout",
    "activation",
    "dense_layers",
    "dense_units",
    "dropout",
    "optimizer",
    "learning_rate",
    "momentum",
    "batch_size",
    "epochs",
}
MOST_WORK = 4e8  # multiply-adds of an image, times images
SPACE = hpo.load(Path(__file__).with_name("prior.yaml")).space


def draw(rng: random.Random) -> Params:
    """A point of the whole vocabulary, with gaps: what is left out has its default, and blocks are often alike."""
    params = dict(SPACE.sample(rng))
    names = sorted({name.rpartition(".")[2] for name in params} - {"epochs"})
    for name in names:
        own = [one for one in params if one.rpartition(".")[2] == name]
        alike = own != [name] and rng.random() < 0.6
        first = params[own[0]]
        if rng.random() > (0.9 if name in CORE else KEPT) and name not in ("blocks", "learning_rate"):
            for one in own:
                del params[one]
        elif alike:
            for one in own:
                del params[one]
            params[name] = first
    if "optimizer" not in params:
        for name in ("momentum", "nesterov", "rms_decay"):
            params.pop(name, None)
    return params


@dataclass
class Running:
    """One training of a group, epoch by epoch."""

    params: Params
    reports: Iterator[Report]
    curve: list[tuple[float, float]] = field(default_factory=list)  # val_accuracy, val_loss
    seconds: list[float] = field(default_factory=list)
    outcome: str = "ok"

    def train(self, until: int) -> None:
        while len(self.curve) < until and self.outcome == "ok":
            try:
                report = next(self.reports)
            except TrainingFailed as failed:
                self.outcome = failed.outcome.value
                return
            self.curve.append((round(report.metrics["val_accuracy"], 4), round(report.metrics["val_loss"], 4)))
            self.seconds.append(report.seconds)

    def row(self) -> dict[str, Any]:
        seconds = round(statistics.median(self.seconds), 5) if self.seconds else 0.0
        return {"params": self.params, "curve": self.curve, "seconds": seconds, "outcome": self.outcome}


def begun(train: Train, params: Params) -> Running:
    return Running(params, train(Job("", params, training_seed(0, params, 0), 0, RUNGS[-1], 0, Path())))


def group(task: Task, number: int, train: Train, shape: tuple[int, int, int], outputs: int) -> list[dict[str, Any]]:
    """Successive halving of GROUP points, and one that goes on whatever it is worth."""
    rng = random.Random(f"{task.name}/{number}")
    running: list[Running] = []
    while len(running) < GROUP:
        params = draw(rng)
        network = feasibility("cnn", params, shape, outputs).network
        if network is not None and network.multiply_adds * task.train <= MOST_WORK:
            running.append(begun(train, params))
    going = running
    for rung in RUNGS:
        for one in going:
            one.train(rung)
        going = sorted(going, key=lambda one: -one.curve[-1][0] if one.outcome == "ok" else 1.0)
        going = [*going[: len(going) // 2], rng.choice(going[len(going) // 2 :])] if rung < RUNGS[-1] else going
    return [one.row() for one in running]


def trainer(task: Task) -> tuple[Train, tuple[int, int, int], int]:
    data = task.dataset()
    return Recipe("cnn", "cross_entropy", Path(), "cpu", dataset=data)(), data.shape, data.outputs


def recorded(folder: Path) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """(round, task) -> rows of every group in the records."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                number, name, rows = json.loads(line)
                found[number, name] = rows
    return found


def train_all(folder: Path, rounds: int, deadline: float, process: int, processes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / f"{os.getpid()}-{int(time.time())}.jsonl"
    for number in range(rounds):
        for index, task in enumerate(TASKS.values()):
            theirs = index % processes != process
            if theirs or time.time() > deadline or (number, task.name) in recorded(folder):
                continue
            began = time.process_time()
            rows = group(task, number, *trainer(task))
            with mine.open("ab") as file:
                file.write(json.dumps([number, task.name, rows]).encode() + b"\n")
            epochs = sum(len(row["curve"]) for row in rows)
            best = max(row["curve"][-1][0] for row in rows if row["curve"])
            print(
                f"{number} {task.name:22} {epochs:4} epochs in {time.process_time() - began:6.1f} s of a core, best {best:.3f}",
                flush=True,
            )


# -- what the package ships -----------------------------------------------------------------------------------------

NETWORKS, WIDTH, PASSES, BATCH, RATE = 3, 96, 30, 256, 3e-3
DECAY, ALIKE = 3e-2, 1e-3  # of all weights; and how strongly the tasks are drawn to their mean
FAILED = -1.5  # what a training that failed is worth, in standard deviations of its task
HANDWRITTEN = ("digits", "mnist")

Records = Mapping[tuple[int, str], list[dict[str, Any]]]  # (round, task) -> rows


@dataclass(frozen=True)
class Table:
    """One row a reading: features, value in standard deviations of its task, whether the training failed, number of the task."""

    features: np.ndarray
    values: np.ndarray
    failed: np.ndarray
    task: np.ndarray
    names: tuple[str, ...]

    def without(self, families: Collection[str]) -> Table:
        kept = [i for i, name in enumerate(self.names) if TASKS[name].family not in families]
        rows = np.isin(self.task, kept)
        task = np.searchsorted(kept, self.task[rows])
        names = tuple(self.names[i] for i in kept)
        return Table(self.features[rows], self.values[rows], self.failed[rows], task, names)


def tabulated(records: Records) -> Table:
    """Every training at the epochs of the ladder and at its last."""
    names = tuple(name for name in TASKS if any(task == name for _, task in records))
    features, values, failed, tasks = [], [], [], []
    for index, name in enumerate(names):
        data = TASKS[name].dataset()
        images = Images(data.shape, data.outputs, TASKS[name].train)
        rows = [row for (_, task), found in sorted(records.items()) if task == name for row in found]
        last = Scale()(np.array([-row["curve"][-1][0] for row in rows if row["outcome"] == "ok"]))
        centre, spread = np.mean(last), np.std(last) + 0.05
        for row in rows:
            curve, bad = row["curve"], row["outcome"] != "ok"
            epochs = sorted({*(epoch for epoch in LADDER if epoch <= len(curve)), len(curve) or 1})
            features.append(at_epochs(encode(row["params"], images), row["params"], np.array(epochs, float)))
            read = [FAILED] * len(epochs)
            if not bad:
                read = ((Scale()(np.array([-curve[epoch - 1][0] for epoch in epochs])) - centre) / spread).tolist()
            values += read
            failed += [float(bad)] * len(epochs)
            tasks += [index] * len(epochs)
    return Table(np.vstack(features), np.array(values), np.array(failed), np.array(tasks), names)


def fitted(table: Table, centre: np.ndarray, spread: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Networks with an output a task, each trained on the readings of its own, and one for failures."""
    torch.set_num_threads(1)
    inputs = torch.tensor(np.clip((table.features - centre) / spread, -FAR, FAR), dtype=torch.float32)
    values, failed = (torch.tensor(column, dtype=torch.float32) for column in (table.values, table.failed))
    task = torch.tensor(table.task)
    networks = []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        outputs = nn.Linear(WIDTH, len(table.names) + 1)
        network = nn.Sequential(
            nn.Linear(inputs.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), outputs
        )
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
        steps = PASSES * -(-len(inputs) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(PASSES):
            for rows in torch.randperm(len(inputs)).split(BATCH):
                said = network(inputs[rows])
                loss = F.smooth_l1_loss(said[torch.arange(len(rows)), task[rows]], values[rows])
                loss = loss + 0.2 * F.binary_cross_entropy_with_logits(said[:, -1], failed[rows])
                own = outputs.weight[:-1]
                loss = loss + ALIKE * ((own - own.mean(0)) ** 2).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        networks.append([(one.weight.detach().numpy().T.copy(), one.bias.detach().numpy()) for one in linear])
    return networks


def build(records: Records, left_out: Mapping[str, Sequence[str]], path: Path) -> None:
    """The file of hpo/strategies/prior.py: for each name, networks fitted without some families; and the table."""
    table = tabulated(records)
    centre, spread = table.features.mean(0), table.features.std(0) + 1e-3
    arrays: dict[str, Any] = {"centre": centre, "spread": spread}
    tasks = {}
    for name, families in left_out.items():
        own = table.without(families)
        tasks[name] = own.names
        for i, network in enumerate(fitted(own, centre, spread)):
            for j, (weights, bias) in enumerate(network):
                arrays[f"{name}weights{i}-{j}"], arrays[f"{name}bias{i}-{j}"] = weights, bias
    lines = [
        json.dumps([number, task, row["params"], row["curve"], row["seconds"], row["outcome"]], separators=(",", ":"))
        for (number, task), rows in sorted(records.items())
        for row in rows
    ]
    about = {
        "layout": learned.LAYOUT,
        "features": FEATURES,
        "tasks": tasks,
        "depth": 3,
        "networks": NETWORKS,
        "trainings": len(lines),
        "made": f"python -m benchmarks.prior; {processor()}, torch {torch.__version__}, numpy {np.__version__}, trainer {provenance.TRAINER}",
    }
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays["table"] = np.frombuffer("\n".join(lines).encode(), np.uint8)
    with replace_file(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    print(f"{path}: {len(lines):,} trainings of {len(table.names)} tasks, {path.stat().st_size / 1e6:.2f} MB")


def rows_of(path: Path = learned.SHIPPED) -> list[tuple[int, str, Params, list[tuple[float, float]], float, str]]:
    """The table: round, task, params, curve of (val_accuracy, val_loss), seconds an epoch, outcome."""
    with np.load(path, allow_pickle=False) as stored:
        return [json.loads(line) for line in bytes(stored["table"]).split(b"\n")]


def records_of(path: Path = learned.SHIPPED) -> Records:
    """The table as it was recorded."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for number, task, params, curve, seconds, outcome in rows_of(path):
        row = {"params": params, "curve": curve, "seconds": seconds, "outcome": outcome}
        found.setdefault((number, task), []).append(row)
    return found


def again(name: str, params: Params, epochs: int) -> list[tuple[float, float]]:
    """The curve of a row, trained once more."""
    one = begun(trainer(TASKS[name])[0], params)
    one.train(epochs)
    return one.curve


def processor() -> str:
    """As /proc/cpuinfo names it; the same kind trains the same bits."""
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return found[0].partition(": ")[2] if found else platform.machine()


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=Path, default=Path("benchmarks", "prior-records"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=480)
    parser.add_argument("--process", type=int, default=0, help="of --processes, which share the tasks")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--again", type=int, metavar="ROW")
    asked = parser.parse_args(words)
    if asked.build:
        build(recorded(asked.records), {learned.WHOLE: (), "handwriting": HANDWRITTEN}, learned.SHIPPED)
        return 0
    if asked.again is not None:
        _, name, params, curve, _, _ = rows_of()[asked.again]
        for there, new in zip(curve, again(name, params, len(curve)), strict=True):
            print(*there, *new, "" if tuple(there) == new else "differs")
        return 0
    print(f"{processor()}, torch {torch.__version__}", flush=True)
    train_all(asked.records, asked.rounds, time.time() + 60 * asked.minutes, asked.process, asked.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
