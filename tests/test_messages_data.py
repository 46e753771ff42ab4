"""Every bad data set with the exact lines a person gets."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.data.dataset import load
from hpo.errors import BadInput
from hpo.study_file.spec import DataSpec, Split

Build = Callable[[Path], DataSpec]
MANY = 4  # images a class, enough for train, val and test


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """size: (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), 7).save(path)
    return path


def classes(root: Path, *names: str, count: int = MANY) -> Path:
    for name in names or ("cat", "dog"):
        for number in range(count):
            picture(root / name / f"{number}.png")
    return root


def bomb(path: Path, width: int = 12_000, height: int = 12_000) -> None:
    """A PNG of few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width // 8 + 1) * 64))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def npz(path: Path, **arrays: object) -> DataSpec:
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return DataSpec(str(path))


def pixels(count: int = 8) -> np.ndarray:
    return np.zeros((count, 4, 4), np.uint8)


def labels(count: int = 8) -> np.ndarray:
    return np.arange(count) % 2


def idx(path: Path, values: np.ndarray, magic: bytes | None = None, cut: int = 0, more: bytes = b"") -> None:
    head = magic if magic is not None else bytes([0, 0, 8, values.ndim])
    data = head + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(np.uint8).tobytes() + more
    data = data[: len(data) - cut]
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist(root: Path, count: int = 8) -> Path:
    idx(root / "train-images-idx3-ubyte", pixels(count))
    idx(root / "train-labels-idx1-ubyte", labels(count))
    return root


def batch(path: Path, value: object) -> DataSpec:
    path.write_bytes(pickle.dumps(value, protocol=2))
    return DataSpec(str(path.parent))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/hpo-was-here",)


# -- the cases: each makes a bad data set in an empty folder ---------------------------------------------------------


def misspelt(root: Path) -> DataSpec:
    return DataSpec("digit")


def missing(root: Path) -> DataSpec:
    return DataSpec(str(root / "nowhere"))


def name_too_long(root: Path) -> DataSpec:
    return DataSpec("x" * 300)


def zero_byte_in_name(root: Path) -> DataSpec:
    return DataSpec("a\0b")


def text_file(root: Path) -> DataSpec:
    (root / "data.csv").write_text("1,2")
    return DataSpec(str(root / "data.csv"))


def pipe(root: Path) -> DataSpec:
    os.mkfifo(root / "pipe.npz")
    return DataSpec(str(root / "pipe.npz"))


def empty_folder(root: Path) -> DataSpec:
    return DataSpec(str(root))


def no_class_folders(root: Path) -> DataSpec:
    (root / "readme.txt").write_text("soon")
    return DataSpec(str(root))


def loose_image(root: Path) -> DataSpec:
    picture(classes(root) / "loose.png")
    return DataSpec(str(root))


def empty_class(root: Path) -> DataSpec:
    (classes(root) / "owl").mkdir()
    return DataSpec(str(root))


def one_class(root: Path) -> DataSpec:
    return DataSpec(str(classes(root, "cat")))


def class_of_one(root: Path) -> DataSpec:
    classes(root)
    picture(root / "owl" / "a.png")
    return DataSpec(str(root))


def not_images(root: Path) -> DataSpec:
    (classes(root) / "cat" / "notes.txt").write_text("meow")
    (root / "dog" / "x.png").write_bytes(b"")
    return DataSpec(str(root))


def truncated(root: Path) -> DataSpec:
    classes(root)
    noise = np.random.RandomState(0).randint(0, 255, (8, 8), np.uint8)
    Image.fromarray(noise).save(root / "dog" / "x.png")
    data = (root / "dog" / "x.png").read_bytes()
    (root / "dog" / "x.png").write_bytes(data[:60])
    return DataSpec(str(root))


def huge(root: Path) -> DataSpec:
    bomb(classes(root) / "cat" / "x.png")
    return DataSpec(str(root), resize=(8, 8))


def enormous(root: Path) -> DataSpec:
    bomb(classes(root) / "cat" / "x.png", 60_000, 60_000)
    return DataSpec(str(root), resize=(8, 8))


def sizes(root: Path) -> DataSpec:
    picture(classes(root) / "cat" / "wide.png", (8, 16))
    return DataSpec(str(root))


def deep(root: Path) -> DataSpec:
    Image.new("F", (8, 8)).save(classes(root) / "cat" / "x.tiff")
    return DataSpec(str(root))


def link_out(root: Path) -> DataSpec:
    classes(root)
    (root / "cat" / "x.png").symlink_to("/etc/hostname")
    return DataSpec(str(root))


def folder_link_out(root: Path) -> DataSpec:
    classes(root)
    (root / "etc").symlink_to("/etc")
    return DataSpec(str(root))


def folder_link_inside(root: Path) -> DataSpec:
    classes(root)
    (root / "again").symlink_to(root / "cat")
    return DataSpec(str(root))


def link_to_itself(root: Path) -> DataSpec:
    (classes(root) / "cat" / "x.png").symlink_to(root / "cat" / "x.png")
    return DataSpec(str(root))


def both_layouts(root: Path) -> DataSpec:
    classes(root / "train")
    return DataSpec(str(classes(root, "owl")))


def two_vals(root: Path) -> DataSpec:
    for part in ("train", "val", "valid"):
        classes(root / part)
    return DataSpec(str(root))


def class_only_in_test(root: Path) -> DataSpec:
    classes(root / "train")
    classes(root / "test", "cat", "owl")
    return DataSpec(str(root))


def named_regression(root: Path) -> DataSpec:
    return DataSpec(str(classes(root)), regression=True)


def many_not_images(root: Path) -> DataSpec:
    classes(root)
    for number in range(22):
        (root / "cat" / f"{number:02}.txt").write_text("no")
    return DataSpec(str(root))


def too_much_memory(root: Path) -> DataSpec:
    return DataSpec(str(classes(root)), resize=(65_536, 65_536))


def small_limit(root: Path) -> DataSpec:
    return DataSpec(str(classes(root)), limit=5)


def no_npz(root: Path) -> DataSpec:
    (root / "d.npz").write_bytes(b"hello")
    return DataSpec(str(root / "d.npz"))


def zip_without_arrays(root: Path) -> DataSpec:
    with zipfile.ZipFile(root / "d.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return DataSpec(str(root / "d.npz"))


def other_arrays(root: Path) -> DataSpec:
    return npz(root / "d.npz", x_train=pixels(), y=labels())


def mismatched(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=labels(7))


def objects(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=np.array([None] * 8), y=np.array([object()] * 8))


def texts_as_pixels(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=[["a"]] * 8, y=labels())


def flat_vector(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=np.zeros(8), y=labels())


def no_rows(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=np.zeros((0, 4, 4)), y=np.zeros(0, int))


def one_hot(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=np.eye(8, dtype=int))


def negative(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=labels() - 1)


def complex_labels(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=labels() * 1j)


def nan_target(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=[0.5, np.nan, 1, 2, 3, 4, np.inf, 5])


def text_regression(root: Path) -> DataSpec:
    spec = npz(root / "d.npz", X=pixels(), y=list("abababab"))
    return DataSpec(spec.source, regression=True)


def constant_target(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=np.full(8, 2.5))


def few_targets(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(2), y=[0.5, 1.5])


def nan_pixel(root: Path) -> DataSpec:
    images = pixels().astype(np.float32)
    images[5, 0, 0] = np.nan
    return npz(root / "d.npz", X=images, y=labels())


def infinite_once_float32(root: Path) -> DataSpec:
    images = pixels().astype(np.float64)
    images[2, 0, 0] = 1e300
    return npz(root / "d.npz", X=images, y=labels())


def few_names(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=labels(), classes=["cat"])


def unused_name(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=labels(), classes=["cat", "dog", "owl"])


def doubled_name(root: Path) -> DataSpec:
    return npz(root / "d.npz", X=pixels(), y=labels(), classes=["cat", "cat"])


def flat_resized(root: Path) -> DataSpec:
    return DataSpec(npz(root / "d.npz", X=np.zeros((8, 5)), y=labels()).source, resize=(2, 2))


def grey_of_five(root: Path) -> DataSpec:
    return DataSpec(npz(root / "d.npz", X=np.zeros((8, 9, 9, 5)), y=labels()).source, grey=True)


def cut_npz(root: Path) -> DataSpec:
    spec = npz(root / "d.npz", X=pixels(), y=labels())
    (root / "d.npz").write_bytes((root / "d.npz").read_bytes()[:200])
    return spec


def damaged_npz(root: Path) -> DataSpec:
    spec = npz(root / "d.npz", X=pixels(800), y=labels(800))
    data = bytearray((root / "d.npz").read_bytes())
    data[5000] ^= 255  # the checksum of the zip sees it
    (root / "d.npz").write_bytes(data)
    return spec


def lying_header(root: Path) -> DataSpec:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**6)})
    with zipfile.ZipFile(root / "d.npz", "w") as archive:
        archive.writestr("X.npy", array.getvalue())
        archive.writestr("y.npy", array.getvalue())
    return DataSpec(str(root / "d.npz"))


def claiming(path: Path, side: int) -> DataSpec:
    """8 images of side x side, says the header of X, and so does the zip's directory; there are 8 of 4x4."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (8, side, side)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", array.getvalue() + bytes(128))
        archive.getinfo("X.npy").file_size = len(array.getvalue()) + 8 * side**2
        with archive.open("y.npy", "w") as stream:
            np.save(stream, labels())
    return DataSpec(str(path))


