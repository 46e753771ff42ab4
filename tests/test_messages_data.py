"""Every bad data set with the exact lines a person gets."""

from __future__ import annotations

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
from PIL import Image

from hpo.data.dataset import load
from hpo.errors import BadInput
from hpo.study_file.spec import DataSpec, Split

Build = Callable[[Path], object]  # makes a bad data set in an empty folder; what it gives is read if it is a DataSpec
IMAGES_IDX, LABELS_IDX = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
HUGE_IDX = bytes([0, 0, 8, 3]) + struct.pack(">3I", 8, 2**20, 2**20)  # a header that claims 8 TiB


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
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


# -- cases of more than one step -------------------------------------------------------------------------------


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


KINDS = "a folder of images, of IDX files or of CIFAR batches, or an .npz file"
IMAGES = "png, jpg, bmp, gif, webp, tiff, ppm, avif or jp2"
NAMES = "digits, digits-hard, mnist, fashion-mnist, cifar10"
SAVE = "write it with np.savez(path, X=images, y=labels)"
NO_OBJECT = "must be no object array, which is a pickle and is never read"
PLAIN = "save uint8, float32, integers or texts"
IN_ALL = "needs at least 3 images to be in train, val and test"
CUT = "add images or leave the class out"

CASES: dict[str, tuple[Build, *tuple[str, ...]]] = {
    "misspelt": (
        lambda root: DataSpec("digit"),
        f"data.source: must be {NAMES} or the path of {KINDS}, got 'digit'; did you mean digits?",
    ),
    "missing": (
        lambda root: DataSpec(str(root / "nowhere")),
        f"data.source: must be {NAMES} or the path of {KINDS}, got '@/nowhere'; check the path",
    ),
    "name too long": (
        lambda root: DataSpec("x" * 300),
        f"data.source: must be {KINDS}, got '{'x' * 79}; check the path",
    ),
    "zero byte in name": (
        lambda root: DataSpec("a\0b"),
        f"data.source: must be {KINDS}, got 'a\\x00b'; check the path",
    ),
    "text file": (
        lambda root: DataSpec(str(write(root / "data.csv", b"1,2"))),
        f"@/data.csv: must be {KINDS}, got another file; name the folder, or write an .npz",
    ),
    "pipe": (pipe, f"@/pipe.npz: must be {KINDS}, got another file; name the folder, or write an .npz"),
    "empty folder": (lambda root: DataSpec(str(root)), f"@: must be {KINDS}, got an empty folder; put the data there"),
    "no class folders": (
        lambda root: write(root / "readme.txt", b"soon"),
        "@: holds no images in class folders, got readme.txt; make one sub-folder a class",
    ),
    "loose image": (
        lambda root: picture(classes(root) / "loose.png"),
        "@/loose.png: must lie in the folder of its class; make one sub-folder a class",
    ),
    "empty class": (
        lambda root: (classes(root) / "owl").mkdir(),
        "@/owl: holds no images; put images there or remove the folder",
    ),
    "one class": (
        lambda root: DataSpec(str(classes(root, "cat"))),
        "@: must have at least two classes, got only 'cat'; add images of another class",
    ),
    "class of one": (lambda root: picture(classes(root) / "owl" / "a.png"), f"@: class 'owl' {IN_ALL}, got 1; {CUT}"),
    "not images": (
        lambda root: [write(classes(root) / "cat" / "notes.txt", b"meow"), write(root / "dog" / "x.png", b"")],
        f"@/cat/notes.txt: must be an image ({IMAGES}), got another file; remove it",
        f"@/dog/x.png: must be an image ({IMAGES}), got an empty file; remove it",
    ),
    "truncated": (
        lambda root: cut(picture(classes(root) / "dog" / "x.png"), 45),
        "@/dog/x.png: is damaged and cannot be decoded; replace or remove it",
    ),
    "huge": (
        lambda root: bomb(classes(root) / "cat" / "x.png", 12_000),
        "@/cat/x.png: must have at most 67,108,864 pixels, got 12000x12000; make it smaller",
    ),
    "enormous": (
        lambda root: bomb(classes(root) / "cat" / "x.png", 60_000),
        "@/cat/x.png: must have at most 67,108,864 pixels, got more than twice that; make it smaller",
    ),
    "sizes": (
        lambda root: picture(classes(root) / "cat" / "wide.png", (8, 16)),
        "@: images must have one size (height x width), got 8x8 (cat/0.png), 8x16 (cat/wide.png); set data.resize, for example resize: [8, 8]",
    ),
    "deep": (
        lambda root: picture(classes(root) / "cat" / "x.tiff", mode="F"),
        "@/cat/x.tiff: must have 8 or 16 bits a pixel, got 32; save it with 8 bits, or hand the data over as .npz",
    ),
    "link out": (
        lambda root: (classes(root) / "cat" / "x.png").symlink_to("/etc/hostname"),
        "@/cat/x.png: must not lead out of the data's folder, got a link to /etc/hostname; copy the file there",
    ),
    "folder link out": (
        lambda root: (classes(root) / "etc").symlink_to("/etc"),
        "@/etc: must not lead out of the data's folder, got a link to /etc; copy the file there",
    ),
    "folder link inside": (
        lambda root: (classes(root) / "again").symlink_to(root / "cat"),
        "@/again: must be no link to a folder, whose images would count twice, got a link to @/cat; remove it",
    ),
    "link to itself": (
        lambda root: (classes(root) / "cat" / "x.png").symlink_to(root / "cat" / "x.png"),
        "@/cat/x.png: is damaged and cannot be decoded; replace or remove it",
    ),
    "both layouts": (
        lambda root: [classes(root / "train"), classes(root, "owl")],
        "@: must hold either class folders or train, val and test, got both, such as owl; "
        "move the class folders into train",
    ),
    "two vals": (
        lambda root: [classes(root / part) for part in ("train", "val", "valid")],
        "@: must hold one folder for val, got val, valid; join them",
    ),
    "class only in test": (
        lambda root: [classes(root / "train"), classes(root / "test", "cat", "owl")],
        f"@: class 'owl' needs at least 2 images to be in train and val, got 0 in train; {CUT}",
    ),
    "named regression": (
        lambda root: DataSpec(str(classes(root)), regression=True),
        "@: folders must be named by numbers for regression, got cat, dog; "
        "hand the data over as .npz with numbers as y",
    ),
    "many not images": (
        lambda root: [write(classes(root) / "cat" / f"{number:02}.txt", b"no") for number in range(22)],
        *[f"@/cat/{number:02}.txt: must be an image ({IMAGES}), got another file; remove it" for number in range(5)],
        "@: has 17 more mistakes like these",
    ),
    "too much memory": (
        lambda root: DataSpec(str(classes(root)), resize=(65_536, 65_536)),
        "@: needs 34 GB of memory, got 1.1 GB; set data.resize or data.limit",
    ),
    "small limit": (
        lambda root: DataSpec(str(classes(root)), limit=5),
        "data.limit: must be at least 6, so that every class is in every part, got 5; set it to 6 or more",
    ),
    "no npz": (
        lambda root: DataSpec(str(write(root / "d.npz", b"hello"))),
        f"@/d.npz: is no .npz or is damaged; {SAVE}",
    ),
    "zip without arrays": (
        zip_without_arrays,
        "@/d.npz: must hold arrays X and y, misses X and y, got nothing; write np.savez(path, X=images, y=labels)",
    ),
    "other arrays": (
        lambda root: npz(root, x_train=pixels(), y=labels()),
        "@/d.npz: must hold arrays X and y, misses X, got x_train, y; write np.savez(path, X=images, y=labels)",
    ),
    "mismatched": (
        lambda root: npz(root, X=pixels(), y=labels(7)),
        "@/d.npz y: must be as long as X, got 7 labels for 8 images; save one label an image",
    ),
    "objects": (
        lambda root: npz(root, X=np.array([None] * 8), y=np.array([object()] * 8)),
        f"@/d.npz X: {NO_OBJECT}, got object; {PLAIN}",
        "@/d.npz X: must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), got shape (8,); reshape it",
        f"@/d.npz y: {NO_OBJECT}, got object; {PLAIN}",
    ),
    "texts as pixels": (
        lambda root: npz(root, X=[["a"]] * 8, y=labels()),
        "@/d.npz X: must be numbers, got <U1; save uint8 or float32",
    ),
    "flat vector": (
        lambda root: npz(root, X=np.zeros(8), y=labels()),
        "@/d.npz X: must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), got shape (8,); reshape it",
    ),
    "no rows": (
        lambda root: npz(root, X=np.zeros((0, 4, 4)), y=np.zeros(0, int)),
        "@/d.npz X: is empty, got shape (0, 4, 4); put images in",
    ),
    "one hot": (
        lambda root: npz(root, X=pixels(), y=np.eye(8, dtype=int)),
        "@/d.npz y: must be (N,), one label an image, got shape (8, 8); "
        "save y.argmax(1) of one-hot labels, y.ravel() of a column",
    ),
    "negative": (
        lambda root: npz(root, X=pixels(), y=labels() - 1),
        "@/d.npz y: must be class numbers from 0 on, got -1 at index 0 and 3 more; remove or mend these rows",
    ),
    "complex labels": (
        lambda root: npz(root, X=pixels(), y=labels() * 1j),
        "@/d.npz y: must be class numbers or names, got complex128; save integers or texts",
    ),
    "nan target": (
        lambda root: npz(root, X=pixels(), y=[0.5, np.nan, 1, 2, 3, 4, np.inf, 5]),
        "@/d.npz y: must hold finite numbers, got nan at index 1 and 1 more; remove or mend these rows",
    ),
    "text regression": (
        lambda root: npz(root, {"regression": True}, X=pixels(), y=list("abababab")),
        "@/d.npz y: must be numbers for regression, got <U1; remove data.regression",
    ),
    "constant target": (
        lambda root: npz(root, X=pixels(), y=np.full(8, 2.5)),
        "@/d.npz: must have targets that differ, got 2.5 for all 8; hand over other targets",
    ),
    "few targets": (
        lambda root: npz(root, X=pixels(2), y=[0.5, 1.5]),
        "@/d.npz: must have at least 3 images to train, validate and test, got 2; add images",
    ),
    "nan pixel": (
        lambda root: npz(root, X=with_one(np.nan, 5), y=labels()),
        "@/d.npz: must hold finite pixels, got nan in image 5; remove or mend these images",
    ),
    "infinite once float32": (
        lambda root: npz(root, X=with_one(1e300, 2), y=labels()),
        "@/d.npz: must hold finite pixels, got inf in image 2; remove or mend these images",
    ),
    "few names": (
        lambda root: npz(root, X=pixels(), y=labels(), classes=["cat"]),
        "@/d.npz y: must be below the number of class names (1), got 1 at index 1 and 3 more; "
        "name every class or mend the labels",
    ),
    "unused name": (
        lambda root: npz(root, X=pixels(), y=labels(), classes=["cat", "dog", "owl"]),
        f"@/d.npz: class 'owl' has no images; {CUT}",
    ),
    "doubled name": (
        lambda root: npz(root, X=pixels(), y=labels(), classes=["cat", "cat"]),
        "@/d.npz: must name each class once, got 'cat'; rename one",
    ),
    "flat resized": (
        lambda root: npz(root, {"resize": (2, 2)}, X=np.zeros((8, 5)), y=labels()),
        "@/d.npz X: must be images to be resized or made grey, got flat features of shape (8, 5); "
        "remove data.resize and data.grey",
    ),
    "grey of five": (
        lambda root: npz(root, {"grey": True}, X=np.zeros((8, 9, 9, 5)), y=labels()),
        "@/d.npz: data.grey needs images of 1, 3 or 4 channels, got 5; remove data.grey",
    ),
    "cut npz": (
        cut_npz,
        f"@/d.npz: is no .npz or is damaged; {SAVE}",
    ),
    "damaged npz": (damaged_npz, f"@/d.npz X: is damaged; {SAVE}"),
    "lying header": (
        lambda root: headers(root, (10**9, 10**6), b""),
        f"@/d.npz X: is damaged, got 0 bytes for shape (1000000000, 1000000) of uint8; {SAVE}",
    ),
    "negative shape": (
        lambda root: headers(root, (-8, -16), bytes(128)),
        f"@/d.npz X: is damaged, got 128 bytes for shape (-8, -16) of uint8; {SAVE}",
    ),
    "half a share": (
        lambda root: npz(root, {"split": Split(0.5, 0.25, 0.25)}, X=pixels(4), y=[0, 0, 1, 1]),
        f"@/d.npz: class '0' {IN_ALL}, got 2; {CUT}",
        f"@/d.npz: class '1' {IN_ALL}, got 2; {CUT}",
    ),
    "idx without labels": (
        lambda root: idx(root / f"{IMAGES_IDX}.gz", pixels()),
        "@: must hold train-labels-idx1-ubyte[.gz]; put the file there",
    ),
    "idx without train": (
        lambda root: mnist(root, "t10k"),
        "@: must hold train-images-idx3-ubyte[.gz]; put the file there",
    ),
    "idx magic": (
        idx_magic,
        "@/train-images-idx3-ubyte: must begin with 00 00 08 03 (unsigned bytes in 3-d), got 00 00 0d 03; "
        "fetch the file again",
        "@/train-labels-idx1-ubyte: must begin with 00 00 08 01 (unsigned bytes in 1-d), got 00 00 00 08; "
        "fetch the file again",
    ),
    "idx short": (
        lambda root: idx(mnist(root) / IMAGES_IDX, pixels(), cut=1),
        "@/train-images-idx3-ubyte: ends early; fetch the file again",
    ),
    "idx short labels": (
        lambda root: idx(mnist(root) / LABELS_IDX, labels(), cut=1),
        "@/train-labels-idx1-ubyte: ends early; fetch the file again",
    ),
    "idx long": (
        lambda root: idx(mnist(root) / IMAGES_IDX, pixels(), more=bytes(9)),
        "@/train-images-idx3-ubyte: holds more than the 8 of its header; fetch the file again",
    ),
    "idx header only": (
        lambda root: write(mnist(root) / IMAGES_IDX, bytes([0, 0, 8, 3, 0, 0])),
        "@/train-images-idx3-ubyte: ends early; fetch the file again",
    ),
    "idx lengths": (
        lambda root: idx(mnist(root) / LABELS_IDX, labels(6)),
        "@/train-labels-idx1-ubyte: must be as long as the images, got 6 labels for 8 images; fetch the files again",
    ),
    "idx sizes": (
        lambda root: idx(mnist(mnist(root), "t10k") / "t10k-images-idx3-ubyte", np.zeros((8, 5, 5))),
        "@: images must have one size, got 4x4 (train-images-idx3-ubyte) and 5x5 (t10k-images-idx3-ubyte); "
        "use files of one data set",
    ),
    "idx no gzip": (
        lambda root: write(mnist(root) / LABELS_IDX, b"hello, this is no gzip").rename(root / f"{LABELS_IDX}.gz"),
        "@/train-labels-idx1-ubyte.gz: is damaged; fetch the file again",
    ),
    "idx two sets": (
        lambda root: idx(mnist(root) / f"emnist-letters-{IMAGES_IDX}", pixels()),
        "@: must hold one set of IDX files, got one without a name, emnist-letters; put each into a folder of its own",
    ),
    "idx claims too much": (
        lambda root: write(mnist(root) / IMAGES_IDX, HUGE_IDX),
        "@/train-images-idx3-ubyte: ends early; fetch the file again",
    ),
    "gzipped idx claims too much": (
        lambda root: write(mnist(root) / IMAGES_IDX, gzip.compress(HUGE_IDX)).rename(root / f"{IMAGES_IDX}.gz"),
        "@/train-images-idx3-ubyte.gz: needs 8,796 GB of memory, got 1.1 GB; hand over fewer images",
    ),
    "idx is a pipe": (
        lambda root: os.mkfifo(root / IMAGES_IDX),
        "@: holds no images in class folders, got train-images-idx3-ubyte; make one sub-folder a class",
    ),
    "npz claims too much": (
        lambda root: headers(root, (8, 2**14, 2**14), bytes(128), honest=False),
        "@/d.npz X: needs 2.1 GB of memory, got 1.1 GB; hand over fewer rows, or images as uint8",
    ),
    "npz lies twice": (
        lambda root: headers(root, (8, 2**10, 2**10), bytes(128), honest=False),
        f"@/d.npz X: is damaged; {SAVE}",
    ),
    "cifar evil": (
        lambda root: batch(root, {b"data": Evil(), b"labels": [0, 1]}),
        "@/data_batch_1: must hold only arrays, texts, numbers, lists and dicts, got posix.system; "
        "fetch the data again",
    ),
    "cifar damaged": (
        lambda root: write(root / "data_batch_1", b"\x80\x02}q\x00(U\x05hel"),
        "@/data_batch_1: is no pickled CIFAR batch or is damaged; fetch the data again",
    ),
    "cifar no dict": (
        lambda root: batch(root, [1, 2]),
        "@/data_batch_1: must hold a dict, got list; fetch the data again",
    ),
    "cifar no labels": (
        lambda root: batch(root, {b"data": np.zeros((2, 3072), np.uint8)}),
        "@/data_batch_1: must hold a list of numbers, labels or fine_labels; fetch the data again",
    ),
    "cifar wrong shape": (
        lambda root: batch(root, {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}),
        "@/data_batch_1: must hold data, uint8 (2, 3072), got uint8 (2, 3071); fetch the data again",
    ),
    "cifar floats": (
        lambda root: batch(root, {b"data": np.zeros((2, 3072)), b"labels": [0, 1]}),
        "@/data_batch_1: must hold only arrays, texts, numbers, lists and dicts, got an array of 'f8'; "
        "fetch the data again",
    ),
}


