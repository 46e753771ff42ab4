"""What all tests have: examples that nobody times, and a place for whole studies."""

from pathlib import Path

import pytest
from hypothesis import settings
from studied import Place

settings.register_profile("hpo", deadline=None)
settings.load_profile("hpo")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.made(tmp_path)