def npz_claims_too_much(root: Path) -> DataSpec:
    return claiming(root / "d.npz", 2**14)


def npz_lies_twice(root: Path) -> DataSpec:
    return claiming(root / "d.npz", 2**10)


def negative_shape(root: Path) -> DataSpec:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (-8, -16)})
    with zipfile.ZipFile(root / "d.npz", "w") as archive:
        archive.writestr("X.npy", array.getvalue() + bytes(128))
        archive.writestr("y.npy", array.getvalue() + bytes(128))
    return DataSpec(str(root / "d.npz"))


def large_npz(root: Path) -> DataSpec:
    return DataSpec(npz(root / "d.npz", X=np.zeros((8, 5), np.float16), y=labels()).source)


def half_a_share(root: Path) -> DataSpec:
    return DataSpec(npz(root / "d.npz", X=pixels(4), y=[0, 0, 1, 1]).source, split=Split(0.5, 0.25, 0.25))


def idx_without_labels(root: Path) -> DataSpec:
    idx(root / "train-images-idx3-ubyte.gz", pixels())
    return DataSpec(str(root))


def idx_without_train(root: Path) -> DataSpec:
    idx(root / "t10k-images-idx3-ubyte", pixels())
    idx(root / "t10k-labels-idx1-ubyte", labels())
    return DataSpec(str(root))


