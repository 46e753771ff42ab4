"""Well-known data sets as their authors ship them: IDX files of the MNIST family, batches of CIFAR-10 and CIFAR-100.

An IDX file is two zero bytes, a byte for the type (8: unsigned bytes), a byte for the number of dimensions, each
dimension as a big-endian uint32, then the values (http://yann.lecun.com/exdb/mnist).
A batch is a Python pickle of {b"data": (n, 3072) uint8, b"labels" or b"fine_labels": list of int}, a row being 32x32 red,
green, blue (https://www.cs.toronto.edu/~kriz/cifar.html). It is read without running anything that is in it.
"""

import gzip
import io
import math
import pickle
import pickletools
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.sources.contents import Array, Contents, Part, labelled, of_arrays, raise_all, refuse_above, unreadable
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

# also EMNIST's "emnist-letters-train-images-idx3-ubyte.gz"
IDX_NAME = re.compile(
    r"(?P<family>.*?)(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx(?P<dimensions>[13])(-ubyte)?(\.gz)?"
)
UNSIGNED_BYTES = 8
SHAPE = (3, 32, 32)
MOST_TUPLES = 64
MOST_BYTES = 2**29  # the largest real batch, CIFAR-100's train, has 155 MB
# Everything a batch needs, in what Python 2 and 3 write: no persistent ids, no extension registry, no object
# construction other than the REDUCE of an array or its dtype.
WORDS = """
    PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS
    BININT BININT1 BININT2 LONG1 NONE NEWTRUE NEWFALSE SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8
    SHORT_BINUNICODE BINUNICODE BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(WORDS.split())


class Refused(Exception):
    """The pickle holds something that is no plain value or array."""


def read(folder: Path, spec: DataSpec, available: int | None) -> Contents:
    """Of a folder that `holds` such files. Raises BadInput for files that are missing, damaged or do not fit together."""
    if _idx_matches(folder):
        return _idx(folder, spec, available)
    paths, parts = zip(*_batches(folder), strict=True)
    images, labels = zip(*map(_batch, paths), strict=True)
    return of_arrays(folder, images, labelled(np.concatenate(labels), spec, str(folder), _names(folder)), spec, parts)


def holds(folder: Path) -> bool:
    return bool(_idx_matches(folder) or _batches(folder))


def _bad(path: Path, rule: str, got: str = "") -> BadInput:
    return BadInput(Mistake(str(path), rule, got, "fetch the file again"))


# -- IDX -------------------------------------------------------------------------------------------------------------


def _idx(folder: Path, spec: DataSpec, available: int | None) -> Contents:
    files = _idx_files(folder)
    paths = [path for pair in files.values() for path in pair]
    images, labels = ([array_of(pair[i], (3, 1)[i], available) for pair in files.values()] for i in (0, 1))
    raise_all(_misfits(folder, paths, images, labels), folder)
    targets = labelled(np.concatenate(labels), spec, str(folder))
    return of_arrays(folder, [part[:, None] for part in images], targets, spec, list(files))


def _idx_matches(folder: Path) -> list[tuple[re.Match[str], Path]]:
    """The IDX files of a folder. Anything but a regular file is left out: reading a pipe would wait for ever."""
    paths = sorted(folder.iterdir())
    return [(match, path) for path in paths if (match := IDX_NAME.fullmatch(path.name)) and path.is_file()]


def _idx_files(folder: Path) -> dict[Part, tuple[Path, Path]]:
    """part -> its images and its labels; a plain file goes before a gzipped one."""
    files = _idx_matches(folder)
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
                values = np.frombuffer(stream.read(count + 1), np.uint8)
            else:
                values = np.memmap(path, np.uint8, "r")[stream.tell() :]
    except PermissionError as error:
        raise unreadable(path) from error
    except EOFError as error:
        raise _bad(path, "ends early") from error
    except (zlib.error, OSError) as error:
        raise _bad(path, "is damaged") from error
    if len(values) < count:
        raise _bad(path, "ends early")
    if len(values) > count:
        raise _bad(path, f"holds more than the {shape[0]} of its header")
    return values.reshape(shape)


def _shape(header: bytes, path: Path, dimensions: int) -> tuple[int, ...]:
    magic = header[:4]
    if len(magic) == 4 and magic != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        rule = f"must begin with 00 00 08 {dimensions:02} (unsigned bytes in {dimensions}-d)"
        raise _bad(path, rule, magic.hex(" "))
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


# -- CIFAR -----------------------------------------------------------------------------------------------------------


def _batches(folder: Path) -> list[tuple[Path, Part]]:
    """CIFAR's batches in a folder, and the part that each is of."""
    ten = {**{f"data_batch_{number}": Part.TRAIN for number in range(1, 6)}, "test_batch": Part.TEST}
    hundred = {"train": Part.TRAIN, "test": Part.TEST} if (folder / "meta").is_file() else {}
    for layout in (ten, hundred):
        batches = [(folder / name, part) for name, part in layout.items() if (folder / name).is_file()]
        if Part.TRAIN in (part for _, part in batches):
            return batches
    return []


