"""Without the extra ray everything else works, and a study that asks for it is told so."""

import importlib.util

import pytest

from hpo import api
from hpo.engine import components
from hpo.errors import BadInput

STUDY = {"name": "x", "data": "digits", "search_space": {"learning_rate": [0.1]}, "execution": {"engine": "ray"}}


def test_a_study_on_ray_without_the_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else there(name, *more))
    with pytest.raises(BadInput) as refused:
        components.placement(api.load(STUDY))
    text = "study execution.engine: needs the package ray, got none here; in a checkout of hpo: pip install '.[ray]'"
    assert str(refused.value) == text
