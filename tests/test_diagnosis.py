"""Each fault is provoked in a real training; healthy trainings are called healthy; the sentences are as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import digits, job

from hpo.core import Outcome, Params, Report, Train
from hpo.training.diagnosis import Diagnosis, Tag, diagnose
from hpo.training.families import known
from hpo.training.failure import TrainingFailed
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