def _names(folder: Path) -> list[str] | None:
    for name, key in (("batches.meta", b"label_names"), ("meta", b"fine_label_names")):
        if (folder / name).is_file():
            names = unpickled(folder / name).get(key)
            if not isinstance(names, list) or not all(isinstance(item, bytes | str) for item in names):
                raise _bad(folder / name, f"must hold a list {key.decode()}")
            return [item if isinstance(item, str) else item.decode("utf-8", "backslashreplace") for item in names]
    return None


def _batch(path: Path) -> tuple[Array, Array]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64."""
    batch = unpickled(path)
    labels, images = batch.get(b"labels", batch.get(b"fine_labels")), batch.get(b"data")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise _bad(path, "must hold a list of numbers, labels or fine_labels")
    match images.state if isinstance(images, _Built) else None:
        case (_, (rows, 3072), _Built(arguments=(b"u1" | "u1", *_)), False, bytes() as data):
            if rows == len(labels) and len(data) == rows * 3072:
                return np.frombuffer(data, np.uint8).reshape(rows, *SHAPE), np.array(labels, dtype=np.int64)
    raise _bad(path, f"must hold data, uint8 ({len(labels)}, 3072)")


def unpickled(path: Path) -> dict[bytes, Any]:
    """A pickled dict; its keys are bytes, whichever Python wrote them."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _bad(path, f"must have at most {MOST_BYTES} bytes", str(size))
        data = path.read_bytes()
        _inspect(data)
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except PermissionError as error:
        raise unreadable(path) from error
    except Refused as error:
        raise _bad(path, "must hold only arrays, texts, numbers, lists and dicts", str(error)) from error
    except BadInput:
        raise
    except Exception as error:  # a damaged pickle raises anything at all
        raise _bad(path, "is no pickled CIFAR batch or is damaged") from error
    if not isinstance(value, dict):
        raise _bad(path, "must hold a dict", type(value).__name__)
    return {key.encode() if isinstance(key, str) else key: item for key, item in value.items()}


def _inspect(data: bytes) -> None:
    """Refuse what no batch needs, and what costs gigabytes (memo numbers) or the C stack (nested tuples as keys)."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        tuples += opcode.name.startswith("TUPLE")
        if opcode.name not in OPCODES:
            raise Refused(f"opcode {opcode.name}")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(data):
            raise Refused(f"memo number {argument}")
        if tuples > MOST_TUPLES:
            raise Refused(f"more than {MOST_TUPLES} tuples")


class _Built:
    """What the pickle builds in place of an array and of its type: the arguments and the state that NumPy would get."""

    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


# The names an array of bytes is pickled with. Nothing of NumPy's is called: numpy.dtype and numpy.ndarray trust the
# state they are given, and with a forged one read memory that is not theirs.
STAND_INS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Built,
    ("numpy.core.multiarray", "_reconstruct"): _Built,
    ("numpy._core.multiarray", "_reconstruct"): _Built,
    ("_codecs", "encode"): str.encode,  # how Python 3 writes bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise Refused(f"{module}.{name}"[:80])
        return STAND_INS[module, name]
