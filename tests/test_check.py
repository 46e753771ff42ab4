"""Proof before training: what is impossible and why, what torch confirms, what it costs, and the lines of it."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.check import Estimate, Machine, check, check_study
from hpo.core import Params
from hpo.errors import BadInput
from hpo.execution import local
from hpo.models.families import known, peak_memory, sizes
from hpo.models.layers import Summary, layer_table
from hpo.models.network import disagreement
from hpo.strategies.encoding import Images
from hpo.study_file import reader as study_file
from hpo.study_file.spec import DataSpec, StudySpec
from hpo.training.setup import time_step

DIGITS = Images((1, 8, 8), 10, train=1_200, val=300)

THREE_BLOCKS = """
  blocks: [1, 2, 3]
  kernel_size: [3, 5]
  padding: [valid, same]
  pool: none
  channels: [8, 16]
  learning_rate: [1e-3, 1e-2]
  epochs: 5
"""


def study(folder: Path, space: str, more: str = "") -> StudySpec:
    path = folder / "study.yaml"
    path.write_text(f"name: digits-cnn\ndata: digits\nsearch_space:{space}{more}", encoding="utf-8")
    return study_file.read_study(path, known=known)


@pytest.fixture
def three_blocks(tmp_path: Path) -> StudySpec:
    return study(tmp_path, THREE_BLOCKS)


def test_a_small_space_is_tried_whole_and_the_impossible_has_its_reason(three_blocks: StudySpec) -> None:
    """8 -> 4 -> 0 with kernel 5, 8 -> 6 -> 4 -> 2 with kernel 3: blocks 2 and 3 with 5 and no padding cannot be."""
    found = check(three_blocks, DIGITS, Machine(prove=disagreement))
    coverage = found.coverage
    assert (found.grid, coverage.tried, coverage.what) == (48, 48, "every configuration")
    assert "search space: 48 configurations; as a grid: 48 points" in found.lines()
    assert (len(coverage.feasible), len(coverage.architectures), found.proof) == (40, 20, (None,) * 20)
    assert coverage.reasons == {"kernel_size 5 without padding at block 2 on 8x8: map 0x0": 8}
    assert {
        "proof: 20 built on torch's meta device, layer by layer; all agree with the formulas",
        "impossible: 8 of 48 configurations, 17 %",
        "  kernel_size 5 without padding at block 2 on 8x8: map 0x0; 8 of 48 configurations, 17 %",
    } <= set(found.lines())


@pytest.mark.parametrize(
    ("more", "tried"),
    [("", 24), ("  schedule: [constant, step]\n  dropout: {choices: [0.1, 0.2], when: {schedule: step}}\n", 24 * 3)],
)
def test_architectures_are_counted_whatever_else_the_space_has(tmp_path: Path, more: str, tried: int) -> None:
    space = THREE_BLOCKS.replace("[1e-3, 1e-2]", "{min: 1e-4, max: 1e-1, log: true}") + more
    found = check(study(tmp_path, space), DIGITS)
    combinations = "every combination of architecture, batch size and optimizer"
    assert (found.coverage.tried, found.coverage.what) == (tried, combinations)
    assert found.coverage.reasons.total() == tried / 6
    assert next(line for line in found.lines() if "learning_rate" in line).startswith("search space: continuous; ")


def test_a_space_too_large_to_enumerate_is_sampled_the_same_way_each_time(tmp_path: Path) -> None:
    channels = "channels: {min: 4, max: 64}\n  dense_units: {min: 4, max: 256}"
    space = THREE_BLOCKS.replace("channels: [8, 16]", channels).replace("padding: [valid, same]", "padding: valid")
    spec = study(tmp_path, space)
    one, two = check(spec, DIGITS), check(spec, DIGITS)
    assert one == two
    assert (one.coverage.tried, one.coverage.what) == (2_000, "a sample of the configurations")
    assert 0 < one.coverage.reasons.total() < 2_000


def test_constraints_leave_out_what_they_say_and_where_nothing_can_be_trained_is_hopeless(tmp_path: Path) -> None:
    spec = study(tmp_path, THREE_BLOCKS, "constraints: ['model_parameters <= 20_000', 'channels <= 16']\n")
    found = check(spec, DIGITS)
    over = [p for p in spec.space.grid() if fits(p) and sizes("cnn", p, (1, 8, 8), 10).parameters > 20_000]
    assert found.coverage.excluded == {"model_parameters <= 20_000": len(over)}
    assert (found.coverage.reasons.total(), len(found.coverage.feasible)) == (8, 40 - len(over))
    assert max(network.parameters for _, network in found.coverage.feasible) <= 20_000
    found = check(study(tmp_path, "\n  kernel_size: [9, 11]\n  padding: valid\n  epochs: 5\n"), DIGITS)
    assert found.hopeless
    warning = "warning: no configuration can be trained; change the search space or the size of the images"
    assert warning in found.lines()


def fits(params: Params) -> bool:
    return params["padding"] == "same" or params["kernel_size"] == 3 or params["blocks"] == 1


def test_a_formula_that_torch_contradicts_is_shouted(three_blocks: StudySpec) -> None:
    def prove(network: Summary) -> str | None:
        return "block3.conv: torch gives (16, 3, 3), the formula (16, 2, 2)" if len(network.rows) > 9 else None

    found = check(three_blocks, DIGITS, Machine(prove=prove))
    assert 0 < sum(answer is not None for answer in found.proof) < len(found.proof)
    lines = found.lines()
    assert any("DISAGREE" in line for line in lines)
    assert "  block3.conv: torch gives (16, 3, 3), the formula (16, 2, 2)" in lines


def test_memory_grows_with_batch_and_optimizer_and_over_the_machines_is_a_warning(three_blocks: StudySpec) -> None:
    free, tight = check(three_blocks, DIGITS), check(three_blocks, DIGITS, Machine(memory=500_000))
    assert free.coverage == tight.coverage
    possible = [params for params in three_blocks.space.grid() if fits(params)]
    over = sum(peak_memory(sizes("cnn", params, (1, 8, 8), 10), params) > 500_000 for params in possible)
    assert 0 < over < len(possible) and over != len(possible) / 2
    warnings = [[line for line in found.lines() if line.startswith("warning:")] for found in (free, tight)]
    share = f"{over} of 48 configurations, {100 * over / 48:.0f} %"
    more = f"warning: {share} may need more than the 500 kB available to a worker; lower batch_size"
    assert warnings == [[], [more]]
    made = sizes("cnn", {}, (1, 8, 8), 10)
    small, large = (peak_memory(made, {"batch_size": n, "optimizer": "sgd"}) for n in (32, 64))
    assert large - small == 32 * (made.kept + 8 * made.widest)
    assert small == 32 * (made.kept + 8 * made.widest) + 2 * 4 * made.parameters  # weights and gradients
    adam = peak_memory(made, {"batch_size": 32, "optimizer": "adam"})
    assert adam - small == 2 * 4 * made.parameters


@pytest.mark.parametrize(
    ("budget", "trials", "low", "high"),
    [
        ("{trials: 40}", 40, 40 / 2 * 2.03 / 2, 21 * 2 * 2.03),
        ("{total_epochs: 60}", 12, 12 / 2 * 2.03 / 2, 7 * 2 * 2.03),
        ("{time: 10s}", 48, 10, 10 + 2 * 2.03),
        ("{trials: 1000}", 48, 48 / 2 * 2.03 / 2, 25 * 2 * 2.03),
        ("{trials: 40, patience: 20}", 40, 2.03 / 2 / 2, 21 * 2 * 2.03),
    ],
)
def test_time_is_all_steps_over_workers(tmp_path: Path, budget: str, trials: int, low: float, high: float) -> None:
    """1,200 images to train on and 300 to validate on are 1,300 / 32 steps of 10 ms; five epochs; on two workers.

    Whichever limit is reached first counts. A step may take half or twice as long, and there are 2 to 60 s beside.
    """
    spec = study(tmp_path, THREE_BLOCKS + "  batch_size: 32\n", f"budget: {budget}\n")
    estimate = check(spec, DIGITS, Machine(workers=2, time_steps={"cpu": lambda params, precision: 0.01})).estimate
    assert estimate is not None
    assert estimate.trials == trials
    assert (estimate.low - 2, estimate.high - 60) == (pytest.approx(low, rel=0.01), pytest.approx(high, rel=0.01))
    assert estimate.seconds == [pytest.approx(5 * 1_300 / 32 * 0.01)] * len(estimate.seconds)
    each = "2.0 s to 2.0 s, median 2.0 s each, 2 workers"
    line = f"time: about 49 s, 22 s to 2 min 25 s whatever is tried (40 trials, {each})"
    assert budget != "{trials: 40}" or next(estimate.lines()) == line


COST = {(width, epochs): width / 1e4 * epochs * 1_300 / 32 for width in (8, 16, 64) for epochs in (1, 9)}  # seconds


@pytest.fixture(scope="module")
def estimates(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Estimate]:
    """By workers, of twelve trials of networks of three widths and two lengths."""
    space = "\n  blocks: 1\n  channels: [8, 16, 64]\n  batch_size: 32\n  epochs: [1, 9]\n"
    spec = study(tmp_path_factory.mktemp("study"), space, "budget: {trials: 12}\n")
    cost = lambda params, precision: params["channels"] / 1e4  # noqa: E731
    found = {
        workers: check(spec, DIGITS, Machine(workers, time_steps={"cpu": cost})).estimate for workers in range(1, 5)
    }
    return {workers: estimate for workers, estimate in found.items() if estimate is not None}


@given(drawn=st.lists(st.sampled_from(sorted(COST)), min_size=12, max_size=12), workers=st.integers(1, 4))
def test_a_study_ends_in_the_range(drawn: list[tuple[int, int]], workers: int, estimates: dict[int, Estimate]) -> None:
    """Trials are given to the first worker that is free; a step costs what its network's width says."""
    free = [0.0] * workers
    for one in drawn:
        free[free.index(min(free))] += COST[one]
    estimate = estimates[workers]
    assert estimate.low <= max(free) + 2
    assert max(free) <= estimate.high


