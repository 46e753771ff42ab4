"""The loop's laws: resuming, taking turns, prefixes; its failures; and what it must learn."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import bars, digits, job, numbers, slopes

from hpo.core import Outcome, Params, Report, Train, TrainingFailed, Value
from hpo.data.dataset import Dataset
from hpo.training import checkpoints, loop, probes
from hpo.training.evaluation import load_network, outputs, score
from hpo.training.loop import batch_sizes, batches, new_state
from hpo.training.recipe import Recipe
from hpo.training.setup import Loss, Setup, streams

NETWORK: dict[str, Value] = {"blocks": 2, "channels": 4, "batch_norm": "before", "dense_units": 8}
NETWORK |= {"conv_dropout": 0.2, "dropout": 0.2}
SGD: Params = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "learning_rate": 0.02, "clip": 1.0}
PENALTIES: Params = {"l1": 1e-4, "l2": 1e-3, "label_smoothing": 0.1}
COURSE: Params = {"schedule": "exponential", "warmup": 2, "batch_size": 16, "epochs": 5}
AUGMENTED: Params = {"shift": 1, "flip": True, "rotation": 10.0, "erase": 0.1}
EVERYTHING: Params = {**NETWORK, **SGD, **PENALTIES, **COURSE, **AUGMENTED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bars(tmp_path_factory.mktemp("data") / "bars", channels=3)


PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def recipe(folder: Path, request: pytest.FixtureRequest) -> Recipe:
    return Recipe("cnn", "cross_entropy", folder, "cpu", precision=request.param)


@pytest.fixture(scope="module")
def train(recipe: Recipe) -> Train:
    return recipe()


def trained(train: Train, params: Params, place: Path, start: int = 0, most: int | None = None) -> list[Report]:
    """All epochs, or the first `most`, each saved."""
    reports = []
    for report in islice(train(job(params, place, start)), most):
        checkpoints.write(place, "made-up", report)
        reports.append(report)
    return reports


def saved(place: Path, epoch: int) -> dict[str, object]:
    return torch.load(checkpoints.path(place, "made-up", epoch), weights_only=True)


def same(one: object, other: object) -> bool:
    """Equal bit for bit, tensors in nested containers included."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    return one == other


@pytest.mark.parametrize(
    "change", [{}, {"optimizer": "adam", "schedule": "cosine"}, {"optimizer": "adamw"}, {"optimizer": "rmsprop"}]
)
def test_a_training_killed_at_any_epoch_goes_on_bit_for_bit(
    train: Train, tmp_path: Path, change: Params, caplog: pytest.LogCaptureFixture
) -> None:
    params = {name: value for name, value in {**EVERYTHING, **change}.items() if change == {} or name != "nesterov"}
    whole = trained(train, params, tmp_path / "whole")
    for killed in range(1, 5):
        place = tmp_path / f"killed{killed}"
        reports = trained(train, params, place, most=killed) + trained(train, params, place, start=killed)
        assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
        assert [numbers(report) for report in reports] == [numbers(report) for report in whole]
        assert same(saved(place, 5), saved(tmp_path / "whole", 5))
    assert not caplog.records  # and no epoch was trained again


@PRECISIONS
def test_a_recurrent_training_goes_on_bit_for_bit(folder: Path, tmp_path: Path, precision: str) -> None:
    train = Recipe("rnn", "cross_entropy", folder, "cpu", precision=precision)()
    params = {"cell": "lstm", "rnn_layers": 2, "rnn_dropout": 0.3, "hidden_size": 8, "epochs": 3, "bidirectional": True}
    whole = trained(train, params, tmp_path)
    assert [numbers(r) for r in trained(train, params, tmp_path, start=1)] == [numbers(r) for r in whole[1:]]


