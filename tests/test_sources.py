"""Every kind of source gives the pixels and labels that were put in, and runs nothing that is in a file."""

import gzip
import hashlib
import json
import math
import os
import pickle
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import refused
from pictures import idx
from PIL import Image

from hpo.commands import predict
from hpo.data.dataset import Dataset, load_dataset
from hpo.data.sources import originals
from hpo.data.sources.contents import available_memory, of_arrays
from hpo.data.sources.images import Pixels, decode, decode_all, image_files
from hpo.errors import BadInput, EnvironmentFailed
from hpo.publishing.publish_best import about_images
from hpo.study_file.spec import DataSpec

RANDOM = np.random.RandomState(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.randint(0, 256, shape).astype(np.uint8)


def loaded(place: Path, **options: Any) -> Dataset:
    return load_dataset(DataSpec(str(place), **options), 0)


def by_pixels(dataset: Dataset) -> dict[bytes, str]:
    """Image -> class name, whatever order the source has."""
    assert dataset.classes is not None
    pairs = zip(dataset.images, dataset.targets, strict=True)
    return {image.tobytes(): dataset.classes[target] for image, target in pairs}


def put(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def refusal(read: Callable[[], object]) -> str:
    """What it is refused with; nothing if it is read."""
    try:
        read()
    except BadInput as bad:
        return str(bad)
    return ""


# -- a folder of images ----------------------------------------------------------------------------------------------


def folder(root: Path, *names: str, count: int = 4, shape: tuple[int, ...] = (6, 5)) -> dict[bytes, str]:
    told = {}
    for name in names:
        for number in range(count):
            pixels = noise(*shape)
            put(root / name / f"{number}.png", pixels)
            channels_first = pixels.reshape(*shape[:2], -1).transpose(2, 0, 1)
            told[channels_first.tobytes()] = Path(name).name
    return told


@pytest.mark.parametrize("colours", [(), (3,)])
def test_a_folder_of_images_gives_its_pixels_and_its_class_names(colours: tuple[int, ...], tmp_path: Path) -> None:
    expected = folder(tmp_path, "cat", "dog", shape=(6, 5, *colours))
    dataset = loaded(tmp_path)
    assert (dataset.shape, dataset.classes) == ((*(colours or (1,)), 6, 5), ("cat", "dog"))
    assert by_pixels(dataset) == expected


def test_images_of_several_sizes_and_colours_become_one_size_and_colour(tmp_path: Path) -> None:
    folder(tmp_path, "cat", "dog")
    put(tmp_path / "cat" / "red.png", noise(6, 5, 3))
    assert loaded(tmp_path).shape == (3, 6, 5)
    assert loaded(tmp_path, grey=True).shape == (1, 6, 5)
    put(tmp_path / "dog" / "wide.png", noise(20, 31))
    resized = loaded(tmp_path, resize=(7, 9))
    assert (resized.shape, resized.resize) == ((3, 7, 9), (7, 9))


def split_of(dataset: Dataset) -> list[dict[bytes, str]]:
    """What is shown, for train, val and test."""
    shown, parts = by_pixels(dataset), (dataset.train, dataset.val, dataset.test)
    return [{image: shown[image] for image in (dataset.images[row].tobytes() for row in rows)} for rows in parts]


WORDS = ({"train", "training"}, {"val", "valid", "validation", "dev"}, {"test", "testing"})
LOOKS = ("{}", "{}_set", "{}set", "seg_{}", "chest xray-{}", "{}2017")


@given(data=st.data())
@settings(max_examples=30)
def test_parts_are_known_by_their_names_in_every_way_people_write_them(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("split")
    top = data.draw(st.sampled_from([".", "archive", "archive/PetImages"]))
    told = []
    for words in WORDS:
        look, style = data.draw(st.sampled_from(LOOKS)), data.draw(st.sampled_from([str, str.upper, str.title]))
        name = style(look.format(data.draw(st.sampled_from(sorted(words)))))
        place = root.joinpath(top, name, data.draw(st.sampled_from([".", name, "images"])))
        told.append(folder(place, "cat", "dog", count=2))
    assert split_of(loaded(root)) == told


def test_class_folders_of_names_that_are_no_utf_8_stay_apart(tmp_path: Path) -> None:
    names = [name.encode("gbk") for name in ("猫", "狗", "船")]
    for name in names:
        folder(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))), ".")
    assert loaded(tmp_path).classes == ("\\xb4\\xac", "\\xb9\\xb7", "è")
    labels = np.repeat(names, 4)
    np.savez(tmp_path / "d.npz", X=noise(12, 4, 4), y=labels)
    assert len(loaded(tmp_path / "d.npz").classes or ()) == 3


