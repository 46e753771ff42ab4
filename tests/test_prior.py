"""The learned prior: what ships, what is refused instead of it, and that its trainings can be made again."""

import json
import pickle
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import prior as made
from benchmarks.prior_tasks import TASKS
from hpo.errors import EnvironmentFailed
from hpo.strategies import prior
from hpo.strategies.encoding import FEATURES

Arrays = dict[str, np.ndarray[Any, Any]]


@cache
def shipped() -> Arrays:
    with np.load(prior.SHIPPED) as stored:
        return dict(stored)


def about(**changed: object) -> Arrays:
    told = json.loads(bytes(shipped()["about"])) | changed
    return {"about": np.frombuffer(json.dumps(told).encode(), np.uint8)}


class Evil:
    """Leaves a file behind when pickle loads it."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.witness,)


def test_what_ships_is_small_knows_enough_and_has_no_clothes_letters_or_stripes() -> None:
    rows = made.rows_of()
    assert prior.SHIPPED.stat().st_size <= 4_000_000
    assert len(rows) == prior.load().trainings >= 4_000
    assert {row[1] for row in rows} == {*prior.load().tasks} <= {*TASKS}
    assert len(prior.load().tasks) >= 40
    assert all(0 <= accuracy <= 1 for row in rows for accuracy, _ in row[3])
    assert not {task.family for task in TASKS.values()} & {"clothes", "letters", "stripes"}


@pytest.mark.parametrize("source", prior.LEFT_OUT)
def test_a_source_of_pictures_is_judged_by_networks_that_have_not_seen_its_family(source: str) -> None:
    seen = prior.load(left_out=prior.LEFT_OUT[source])
    assert not {TASKS[name].family for name in seen.tasks} & {"digits", "mnist"}
    assert len(seen.tasks) >= 30
    everything = {weights.tobytes() for network in prior.load().networks for weights, _ in network}
    assert not everything & {weights.tobytes() for network in seen.networks for weights, _ in network}


def test_rows_can_be_made_again_without_any_extra_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within two validation images at every epoch; of digits and of strokes the cheapest that runs to its end and learns."""
    for name in ("mlxtend", "mlxtend.data", "skimage"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    whole = [row for row in made.rows_of() if row[5] == "ok" and len(row[3]) >= 9]
    learned = sorted((r for r in whole if r[3][-1][0] - r[3][0][0] > 0.2), key=lambda row: row[4] * len(row[3]))
    for family in ("digits", "strokes"):
        _, name, params, curve, *_ = next(row for row in learned if TASKS[row[1]].family == family)
        again = made.again(name, params, len(curve))
        far = [abs(there[0] - new[0]) for there, new in zip(curve, again, strict=True)]
        assert max(far) <= 2 / TASKS[name].val + 1e-4, (name, params, curve, again)


BAD: dict[str, Callable[[], Arrays]] = {
    "a newer layout": lambda: about(layout=prior.LAYOUT + 1),
    "names of other features": lambda: about(features=[*FEATURES[:-1], "colour"]),
    "features in another order": lambda: about(features=FEATURES[::-1]),
    "no tasks": lambda: about(tasks={}),
    "a number of tasks": lambda: about(tasks={"": 55}),
    "a task too few": lambda: about(tasks={"": prior.load().tasks[1:]}),
    "a network too many": lambda: about(networks=9),
    "no text": lambda: {"about": np.frombuffer(b"\xff\xfe", np.uint8)},
    "a list": lambda: {"about": np.frombuffer(b"[]", np.uint8)},
    "a centre of other length": lambda: {"centre": np.zeros(3)},
    "weights of another shape": lambda: {"weights0-1": np.zeros((5, 5), np.float32)},
    "weights that are no numbers": lambda: {"bias0-2": np.full_like(shipped()["bias0-2"], np.nan)},
    "weights that are text": lambda: {"weights0-0": np.array([["a", "b"]])},
}


def refused(path: Path, began: str | None = None) -> None:
    with pytest.raises(EnvironmentFailed) as failed:
        prior.load(path, began=began)
    assert len(str(failed.value).splitlines()) == 1, failed.value
    assert str(path) in str(failed.value)
    assert failed.value.exit_code == 4


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_another_version_or_a_hand_made_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **(shipped() | BAD[name]()))
    refused(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["about", "centre", "weights0-0"])