def test_possible_configurations_are_timed_with_real_steps(tmp_path: Path) -> None:
    timed: list[tuple[Params, str]] = []
    real = time_step("cnn", DIGITS.shape, DIGITS.outputs)
    spec = study(tmp_path, THREE_BLOCKS + "  optimizer: [sgd, adamw]\n")
    found = check(spec, DIGITS, Machine(time_steps={"cpu": lambda *step: timed.append(step) or real(*step)}))
    assert [precision for _, precision in timed] == ["fp32"] * (5 + 4 + 5) + ["bf16"] * 5, "random ones, and extremes"
    assert timed[:5] == timed[9:14] == [(params, "fp32") for params, _ in timed[14:]]
    assert all(fits(params) for params, _ in timed)
    assert 0 < min(found.estimate.epochs.values()) < min(found.estimate.seconds)


@pytest.mark.parametrize(
    ("precision", "device", "bf16", "epochs", "faster"),
    [
        ("fp32", "cpu", 5, "0.41 s on cpu in fp32, 0.22 s on cpu in bf16", "`precision: bf16`, 1.9 times"),
        ("bf16", "cpu", 5, "0.22 s on cpu in bf16, 0.41 s on cpu in fp32", ""),
        ("fp32", "cpu", 9.5, "0.41 s on cpu in fp32, 0.39 s on cpu in bf16", ""),
        ("bf16", "cpu", 20, "0.78 s on cpu in bf16, 0.41 s on cpu in fp32", "`precision: fp32`, 1.9 times"),
        ("bf16", "cuda:1", math.inf, "0.081 s on cuda:1 in bf16, 0.083 s on cuda:1 in fp32, 0.41 s on cpu in fp32", ""),
        ("fp32", "both", 5, "0.41 s on cpu in fp32, 0.22 s on cpu in bf16, 0.083 s on cuda:1 in fp32, 0.081 s on cuda:1 in bf16", "`device: cuda:1` and `precision: bf16`, 5.0 times"),
    ],
)  # fmt: skip
def test_two_lines_say_seconds_an_epoch_and_what_is_faster_where_a_validation_in_fp32_is_a_thirteenth_of_an_epoch(
    tmp_path: Path, precision: str, device: str, bf16: float, epochs: str, faster: str
) -> None:
    """bf16: milliseconds of a step on the CPU; inf where it does not fit. 1,300 / 32 steps of 10 ms are 0.41 s."""
    steps = {"cpu": {"fp32": 0.01, "bf16": bf16 / 1e3}, "cuda:1": {"fp32": 0.00205, "bf16": 0.002}}
    names = {"cpu": ["cpu"], "cuda:1": ["cuda:1", "cpu"], "both": ["cpu", "cuda:1"]}[device]
    machine = Machine(time_steps={one: lambda params, precision, one=one: steps[one][precision] for one in names})
    lines = check(
        study(tmp_path, THREE_BLOCKS + "  batch_size: 32\n", f"precision: {precision}\n"), DIGITS, machine
    ).lines()
    assert f"epoch: {epochs} (means; the first as the study has it)" in lines
    assert f"faster: {faster or 'no other device or precision here'}" in lines