def idx_magic(root: Path) -> DataSpec:
    idx(mnist(root) / "train-images-idx3-ubyte", pixels(), magic=bytes([0, 0, 13, 3]))
    idx(root / "train-labels-idx1-ubyte", labels(), magic=b"")
    return DataSpec(str(root))


def idx_short(root: Path) -> DataSpec:
    idx(mnist(root) / "train-images-idx3-ubyte", pixels(), cut=1)
    return DataSpec(str(root))


def idx_short_labels(root: Path) -> DataSpec:
    idx(mnist(root) / "train-labels-idx1-ubyte", labels(), cut=1)
    return DataSpec(str(root))


def idx_long(root: Path) -> DataSpec:
    idx(mnist(root) / "train-images-idx3-ubyte", pixels(), more=bytes(9))
    return DataSpec(str(root))


def idx_header_only(root: Path) -> DataSpec:
    (mnist(root) / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0]))
    return DataSpec(str(root))


def idx_lengths(root: Path) -> DataSpec:
    idx(mnist(root) / "train-labels-idx1-ubyte", labels(6))
    return DataSpec(str(root))


def idx_sizes(root: Path) -> DataSpec:
    idx(mnist(root) / "t10k-images-idx3-ubyte", np.zeros((8, 5, 5)))
    idx(root / "t10k-labels-idx1-ubyte", labels())
    return DataSpec(str(root))


