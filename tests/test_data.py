"""Splits, statistics, digests and the memory map that workers share."""

import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpo import api
from hpo.data import dataset as data
from hpo.data import splits
from hpo.data.dataset import EPSILON, Dataset, load_dataset, standards
from hpo.data.sources.contents import Part
from hpo.engine import opening
from hpo.errors import BadInput, EnvironmentFailed
from hpo.study_file.spec import DataSpec, Split

DIGITS = DataSpec("digits")
SHARES = (0.7, 0.15, 0.15)


def npz(folder: Path, images: np.ndarray, targets: np.ndarray, **options: object) -> DataSpec:
    np.savez(folder / "d.npz", X=images, y=targets)
    return replace(DataSpec(str(folder / "d.npz")), **options)  # type: ignore[arg-type]


def some(folder: Path, count: int = 60, **options: object) -> DataSpec:
    images = np.random.RandomState(0).randint(0, 256, (count, 5, 4)).astype(np.uint8)
    return npz(folder, images, np.arange(count) % 3, **options)


def printed(code: str, *arguments: object) -> str:
    """What a new Python prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout


def standardized(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """What the net is fed with."""
    scale = 255 if dataset.images.dtype == np.uint8 else 1
    block = dataset.images[indices].astype(np.float64) / scale
    return (block - dataset.mean[:, None, None]) / dataset.std[:, None, None]


# -- splits ----------------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(3, 40), min_size=1, max_size=8),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1)),
    seed=st.integers(0, 2**64),
)
def test_every_image_is_in_one_part_and_every_class_in_each_in_proportion(
    counts: list[int], shares: tuple[float, float, float], seed: int
) -> None:
    strata = np.repeat(np.arange(len(counts)), counts)
    parts = splits.split(strata, None, shares, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(strata)))
    for indices, share in zip(parts, shares, strict=True):
        assert (np.diff(indices) > 0).all()
        there = np.bincount(strata[indices], minlength=len(counts))
        assert (there >= 1).all()
        wanted = np.array(counts) * share / sum(shares)
        if (wanted > 2).all() and min(shares) / sum(shares) * min(counts) > 2:
            assert (np.abs(there - wanted) < 2).all()
            assert abs(there.sum() - wanted.sum()) < 2  # rounding does not add up over classes


@given(strata=st.lists(st.integers(0, 2), min_size=30, max_size=60), seed=st.integers(0, 1000), data=st.data())
def test_a_part_that_came_with_data_stays_and_train_is_cut(strata: list[int], seed: int, data: st.DataObject) -> None:
    given_part = data.draw(st.sampled_from([Part.VAL, Part.TEST]))
    groups = np.array(strata)
    parts = np.where(np.arange(len(groups)) % 4 == 0, given_part, Part.TRAIN).astype(np.int8)
    if min(np.bincount(groups[parts == Part.TRAIN], minlength=3)[np.unique(groups)]) < 2:
        with pytest.raises(splits.TooFew):
            splits.split(groups, parts, SHARES, seed)
        return
    made = splits.split(groups, parts, SHARES, seed)
    assert made[given_part].tolist() == np.flatnonzero(parts == given_part).tolist()
    assert sorted(np.concatenate(made)) == list(range(len(groups)))
    assert all(len(part) for part in made)


def test_a_share_of_zero_is_an_empty_part_and_the_random_order_is_the_same_with_every_numpy() -> None:
    assert list(map(len, splits.split(np.zeros(10, int), None, (0.8, 0.2, 0), 0))) == [8, 2, 0]
    assert splits.order(10, 0, 1).tolist() == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), share=st.floats(0.05, 0.99), seed=st.integers(0, 1000)
)
def test_a_sample_has_size_proportions_and_what_a_split_needs(sizes: list[int], share: float, seed: int) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    limit = max(1, int(share * len(strata)))
    least = [min(3, size) for size in sizes]
    if limit < sum(least):
        with pytest.raises(splits.TooFew) as caught:
            splits.sample(strata, None, limit, 3, seed)
        assert caught.value.least == sum(least)
        return
    picked = splits.sample(strata, None, limit, 3, seed)
    assert len(set(picked.tolist())) == len(picked) == limit
    assert (np.diff(picked) > 0).all()
    kept = np.bincount(strata[picked], minlength=len(sizes))
    assert (kept >= least).all()
    assert (kept <= sizes).all()


@given(
    shown=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Part)), min_size=1, max_size=30),
    seed=st.integers(0, 2**20),
)
def test_of_images_with_the_same_pixels_the_one_to_test_stays(shown: list[tuple[int, Part]], seed: int) -> None:
    looks = np.random.RandomState(seed).randint(0, 256, (4, 1, 2, 2)).astype(np.uint8)
    looks[1], looks[1, 0, 0, 0] = looks[0], looks[0, 0, 0, 0] ^ 1  # one bit apart
    kinds, parts = (np.array(values) for values in zip(*shown, strict=True))
    numbers = splits.identities(looks[kinds])
    texts = [looks[kind].tobytes() for kind in kinds]
    assert [numbers[i] == numbers[j] for i in range(len(kinds)) for j in range(i)] == [
        texts[i] == texts[j] for i in range(len(kinds)) for j in range(i)
    ]
    kept = splits.first_of_each(numbers, parts)
    assert (np.diff(kept) > 0).all() and {texts[row] for row in kept} == set(texts)
    assert len(kept) == len(set(texts)) == len(splits.first_of_each(numbers, None))
    for row in kept:
        assert parts[row] == max(part for part, text in zip(parts, texts, strict=True) if text == texts[row])
    split = [np.flatnonzero(parts == part) for part in Part]
    classes = np.random.RandomState(seed).randint(0, 2, len(kinds))
    torn = [len({other for text, other in zip(texts, classes, strict=True) if text == one}) > 1 for one in texts]
    assert splits.conflicting(numbers, classes).tolist() == torn
    for known, marks in ((None, texts), (classes, [*zip(texts, classes, strict=True)])):
        said = " ".join(splits.leaks(looks[kinds], known, *split))
        expected = known is not None and any(torn)
        assert (f"{sum(torn)} images have the pixels of one of another class" in said) == expected
        for part, text in ((Part.VAL, "validate"), (Part.TEST, "test")):
            before = {marks[row] for row in np.flatnonzero(parts < part)}
            leaked = sum(marks[row] in before for row in split[part])
            assert (f"{leaked} of {len(split[part])} images to {text} are" in said) == (leaked > 0)


def test_the_same_image_in_two_splits_is_said_and_dropped_for_who_wants_it(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (60, 5, 4)).astype(np.uint8)
    images[1::2] = images[::2]  # every picture twice
    spec = npz(tmp_path, images, np.arange(60) // 20)
    told = load_dataset(spec, 0, tmp_path / "cache").notes
    line = r"\d+ of 9 images to validate are pixel by pixel in an earlier split too, so .* fixes it"
    assert re.fullmatch(line, told[0])
    assert load_dataset(spec, 0, tmp_path / "cache").notes == told, "a cache says it too"
    dropped = load_dataset(replace(spec, duplicates="drop"), 0, tmp_path / "cache")
    assert dropped.notes == ("dropped 30 images that others have the pixels of",)
    assert len(dropped.images) == len(np.unique(dropped.images.reshape(30, -1), axis=0)) == 30
    assert np.bincount(dropped.targets).tolist() == [10, 10, 10]


def test_images_of_two_classes_are_said_and_left_out_altogether_for_who_drops_duplicates(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (60, 5, 4)).astype(np.uint8)
    images[1] = images[0]
    images[20:25] = images[:5]  # where the next class begins
    spec = npz(tmp_path, images, np.arange(60) // 20)
    remedy = "data.duplicates: drop leaves all of them out"
    assert f"10 images have the pixels of one of another class: {remedy}" in load_dataset(spec, 0).notes
    dropped = load_dataset(replace(spec, duplicates="drop"), 0)
    assert dropped.notes == ("dropped 10 images that have the pixels of one of another class",)
    assert np.bincount(dropped.targets).tolist() == [15, 15, 20]
    assert not {image.tobytes() for image in images[:5]} & {image.tobytes() for image in dropped.images}
    numbers = load_dataset(replace(spec, regression=True), 0)
    assert not any("another class" in note for note in numbers.notes)


def test_a_class_that_a_split_of_the_source_lacks_is_said_and_is_nothing_to_search_by(tmp_path: Path) -> None:
    images, kinds = np.random.RandomState(0).randint(0, 256, (60, 5, 4)).astype(np.uint8), np.arange(60) % 4
    np.savez(tmp_path / "d.npz", x_train=images, y_train=kinds, x_val=255 - images[:20], y_val=kinds[:20] % 3)
    found = load_dataset(DataSpec(source := str(tmp_path / "d.npz")), 0)
    assert found.notes == ("no image to validate is of 3: scores there leave it out",)
    study = {"name": "m", "data": source, "search_space": {"blocks": 1}, "metrics": "val_f1.3"}
    opening.refuse_unknown_classes(api.load({**study, "metric": "val_f1.2"}), found)
    rule = "metric.name: must be of a class that the data have among the images to validate on, got 3; use 0, 1 or 2"
    with pytest.raises(BadInput, match=re.escape(rule)):
        opening.refuse_unknown_classes(api.load({**study, "metric": "val_f1.3"}), found)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.arange(60)[:, None, None] + np.zeros((60, 5, 4)), "every image is of one colour all over"),
        (np.arange(1200).reshape(60, 5, 4) % 3 / 2, "the pixels of all images take 3 values only (0, 0.5, 1): look"),
        (np.arange(1200).reshape(60, 5, 4) % 9, ""),
        (np.arange(120).reshape(60, 2) % 2, ""),  # flat features
    ],
)
def test_images_in_which_there_is_little_to_see_are_said(images: np.ndarray, said: str, tmp_path: Path) -> None:
    images = images.astype(np.float32 if images.dtype == float else np.uint8)
    notes = load_dataset(npz(tmp_path, images, np.arange(60) % 3), 0).notes
    others = [note for note in notes if "earlier split" not in note and "another class" not in note]
    assert [note[: len(said)] for note in others] == ([said] if said else [])


# -- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_training_split_alone(tmp_path: Path) -> None:
    spec = some(tmp_path)
    before = load_dataset(spec, 0)
    images = before.images[:, 0].copy()
    images[np.concatenate([before.val, before.test])] = 0
    after = load_dataset(npz(tmp_path, images, before.targets), 0)
    assert np.array_equal(before.train, after.train)
    assert np.array_equal(before.mean, after.mean)
    assert np.array_equal(before.std, after.std)
    fed = standardized(after, after.train)
    assert abs(fed.mean()) < 1e-6
    assert abs(fed.std() - 1) < 1e-4


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    offset=st.sampled_from([0, 1e3]),
    seed=st.integers(0, 100),
)
def test_moments_are_numpys_with_epsilon_under_the_root(shape: tuple[int, ...], offset: float, seed: int) -> None:
    random = np.random.RandomState(seed)
    for images, scale in (
        (random.randint(0, 256, shape).astype(np.uint8), 255),
        ((random.standard_normal(shape) + offset).astype(np.float32), 1),
    ):
        train = np.arange(0, len(images), 2)
        mean, std = standards(images, train)
        exact = images[train].astype(np.float64) / scale
        assert np.allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-6, atol=1e-7)
        assert np.allclose(std, np.sqrt(exact.var(axis=(0, 2, 3)) + EPSILON), rtol=1e-5)


def test_constant_images_are_fed_as_zeros_and_statistics_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (np.uint8(9), np.float32(1e6)):
        dataset = load_dataset(npz(tmp_path, np.full((9, 2, 2), value), np.arange(9) % 3), 0)
        assert (dataset.std > 0).all()
        assert np.abs(standardized(dataset, dataset.test)).max() < 1e-2
    spec = some(tmp_path)
    whole = load_dataset(spec, 0)
    monkeypatch.setattr("hpo.data.sources.contents.BLOCK_BYTES", 50)
    pieces = load_dataset(spec, 0)
    assert pieces.digest == whole.digest
    assert np.array_equal(pieces.mean, whole.mean)
    assert np.array_equal(pieces.std, whole.std)


def test_class_weights_make_every_class_count_the_same(tmp_path: Path) -> None:
    targets = np.array([0] * 40 + [1] * 10 + [2] * 4)
    dataset = load_dataset(npz(tmp_path, np.zeros((54, 2, 2), np.uint8), targets), 0)
    weights = dataset.class_weights()
    weighed = weights[dataset.targets[dataset.train]]
    sums = [weighed[dataset.targets[dataset.train] == kind].sum() for kind in range(3)]
    assert np.allclose(sums, sums[0])
    assert np.isclose(weighed.mean(), 1)
    assert weights.dtype == np.float32


# -- loading ---------------------------------------------------------------------------------------------------------


def test_digits_are_split_in_proportion_and_by_seed_and_regression_by_tenths_of_the_target() -> None:
    dataset = load_dataset(DIGITS, 0)
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [1258, 270, 269]
    assert (dataset.shape, dataset.outputs, dataset.name, dataset.folder) == ((1, 8, 8), 10, "digits", None)
    assert (dataset.images.dtype, dataset.images.min(), dataset.images.max()) == (np.uint8, 0, 16)
    assert dataset.classes == tuple("0123456789")
    assert dataset.digest == "646eae095fffee645b93fc4e3c9728b0"
    assert same(pickle.loads(pickle.dumps(dataset)), dataset), "it can be sent to a worker"
    assert load_dataset(DIGITS, 0).digest == dataset.digest
    assert load_dataset(DIGITS, 1).digest != dataset.digest
    targets = np.random.RandomState(0).permutation(1000).astype(np.float32) ** 3
    train, val, test = splits.split(splits.strata(targets, True), None, SHARES, 0)
    for part, share in ((train, 0.7), (val, 0.15), (test, 0.15)):
        tenths = np.histogram(np.cbrt(targets[part]), np.linspace(0, 1000, 11))[0]
        assert np.abs(tenths - 100 * share).max() <= 1


def test_the_digest_changes_with_whatever_a_training_could_see(tmp_path: Path) -> None:
    images, targets = np.random.RandomState(0).randint(0, 256, (60, 6, 4)).astype(np.uint8), np.arange(60) % 3
    changed = images.copy()
    changed[59, 5, 3] ^= 1

    def digest(images: np.ndarray, targets: np.ndarray, seed: int = 0, **options: object) -> str:
        return load_dataset(npz(tmp_path, images, targets, **options), seed).digest

    digests = [
        digest(images, targets),
        digest(changed, targets),
        digest(images, np.roll(targets, 1)),
        digest(images, np.array(["a", "b", "c"])[targets]),
        digest(images.astype(np.float32), targets),
        digest(images.reshape(60, 4, 6), targets),
        digest(images, targets, resize=(6, 4)),
        digest(images, targets, split=Split(0.5, 0.25, 0.25)),
        digest(images, targets, limit=59),
        digest(images, targets, 1),
    ]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in digests)


def test_a_limit_keeps_classes_in_proportion_and_takes_the_same_images_whatever_the_seed(tmp_path: Path) -> None:
    spec = npz(tmp_path, np.arange(200, dtype=np.uint8).reshape(200, 1, 1), np.arange(200) % 4 // 3, limit=40)
    dataset, again, other = load_dataset(spec, 0), load_dataset(spec, 0), load_dataset(spec, 1)
    assert np.bincount(dataset.targets).tolist() == [30, 10]
    assert np.array_equal(dataset.images, again.images)
    assert np.array_equal(dataset.images, other.images)
    assert not np.array_equal(dataset.val, other.val)
    assert load_dataset(replace(spec, limit=10**9), 0).images.shape[0] == 200


def test_too_many_pixels_are_refused_before_one_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (100, 50)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    spec = DataSpec(str(tmp_path))
    assert load_dataset(spec, 0, available=8 * 3 * 100 * 50).shape == (3, 50, 100)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadInput, match=r"needs 120 kB of memory, got 120 kB; set data\.resize or data\.limit"):
        load_dataset(spec, 0, available=8 * 3 * 100 * 50 - 1)
    monkeypatch.undo()
    assert load_dataset(replace(spec, resize=(5, 5)), 0, available=1000).shape == (3, 5, 5)
    assert len(load_dataset(replace(spec, limit=6), 0, available=6 * 3 * 100 * 50).images) == 6


def test_large_data_are_decoded_into_a_file_that_leaves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = some(tmp_path)
    small = load_dataset(spec, 0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(data, "MAPPED_BYTES", 100)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    large = load_dataset(spec, 0)
    assert isinstance(large.images, np.memmap)
    assert large.digest == small.digest
    assert list(scratch.iterdir()) == []


def test_a_disk_without_room_or_a_folder_that_cannot_be_written_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = some(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=OSError(28, "No space left on device")))
    monkeypatch.setattr(data, "MAPPED_BYTES", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = "needs 1.2 kB of disk, got No space left on device; make room or set TMPDIR"
    with pytest.raises(EnvironmentFailed, match=f"^{tmp_path}: {line}$"):
        load_dataset(spec, 0)
    monkeypatch.undo()
    (tmp_path / "file").write_text("in the way")
    line = "cannot be written, got File exists; make room there or choose another --state"
    with pytest.raises(EnvironmentFailed, match=f"^{tmp_path}/file/saved: {line}$"):
        load_dataset(some(tmp_path), 0).save(tmp_path / "file" / "saved")


def test_reading_data_imports_no_torch_and_reading_files_no_sklearn(tmp_path: Path) -> None:
    some(tmp_path)
    code = """
