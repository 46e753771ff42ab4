"""Every bad data set with the exact lines a user gets: tests/bad_data_sets.yaml."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from laws import refused, tables
from PIL import Image

from hpo.data.dataset import load_dataset
from hpo.errors import BadInput
from hpo.study_file.spec import DataSpec, Split

Build = Callable[[Path], object]  # makes a bad data set in an empty folder; what it gives is read if it is a DataSpec
IMAGES_IDX, LABELS_IDX = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
HUGE_IDX = bytes([0, 0, 8, 3]) + struct.pack(">3I", 8, 2**20, 2**20)  # a header that claims 8 TiB


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def folder(root: Path, *names: str) -> Path:
    path = root.joinpath(*names)
    path.mkdir(parents=True)
    return path


def cut(path: Path, size: int) -> Path:
    return write(path, path.read_bytes()[:size])


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """size: (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), 7).save(path)
    return path


def classes(root: Path, *names: str) -> Path:
    """Four images each, enough for train, val and test."""
    for name in names or ("cat", "dog"):
        for number in range(4):
            picture(root / name / f"{number}.png")
    return root


def bomb(path: Path, side: int) -> None:
    """A PNG of few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * 64))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def npz(root: Path, options: Mapping[str, object] | None = None, **arrays: object) -> DataSpec:
    np.savez(root / "d.npz", **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return DataSpec(str(root / "d.npz"), **options or {})  # type: ignore[arg-type]


def headers(root: Path, shape: tuple[int, ...], content: bytes, honest: bool = True) -> DataSpec:
    """An .npz whose X claims a shape; honest: whether the zip's directory tells the bytes that are there."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(root / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", array.getvalue() + content)
        archive.getinfo("X.npy").file_size += 0 if honest else int(np.prod(shape)) - len(content)
        with archive.open("y.npy", "w") as stream:
            np.save(stream, labels())
    return DataSpec(str(root / "d.npz"))


def pixels(count: int = 8) -> np.ndarray:
    return np.zeros((count, 4, 4), np.uint8)


def with_one(pixel: float, image: int) -> np.ndarray:
    images = pixels().astype(np.float64)
    images[image, 0, 0] = pixel
    return images


def labels(count: int = 8) -> np.ndarray:
    return np.arange(count) % 2


def idx(path: Path, values: np.ndarray, magic: bytes | None = None, cut: int = 0, more: bytes = b"") -> None:
    head = magic if magic is not None else bytes([0, 0, 8, values.ndim])
    data = head + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(np.uint8).tobytes() + more
    data = data[: len(data) - cut]
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist(root: Path, part: str = "train") -> Path:
    idx(root / f"{part}-images-idx3-ubyte", pixels())
    idx(root / f"{part}-labels-idx1-ubyte", labels())
    return root


def batch(root: Path, value: object) -> Path:
    return write(root / "data_batch_1", pickle.dumps(value, protocol=2))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/hpo-was-here",)


def pipe(root: Path) -> DataSpec:
    os.mkfifo(root / "pipe.npz")
    return DataSpec(str(root / "pipe.npz"))