def idx_no_gzip(root: Path) -> DataSpec:
    mnist(root)
    (root / "train-labels-idx1-ubyte").unlink()
    (root / "train-labels-idx1-ubyte.gz").write_bytes(b"hello, this is no gzip")
    return DataSpec(str(root))


def idx_two_sets(root: Path) -> DataSpec:
    idx(mnist(root) / "emnist-letters-train-images-idx3-ubyte", pixels())
    return DataSpec(str(root))


def idx_claims_too_much(root: Path) -> DataSpec:
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 8, 2**20, 2**20)
    (mnist(root) / "train-images-idx3-ubyte").write_bytes(head)
    return DataSpec(str(root))


def gzipped_idx_claims_too_much(root: Path) -> DataSpec:
    (mnist(root) / "train-images-idx3-ubyte").unlink()
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 8, 2**20, 2**20)
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head))
    return DataSpec(str(root))


def idx_is_a_pipe(root: Path) -> DataSpec:
    os.mkfifo(root / "train-images-idx3-ubyte")
    return DataSpec(str(root))


def cifar_evil(root: Path) -> DataSpec:
    return batch(root / "data_batch_1", {b"data": Evil(), b"labels": [0, 1]})


def cifar_damaged(root: Path) -> DataSpec:
    (root / "data_batch_1").write_bytes(b"\x80\x02}q\x00(U\x05hel")
    return DataSpec(str(root))


def cifar_no_dict(root: Path) -> DataSpec:
    return batch(root / "data_batch_1", [1, 2])


def cifar_no_labels(root: Path) -> DataSpec:
    return batch(root / "data_batch_1", {b"data": np.zeros((2, 3072), np.uint8)})


def cifar_wrong_shape(root: Path) -> DataSpec:
    return batch(root / "data_batch_1", {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]})


def cifar_floats(root: Path) -> DataSpec:
    return batch(root / "data_batch_1", {b"data": np.zeros((2, 3072)), b"labels": [0, 1]})


KINDS = "a folder of images, of IDX files or of CIFAR batches, or an .npz file"
IMAGES = "png, jpg, bmp, gif, webp, tiff, ppm, avif or jp2"
NAMES = "digits, digits-hard, mnist, fashion-mnist, cifar10"
SAVE = "write it with np.savez(path, X=images, y=labels)"
NO_OBJECT = "must be no object array, which is a pickle and is never read"
PLAIN = "save uint8, float32, integers or texts"
IN_ALL = "needs at least 3 images to be in train, val and test"
CUT = "add images or leave the class out"

