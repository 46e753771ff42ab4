"""Which devices the workers get, what is refused before any is started, and whether training is right on a GPU."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from laws import refused

from benchmarks import gpu
from hpo import api
from hpo.engine import components
from hpo.errors import BadInput
from hpo.execution import local
from hpo.training.evaluation import evaluate


def at(key: str) -> str:
    return f"study.yaml:3:1 {key}"


def test_workers_share_the_gpus_in_turn_and_without_one_there_is_one_a_core() -> None:
    assert local.worker_devices("auto", "auto", count=2) == ["cuda:0", "cuda:1"]
    assert local.worker_devices("cuda", 5, count=2) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert local.worker_devices("cuda:1", 2, count=2) == ["cuda:1", "cuda:1"]
    assert local.worker_devices("auto", "auto", count=0) == ["cpu"] * local.cores()
    assert local.worker_devices("cpu", 3) == ["cpu"] * 3


def test_what_a_trial_takes_says_how_many_share_a_gpu_or_the_cores() -> None:
    for gpus, each in ((0.25, 4), (0.1, 10), (0.4, 2), (1, 1), (2, 1)):
        assert local.worker_devices("auto", "auto", count=2, cpus=1, gpus=gpus) == ["cuda:0", "cuda:1"] * each
    assert local.worker_devices("auto", 3, count=2, gpus=0.1) == ["cuda:0", "cuda:1", "cuda:0"]  # workers says it
    assert local.worker_devices("auto", "auto", count=2, cpus=0.5, gpus=0) == ["cpu"] * 2 * local.cores()
    execution = {"engine": "local", "cpus": local.cores()}
    assert components.placement(api.load({**ON_RAY, "device": "cpu", "execution": execution})) == ["cpu"]


@pytest.mark.parametrize(
    ("device", "count", "got"),
    [
        ("cuda", 0, "cuda (no GPU that torch can use here)"),
        ("cuda:2", 1, "cuda:2 (1 GPU here)"),
        ("cuda:2", 2, "cuda:2 (2 GPUs here)"),
    ],
)
def test_a_device_that_is_not_there_is_refused_at_its_line(device: str, count: int, got: str) -> None:
    line = f"study.yaml:3:1 device: must be there, got {got}; write cpu, auto, or a GPU that is there"
    assert refused(BadInput, local.worker_devices, device, "auto", at, count) == line


def test_so_many_workers_that_the_machine_would_choke_are_refused() -> None:
    most = local.MAX_WORKERS_PER_CORE * local.cores()
    assert len(local.worker_devices("cpu", most)) == most
    said = f"study.yaml:3:1 workers: must be at most 32 a core, got {most + 1} (cores here: "
    assert refused(BadInput, local.worker_devices, "cpu", most + 1, at).startswith(said)


ON_RAY = {"name": "x", "data": "digits", "search_space": {"learning_rate": [0.1]}, "execution": {"engine": "ray"}}


def test_a_study_on_ray_without_the_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else there(name, *more))
    text = "study execution.engine: needs the package ray, got none here; in a checkout of hpo: pip install '.[ray]'"
    assert refused(BadInput, components.placement, api.load(ON_RAY)) == text


CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    gpu.prepare(folder)
    return folder


FOUR = "four trainings at once"  # in its place the CPU does those beside one that is out of memory
CHECKS = [
    *(("cpu", one) for one in gpu.CHECKS if one != FOUR),
    *(pytest.param("cuda", one, marks=CUDA) for one in gpu.CHECKS),
]


@pytest.mark.parametrize(("device", "name"), CHECKS)
def test_training_on_a_gpu_passes_every_check_and_the_cpu_does_in_its_place(name: str, device: str, data: Path) -> None:
    assert gpu.CHECKS[name](gpu.Card(torch.device(device)), data) == ""


def test_a_wait_within_an_epoch_is_seen_without_a_card(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, augmented = gpu.Card(torch.device("cpu")), gpu.loop.augmented
    monkeypatch.setattr(gpu.loop, "augmented", lambda images, *more: augmented(images.cpu(), *more))
    assert re.fullmatch(r"\d+ waits: test_devices\.py:\d+, evaluation\.py:\d+", gpu.without_waiting(card, data))
    one = torch.ones(2)
    for wait in (one.tolist, one.numpy, one.sum().item, lambda: float(one[0]), lambda: torch.tensor([1.0])):
        with card.syncs() as seen:
            wait()
        assert len(seen) == 1


def test_nothing_of_each_image_is_read_but_for_what_a_study_names(data: Path) -> None:
    for metrics in ((), ("f1",)):
        ready = replace(gpu.recipe(data, 8, "cpu"), metrics=metrics).setup()
        values = evaluate(ready.network(gpu.CNN, 0), ready.data, ready.loss, "val")
        assert (sum(value.numel() for value in values.values()) > len(ready.data.splits["val"])) is bool(metrics)


def test_a_check_says_what_differs(data: Path) -> None:
    first, second = gpu.trained(gpu.recipe(data, 8, "cpu"), {**gpu.CNN, "epochs": 2}, data)
    assert gpu.same(first, first) == ""
    assert gpu.same(second, first).startswith("train_loss differs by ")
    rows = [*gpu.speed(gpu.Card(torch.device("cpu")), data, 0.01, sides=(8,), at_once=(1,))]
    assert [row[:3] for row in rows] == [("8x8", "the script", "1"), ("8x8", "fp32", "1"), ("8x8", "bf16", "1")]
    assert all(float(row[3]) > 0 for row in rows)