def zip_without_arrays(root: Path) -> DataSpec:
    with zipfile.ZipFile(root / "d.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return DataSpec(str(root / "d.npz"))


def cut_npz(root: Path) -> DataSpec:
    spec = npz(root, X=pixels(), y=labels())
    cut(root / "d.npz", 200)
    return spec


def damaged_npz(root: Path) -> DataSpec:
    spec = npz(root, X=pixels(800), y=labels(800))
    data = bytearray((root / "d.npz").read_bytes())
    data[5000] ^= 255  # the checksum of the zip sees it
    (root / "d.npz").write_bytes(data)
    return spec


def idx_magic(root: Path) -> None:
    idx(mnist(root) / IMAGES_IDX, pixels(), magic=bytes([0, 0, 13, 3]))
    idx(root / LABELS_IDX, labels(), magic=b"")


MESSAGES: dict[str, str] = tables("bad_data_sets")
CASES: dict[str, Build] = {
    "misspelt": lambda root: DataSpec("digit"),
    "missing": lambda root: DataSpec(str(root / "nowhere")),
    "name too long": lambda root: DataSpec("x" * 300),
    "zero byte in name": lambda root: DataSpec("a\0b"),
    "text file": lambda root: DataSpec(str(write(root / "data.csv", b"1,2"))),
    "pipe": pipe,
    "empty folder": lambda root: DataSpec(str(root)),
    "no class folders": lambda root: write(root / "readme.txt", b"soon"),
    "loose image": lambda root: picture(classes(root) / "loose.png"),
    "empty class": lambda root: (classes(root) / "owl").mkdir(),
    "test without classes": lambda root: [
        picture(root / "test" / f"{n}.png") for n in range(30) if classes(root / "train")
    ],
    "texts alone": lambda root: [write(folder(root, name) / "a.txt", b"") for name in ("cat", "dog")],
    "system's file alone": lambda root: write(folder(classes(root), "owl") / "Thumbs.db", b""),
    "whole numbers": lambda root: npz(root, X=pixels(), y=[5.0, 5, 5, 7, 7, 7, 9, 9]),
    "one class": lambda root: DataSpec(str(classes(root, "cat"))),
    "class of one": lambda root: picture(classes(root) / "owl" / "a.png"),
    "not images": lambda root: [
        write(classes(root) / "cat" / "notes.doc", b"meow"),
        write(root / "dog" / "x.png", b""),
    ],
    "not image and truncated": lambda root: [
        write(classes(root) / "cat" / "x.png", b"meow"),
        cut(picture(root / "dog" / "x.png"), 45),
    ],
    "truncated": lambda root: cut(picture(classes(root) / "dog" / "x.png"), 45),
    "huge": lambda root: bomb(classes(root) / "cat" / "x.png", 12_000),
    "enormous": lambda root: bomb(classes(root) / "cat" / "x.png", 60_000),
    "sizes": lambda root: picture(classes(root) / "cat" / "wide.png", (8, 16)),
    "deep": lambda root: picture(classes(root) / "cat" / "x.tiff", mode="F"),
    "pipe among images": lambda root: os.mkfifo(classes(root) / "cat" / "x.png"),
    "link out": lambda root: (classes(root) / "cat" / "x.png").symlink_to("/etc/hostname"),
    "folder link out": lambda root: (classes(root) / "etc").symlink_to("/etc"),
    "folder link inside": lambda root: (classes(root) / "again").symlink_to(root / "cat"),
    "link to itself": lambda root: (classes(root) / "cat" / "x.png").symlink_to(root / "cat" / "x.png"),
    "both layouts": lambda root: [classes(root / "train"), classes(root, "owl")],
    "unknown part": lambda root: [classes(root / part) for part in ("training", "evaluation")],
    "unknown parts": lambda root: [classes(root / part / part) for part in ("fold_a", "fold_b")],
    "parts of loose images": lambda root: [
        picture(root / path) for path in ("seg_train/0.png", "seg_test/0.png", "submission/1.png")
    ],
    "data sets below": lambda root: [mnist(folder(root, name, "raw")) for name in ("MNIST", "FashionMNIST")],
    "two vals": lambda root: [classes(root / part) for part in ("train", "val", "valid")],
    "class only in test": lambda root: [classes(root / "train"), classes(root / "test", "cat", "owl")],
    "named regression": lambda root: DataSpec(str(classes(root)), regression=True),
    "many not images": lambda root: [write(classes(root) / "cat" / f"{number:02}.doc", b"no") for number in range(22)],
    "too much memory": lambda root: DataSpec(str(classes(root)), resize=(65_536, 65_536)),
    "small limit": lambda root: DataSpec(str(classes(root)), limit=5),
    "no npz": lambda root: DataSpec(str(write(root / "d.npz", b"hello"))),
    "zip without arrays": zip_without_arrays,
    "other arrays": lambda root: npz(root, x_train=pixels(), y=labels()),
    "part without labels": lambda root: npz(
        root, X_train=pixels(), y_train=labels(), X_test=pixels(), image_ids=labels()
    ),
    "parts unlike": lambda root: npz(
        root, x_train=pixels(), y_train=labels(), x_test=with_one(0.5, 0), y_test=labels()
    ),
    "four arrays": lambda root: npz(root, arr_0=pixels(), arr_1=labels(), arr_2=pixels(), arr_3=labels()),
    "fractional labels": lambda root: npz(root, X=pixels(), y=labels() / 2),
    "mismatched": lambda root: npz(root, X=pixels(), y=labels(7)),
    "objects": lambda root: npz(root, X=np.array([None] * 8), y=np.array([object()] * 8)),
    "texts as pixels": lambda root: npz(root, X=[["a"]] * 8, y=labels()),
    "flat vector": lambda root: npz(root, X=np.zeros(8), y=labels()),
    "no rows": lambda root: npz(root, X=np.zeros((0, 4, 4)), y=np.zeros(0, int)),
    "two columns": lambda root: npz(root, {"regression": True}, X=pixels(), y=np.eye(8)[:, :2]),
    "one part divided": lambda root: npz(
        root,
        x_train=with_one(1.0, 2),
        y_train=labels(),
        x_val=with_one(0.9, 1),
        y_val=labels(),
        x_test=with_one(255, 5),
        y_test=labels(),
    ),
    "one part of 16 bits": lambda root: npz(
        root, x_train=pixels() + np.uint8(255), y_train=labels(), x_val=pixels() + np.uint16(65535), y_val=labels()
    ),
    "one hot": lambda root: npz(root, X=pixels(), y=np.eye(8, dtype=int)),
    "negative": lambda root: npz(root, X=pixels(), y=labels() - 1),
    "complex labels": lambda root: npz(root, X=pixels(), y=labels() * 1j),
    "nan target": lambda root: npz(root, {"regression": True}, X=pixels(), y=[0.5, np.nan, 1, 2, 3, 4, np.inf, 5]),
    "text regression": lambda root: npz(root, {"regression": True}, X=pixels(), y=list("abababab")),
    "constant target": lambda root: npz(root, {"regression": True}, X=pixels(), y=np.full(8, 2.5)),
    "few targets": lambda root: npz(root, {"regression": True}, X=pixels(2), y=[0.5, 1.5]),
    "nan pixel": lambda root: npz(root, X=with_one(np.nan, 5), y=labels()),
    "infinite once float32": lambda root: npz(root, X=with_one(1e300, 2), y=labels()),
    "few names": lambda root: npz(root, X=pixels(), y=labels(), classes=["cat"]),
    "unused name": lambda root: npz(root, X=pixels(), y=labels(), classes=["cat", "dog", "owl"]),
    "doubled name": lambda root: npz(root, X=pixels(), y=labels(), classes=["cat", "cat"]),
    "flat resized": lambda root: npz(root, {"resize": (2, 2)}, X=np.zeros((8, 5)), y=labels()),
    "grey of five": lambda root: npz(root, {"grey": True}, X=np.zeros((8, 9, 9, 5)), y=labels()),
    "cut npz": cut_npz,
    "damaged npz": damaged_npz,
    "lying header": lambda root: headers(root, (10**9, 10**6), b""),
    "negative shape": lambda root: headers(root, (-8, -16), bytes(128)),
    "half a share": lambda root: npz(root, {"split": Split(0.5, 0.25, 0.25)}, X=pixels(4), y=[0, 0, 1, 1]),
    "idx without labels": lambda root: idx(root / f"{IMAGES_IDX}.gz", pixels()),
    "idx without train": lambda root: mnist(root, "t10k"),
    "idx magic": idx_magic,
    "idx short": lambda root: idx(mnist(root) / IMAGES_IDX, pixels(), cut=1),
    "idx short labels": lambda root: idx(mnist(root) / LABELS_IDX, labels(), cut=1),
    "idx long": lambda root: idx(mnist(root) / IMAGES_IDX, pixels(), more=bytes(9)),
    "idx header only": lambda root: write(mnist(root) / IMAGES_IDX, bytes([0, 0, 8, 3, 0, 0])),
    "idx lengths": lambda root: idx(mnist(root) / LABELS_IDX, labels(6)),
    "idx sizes": lambda root: idx(mnist(mnist(root), "t10k") / "t10k-images-idx3-ubyte", np.zeros((8, 5, 5))),
    "idx no gzip": lambda root: write(mnist(root) / LABELS_IDX, b"hello, this is no gzip").rename(
        root / f"{LABELS_IDX}.gz"
    ),
    "idx two sets": lambda root: idx(mnist(root) / f"emnist-letters-{IMAGES_IDX}", pixels()),
    "idx claims too much": lambda root: write(mnist(root) / IMAGES_IDX, HUGE_IDX),
    "gzipped idx claims too much": lambda root: write(mnist(root) / IMAGES_IDX, gzip.compress(HUGE_IDX)).rename(
        root / f"{IMAGES_IDX}.gz"
    ),
    "idx is a pipe": lambda root: os.mkfifo(root / IMAGES_IDX),
    "npz claims too much": lambda root: headers(root, (8, 2**14, 2**14), bytes(128), honest=False),
    "npz lies twice": lambda root: headers(root, (8, 2**10, 2**10), bytes(128), honest=False),
    "cifar evil": lambda root: batch(root, {b"data": Evil(), b"labels": [0, 1]}),
    "cifar damaged": lambda root: write(root / "data_batch_1", b"\x80\x02}q\x00(U\x05hel"),
    "cifar no dict": lambda root: batch(root, [1, 2]),
    "cifar no labels": lambda root: batch(root, {b"data": np.zeros((2, 3072), np.uint8)}),
    "cifar wrong shape": lambda root: batch(root, {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}),
    "cifar floats": lambda root: batch(root, {b"data": np.zeros((2, 3072)), b"labels": [0, 1]}),
}


@pytest.mark.parametrize("case", sorted(CASES.keys() | MESSAGES.keys()))
def test_bad_data_are_refused_in_these_lines_and_leave_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    built = CASES[case](folder)
    spec = built if isinstance(built, DataSpec) else DataSpec(str(folder))
    text = refused(BadInput, load_dataset, spec, 0, cache, available=2**30)
    for file in tmp_path.glob("hpo-mistakes-*.txt"):
        text = text.replace(str(file), "LIST")
        assert file.read_text().count(f"{folder}/cat/") == 22
    assert text.replace(str(folder), "@") + "\n" == MESSAGES[case]
    assert not cache.exists()


def test_an_npz_whose_images_are_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    said = refused(BadInput, load_dataset, npz(tmp_path, X=np.zeros((8, 5), np.float16), y=labels()), 0, available=150)
    assert said.endswith("d.npz: needs 160 bytes of memory, got 150 bytes; set data.resize or data.limit")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """root may read everything, so be somebody else for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    """In one test, because it opens the folders above tmp_path, which tests of other processes share."""
    images, archive = classes(tmp_path / "data"), npz(tmp_path, X=pixels(), y=labels()).source
    digits, cifar = mnist(folder(tmp_path, "digits")), batch(folder(tmp_path, "cifar"), {})
    locked = [(images / "cat" / "0.png", images), (images / "cat", images), (images, images), (Path(archive), archive)]
    locked += [(digits / IMAGES_IDX, digits), (cifar, cifar.parent)]
    above = [path for path in images.parents if path.stat().st_uid == os.getuid() and path != Path("/")]
    before = {path: path.stat().st_mode for path in above}
    try:
        for path in above:
            path.chmod(0o755)
        for path, source in locked:
            mode = path.stat().st_mode
            path.chmod(0o000)
            with ordinary_user():
                said = refused(BadInput, load_dataset, DataSpec(str(source)), 0)
            path.chmod(mode)
            assert said == f"{path}: cannot be read, got permission denied; change its permissions"
    finally:
        for path, mode in before.items():
            path.chmod(mode)