def test_a_metric_that_is_the_same_of_all_trials_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "five.npz", X=np.random.RandomState(0).rand(100, 4, 4), y=np.repeat(range(5), 20))
    spec = replace(study(tmp_path, THREE_BLOCKS, "metric: val_top5\n"), data=DataSpec(f"{tmp_path / 'five.npz'}"))
    rule = r"metric.name: must tell trials apart, and of five classes or fewer it is always 1, got val_top5 of 5; write val_acc"
    with pytest.raises(BadInput, match=rule):
        list(check_study(spec, trust=False))


def test_a_study_on_gpus_learns_how_many_trainings_their_free_memory_holds(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(local, "gpu_memory", lambda: [3_000_000_000, 1_000_000_000])
    monkeypatch.setattr(local, "cores", lambda: 10)
    monkeypatch.setattr("hpo.training.setup.time_step", lambda *about: lambda params, precision: float(len(about[-1])))
    cases = ("auto", "auto", 8), ("cuda:0", 4, 10), ("cuda:1", "auto", 4), ("cuda:1", 4, 0), ("cpu", 1, 0)
    for device, workers, said in cases:  # no more than cores; each GPU as many; nothing where so many there are
        spec = study(tmp_path, THREE_BLOCKS, f"device: {device}\nworkers: {workers}\n")
        found = {line.partition(": ")[0]: line for line in check_study(spec, trust=False)}
        assert found.get("GPU", "").partition(" trainings")[0] == (f"GPU: {said}" if said else ""), (device, workers)
        others = {"auto": "cuda:0 cpu", "cpu": "cpu cuda:0"}.get(device, f"{device} cpu").split()
        assert re.findall(r"s on (\S+) in fp32", found["epoch"]) == others, "its own device first"


def test_who_trusts_a_users_own_model_learns_what_it_builds_and_what_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(params, shape, classes):\n"
        "    if params['width'] == 3: raise ValueError('three is too many')\n"
        "    hidden = nn.Linear(64, params['width'])\n"
        "    return nn.Sequential(nn.Flatten(), hidden, nn.Linear(params['width'], classes + (params['width'] == 4)))\n"
    )
    spec = study(tmp_path, "\n  width: [1, 2, 3, 4]\n  epochs: 2\n", "model: mine:net\n")
    data, first, *reasons = check_study(spec, trust=True)
    assert data.startswith("data: 1,797 images of 1x8x8 in 10 classes (0, 1, 2, ...): ")
    assert first == "4 configurations tried: mine:net builds 2 networks of 85 to 160 parameters"
    assert sorted(reasons) == [
        "    1 fail: ValueError: three is too many (as with width=3)",
        "    1 fail: mine:net: its network must turn (2, 1, 8, 8) into (2, 10), got (2, 11) (as with width=4)",
    ]


def test_the_layers_of_the_largest_network_are_shown_in_columns() -> None:
    made = sizes("cnn", {"blocks": 1, "dense_layers": 0}, (1, 8, 8), 10)
    assert layer_table(made) == [
        "layer              output  parameters  multiply-adds",
        "input              1x8x8",
        "block1.conv        16x8x8         160          9,216",
        "block1.pool        16x4x4",
        "block1.activation  16x4x4",
        "flatten            256",
        "output             10           2,570          2,560",
    ]