def test_trainings_that_take_turns_and_the_random_state_of_the_process_do_not_matter(
    train: Train, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    other = {**EVERYTHING, "optimizer": "adam", "batch_size": 8}
    alone = [numbers(report) for params in (EVERYTHING, other) for report in train(job(params, tmp_path))]
    first, second = train(job(EVERYTHING, tmp_path)), train(job(other, tmp_path))
    turns = [(next(first), next(second)) for _ in range(5)]
    assert [numbers(a) for a, _ in turns] + [numbers(b) for _, b in turns] == alone
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert [numbers(report) for report in train(job(EVERYTHING, tmp_path))] == alone[:5]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_is_not_of_the_weights_alone(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Setup.network
    monkeypatch.setattr(Setup, "network", lambda ready, params, seed: fresh(ready, params, 0))
    params = {"blocks": 1, "channels": 4, "batch_size": 16}
    one, other = (numbers(next(train(job(params, tmp_path, seed=seed)))) for seed in (1, 2))
    assert one != other


@pytest.mark.parametrize(("change", "same"), [({}, True), ({"schedule": "cosine", "warmup": 0}, False)])
def test_only_cosine_lets_an_epoch_depend_on_the_next(train: Train, tmp_path: Path, change: Params, same: bool) -> None:
    params = {**EVERYTHING, **change}
    short, long = ([numbers(r) for r in train(job({**params, "epochs": n}, tmp_path))] for n in (2, 5))
    assert (short == long[:2]) is same


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_checkpoint_that_cannot_be_read_costs_time_and_no_result(
    train: Train, tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(train, EVERYTHING, tmp_path)
    path = checkpoints.path(tmp_path, "made-up", 2)
    path.unlink() if damage is None else path.write_bytes(damage)
    again = [numbers(report) for report in train(job(EVERYTHING, tmp_path, start=2))]
    assert again == [numbers(report) for report in whole]  # those before are signs of life, and known to the driver
    assert "training epochs 1 to 2 again" in caplog.text


def test_a_report_has_the_metrics_people_ask_for_and_closing_stops_it(train: Train, tmp_path: Path) -> None:
    running = train(job(EVERYTHING, tmp_path))
    report = next(running)
    wanted = {"train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy", "val_macro_f1", "train_skill"}
    assert wanted <= report.metrics.keys()
    assert all(type(value) is float for value in report.metrics.values())
    assert report.seconds > 0
    assert isinstance(running, Iterator)
    running.close()  # type: ignore[attr-defined]
    assert list(running) == []


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows(recipe: Recipe, tmp_path: Path) -> None:
    ready, losses, sizes = recipe.setup(), [0.5, 1.0, 4.0], [16, 16, 17]
    state = new_state(ready, job(EVERYTHING, tmp_path))
    metrics, _ = loop.read_metrics(state, ready.data, torch.tensor(losses), sizes, {})
    assert metrics["train_loss"] == pytest.approx(np.average(losses, weights=sizes))


def test_gradients_of_due_steps_are_taken_once(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(probes.Gradients, "due", lambda self, step, steps: step in (0, steps - 1))
    monkeypatch.setattr(probes.Gradients, "add", lambda self: taken.append(1))
    next(train(job(EVERYTHING, tmp_path)))
    assert len(taken) == 2


def test_bf16_rounds_the_steps_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    """Weights, their gradients, the optimizer's means, the loss and validation are fp32; the first loss differs by rounding."""
    both, dtypes = [], set()
    for precision in ("fp32", "bf16"):
        recipe = Recipe("cnn", "cross_entropy", folder, "cpu", precision=precision)
        state = new_state(ready := recipe.setup(), job(EVERYTHING, tmp_path))
        assert loop.forward(state.network, torch.zeros(2, 3, 8, 8), precision).dtype == torch.float32
        state.network.register_forward_hook(lambda module, images, found: dtypes.add((module.training, found.dtype)))
        with streams(ready.data.device, 1) as generator:
            loop.train_epoch(state, ready.data, generator)
        tensors = [*state.network.state_dict().values(), *(one for group in state.update.groups for one in group.state)]
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
        both.append(state.first_loss)
    floats = {(True, torch.float32), (False, torch.float32)}
    assert dtypes == floats | {(True, torch.bfloat16)}
    assert both[0] != both[1] == pytest.approx(both[0], rel=0.03)


def test_a_checkpoint_is_scored_as_its_report_was_from_standardized_images(
    recipe: Recipe, train: Train, tmp_path: Path
) -> None:
    report = trained(train, EVERYTHING, tmp_path)[-1]
    path = checkpoints.path(tmp_path, "made-up", 5)
    found, tested = (score(recipe.setup(), EVERYTHING, path, *split) for split in (("val",), ()))
    assert found == {name: report.metrics[name] for name in found}
    assert set(tested) == {name.replace("val", "test") for name in found}
    network = load_network(recipe.setup(), EVERYTHING, path)
    assert not network.training
    data = recipe.setup().data.dataset
    mean, std = data.mean[:, None, None], data.std[:, None, None]
    pixels = ((data.images[data.test] / 255 - mean) / std).astype(np.float32)
    with torch.inference_mode():
        classes = network(torch.from_numpy(pixels)).argmax(1).numpy()
    accuracy = (classes == data.targets[data.test]).mean()
    assert accuracy == pytest.approx(tested["test_accuracy"])


@given(rows=st.integers(1, 500), batch_size=st.integers(1, 100))
def test_batches_deal_out_every_row_and_leave_none_alone(rows: int, batch_size: int) -> None:
    sizes = batch_sizes(rows, batch_size)
    assert sum(sizes) == rows
    assert max(sizes) <= batch_size + 1
    assert batch_size == 1 or rows == 1 or min(sizes) > 1


def test_every_image_is_seen_once_an_epoch_whatever_is_made_ready_at_once(
    recipe: Recipe, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = recipe.setup()
    plain = {**EVERYTHING, "shift": 0, "erase": 0.0, "flip": False, "rotation": 0.0}
    state = new_state(ready, job(plain, tmp_path))
    orders = []
    for most in (1, 2**13, 2**30):
        monkeypatch.setattr(loop, "CHUNK_BYTES", most)
        generator = torch.Generator().manual_seed(4)
        dealt = list(batches(state, ready.data, batch_sizes(49, 16), generator))
        assert [len(images) for images, _ in dealt] == [16, 16, 17]
        orders.append(torch.cat([images for images, _ in dealt]))
    assert torch.equal(orders[0], orders[1]) and torch.equal(orders[0], orders[2])
    there = ready.data.pixels(ready.data.splits["train"]).flatten(1)
    assert sorted(map(tuple, orders[0].flatten(1).tolist())) == sorted(map(tuple, there.tolist()))


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Digits; all but six of the eights are left out of training."""
    data = Dataset.open(digits(tmp_path_factory.mktemp("rare") / "digits"))
    eights = data.train[data.targets[data.train] == 8]
    return replace(data, train=np.setdiff1d(data.train, eights[6:]), folder=None)


def test_sampling_fills_batches_with_equal_shares_and_repeats_no_image_before_all_of_its_class(rare: Dataset) -> None:
    data = Recipe("cnn", "cross_entropy", Path(), "cpu", "sampling", dataset=rare).setup().data
    one, again, other = (data.shuffled(torch.Generator().manual_seed(seed)).numpy() for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert list(rare.targets[one[:10]]) != list(rare.targets[other[:10]]), "rounds have orders of their own"
    for order in (one, other):
        assert len(order) == len(rare.train)
        whole = order[: len(order) // 50 * 50].reshape(-1, 50)
        assert all((np.bincount(rare.targets[batch], minlength=10) == 5).all() for batch in whole)
        times = np.bincount(order, minlength=len(rare.images))[rare.train]
        assert all(np.ptp(times[rare.targets[rare.train] == kind]) <= 1 for kind in range(10))


def test_sampling_finds_what_is_rare_and_a_training_with_it_goes_on_bit_for_bit(rare: Dataset, tmp_path: Path) -> None:
    params = {"blocks": 1, "channels": 8, "learning_rate": 3e-3, "batch_size": 32, "epochs": 4}
    last = {}
    for weights in (False, "sampling"):
        train = Recipe("cnn", "cross_entropy", Path(), "cpu", weights, metrics=("recall.8",), dataset=rare)()
        seeded = lambda one, train=train: train(replace(one, seed=1))  # noqa: E731 - at which nothing is near its bound
        whole = trained(seeded, params, tmp_path)
        again = trained(seeded, params, tmp_path, start=2)
        assert [numbers(report) for report in again] == [numbers(report) for report in whole[2:]]
        last[weights] = whole[-1].metrics["val_recall.8"], whole[-1].missed
    assert last[False] == (0, "1 of 10 (8)")
    assert last["sampling"][0] > 0.3
    assert last["sampling"][1] == ""


def failure(train: Train, params: Params, place: Path) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        list(train(job(params, place)))
    return caught.value


WILD: Params = {"blocks": 1, "channels": 4, "optimizer": "sgd", "batch_size": 16}
DIVERGING: Params = {**WILD, "optimizer": "adam", "learning_rate": 30.0, "epochs": 8}


@pytest.mark.parametrize(
    ("params", "outcome", "text"),
    [
        ({**WILD, "learning_rate": 1e30}, Outcome.NAN, "train_loss is not finite in epoch 1, learning rate 1e+30"),
        (DIVERGING, Outcome.DIVERGED, "times its start, above 4 times since epoch 1, learning rate 30"),
        ({"blocks": 2, "kernel_size": 5, "padding": "valid"}, Outcome.INVALID, "without padding at block 2"),
        ({"blocks": 0, "dense_units": 2**44, "dense_layers": 1}, Outcome.OOM, "out of memory: "),
    ],
)
def test_failures_have_their_outcome(train: Train, tmp_path: Path, params: Params, outcome: Outcome, text: str) -> None:
    failed = failure(train, params, tmp_path)
    assert failed.outcome is outcome
    assert text in str(failed)


def test_divergence_lasts_twenty_steps_and_is_remembered_across_a_resume(train: Train, tmp_path: Path) -> None:
    back = train(job({**DIVERGING, "learning_rate": 0.3, "batch_size": 32, "epochs": 11}, tmp_path))  # 2 steps an epoch
    skills = [report.metrics["train_skill"] for report in back]
    assert max(skills[:2]) < 1 - loop.DIVERGED and skills[-1] > 0.8, skills
    running = train(job(DIVERGING, tmp_path))
    checkpoints.write(tmp_path, "made-up", next(running))
    with pytest.raises(TrainingFailed) as straight:
        list(running)
    with pytest.raises(TrainingFailed) as resumed:
        list(train(job(DIVERGING, tmp_path, start=1)))
    assert straight.value.text == resumed.value.text
    assert " in epoch 7, " in straight.value.text, "3 steps an epoch"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_too_little_memory_is_oom_and_the_worker_is_sound(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", Mock(side_effect=error))
        found = failure(train, EVERYTHING, tmp_path)
    assert found.outcome is Outcome.OOM
    assert str(found).startswith("out of memory: ")
    assert found.__context__ is None  # else it would hold the frames, and they the tensors
    assert len(list(train(job(EVERYTHING, tmp_path)))) == 5


def test_other_errors_are_not_disguised(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "evaluate", Mock(side_effect=RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1"):
        next(train(job(EVERYTHING, tmp_path)))


def test_the_quadratic_cost_trains_classes_too(folder: Path, tmp_path: Path) -> None:
    train = Recipe("cnn", "squared_error", folder, "cpu")()
    reports = list(train(job({"channels": 8, "learning_rate": 0.01, "batch_size": 8, "epochs": 6}, tmp_path)))
    assert reports[-1].metrics["val_accuracy"] > 0.8
    assert 0 <= reports[-1].metrics["val_loss"] <= 2


@pytest.mark.parametrize("kind", ["cross_entropy", "squared_error"])
def test_class_weights_make_losses_of_classes_alike_and_knowing_nothing_scores_the_chance_level(kind: str) -> None:
    targets = torch.tensor([0] * 9 + [1])
    weights = torch.tensor([10 / 18, 10 / 2])
    weighted = Loss(kind, 2, weights=weights)
    outputs = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    each = [Loss(kind, 2)(outputs[targets == k], targets[targets == k]) for k in (0, 1)]
    torch.testing.assert_close(weighted(outputs, targets), torch.stack(each).mean())
    torch.testing.assert_close(weighted.plain(outputs, targets), Loss(kind, 2)(outputs, targets))
    loss = Loss(kind, 7)
    assert loss(torch.zeros(5, 7), torch.arange(5)).item() == pytest.approx(loss.chance)
    numbers_ = Loss("squared_error", 1, spread=torch.tensor([2.0]))
    assert numbers_(torch.zeros(2, 1), torch.tensor([[2.0], [-2.0]])).item() == pytest.approx(numbers_.chance)


KNOWN: dict[str, Value] = {"blocks": 2, "channels": 32, "convs_per_block": 1, "batch_norm": "before", "dense_units": 64}
KNOWN |= {"dropout": 0.3, "learning_rate": 3e-3, "schedule": "cosine", "batch_size": 64, "shift": 1, "epochs": 25}
GRU: Params = {"cell": "gru", "hidden_size": 48, "learning_rate": 0.01, "batch_size": 64, "epochs": 8}


@PRECISIONS
@pytest.mark.parametrize(("model", "params", "accuracy"), [("cnn", KNOWN, 0.98), ("rnn", GRU, 0.95)])
def test_known_points_learn_digits(tmp_path: Path, model: str, params: Params, accuracy: float, precision: str) -> None:
    recipe = Recipe(model, "cross_entropy", digits(tmp_path / "digits"), "cpu", precision=precision)
    last = trained(recipe(), params, tmp_path)[-1]
    assert score(recipe.setup(), params, checkpoints.path(tmp_path, "made-up", last.epoch))["test_accuracy"] >= accuracy


@PRECISIONS
def test_regression_beats_the_mean_and_answers_in_the_unit_of_its_targets(tmp_path: Path, precision: str) -> None:
    recipe = Recipe("cnn", "squared_error", slopes(tmp_path / "slopes"), "cpu", precision=precision)
    params = {"blocks": 1, "channels": 8, "learning_rate": 0.01, "epochs": 8}
    *_, last = recipe()(job(params, tmp_path))
    assert last.metrics["val_r2"] > 0.8
    assert last.metrics["val_mse"] < 20  # of targets with variance 100
    checkpoints.write(tmp_path, "made-up", last)
    ready = recipe.setup()
    network = load_network(ready, params, checkpoints.path(tmp_path, "made-up", last.epoch))
    assert outputs(network, ready.data, ready.data.splits["test"]).mean().item() == pytest.approx(50, abs=3)