@given(values=st.tuples(st.floats(-300, 300), st.floats(-300, 300)), floor=st.sampled_from([0.0, -1.0]))
def test_parts_are_refused_where_one_is_of_another_unit_and_only_there(values: tuple[float, ...], floor: float) -> None:
    with TemporaryDirectory() as place:
        parts = [np.full((8, 4, 4), floor) for _ in "ab"]
        for images, value in zip(parts, values, strict=True):
            images[0, 0, 0] = value
        path, y = Path(place) / "d.npz", np.arange(8) % 2
        np.savez(path, x_train=parts[0], y_train=y, x_test=parts[1], y_test=y)
        said = refusal(lambda: loaded(path))
    small, large = sorted(float(np.abs(images).max()) for images in parts)
    one_divided = any(images.min() >= 0 and images.max() <= 1 for images in parts) and large > 1.5
    assert ("must be on the scale of x_train" in said) == (one_divided or (large > 0 and large >= 16 * small))


def test_rows_that_may_be_images_are_said(tmp_path: Path) -> None:
    for width, noted in ((64, True), (784, True), (65, False), (16, False)):
        np.savez(tmp_path / "d.npz", X=noise(12, width), y=np.arange(12) % 2)
        notes = loaded(tmp_path / "d.npz").notes
        side = math.isqrt(width)
        hint = f"each image is a row of {width} numbers: if it is {side}x{side}, save X as (N, {side}, {side})"
        assert (hint in notes) == noted


@pytest.mark.parametrize("place", [".", "meta", "meta/more"])
@pytest.mark.parametrize("beside", [("cat", "dog"), ("train/cat", "train/dog")])
def test_folders_of_texts_and_of_systems_are_left_out(beside: tuple[str, ...], place: str, tmp_path: Path) -> None:
    expected = folder(tmp_path, *beside)
    systems = ("lost+found/x", f"{beside[0]}/@eaDir/0.png", "_DS_Store", f"{beside[1]}/_DS_Store")
    for name in (f"{place}/classes.txt", *systems):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert by_pixels(loaded(tmp_path)) == expected


@pytest.mark.parametrize(
    "names",
    ["train bus", "freight_train passenger_train", "test_tube beaker", "dev test", "train_station test_lab"],
)
def test_classes_may_have_words_of_parts_in_their_names(names: str, tmp_path: Path) -> None:
    expected = folder(tmp_path, *names.split())
    assert by_pixels(loaded(tmp_path)) == expected