CASES: list[tuple[Build, list[str]]] = [
    (misspelt, [f"data.source: must be {NAMES} or the path of {KINDS}, got 'digit'; did you mean digits?"]),
    (missing, [f"data.source: must be {NAMES} or the path of {KINDS}, got '@/nowhere'; check the path"]),
    (name_too_long, [f"data.source: must be {KINDS}, got '{'x' * 79}; check the path"]),
    (zero_byte_in_name, [f"data.source: must be {KINDS}, got 'a\\x00b'; check the path"]),
    (text_file, [f"@/data.csv: must be {KINDS}, got another file; name the folder, or write an .npz"]),
    (pipe, [f"@/pipe.npz: must be {KINDS}, got another file; name the folder, or write an .npz"]),
    (empty_folder, [f"@: must be {KINDS}, got an empty folder; put the data there"]),
    (no_class_folders, ["@: holds no images in class folders, got readme.txt; make one sub-folder a class"]),
    (loose_image, ["@/loose.png: must lie in the folder of its class; make one sub-folder a class"]),
    (empty_class, ["@/owl: holds no images; put images there or remove the folder"]),
    (one_class, ["@: must have at least two classes, got only 'cat'; add images of another class"]),
    (class_of_one, [f"@: class 'owl' {IN_ALL}, got 1; {CUT}"]),
    (
        not_images,
        [
            f"@/cat/notes.txt: must be an image ({IMAGES}), got another file; remove it",
            f"@/dog/x.png: must be an image ({IMAGES}), got an empty file; remove it",
        ],
    ),
    (truncated, ["@/dog/x.png: is damaged and cannot be decoded; replace or remove it"]),
    (huge, ["@/cat/x.png: must have at most 67,108,864 pixels, got 12000x12000; make it smaller"]),
    (enormous, ["@/cat/x.png: must have at most 67,108,864 pixels, got more than twice that; make it smaller"]),
    (
        sizes,
        [
            "@: images must have one size (height x width), got 8x8 (cat/0.png), 8x16 (cat/wide.png); set data.resize, for example resize: [8, 8]"
        ],
    ),
    (
        deep,
        ["@/cat/x.tiff: must have 8 or 16 bits a pixel, got 32; save it with 8 bits, or hand the data over as .npz"],
    ),
    (
        link_out,
        ["@/cat/x.png: must not lead out of the data's folder, got a link to /etc/hostname; copy the file there"],
    ),
    (folder_link_out, ["@/etc: must not lead out of the data's folder, got a link to /etc; copy the file there"]),
    (
        folder_link_inside,
        ["@/again: must be no link to a folder, whose images would count twice, got a link to @/cat; remove it"],
    ),
    (link_to_itself, ["@/cat/x.png: is damaged and cannot be decoded; replace or remove it"]),
    (
        both_layouts,
        [
            "@: must hold either class folders or train, val and test, got both, such as owl; "
            "move the class folders into train"
        ],
    ),
    (two_vals, ["@: must hold one folder for val, got val, valid; join them"]),
    (class_only_in_test, [f"@: class 'owl' needs at least 2 images to be in train and val, got 0 in train; {CUT}"]),
    (
        named_regression,
        [
            "@: folders must be named by numbers for regression, got cat, dog; "
            "hand the data over as .npz with numbers as y"
        ],
    ),
    (
        many_not_images,
        [f"@/cat/{number:02}.txt: must be an image ({IMAGES}), got another file; remove it" for number in range(5)]
        + ["@: has 17 more mistakes like these"],
    ),
    (too_much_memory, ["@: needs 32 GiB of memory, got 1 GiB; set data.resize or data.limit"]),
    (small_limit, ["data.limit: must be at least 6, so that every class is in every part, got 5; set it to 6 or more"]),
    (no_npz, [f"@/d.npz: is no .npz or is damaged; {SAVE}"]),
    (
        zip_without_arrays,
        ["@/d.npz: must hold arrays X and y, misses X and y, got nothing; write np.savez(path, X=images, y=labels)"],
    ),
    (
        other_arrays,
        ["@/d.npz: must hold arrays X and y, misses X, got x_train, y; write np.savez(path, X=images, y=labels)"],
    ),
    (mismatched, ["@/d.npz y: must be as long as X, got 7 labels for 8 images; save one label an image"]),
    (
        objects,
        [
            f"@/d.npz X: {NO_OBJECT}, got object; {PLAIN}",
            "@/d.npz X: must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), got shape (8,); reshape it",
            f"@/d.npz y: {NO_OBJECT}, got object; {PLAIN}",
        ],
    ),
    (texts_as_pixels, ["@/d.npz X: must be numbers, got <U1; save uint8 or float32"]),
    (flat_vector, ["@/d.npz X: must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), got shape (8,); reshape it"]),
    (no_rows, ["@/d.npz X: is empty, got shape (0, 4, 4); put images in"]),
    (
        one_hot,
        [
            "@/d.npz y: must be (N,), one label an image, got shape (8, 8); "
            "save y.argmax(1) of one-hot labels, y.ravel() of a column"
        ],
    ),
    (
        negative,
        ["@/d.npz y: must be class numbers from 0 on, got -1 at index 0 and 3 more; remove or mend these rows"],
    ),
    (complex_labels, ["@/d.npz y: must be class numbers or names, got complex128; save integers or texts"]),
    (nan_target, ["@/d.npz y: must hold finite numbers, got nan at index 1 and 1 more; remove or mend these rows"]),
    (text_regression, ["@/d.npz y: must be numbers for regression, got <U1; remove data.regression"]),
    (constant_target, ["@/d.npz: must have targets that differ, got 2.5 for all 8; hand over other targets"]),
    (few_targets, ["@/d.npz: must have at least 3 images to train, validate and test, got 2; add images"]),
    (nan_pixel, ["@/d.npz: must hold finite pixels, got nan in image 5; remove or mend these images"]),
    (infinite_once_float32, ["@/d.npz: must hold finite pixels, got inf in image 2; remove or mend these images"]),
    (
        few_names,
        [
            "@/d.npz y: must be below the number of class names (1), got 1 at index 1 and 3 more; "
            "name every class or mend the labels"
        ],
    ),
    (unused_name, [f"@/d.npz: class 'owl' has no images; {CUT}"]),
    (doubled_name, ["@/d.npz: must name each class once, got 'cat'; rename one"]),
    (
        flat_resized,
        [
            "@/d.npz X: must be images to be resized or made grey, got flat features of shape (8, 5); "
            "remove data.resize and data.grey"
        ],
    ),
    (grey_of_five, ["@/d.npz: data.grey needs images of 1, 3 or 4 channels, got 5; remove data.grey"]),
    (cut_npz, [f"@/d.npz: is no .npz or is damaged; {SAVE}"]),
    (damaged_npz, [f"@/d.npz X: is damaged; {SAVE}"]),
    (lying_header, [f"@/d.npz X: is damaged, got 0 bytes for shape (1000000000, 1000000) of uint8; {SAVE}"]),
    (negative_shape, [f"@/d.npz X: is damaged, got 128 bytes for shape (-8, -16) of uint8; {SAVE}"]),
    (
        half_a_share,
        [f"@/d.npz: class '0' {IN_ALL}, got 2; {CUT}", f"@/d.npz: class '1' {IN_ALL}, got 2; {CUT}"],
    ),
    (idx_without_labels, ["@: must hold train-labels-idx1-ubyte[.gz]; put the file there"]),
    (idx_without_train, ["@: must hold train-images-idx3-ubyte[.gz]; put the file there"]),
    (
        idx_magic,
        [
            "@/train-images-idx3-ubyte: must begin with 00 00 08 03 (unsigned bytes in 3-d), got 00 00 0d 03; "
            "fetch the file again",
            "@/train-labels-idx1-ubyte: must begin with 00 00 08 01 (unsigned bytes in 1-d), got 00 00 00 08; "
            "fetch the file again",
        ],
    ),
    (idx_short, ["@/train-images-idx3-ubyte: ends early; fetch the file again"]),
    (idx_short_labels, ["@/train-labels-idx1-ubyte: ends early; fetch the file again"]),
    (idx_long, ["@/train-images-idx3-ubyte: holds more than the 8 of its header; fetch the file again"]),
    (idx_header_only, ["@/train-images-idx3-ubyte: ends early; fetch the file again"]),
    (
        idx_lengths,
        ["@/train-labels-idx1-ubyte: must be as long as the images, got 6 labels for 8 images; fetch the files again"],
    ),
    (
        idx_sizes,
        [
            "@: images must have one size, got 4x4 (train-images-idx3-ubyte) and 5x5 (t10k-images-idx3-ubyte); "
            "use files of one data set"
        ],
    ),
    (idx_no_gzip, ["@/train-labels-idx1-ubyte.gz: is damaged; fetch the file again"]),
    (
        idx_two_sets,
        [
            "@: must hold one set of IDX files, got one without a name, emnist-letters; "
            "put each into a folder of its own"
        ],
    ),
    (idx_claims_too_much, ["@/train-images-idx3-ubyte: ends early; fetch the file again"]),
    (
        gzipped_idx_claims_too_much,
        ["@/train-images-idx3-ubyte.gz: needs 8 TiB of memory, got 1 GiB; hand over fewer images"],
    ),
    (idx_is_a_pipe, ["@: holds no images in class folders, got train-images-idx3-ubyte; make one sub-folder a class"]),
    (npz_claims_too_much, ["@/d.npz X: needs 2 GiB of memory, got 1 GiB; hand over fewer rows, or images as uint8"]),
    (npz_lies_twice, [f"@/d.npz X: is damaged; {SAVE}"]),
    (
        cifar_evil,
        [
            "@/data_batch_1: must hold only arrays, texts, numbers, lists and dicts, got posix.system; "
            "fetch the data again"
        ],
    ),
    (cifar_damaged, ["@/data_batch_1: is no pickled CIFAR batch or is damaged; fetch the data again"]),
    (cifar_no_dict, ["@/data_batch_1: must hold a dict, got list; fetch the data again"]),
    (
        cifar_no_labels,
        ["@/data_batch_1: must hold a list of numbers, labels or fine_labels; fetch the data again"],
    ),
    (
        cifar_wrong_shape,
        ["@/data_batch_1: must hold data, uint8 (2, 3072), got uint8 (2, 3071); fetch the data again"],
    ),
    (
        cifar_floats,
        [
            "@/data_batch_1: must hold only arrays, texts, numbers, lists and dicts, got an array of 'f8'; "
            "fetch the data again"
        ],
    ),
]