def test_nothing_is_loaded_by_pickle(name: str, tmp_path: Path) -> None:
    evil = {name: np.array([Evil(tmp_path / "loaded")], dtype=object)}
    np.savez(tmp_path / "x.npz", allow_pickle=True, **(shipped() | evil))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Evil(tmp_path / "loaded")))
    refused(tmp_path / "x.npz")
    refused(tmp_path / "bare.npz")
    assert not (tmp_path / "loaded").exists()


def test_a_file_that_is_absent_torn_or_damaged_is_refused_or_says_the_same(tmp_path: Path) -> None:
    """Damage where this reading does not look, as in the table, changes nothing."""
    refused(tmp_path / "absent.npz")
    refused(tmp_path)
    whole, rng = prior.SHIPPED.read_bytes(), random.Random(0)
    points = np.random.default_rng(0).normal(size=(3, len(FEATURES)))
    expected = prior.load().predict(points)
    for case in range(40):
        path, damaged = tmp_path / f"{case}.npz", bytearray(whole)
        if case % 2:
            del damaged[rng.randrange(len(whole)) :]
        else:
            near = len(whole) if case % 4 else 3_000  # the directory at the end of the file, or anywhere
            damaged[len(whole) - 1 - rng.randrange(near)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = prior.load(path).predict(points)
        except EnvironmentFailed:
            refused(path)
        else:
            assert not case % 2, "a torn file is never read"
            assert all(map(np.array_equal, found, expected))


def experienced(folder: Path, **studies: prior.Experience) -> prior.LearnedPrior:
    digest = prior.keep(prior.with_studies(prior.load(), studies), folder)
    return prior.load(folder / f"{digest}.npz", began=digest)


def test_an_earlier_study_is_one_more_task_that_says_what_it_read_and_nothing_else_changes(tmp_path: Path) -> None:
    rng, known = np.random.default_rng(0), prior.load()
    read, unseen = (rng.normal(size=(300, len(FEATURES))) * known.spread + known.centre for _ in range(2))
    truth, shown = (known.predict(some)[0] @ [1, -1, *[0] * (len(known.tasks) - 2)] for some in (read, unseen))
    own = experienced(tmp_path, mine=(read, truth), none=(read, np.zeros(300)))
    assert (own.tasks, own.studies) == ((*known.tasks, "study mine", "study none"), ("mine", "none"))
    assert str(own) == f"{known} and earlier studies (mine, none)"
    before, after = known.predict(unseen), own.predict(unseen)
    assert after[0][:, :-2] == pytest.approx(before[0], abs=1e-5)
    assert after[1] == pytest.approx(before[1], abs=1e-5)
    assert np.corrcoef(after[0][:, -2], shown)[0, 1] > 0.8 > abs(np.corrcoef(before[0].mean(axis=1), shown)[0, 1]) + 0.3
    assert abs(np.corrcoef(after[0][:, -1], shown)[0, 1]) < 0.5, "that of a study which read the same everywhere"


def test_what_a_study_keeps_is_small_the_same_each_time_and_refused_when_it_is_another(tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(20, len(FEATURES)))
    known = experienced(tmp_path, **{f"s{i}": (features, features[:, i]) for i in range(10)})
    path, began = tmp_path / f"{known.digest}.npz", known.digest
    whole = path.read_bytes()
    assert len(whole) < 400_000
    assert experienced(tmp_path, **{f"s{i}": (features, features[:, i]) for i in range(10)}) is known
    with np.load(path) as stored:
        newer = dict(stored) | {"about": np.frombuffer(json.dumps({"layout": prior.LAYOUT + 1}).encode(), np.uint8)}
    np.savez(tmp_path / "newer.npz", **newer)
    refused(tmp_path / "newer.npz", prior.keep((tmp_path / "newer.npz").read_bytes(), tmp_path))
    evil = pickle.dumps(Evil(tmp_path / "loaded"))
    for content in (whole[:-9], whole[:-1] + b"x", b"", prior.SHIPPED.read_bytes(), evil):
        prior.load.cache_clear()
        path.write_bytes(content)
        refused(path, began)
    assert not (tmp_path / "loaded").exists()