@pytest.mark.parametrize("given", ["", "MNIST", "MNIST/raw"])
def test_torchvision_s_folders_are_found_from_any_of_them(given: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    idx(raw / "train-images-idx3-ubyte", noise(8, 4, 4))
    idx(raw / "train-labels-idx1-ubyte", (np.arange(8) % 2).astype(np.uint8))
    assert loaded(tmp_path / given).name == "raw"


def test_hidden_files_are_ignored_and_images_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    expected = folder(tmp_path, "cat", "dog")
    for name in (".DS_Store", "cat/._0.png", "cat/Thumbs.db", "LICENSE.txt"):
        (tmp_path / name).write_text("no image")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    lynx = noise(6, 5)
    put(tmp_path / "cat" / "wild" / "lynx.png", lynx)
    assert by_pixels(loaded(tmp_path)) == {**expected, lynx.tobytes(): "cat"}


@pytest.mark.parametrize("state", [".", "out"])
@pytest.mark.parametrize("part", [".", "train"])
def test_what_hpo_writes_beside_the_images_is_no_data_nor_a_second_copy(part: str, state: str, tmp_path: Path) -> None:
    expected = folder(tmp_path / part, "cat", "studies")  # a class may be named so
    cache = tmp_path / state / "studies" / "pets" / "data"
    if state == ".":
        (tmp_path / part / "studies").rename(tmp_path / part / "study")
        expected = {image: {"studies": "study"}.get(name, name) for image, name in expected.items()}
    first = load_dataset(DataSpec(str(tmp_path)), 0, cache)
    put(tmp_path / state / "mlruns" / "pets" / "best.png", noise(6, 5))
    for file in ("mlflow.db", "mlflow.db-wal", "studies/pets/random-0/journal.db", "study.yaml", "cat/notes.txt"):
        path = tmp_path / (part if "/n" in file else state) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    again = load_dataset(DataSpec(str(tmp_path)), 0, cache)
    assert by_pixels(first) == by_pixels(again) == expected
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tiff", "pgm"])
def test_formats_without_loss_give_the_same_pixels(suffix: str, tmp_path: Path) -> None:
    pixels = noise(6, 5)
    path = put(tmp_path / f"a.{suffix}", pixels, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    assert np.array_equal(decode(path, Pixels((1, 6, 5)))[0], pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_eight_bits_of_the_channels_wanted(mode: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.new("RGB", (5, 6), (200, 200, 200)).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    pixels = decode(path, Pixels((channels, 6, 5)))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (channels, 6, 5))
    if mode != "1":  # dithered
        assert np.abs(pixels.astype(int) - 200).max() <= 3


@given(alpha=st.integers(0, 255), ink=st.integers(0, 255), mode=st.sampled_from(["LA", "RGBA", "P"]))
@pytest.mark.parametrize(("background", "ground"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_transparent_pixels_show_the_background(
    background: str, ground: int, alpha: int, ink: int, mode: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "transparent.png"
    if mode == "P":
        palette = Image.new("P", (5, 6), 1)
        palette.putpalette([ink] * 768)
        palette.save(path, transparency=bytes([0, alpha] + [0] * 254))
    else:
        Image.new(mode, (5, 6), (ink, alpha) if mode == "LA" else (ink, ink, ink, alpha)).save(path)
    for channels in (1, 3):
        pixels = decode(path, Pixels((channels, 6, 5), background=background)).astype(int)
        assert np.abs(pixels - (ink * alpha + ground * (255 - alpha)) / 255).max() <= 1
        assert alpha not in (0, 255) or (pixels == (ink if alpha else ground)).all()


def icons(root: Path, ink: int = 0) -> None:
    """Drawings whose shape is in the alpha channel alone."""
    for name in ("cat", "dog"):
        for number in range(8):
            drawing = np.full((6, 5, 2), ink, np.uint8)
            drawing[..., 1] = noise(6, 5)
            put(root / name / f"{number}.png", drawing)


def test_a_coloured_background_makes_grey_drawings_coloured_and_a_coloured_model_of_it(tmp_path: Path) -> None:
    icons(tmp_path)
    plain, red = (loaded(tmp_path, background=ground) for ground in ("white", "#ff0000"))
    assert (plain.shape, red.shape) == ((1, 6, 5), (3, 6, 5))
    assert np.array_equal(red.images[:, 0], plain.images[:, 0]) and not red.images[:, 1:].any()
    assert red.save(tmp_path / "saved").background == about_images(red)["background"] == "#ff0000"
    assert red.digest != plain.digest


@pytest.mark.parametrize(("suffix", "kind"), [("png", np.uint16), ("tiff", np.uint16), ("tiff", np.float32)])
def test_pictures_of_more_than_eight_bits_keep_their_range(suffix: str, kind: type, tmp_path: Path) -> None:
    told = set()
    for number, name in enumerate(("cat", "dog") * 6):
        pixels = (RANDOM.rand(6, 5) * (4095 if kind is np.uint16 else 0.01)).astype(kind)  # 12 bits, as cameras have
        put(tmp_path / name / f"{number}.{suffix}", pixels)
        told.add(pixels.astype(np.float32).tobytes())
    dataset = loaded(tmp_path)
    assert (dataset.images.dtype, dataset.shape, dataset.notes) == (np.float32, (1, 6, 5), ())
    assert {image.tobytes() for image in dataset.images} == told
    assert loaded(tmp_path, resize=(3, 4)).images.mean() == pytest.approx(dataset.images.mean(), rel=0.1)
    flat = put(tmp_path / "flat.png", noise(6, 5))
    line = refusal(lambda: decode(flat, Pixels((1, 6, 5), "float32")))
    assert "flat.png: must have more than 8 bits a pixel, as the data have, got 8 bits" in line


def test_that_sixteen_bits_in_colour_are_cut_is_said(tmp_path: Path) -> None:
    folder(tmp_path, "cat", "dog", shape=(6, 5, 3))
    rows = b"".join(b"\0" + RANDOM.bytes(5 * 6) for _ in range(6))
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    packed = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks.items()]
    (tmp_path / "cat" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    dataset = loaded(tmp_path).save(tmp_path / "saved")
    assert dataset.notes == ("1 file of 16 bits in colour, read with 8; save such data as .npz",)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_files_of_several_frames_are_counted_and_the_first_is_looked_at(suffix: str, tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        for number in range(3):
            start = np.full((8, 8), 40 * number + 100 * (kind == "dog"), np.uint8)
            others = [*map(Image.fromarray, noise(number, 8, 8))]
            put(tmp_path / kind / f"{number}.{suffix}", start, save_all=True, append_images=others)
    told = loaded(tmp_path).notes
    assert told[0] == "4 files of several frames or pages, 10 in all: the first is used"
    assert "every image is of one colour all over: of files with several frames only the first is looked at" in told
    notes: list[str] = []
    model = predict.Model(lambda read: read.reshape(len(read), -1)[:, :2] / 255, ("a", "b"), Pixels((1, 8, 8)), 255.0)
    found = predict.predict(model, tmp_path / "dog", notes.append)
    assert [round(one.numbers[0] * 255) for one in found] == pytest.approx([100, 140, 180], abs=2)
    assert notes == ["2 files of several frames or pages, 5 in all: the first is used"]


@pytest.mark.parametrize(("background", "other"), [("white", "black"), ("black", "white")])
def test_where_transparent_pictures_vanish_a_background_is_named(background: str, other: str, tmp_path: Path) -> None:
    icons(tmp_path, 255 if background == "white" else 0)
    told = loaded(tmp_path, background=background).notes
    remedy = f"transparent ones are drawn on {background}; set data.background: {other}"
    assert f"every image is of one colour all over: {remedy}" in told


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_set_upright_by_their_exif(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255  # one bright corner tells all eight orientations of an oblong apart
    lay = upright.T if orientation > 4 else upright
    lay = lay[:, ::-1] if orientation in (2, 3, 7, 8) else lay
    lay = lay[::-1] if orientation in (3, 4, 6, 7) else lay
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100} if suffix in ("jpg", "webp") else {}
    options |= {"compression": "tiff_lzw"} if suffix == "tif" else {}
    for name in ("cat", "dog"):
        for number in range(3):
            put(tmp_path / name / f"{number}.{suffix}", np.ascontiguousarray(lay), exif=exif, **options)
    dataset = loaded(tmp_path, grey=True)
    assert dataset.shape == (1, 16, 32)
    assert np.abs(dataset.images[0, 0].astype(int) - upright).max() < 60


def test_images_to_predict_are_read_in_the_order_of_their_names_and_the_bad_or_none_are_named(tmp_path: Path) -> None:
    first, second = noise(6, 5), noise(6, 5)
    put(tmp_path / "b.png", second)
    put(tmp_path / "a.png", first)
    put(tmp_path / "below" / "c.png", first)
    assert [path.name for path in image_files(tmp_path)] == ["a.png", "b.png", "c.png"]
    assert np.array_equal(decode_all(image_files(tmp_path), Pixels((1, 6, 5)))[:, 0], [first, second, first])
    put(tmp_path / "d.png", noise(7, 5))
    (tmp_path / "e.png").write_text("no")
    for name, words in (("d.png", "must be 6x5, as the data are, got 7x5; resize the image"), ("e.png", "must be an")):
        assert f"{name}: {words}" in refused(BadInput, decode_all, image_files(str(tmp_path)), Pixels((1, 6, 5)))
        (tmp_path / name).unlink()
    (tmp_path / "empty").mkdir()
    for name, why in (("empty", "holds no images"), ("nowhere.png", "is not there")):
        assert why in refusal(lambda name=name: decode_all(image_files(tmp_path / name), Pixels((1, 6, 5))))


def test_files_that_cannot_be_read_are_skipped_for_who_wants_it_unless_a_class_is_lost(tmp_path: Path) -> None:
    expected = folder(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "a.png").write_text("no image")
    (tmp_path / "dog" / "b.png").write_bytes((tmp_path / "dog" / "0.png").read_bytes()[:-25])
    spec = DataSpec(str(tmp_path), damaged="skip")
    dataset = load_dataset(spec, 0)
    assert by_pixels(dataset) == expected
    names = f"{tmp_path}/cat/a.png, {tmp_path}/dog/b.png"
    assert dataset.notes == (f"left out 2 files that cannot be read as images: {names}",)
    assert "a.png: must be an image" in refusal(lambda: loaded(tmp_path))
    put(tmp_path / "cat" / "wide.png", noise(6, 9))
    assert "images must have one size" in refusal(lambda: load_dataset(spec, 0))
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "0.png").write_text("no image")
    assert "class 'bird' has no image that can be read; replace its files" in refusal(lambda: load_dataset(spec, 0))


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_image_is_read_or_refused_in_a_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    suffix = data.draw(st.sampled_from(["png", "jpg", "gif", "tiff", "webp"]))
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{suffix}"
    put(path, np.arange(48, dtype=np.uint8).reshape(6, 8))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert re.fullmatch(rf"({path}: [^\n]+)?", refusal(lambda: decode(path, Pixels((3, 6, 8), resize=True))))


# -- npz -------------------------------------------------------------------------------------------------------------


def of_npz(folder: Path, images: np.ndarray, targets: np.ndarray, options: Any = None, **names: Any) -> Dataset:
    np.savez_compressed(folder / "d.npz", X=images, y=targets, **names)
    return load_dataset(DataSpec(str(folder / "d.npz"), **(options or {})), 0)


@pytest.mark.parametrize("shape", [(7,), (8, 8), (8, 9, 3), (3, 8, 9), (8, 8, 1), (1, 1, 9), (13, 32, 32), (3, 3, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_layout_become_channels_first(shape: tuple[int, ...], order: str, tmp_path: Path) -> None:
    images = noise(20, *shape)
    dataset = of_npz(tmp_path, np.asarray(images, order=order), np.arange(20) % 2)  # type: ignore[call-overload]
    last = shape in ((8, 9, 3), (8, 8, 1), (3, 3, 3))
    expected = images.transpose(0, 3, 1, 2) if last else images.reshape(20, *(1, 1, *shape)[-3:])
    assert dataset.shape == expected.shape[1:]
    assert np.array_equal(dataset.images, expected)


BYTES = [("uint8", [0, 255]), ("bool", [0, 1]), ("int64", [0, 255]), (">i2", [0, 16])]
FLOATS = [("int64", [0, 256]), ("int8", [-1, 5]), ("float64", [0.5, 255]), ("float16", [0, 1])]


@pytest.mark.parametrize(("dtype", "values"), BYTES + FLOATS)
def test_pixels_stay_bytes_as_long_as_that_loses_nothing(dtype: str, values: list[float], tmp_path: Path) -> None:
    images = np.resize(np.array(values), (8, 4, 4)).astype(dtype)
    dataset = of_npz(tmp_path, images, np.arange(8) % 2)
    assert dataset.images.dtype == ("uint8" if (dtype, values) in BYTES else "float32")
    assert np.array_equal(dataset.images[:, 0], images)


def test_labels_may_be_texts_or_have_gaps_or_have_names(tmp_path: Path) -> None:
    images, halves = noise(8, 4, 4), np.arange(8) % 2
    texts = of_npz(tmp_path, images, np.array(["owl", "ant"] * 4))
    gaps = of_npz(tmp_path, images, halves * 7 + 3)
    named = of_npz(tmp_path, images, halves, classes=["zebra", "ape"])
    assert (texts.classes, texts.targets.tolist()) == (("ant", "owl"), [1, 0] * 4)
    assert (gaps.classes, gaps.targets.tolist()) == (("3", "10"), [0, 1] * 4)
    assert (named.classes, named.targets.tolist()) == (("zebra", "ape"), [0, 1] * 4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_targets_are_numbers_only_if_the_study_says_so_and_classes_else(dtype: str, tmp_path: Path) -> None:
    halves = (np.arange(8) % 2).astype(dtype)
    classes = of_npz(tmp_path, noise(8, 4, 4), halves)
    numbers = of_npz(tmp_path, noise(8, 4, 4), halves, {"regression": True})
    assert (classes.classes, classes.targets.tolist(), classes.targets.dtype) == (("0", "1"), [0, 1] * 4, np.int64)
    assert (numbers.classes, numbers.targets.tolist(), numbers.targets.dtype) == (None, [0, 1] * 4, np.float32)


@pytest.mark.parametrize(
    "names", ["x_{} y_{}", "X_{} Y_{}", "{}_images {}_labels", "{}X {}Y", "{}_data {}_targets", "{}_set_x {}_set_y"]
)
@pytest.mark.parametrize("words", [("train", "val", "test"), ("train", "valid"), ("training", "test"), ("train",)])
def test_arrays_of_parts_are_known_by_name_and_stay_apart(names: str, words: tuple[str, ...], tmp_path: Path) -> None:
    arrays, told, (image, label) = {}, [], names.split()
    for part in words:
        images, labels = noise(8, 4, 4), np.arange(8) % 2
        arrays |= {image.format(part): images, label.format(part): labels[:, None]}  # a column, as MedMNIST has it
        told.append({pixels[None].tobytes(): str(number) for pixels, number in zip(images, labels, strict=True)})
    np.savez(tmp_path / "d.npz", image_ids=np.arange(8), **arrays)
    train, val, test = split_of(loaded(tmp_path / "d.npz"))
    given = dict(zip([word[:3] for word in words], told, strict=True))
    assert val == given.get("val", val)
    assert test == given.get("tes", test)
    cut = [part for part, name in ((val, "val"), (test, "tes")) if name not in given]
    assert {**train, **dict(pair for part in cut for pair in part.items())} == given["tra"]


@pytest.mark.parametrize(
    "names", [("X", "y"), ("x", "y"), ("images", "labels"), ("arr_0", "arr_1"), ("data", "target")]
)
def test_one_pair_of_arrays_is_known_by_many_names(names: tuple[str, str], tmp_path: Path) -> None:
    images = noise(8, 4, 4)
    np.savez(tmp_path / "d.npz", **dict(zip(names, (images, np.arange(8) % 2), strict=True)))
    assert np.array_equal(loaded(tmp_path / "d.npz").images[:, 0], images)


def test_arrays_are_made_grey_and_resized_as_the_study_wants(tmp_path: Path) -> None:
    images, options = noise(8, 12, 10, 4), {"grey": True, "resize": (6, 5)}
    dataset = of_npz(tmp_path, images, np.arange(8) % 2, options)
    for image, read in zip(images, dataset.images[:, 0], strict=True):
        wanted = Image.fromarray(image[..., :3]).convert("L").resize((5, 6), Image.Resampling.BILINEAR)
        assert np.array_equal(read, np.asarray(wanted))
    floats = of_npz(tmp_path, images / 512, np.arange(8) % 2, options).images
    assert np.abs(512 * floats - dataset.images).max() <= 1, "on their scale"


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_choosing_from_several_arrays_is_indexing_the_whole(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint8)[:, None, None, None]
    indices = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(whole)))))), dtype=int)
    arrays = np.split(whole, np.cumsum(sizes)[:-1])
    contents = of_arrays("place", arrays, (np.arange(len(whole)), ("one",)), DataSpec("place"))
    assert np.array_equal(contents.pixels(indices), whole[indices])


# -- IDX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "emnist-letters-"])
@pytest.mark.parametrize("name", ["{}-{}-idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte", "{}-{}.idx{}"])
def test_idx_files_of_every_name_are_read_and_their_test_split_stays(head: str, name: str, tmp_path: Path) -> None:
    images, marks = noise(30, 6, 5), (np.arange(30) % 3 + 1).astype(np.uint8)
    for part, rows in (("train", slice(20)), ("t10k", slice(20, 30))):
        idx(tmp_path / (head + name.format(part, "images", 3)), images[rows])
        idx(tmp_path / (head + name.format(part, "labels", 1)), marks[rows])
    dataset = loaded(tmp_path)
    assert np.array_equal(dataset.images[:, 0], images)
    assert dataset.classes == ("1", "2", "3")
    assert np.array_equal(dataset.targets, marks - 1)
    assert dataset.test.tolist() == list(range(20, 30))
    assert sorted([*dataset.train, *dataset.val]) == list(range(20))


def test_a_gzip_bomb_is_not_unpacked_beyond_what_its_header_says(tmp_path: Path) -> None:
    idx(tmp_path / "train-labels-idx1-ubyte", np.arange(20).astype(np.uint8) % 2)
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 20, 6, 5)
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(head + bytes(600) + bytes(2**26))
    tracemalloc.start()
    assert "holds more than the 20 of its header" in refusal(lambda: loaded(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 2**24, "unpacked it"
    tracemalloc.stop()


# -- CIFAR -----------------------------------------------------------------------------------------------------------


def python2(images: np.ndarray, marks: list[int]) -> bytes:
    """A batch exactly as Python 2 pickled it: byte strings, and NumPy's array by _reconstruct and its state."""
    raw = images.tobytes()

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    shape = b"K" + bytes([len(images)]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    kind = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89" + string(raw) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([mark]) for mark in marks) + b"e"
    return b"\x80\x02}q\x01(" + string(b"data") + array + string(b"labels") + numbers + b"u."


def test_cifar_10_as_python_2_wrote_it(tmp_path: Path) -> None:
    images = noise(24, 3, 32, 32)
    marks = [number % 2 for number in range(24)]
    for batch in range(2):
        rows = slice(batch * 8, batch * 8 + 8)
        (tmp_path / f"data_batch_{batch + 1}").write_bytes(python2(images[rows].reshape(8, -1), marks[rows]))
    (tmp_path / "test_batch").write_bytes(python2(images[16:].reshape(8, -1), marks[16:]))
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}, protocol=2))
    dataset = loaded(tmp_path)
    assert np.array_equal(dataset.images, images)
    assert (dataset.classes, dataset.targets.tolist()) == (("cat", "dog"), marks)
    assert dataset.test.tolist() == list(range(16, 24))


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("text", [str, str.encode])
def test_cifar_100_as_python_3_writes_it(protocol: int, text: Any, tmp_path: Path) -> None:
    images = noise(12, 3, 32, 32)
    for name, rows in (("train", slice(8)), ("test", slice(8, 12))):
        count = rows.stop - (rows.start or 0)
        labels = {text("fine_labels"): [0, 1] * (count // 2), text("coarse_labels"): [0] * count}
        batch = {text("data"): images[rows].reshape(count, -1), **labels}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    names = {text("fine_label_names"): [text("apple"), text("bee")]}
    (tmp_path / "meta").write_bytes(pickle.dumps(names, protocol=protocol))
    dataset = loaded(tmp_path)
    assert np.array_equal(dataset.images, images)
    assert dataset.classes == ("apple", "bee")


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.answer = function, arguments

    def __reduce__(self) -> Any:
        return self.answer


EVIL = {
    "a shell command": pickle.dumps({b"data": Call(os.system, "touch ran")}),
    "eval": pickle.dumps({b"data": Call(eval, "open('ran', 'w')")}),
    "a numpy function that unpickles": pickle.dumps({b"data": Call(np.load, "ran", None, True)}),
    "an array of objects": pickle.dumps({b"data": np.array([Call(os.system, "touch ran")], dtype=object)}, protocol=2),
    "a class of hpo": pickle.dumps({b"data": DataSpec("ran")}),
    "a persistent id": b"\x80\x02X\x03\x00\x00\x00ranQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"(cos\nsystem\nX\x03\x00\x00\x00rano.",
    "a name of a name": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
    "a changed function": b"\x80\x02cnumpy\ndtype\n}U\x01aU\x01bsb.",
    "an array called": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
    "a memo of 32 GiB": b"\x80\x02}r\xff\xff\xff\x7f.",
    "nested tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
}


@pytest.mark.parametrize("content", EVIL.values(), ids=EVIL.keys())
def test_a_malicious_batch_runs_nothing(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    rule = "(must hold only arrays, texts, numbers, lists and dicts, got |is no pickled CIFAR batch or is damaged)"
    with pytest.raises(BadInput, match=rf"data_batch_1: {rule}"):
        loaded(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data_batch_1"]


def test_a_batch_whose_bytes_are_not_of_its_shape_is_refused(tmp_path: Path) -> None:
    content = python2(np.zeros((2, 3072), np.uint8), [0]).replace(b"K\x02M", b"K\x01M")
    (tmp_path / "data_batch_1").write_bytes(content)
    assert "must hold data, uint8 (1, 3072)" in refusal(lambda: originals._batch(tmp_path / "data_batch_1"))


@settings(max_examples=300)
@given(data=st.data())
def test_a_changed_batch_is_read_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(python2(np.zeros((1, 3072), np.uint8), [0]))
    path = tmp_path_factory.getbasetemp() / "data_batch_1"
    interesting = [*range(200), *range(len(content) - 40, len(content))]
    for place in data.draw(st.lists(st.sampled_from(interesting), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    assert re.fullmatch(rf"({path}: [^\n]+)?", refusal(lambda: originals._batch(path)))


# -- scikit-learn ----------------------------------------------------------------------------------------------------


def test_the_harder_digits_are_the_same_on_every_machine_and_harder_for_a_straight_line() -> None:
    from sklearn.linear_model import RidgeClassifier

    def score(dataset: Dataset) -> float:
        flat = dataset.images.reshape(len(dataset.images), -1) / 255
        line = RidgeClassifier().fit(flat[dataset.train], dataset.targets[dataset.train])
        return float(line.score(flat[dataset.val], dataset.targets[dataset.val]))

    easy, hard = load_dataset(DataSpec("digits"), 0), load_dataset(DataSpec("digits-hard"), 0)
    assert hard.shape == (1, 16, 16)
    assert np.array_equal(hard.targets, easy.targets)
    assert hashlib.sha256(hard.images.tobytes()).hexdigest()[:16] == "859686edac689e43"
    assert np.array_equal(load_dataset(DataSpec("digits-hard"), 5).images, hard.images)  # the study's seed only splits
    assert score(easy) > 0.85
    assert score(hard) < 0.4


def cached(home: Path, name: str, data_id: int, pixels: np.ndarray, marks: list[int]) -> None:
    """What fetch_openml would have left under `home` after downloading this data set."""
    columns = [f"pixel{number}" for number in range(pixels.shape[1])]
    arff = [f"@RELATION {name}", *(f"@ATTRIBUTE {column} NUMERIC" for column in columns)]
    arff += ["@ATTRIBUTE class {" + ",".join(map(str, sorted(set(marks)))) + "}", "@DATA"]
    arff += [",".join(map(str, [*row, mark])) for row, mark in zip(pixels.tolist(), marks, strict=True)]
    text = ("\n".join(arff) + "\n").encode()
    plain = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0", "is_target": "false"}
    plain |= {"data_type": "numeric"}
    features = [{"index": str(at), "name": column, **plain} for at, column in enumerate(columns)]
    values = [str(mark) for mark in sorted(set(marks))]
    target = {**plain, "is_target": "true", "data_type": "nominal", "nominal_value": values}
    features.append({"index": str(len(columns)), "name": "class", **target})
    url = f"https://api.openml.org/data/v1/download/{data_id}/{name}.arff"
    about = {"id": str(data_id), "name": name, "version": "1", "format": "ARFF", "status": "active", "url": url}
    about |= {"description": "", "md5_checksum": hashlib.md5(text).hexdigest(), "default_target_attribute": "class"}
    found = {"data": {"dataset": [{"did": data_id, "name": name, "version": 1, "status": "active"}]}}
    qualities = [{"name": "NumberOfInstances", "value": str(float(len(pixels)))}]
    api = "api/v1/json/data"
    answers = {
        f"{api}/list/data_name/{name.lower()}/limit/2/data_version/1": found,
        f"{api}/{data_id}": {"data_set_description": about},
        f"{api}/features/{data_id}": {"data_features": {"feature": features}},
        f"{api}/qualities/{data_id}": {"data_qualities": {"quality": qualities}},
    }
    kept = {path: json.dumps(answer).encode() for path, answer in answers.items()}
    for path, content in {**kept, f"data/v1/download/{data_id}/{name}.arff": text}.items():
        file = home / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """scikit-learn's home in an empty folder, and no network."""
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", Mock(side_effect=URLError("no network in tests")))
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda _: None)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("name", "openml", "shape", "first"),
    [
        ("mnist", "mnist_784", (1, 28, 28), "0"),
        ("fashion-mnist", "Fashion-MNIST", (1, 28, 28), "t-shirt"),
        ("cifar10", "CIFAR_10", (3, 32, 32), "airplane"),
    ],
)
def test_openml_sets_are_read_from_the_local_copy_without_a_network(
    name: str, openml: str, shape: tuple[int, int, int], first: str, offline: Path
) -> None:
    pixels, marks = noise(40, int(np.prod(shape))), [number % 10 for number in range(40)]
    cached(offline, openml, 554, pixels, marks)
    dataset = load_dataset(DataSpec(name), 0)
    assert np.array_equal(dataset.images, pixels.reshape(40, *shape))
    assert dataset.targets.tolist() == marks
    assert dataset.classes is not None
    assert (dataset.classes[0], dataset.outputs) == (first, 10)


def test_a_known_set_that_is_not_in_the_cache_names_the_remedy_and_a_folder_of_its_name_is_named(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(EnvironmentFailed, load_dataset, DataSpec("mnist"), 0) == (
        "mnist: is not in the cache and cannot be fetched from openml.org (mnist_784), "
        "got URLError: <urlopen error no network in tests>; "
        f"connect once, copy another machine's {offline}/openml here, or set data to a folder of the files"
    )
    monkeypatch.chdir(tmp_path)
    before = load_dataset(DataSpec("digits"), 0, tmp_path / "cache")
    for name in ("digits", "mnist"):
        (tmp_path / name).mkdir()
    after = load_dataset(DataSpec("digits"), 0, tmp_path / "cache")
    assert (before.notes, after.notes) == ((), ("./digits is not read: data: ./digits names it",))
    assert before.digest == after.digest
    assert refused(EnvironmentFailed, load_dataset, DataSpec("mnist"), 0).endswith("; write data: ./mnist")


def test_a_damaged_cache_or_a_set_that_would_not_fit_is_said(offline: Path) -> None:
    cached(offline, "mnist_784", 554, noise(40, 784), [number % 10 for number in range(40)])
    damaged = offline / "openml" / "openml.org" / "data" / "v1" / "download" / "554" / "mnist_784.arff.gz"
    damaged.write_bytes(gzip.compress(b"@RELATION x\n"))
    assert "URLError" in refused(EnvironmentFailed, load_dataset, DataSpec("mnist"), 0)
    assert (offline / "openml" / "openml.org" / "api").is_dir()
    with pytest.raises(BadInput, match=r"cifar10: needs 1\.5 GB of memory, got 1\.1 GB; save the data as"):
        load_dataset(DataSpec("cifar10"), 0, available=2**30)


@pytest.mark.parametrize("pixels", [noise(40, 100), noise(40, 784).astype(int) + 1])
def test_openml_pixels_of_another_shape_or_beyond_bytes_are_refused(pixels: np.ndarray, offline: Path) -> None:
    cached(offline, "mnist_784", 554, pixels, [number % 10 for number in range(40)])
    line = f"must be images of 784 pixels of 0 to 255, got shape (40, {pixels.shape[1]})"
    assert line in refusal(lambda: load_dataset(DataSpec("mnist"), 0))


# -- memory ----------------------------------------------------------------------------------------------------------


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n"}
CGROUP = {"memory.max": "3000000\n", "memory.current": "2500000\n", "memory.stat": "anon 7\ninactive_file 100000\n"}


@pytest.mark.parametrize(
    ("container", "left"),
    [
        ({}, 5000 * 1024),
        (CGROUP, 600_000),
        (CGROUP | {"memory.max": "max\n"}, 5000 * 1024),
        (CGROUP | {"memory.max": "1000000\n"}, 0),
    ],
)
def test_memory_is_the_lesser_of_machine_and_container(container: dict[str, str], left: int, tmp_path: Path) -> None:
    for name, text in (MEMINFO | {f"sys/fs/cgroup/{name}": text for name, text in container.items()}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == left
