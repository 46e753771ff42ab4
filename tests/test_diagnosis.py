"""Each fault is provoked in a real training; healthy ones are called healthy; sentences are as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import digits, job
from pictures import noise as noise_images

from hpo.core import Outcome, Params, Report, Train, TrainingFailed
from hpo.models.families import known
from hpo.training.diagnosis import Diagnosis, Tag, diagnose
from hpo.training.recipe import Recipe

# -- provoked on digits ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    return Recipe("cnn", "cross_entropy", digits(tmp_path_factory.mktemp("data") / "digits"), "cpu")()


def diagnosed(train: Train, params: Params, place: Path) -> Diagnosis:
    params = {"channels": 8, "batch_size": 64, "learning_rate": 3e-3, **params}
    reports, outcome = [], Outcome.OK
    try:
        reports += train(job(params, place))
    except TrainingFailed as failed:
        outcome = failed.outcome
    return diagnose(reports, params, outcome)


PROVOKED: dict[str, tuple[Params, str]] = {
    "vanishing": (
        {
            "blocks": 2,
            "convs_per_block": 2,
            "activation": "sigmoid",
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "epochs": 2,
        },
        r"vanishing gradients: block 1 receives 1/[\d,]+ of (output|dense 1)'s gradient \(sigmoid, no batch norm\)",
    ),
    "dead": (
        {"blocks": 1, "optimizer": "adam", "learning_rate": 0.5, "epochs": 3},
        r"dead ReLUs: \d+ % of (block|dense) 1 since epoch 1, learning rate 0\.5",
    ),
    "saturated": (
        {"blocks": 1, "activation": "sigmoid", "optimizer": "adam", "learning_rate": 0.5, "epochs": 3},
        r"saturation: \d+ % of dense 1's values are at an end of sigmoid since epoch \d, learning rate 0\.5",
    ),
    "exploding": (
        {"blocks": 1, "activation": "leaky_relu", "optimizer": "adam", "learning_rate": 0.5, "epochs": 1},
        r"exploding gradients: block 1's gradient is \d+ times its weights in epoch 1, learning rate 0\.5",
    ),
    "spikes": (
        {"blocks": 0, "dense_layers": 0, "batch_size": 32, "learning_rate": 2.0, "epochs": 6},
        r"loss spikes: \d+ % of the steps after epoch 1 are worse than knowing nothing, learning rate 2",
    ),
    "slow": (
        {"blocks": 1, "learning_rate": 1e-4, "epochs": 3},
        r"too slow: loss still falling \d+ % an epoch at the end, learning rate 0\.0001",
    ),
    "stuck": (
        {"blocks": 0, "dense_layers": 0, "optimizer": "sgd", "learning_rate": 1e-5, "epochs": 2},
        r"learns nothing: train loss is 2\.\d+ after 2 epochs, 2\.3 is knowing nothing, learning rate 1e-05",
    ),
    "diverged": (
        {"blocks": 1, "activation": "tanh", "optimizer": "adam", "learning_rate": 30.0, "epochs": 4},
        r"diverged: loss rose to [\de.+]+ in epoch 2, learning rate 30",
    ),
    "nan": (
        {"blocks": 1, "optimizer": "sgd", "learning_rate": 1e30},
        r"diverged: loss is not a number in epoch 1, learning rate 1e\+30",
    ),
}


@pytest.mark.parametrize("fault", PROVOKED)
def test_each_fault_is_named_where_it_is_provoked_and_every_cure_is_a_legal_change(
    train: Train, tmp_path: Path, fault: str
) -> None:
    params, sentence = PROVOKED[fault]
    found = diagnosed(train, params, tmp_path)
    assert re.fullmatch(sentence, found.sentence), found.sentence
    table = known("cnn")
    assert found.cures
    for cure in found.cures:
        assert {name: table[name].fault(value) for name, value in cure.items()} == dict.fromkeys(cure)


def test_overfitting_is_named_where_labels_mean_nothing(tmp_path: Path) -> None:
    noise = Recipe("cnn", "cross_entropy", noise_images(tmp_path / "noise"), "cpu")()
    found = diagnosed(noise, {"blocks": 0, "batch_size": 16, "learning_rate": 0.01, "epochs": 14}, tmp_path)
    said = r"overfits: val loss rose from epoch \d+ \(1\.\d+ to \d\.\d+\), train loss fell on to 0\.\d+"
    assert re.fullmatch(said, found.sentence), found.sentence


HEALTHY: tuple[Params, ...] = (
    {"blocks": 2, "epochs": 8},
    {"blocks": 2, "batch_norm": "before", "epochs": 8},
    {"blocks": 1, "activation": "tanh", "batch_norm": "before", "epochs": 6},
    {"blocks": 0, "dense_layers": 1, "activation": "sigmoid", "learning_rate": 0.01, "epochs": 8},
    {"blocks": 2, "activation": "silu", "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, "epochs": 6},
    {"blocks": 1, "activation": "leaky_relu", "optimizer": "rmsprop", "batch_norm": "after", "epochs": 6},
)


@pytest.mark.parametrize("number", range(len(HEALTHY)))
def test_healthy_trainings_are_called_healthy(train: Train, tmp_path: Path, number: int) -> None:
    found = diagnosed(train, HEALTHY[number], tmp_path)
    assert found.tag == "healthy", found.sentence
    assert not found.cures


# -- made up -----------------------------------------------------------------------------------------------------


def course(*epochs: Mapping[str, float]) -> list[Report]:
    return [Report(number, metrics, 0.1, float(number)) for number, metrics in enumerate(epochs, 1)]


def flat(count: int = 3, **metrics: float) -> list[Report]:
    """Epochs that are all alike, of a training that has learned little."""
    usual = {"train_loss": 2.0, "val_loss": 2.0, "train_skill": 0.13, "spikes": 0.0}
    return course(*([{**usual, **{name.replace("__", "/"): value for name, value in metrics.items()}}] * count))


@pytest.mark.parametrize(
    ("reports", "params", "sentence"),
    [
        (
            flat(**{"gradient__block1.conv": 1e-4, "gradient__block4.conv": 0.4, "gradient__output": 0.1}),
            {"activation": "sigmoid", "blocks": 4},
            "vanishing gradients: block 1 receives 1/4,000 of block 4's gradient (sigmoid, no batch norm)",
        ),
        (
            flat(**{"gradient__block1.conv": 0.0, "gradient__block1.conv2": 0.4}),
            {"activation": "tanh", "blocks": 1, "batch_norm": "after"},
            "vanishing gradients: block 1 receives nothing of block 1 (conv2)'s gradient (tanh)",
        ),
        (
            flat(dead__block2=0.1, dead__block3=0.78),
            {"learning_rate": 0.3},
            "dead ReLUs: 78 % of block 3 since epoch 1, learning rate 0.3",
        ),
        (
            flat(saturated__dense1=0.97),
            {"learning_rate": 0.3, "activation": "tanh"},
            "saturation: 97 % of dense 1's values are at an end of tanh since epoch 1, learning rate 0.3",
        ),
        (
            flat(ratio__recurrent=0.1, ratio__output=12.3456),
            {"learning_rate": 0.3},
            "exploding gradients: output's gradient is 12 times its weights in epoch 1, learning rate 0.3",
        ),
        (
            course(*({"train_loss": 2 * 0.96**i, "val_loss": 2 * 0.96**i, "train_skill": 0.4} for i in range(5))),
            {"learning_rate": 1e-4},
            "too slow: loss still falling 4 % an epoch at the end, learning rate 0.0001",
        ),
        (
            course(
                *(
                    {"train_loss": 1 / epoch, "val_loss": 1 / min(epoch, 10 - epoch), "train_skill": 0.9}
                    for epoch in range(1, 10)
                )
            ),
            {},
            "overfits: val loss rose from epoch 6 (0.2 to 1), train loss fell on to 0.111",
        ),
        (flat(), {}, "healthy: loss 2 to 2 in 3 epochs"),
        (flat(1), {}, "healthy: loss 2 to 2 in 1 epoch"),
        ([], {}, "healthy: not trained yet"),
    ],
)
def test_the_sentences_as_people_read_them(reports: list[Report], params: Params, sentence: str) -> None:
    assert diagnose(reports, params).sentence == sentence


def test_what_has_learned_well_is_not_blamed_for_its_gradients() -> None:
    faults = {"gradient__block1.conv": 0.0, "gradient__output": 1.0, "dead__block1": 0.9, "ratio__output": 99.0}
    assert diagnose(flat(**faults), {}).tag != "healthy"
    assert diagnose(flat(**faults, train_skill=0.95), {}).tag == "healthy"


@pytest.mark.parametrize("outcome", [Outcome.OOM, Outcome.INVALID, Outcome.TIMEOUT, Outcome.CRASHED])
def test_other_outcomes_are_their_own_diagnosis(outcome: Outcome) -> None:
    assert diagnose(flat(2), {}, outcome) == Diagnosis(outcome.value, "ended after 2 epochs")


def test_a_users_own_metrics_are_no_obstacle() -> None:
    assert diagnose(course({"score": 1.0}, {"score": 2.0}), {}).tag == "healthy"
    losses = course(*({"train_loss": 0.9**i, "val_loss": 0.9**i} for i in range(5)))
    assert diagnose(losses, {}).tag == "healthy"  # without a level of chance nobody knows what is slow


numbers = st.one_of(st.floats(0, 1e6), st.just(math.nan), st.just(math.inf), st.just(0.0))
names = st.sampled_from(
    [
        "train_loss",
        "val_loss",
        "train_skill",
        "spikes",
        "dead/block1",
        "saturated/dense1",
        "gradient/a.conv",
        "gradient/b",
        "ratio/b",
        "score",
    ]
)


@given(
    epochs=st.lists(st.dictionaries(names, numbers), max_size=5),
    outcome=st.sampled_from(list(Outcome)),
    rate=st.one_of(st.none(), st.floats(1e-9, 1e9)),
)
@settings(deadline=None)
def test_any_reports_have_one_tag_and_one_line(
    epochs: list[dict[str, float]], outcome: Outcome, rate: float | None
) -> None:
    found = diagnose(course(*epochs), {} if rate is None else {"learning_rate": rate}, outcome)
    assert found.sentence.startswith(f"{found.tag}: ")
    assert "\n" not in found.sentence
    assert found.tag in {*Tag, *(other.value for other in Outcome)}