@pytest.mark.parametrize(("build", "lines"), [(case[0], case[1:]) for case in CASES.values()], ids=CASES.keys())
def test_bad_data_are_refused_in_one_line_a_mistake_and_leave_nothing_behind(
    build: Build, lines: tuple[str, ...], tmp_path: Path
) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    built = build(folder)
    spec = built if isinstance(built, DataSpec) else DataSpec(str(folder))
    with pytest.raises(BadInput) as caught:
        load(spec, 0, cache, available=2**30)
    assert tuple(str(caught.value).replace(str(folder), "@").splitlines()) == lines
    assert not cache.exists()


def test_an_npz_whose_images_are_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load(npz(tmp_path, X=np.zeros((8, 5), np.float16), y=labels()), 0, available=100)
    assert str(caught.value).endswith("d.npz: needs 160 bytes of memory, got 100 bytes; set data.resize or data.limit")


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
    folder = classes(tmp_path / "data")
    above = [path for path in folder.parents if path.stat().st_uid == os.getuid() and path != Path("/")]
    before = {path: path.stat().st_mode for path in above}
    try:
        for path in above:
            path.chmod(0o755)
        for locked, place in (("cat/0.png", "@/cat/0.png"), ("cat", "@/cat"), (".", "@")):
            mode = (folder / locked).stat().st_mode
            (folder / locked).chmod(0o000)
            with ordinary_user(), pytest.raises(BadInput) as caught:
                load(DataSpec(str(folder)), 0)
            (folder / locked).chmod(mode)
            line = f"{place}: cannot be read, got permission denied; change its permissions"
            assert str(caught.value).replace(str(folder), "@") == line
    finally:
        for path, mode in before.items():
            path.chmod(mode)


@pytest.mark.parametrize("name", ["d.npz", "train-images-idx3-ubyte", "data_batch_1"])
def test_a_file_of_any_kind_that_may_not_be_read_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "d.npz":
        spec = npz(tmp_path, X=pixels(), y=labels())
    elif name == "data_batch_1":
        spec = DataSpec(str(batch(tmp_path, {}).parent))
    else:
        spec = DataSpec(str(mnist(tmp_path)))
    before = open

    def refused(path: object, *arguments: object, **options: object) -> object:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("io.open", refused)
    with pytest.raises(BadInput) as caught:
        load(spec, 0)
    assert str(caught.value) == f"{tmp_path / name}: cannot be read, got permission denied; change its permissions"