import sys
from hpo.study_file.spec import DataSpec
from hpo.data.dataset import load_dataset
load_dataset(DataSpec(sys.argv[1]), 0)
print([name for name in ("torch", "sklearn", "pandas", "mlflow", "optuna") if name in sys.modules])
load_dataset(DataSpec("digits"), 0)
print([name for name in ("torch", "mlflow", "optuna") if name in sys.modules])
"""
    assert printed(code, tmp_path / "d.npz") == "[]\n[]\n"


# -- on disk ---------------------------------------------------------------------------------------------------------


def same(one: Dataset, other: Dataset) -> bool:
    arrays = ("images", "targets", "train", "val", "test", "mean", "std")
    plain = ("name", "classes", "digest", "resize", "shape", "outputs")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and all(
        getattr(one, name) == getattr(other, name) for name in plain
    )


@pytest.mark.parametrize("options", [{}, {"resize": (2, 3)}, {"regression": True}, {"split": Split(0.8, 0.2, 0.0)}])
def test_what_is_saved_is_opened_as_it_was_and_as_a_read_only_map(options: dict[str, object], tmp_path: Path) -> None:
    dataset = load_dataset(some(tmp_path, **options), 3)
    opened = dataset.save(tmp_path / "below" / "saved")
    assert same(opened, dataset)
    assert same(Dataset.open(tmp_path / "below" / "saved"), dataset)
    assert opened.folder == tmp_path / "below" / "saved"
    assert opened.images.dtype == dataset.images.dtype
    assert isinstance(opened.images, np.memmap)
    assert not opened.images.flags.writeable
    assert sorted(path.name for path in (tmp_path / "below").iterdir()) == ["saved"]
    description = (tmp_path / "below" / "saved" / "dataset.json").read_text()
    assert str(tmp_path) not in description, "no path of this machine"
    named = {"name", "classes", "resize", "background", "remarks", "split", "content", "shares", "files"}
    assert set(json.loads(description)) == named


def test_saving_the_same_again_keeps_what_is_there_and_other_data_replace_it(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    first = load_dataset(some(tmp_path), 0)
    mapped = first.save(folder)
    written = (folder / "images.npy").stat().st_ino
    first.save(folder)
    assert (folder / "images.npy").stat().st_ino == written
    other = load_dataset(some(tmp_path, 63), 1)
    other.save(folder)
    assert same(Dataset.open(folder), other)
    assert np.array_equal(mapped.train, first.train)  # an open map stays what it was
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "saved"]


@pytest.mark.parametrize("name", ["images.npy", "targets.npy", "dataset.json", "split-0.npz"])
@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_a_damaged_folder_is_said_and_saving_again_mends_it(name: str, content: bytes | None, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    dataset = load_dataset(some(tmp_path), 0)
    dataset.save(folder)
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    line = f"{folder}: is no saved data set or is damaged; delete the folder and run again"
    with pytest.raises(EnvironmentFailed, match=f"^{line}$"):
        Dataset.open(folder)
    assert same(dataset.save(folder), dataset)


def _save_often(source: str, folder: Path, times: int) -> None:
    dataset = load_dataset(DataSpec(source), 0)
    for _ in range(times):
        dataset.save(folder)
        Dataset.open(folder)


def test_processes_that_save_at_the_same_time_all_end_with_the_data_set(tmp_path: Path) -> None:
    dataset = load_dataset(some(tmp_path), 0)
    folder = tmp_path / "below" / "saved"
    with multiprocessing.get_context("fork").Pool(4) as workers:
        workers.starmap(_save_often, [(str(tmp_path / "d.npz"), folder, 5)] * 4, chunksize=1)
    assert same(Dataset.open(folder), dataset)
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


@pytest.mark.parametrize("options", [{}, {"regression": True}, {"limit": 45}])
def test_another_split_is_cut_from_the_same_images_as_its_seed_says(options: dict[str, object], tmp_path: Path) -> None:
    spec = some(tmp_path, **options)
    first = load_dataset(spec, 0, tmp_path / "cache")
    assert first.folder is not None
    for one in (first, replace(first, folder=None)):
        assert same(one.with_split(7), load_dataset(spec, 7))
    assert same(Dataset.open(first.folder, 7), first.with_split(7)), "kept"
    assert first.with_split(7).images is first.images, "a map is a file descriptor, and a comparison has many splits"
    (first.folder / "split-7.npz").write_bytes(b"half")
    assert same(load_dataset(spec, 7, tmp_path / "cache"), first.with_split(7)), "and made again"
    assert len(list(tmp_path.rglob("images.npy"))) == 1
    assert not np.array_equal(first.with_split(7).train, first.train)
    assert not np.array_equal(first.with_split(7).mean, first.mean)


@pytest.mark.parametrize("linked", [False, True])
def test_other_content_of_the_same_size_and_time_is_read(linked: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(8):
        place = root / ("cat" if number < 4 else "dog") / f"{number}.bmp"
        path = root / ".all" / place.name if linked else place  # what begins with a dot is read through links only
        for folder in (path.parent, place.parent):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) + number).save(path)
        if linked:
            place.symlink_to(path)
    before = load_dataset(DataSpec(str(root)), 0, tmp_path / "cache")
    stamps = path.stat()
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(path)
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert path.stat().st_size == stamps.st_size
    after = load_dataset(DataSpec(str(root)), 0, tmp_path / "cache")
    assert after.digest != before.digest and (after.images[7] == 200).all()


def test_a_cache_is_read_instead_of_an_unchanged_source_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    spec = some(tmp_path)
    first = load_dataset(spec, 0, cache)
    assert first.folder is not None
    assert first.folder.parent == cache
    with monkeypatch.context() as patch:
        patch.setattr(data, "find", lambda *_: pytest.fail("read again"))
        assert same(load_dataset(spec, 0, cache), first)
    (first.folder / "split-0.npz").unlink()
    assert same(load_dataset(spec, 0, cache), first), "a damaged cache is made again"
    assert load_dataset(spec, 1, cache).digest != first.digest
    assert load_dataset(replace(spec, limit=50), 0, cache).digest != first.digest
    changed = load_dataset(some(tmp_path, 63), 0, cache)
    assert len(changed.images) == 63
    assert len(list(cache.iterdir())) == 3
