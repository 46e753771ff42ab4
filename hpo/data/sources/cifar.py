"""CIFAR-10 and CIFAR-100 as their authors ship them: Python pickles, read without running anything that is in them.

A batch is {b"data": (n, 3072) uint8, b"labels" or b"fine_labels": list of int}, a row being 32x32 red, green, blue
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.sources.contents import Array, Contents, Part, bad_file, labelled, of_arrays, unreadable
from hpo.errors import BadInput
from hpo.study_file.spec import DataSpec

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


def read(folder: Path, spec: DataSpec) -> Contents:
    """Raises BadInput for a batch that is damaged, or holds anything but arrays, texts, numbers, lists and dicts."""
    paths, parts = zip(*files(folder), strict=True)
    images, labels = zip(*map(_batch, paths), strict=True)
    return of_arrays(folder, images, labelled(np.concatenate(labels), spec, str(folder), _names(folder)), spec, parts)


def files(folder: Path) -> list[tuple[Path, Part]]:
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
                raise bad_file(folder / name, f"must hold a list {key.decode()}")
            return [item if isinstance(item, str) else item.decode("utf-8", "backslashreplace") for item in names]
    return None


def _batch(path: Path) -> tuple[Array, Array]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64."""
    batch = unpickled(path)
    labels, images = batch.get(b"labels", batch.get(b"fine_labels")), batch.get(b"data")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise bad_file(path, "must hold a list of numbers, labels or fine_labels")
    array = images.array if isinstance(images, _Pixels) else None
    if array is None or array.shape != (len(labels), 3072):
        got = type(images).__name__ if array is None else f"{array.dtype} {array.shape}"
        raise bad_file(path, f"must hold data, uint8 ({len(labels)}, 3072)", got)
    return array.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


def unpickled(path: Path) -> dict[bytes, Any]:
    """A pickled dict; its keys are bytes, whichever Python wrote them."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise bad_file(path, f"must have at most {MOST_BYTES} bytes", str(size))
        data = path.read_bytes()
        _inspect(data)
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except PermissionError as error:
        raise unreadable(path) from error
    except Refused as error:
        raise bad_file(path, "must hold only arrays, texts, numbers, lists and dicts", str(error)) from error
    except BadInput:
        raise
    except Exception as error:  # a damaged pickle raises anything at all
        raise bad_file(path, "is no pickled CIFAR batch or is damaged") from error
    if not isinstance(value, dict):
        raise bad_file(path, "must hold a dict", type(value).__name__)
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


class _Pixels:
    """What the pickle builds in place of an array."""

    array: Array = np.empty(0, np.uint8)

    def __init__(self, *_: object) -> None:
        """Takes the arguments of numpy's _reconstruct: a type, a shape and a code that the state replaces."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Bytes) or fortran or not isinstance(data, bytes):
            raise Refused("an array of anything but bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _Bytes:
    """What the pickle builds in place of the dtype uint8; its state (byte order, alignment) is nothing to bytes."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in (b"u1", "u1"):
            raise Refused(f"an array of {code!r:.40}")

    def __setstate__(self, state: object) -> None:
        pass


# The names an array of bytes is pickled with. Nothing of NumPy's is called: numpy.dtype and numpy.ndarray trust the
# state they are given, and with a forged one read memory that is not theirs.
STAND_INS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Bytes,
    ("numpy.core.multiarray", "_reconstruct"): _Pixels,
    ("numpy._core.multiarray", "_reconstruct"): _Pixels,
    ("_codecs", "encode"): str.encode,  # how Python 3 writes bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise Refused(f"{module}.{name}"[:80])
        return STAND_INS[module, name]