@pytest.mark.parametrize(("build", "lines"), CASES, ids=[build.__name__ for build, _ in CASES])
def test_bad_data_are_refused_in_one_line_a_mistake_and_leave_nothing_behind(
    build: Build, lines: list[str], tmp_path: Path
) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    spec = build(folder)
    with pytest.raises(BadInput) as caught:
        load(spec, 0, cache, available=2**30)
    assert str(caught.value).replace(str(folder), "@").splitlines() == lines
    assert not cache.exists()


def test_an_npz_whose_images_are_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load(large_npz(tmp_path), 0, available=100)
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


@pytest.mark.parametrize(
    ("locked", "mode", "line"),
    [
        ("cat/0.png", 0o000, "@/cat/0.png: cannot be read, got permission denied; change its permissions"),
        ("cat", 0o000, "@/cat: cannot be read, got permission denied; change its permissions"),
        (".", 0o000, "@: cannot be read, got permission denied; change its permissions"),
    ],
)
def test_what_may_not_be_read_is_named(
    locked: str, mode: int, line: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("locked")
    folder = classes(base / "data")
    opened = [path for path in [folder, *folder.parents] if path.stat().st_uid == os.getuid() and path != Path("/")]
    before = {path: path.stat().st_mode for path in opened}
    try:
        for path in [*opened, *folder.rglob("*")]:
            path.chmod(0o755)
        (folder / locked).chmod(mode)
        with ordinary_user(), pytest.raises(BadInput) as caught:
            load(DataSpec(str(folder)), 0)
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        for path, old in before.items():
            path.chmod(old)
    assert str(caught.value).replace(str(folder), "@") == line


@pytest.mark.parametrize("name", ["d.npz", "train-images-idx3-ubyte", "data_batch_1"])
def test_a_file_of_any_kind_that_may_not_be_read_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "d.npz":
        spec = npz(tmp_path / name, X=pixels(), y=labels())
    elif name == "data_batch_1":
        spec = batch(tmp_path / name, {})
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
