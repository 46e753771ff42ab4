"""A folder of IDX files as the MNIST family ships them: train-images-idx3-ubyte, t10k-labels.idx1-ubyte.gz, ...

An IDX file is two zero bytes, a byte for the type (8: unsigned bytes), a byte for the number of dimensions, each
dimension as a big-endian uint32, then the values (http://yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from hpo.data.sources.contents import (
    Array,
    Contents,
    Part,
    bad_file,
    collect,
    labelled,
    of_arrays,
    raise_all,
    refuse_above,
    unreadable,
)
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

# also EMNIST's "emnist-letters-train-images-idx3-ubyte.gz"
NAME = re.compile(
    r"(?P<family>.*?)(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx(?P<dimensions>[13])(-ubyte)?(\.gz)?"
)
UNSIGNED_BYTES = 8


def read(folder: Path, spec: DataSpec, available: int | None) -> Contents:
    """Raises BadInput for files that are missing, damaged or do not fit together."""
    files = _files(folder)
    paths = [path for pair in files.values() for path in pair]
    dimensions = [3, 1] * len(files)
    arrays, mistakes = collect(lambda at: array_of(paths[at], dimensions[at], available), range(len(paths)))
    raise_all(mistakes, "IDX files")
    images, labels = arrays[::2], arrays[1::2]
    raise_all(_misfits(folder, paths, images, labels), folder)
    targets = labelled(np.concatenate(labels), spec, str(folder))
    return of_arrays(folder, [part[:, None] for part in images], targets, spec, list(files))


def matches(folder: Path) -> list[tuple[re.Match[str], Path]]:
    """The IDX files of a folder. Anything but a regular file is left out: reading a pipe would wait for ever."""
    paths = sorted(folder.iterdir())
    return [(match, path) for path in paths if (match := NAME.fullmatch(path.name)) and path.is_file()]


def _files(folder: Path) -> dict[Part, tuple[Path, Path]]:
    """part -> its images and its labels; a plain file goes before a gzipped one."""
    files = matches(folder)
    families = sorted({match["family"] for match, _ in files})
    if len(families) > 1:
        got = ", ".join(family.strip("-") or "one without a name" for family in families)
        raise BadInput(Mistake(str(folder), "must hold one set of IDX files", got, "put each into a folder of its own"))
    by_part: dict[Part, dict[str, Path]] = {Part.TRAIN: {}}
    for match, path in files:
        by_part.setdefault(Part.TRAIN if match["part"] == "train" else Part.TEST, {}).setdefault(match["kind"], path)
    for part, kinds in by_part.items():
        for kind, dimensions in (("images", 3), ("labels", 1)):
            if kind not in kinds:
                name = f"{families[0]}{('train', '', 't10k')[part]}-{kind}-idx{dimensions}-ubyte[.gz]"
                raise BadInput(Mistake(str(folder), f"must hold {name}", "", "put the file there"))
    return {part: (kinds["images"], kinds["labels"]) for part, kinds in by_part.items()}


def array_of(path: Path, dimensions: int, available: int | None) -> Array:
    """(N,) or (N, H, W) uint8: a memory map, or what a gzipped file holds. Raises BadInput."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            shape = _shape(stream.read(4 + 4 * dimensions), path, dimensions)
            count = math.prod(shape)
            if path.suffix == ".gz":  # never unpacked beyond what its header says
                refuse_above(str(path), count, available, "hand over fewer images")
                values, more = np.frombuffer(stream.read(count), np.uint8), bool(stream.read(1))
            else:
                values = np.memmap(path, np.uint8, "r")[stream.tell() :]
                more = len(values) > count
    except PermissionError as error:
        raise unreadable(path) from error
    except EOFError as error:
        raise bad_file(path, "ends early") from error
    except (zlib.error, OSError) as error:
        raise bad_file(path, "is damaged") from error
    if len(values) < count:
        raise bad_file(path, "ends early")
    if more:
        raise bad_file(path, f"holds more than the {shape[0]} of its header")
    return values.reshape(shape)


def _shape(header: bytes, path: Path, dimensions: int) -> tuple[int, ...]:
    magic = header[:4]
    if len(magic) == 4 and magic != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        rule = f"must begin with 00 00 08 {dimensions:02} (unsigned bytes in {dimensions}-d)"
        raise bad_file(path, rule, magic.hex(" "))
    if len(header) < 4 + 4 * dimensions:
        raise EOFError
    return struct.unpack(f">{dimensions}I", header[4:])


def _misfits(folder: Path, paths: list[Path], images: list[Array], labels: list[Array]) -> list[Mistake]:
    """paths: images and labels in turn."""
    mistakes = []
    sizes: dict[tuple[int, ...], Path] = {}
    for pixels, numbers, path, labels_path in zip(images, labels, paths[::2], paths[1::2], strict=True):
        sizes.setdefault(pixels.shape[1:], path)
        if len(pixels) != len(numbers):
            got = f"{len(numbers)} labels for {len(pixels)} images"
            rule = "must be as long as the images"
            mistakes.append(Mistake(str(labels_path), rule, got, "fetch the files again"))
        if 0 in pixels.shape:
            mistakes.append(Mistake(str(path), "is empty", f"shape {pixels.shape}", "fetch the file again"))
    if len(sizes) > 1:
        got = " and ".join(f"{height}x{width} ({path.name})" for (height, width), path in sizes.items())
        mistakes.append(Mistake(str(folder), "images must have one size", got, "use files of one data set"))
    return mistakes
