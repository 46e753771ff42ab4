"""Whatever a study file holds, only a study or BadInput comes out of it. FUZZ_CASES raises the number of cases."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import is_point

from hpo.errors import BadInput
from hpo.models.families import known
from hpo.study_file.reader import read_study
from hpo.study_file.space_reader import NAME
from hpo.study_file.spec import StudySpec

ROOT = Path(__file__).parent.parent
CASES = int(os.environ.get("FUZZ_CASES", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


def test_mutated_bytes_are_a_study_or_bad_input_in_little_memory() -> None:
    """A process of its own, so that its memory is its own."""
    command = [sys.executable, str(ROOT / "tests/fuzz.py"), str(CASES), str(SEED)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    seen = json.loads(done.stdout)
    sys.stdout.write(f"fuzz: {seen}\n")
    assert seen["cases"] == CASES
    assert 0.02 * CASES < seen["studies"] < 0.9 * CASES  # neither blunt nor all refused at the first byte
    assert seen["peak_mb"] < 200


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 20)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["cnn", "rnn", "digits", "grid", "30m", "2GiB", "relu", "a<b", "x.yaml", "asha", "block", "auto"])
    | st.from_regex(NAME, fullmatch=True).filter(lambda text: len(text) < 9)
)
parameter_names = st.sampled_from(
    [
        "learning_rate",
        "epochs",
        "blocks",
        "channels",
        "block1.channels",
        "dropout",
        "optimizer",
        "momentum",
        "activation",
    ]
)
words = st.sampled_from(
    ["min", "max", "log", "step", "count", "choices", "when", "per", "values", "trials", "source", "name"]
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(words | parameter_names | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)
numbers = st.integers(-1, 12) | st.floats(-1, 2) | scalars
domains = (
    st.lists(scalars, max_size=3)
    | st.fixed_dictionaries(
        {"min": numbers, "max": numbers},
        optional={
            "log": st.booleans(),
            "step": numbers,
            "count": numbers,
            "when": st.dictionaries(parameter_names, values),
        },
    )
    | st.fixed_dictionaries(
        {"choices": st.lists(numbers, max_size=3)},
        optional={"per": st.just("block"), "when": st.dictionaries(parameter_names, values, max_size=2)},
    )
    | values
)
spaces = st.dictionaries(parameter_names | st.text(max_size=5), domains, min_size=1, max_size=5)
KEYS = ("strategy", "model", "train", "loss", "metric", "constraints", "start_with", "budget", "early_stopping")
MORE = ("workers", "device", "execution", "seed", "tracking", "compare", "prefix_safe", "class_weights", "zzz")
studies = st.fixed_dictionaries(
    {"name": st.just("x") | values, "data": st.just("digits") | values, "search_space": spaces | values},
    optional=dict.fromkeys((*KEYS, *MORE), values),
)


@settings(max_examples=max(200, CASES // 5), suppress_health_check=list(HealthCheck), deadline=None)
@given(studies, st.lists(st.text(max_size=30) | st.builds("{}={}".format, parameter_names, scalars), max_size=2))
def test_any_mapping_is_a_study_or_bad_input(study: dict[str, Any], sets: list[str]) -> None:
    try:
        spec = read_study(study, sets=sets, known=known, environ={})
    except BadInput as refused:
        for line in str(refused).splitlines():
            assert line.isprintable(), line
        return
    assert isinstance(spec, StudySpec)
    assert is_point(spec.space.sample(random.Random(0)), spec.space)
    json.dumps(spec.fixed())
