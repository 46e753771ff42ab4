"""CIFAR-10 and CIFAR-100 as their authors ship them: Python pickles, read without running anything that is in them.

A batch is {b"data": (n, 3072) uint8, b"labels" or b"fine_labels": list of int}, a row being 32x32 red, green, blue
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.sources import labels
from hpo.data.sources.contents import TEST, TRAIN, Array, Contents, chosen
from hpo.data.sources.pixels import fitted, fitted_shape
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

SHAPE = (3, 32, 32)
MOST_TUPLES = 64
MOST_BYTES = 2**29  # the largest real batch, CIFAR-100's train, has 155 MB
# Everything a batch needs, in what Python 2 and 3 write. Nothing else is even parsed: no persistent ids, no extension
# registry, no object construction other than the REDUCE of an array or its dtype.
WORDS = """
    PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS
    BININT BININT1 BININT2 LONG1 NONE NEWTRUE NEWFALSE SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8
    SHORT_BINUNICODE BINUNICODE BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(WORDS.split())


class Refused(Exception):
    """The pickle holds something that is no plain value or array."""


def holds_cifar(folder: Path) -> bool:
    """Whether this folder holds CIFAR's batches."""
    return bool(_batches(folder))


def read(folder: Path, spec: DataSpec) -> Contents:
    """Raises BadInput for a batch that is damaged, or holds anything but arrays, texts, numbers, lists and dicts."""
    batches = _batches(folder)
    values = [_labels(path, _load(path)) for path, _ in batches]
    joined = np.concatenate(values)
    numbers, classes = labels.numbered(joined, str(folder), _names(folder))
    parts = np.repeat([part for _, part in batches], [len(batch) for batch in values]).astype(np.int8)
    return Contents(
        name=folder.name,
        place=str(folder),
        targets=joined.astype(np.float32) if spec.regression else numbers,
        classes=None if spec.regression else classes,
        shape=fitted_shape(SHAPE, spec, str(folder)),
        dtype=np.dtype(np.uint8),
        blocks=lambda indices: (fitted(block, spec) for block in chosen(_images(batches), indices)),
        parts=parts if TEST in parts else None,
    )


def _batches(folder: Path) -> list[tuple[Path, int]]:
    ten = [(folder / f"data_batch_{number}", TRAIN) for number in range(1, 6)] + [(folder / "test_batch", TEST)]
    hundred = [(folder / "train", TRAIN), (folder / "test", TEST)] if (folder / "meta").is_file() else []
    for layout in (ten, hundred):
        there = [(path, part) for path, part in layout if path.is_file()]
        if there and there[0][1] == TRAIN:
            return there
    return []


def _names(folder: Path) -> list[str] | None:
    for name, key in (("batches.meta", b"label_names"), ("meta", b"fine_label_names")):
        if (folder / name).is_file():
            names = _load(folder / name).get(key)
            if not isinstance(names, list) or not all(isinstance(item, bytes) for item in names):
                raise _mistaken(folder / name, f"must hold a list {key.decode()}")
            return [item.decode("utf-8", "replace") for item in names]
    return None


def _labels(path: Path, batch: dict[bytes, Any]) -> Array:
    values, images = batch.get(b"labels", batch.get(b"fine_labels")), batch.get(b"data")
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**31 for value in values):
        raise _mistaken(path, "must hold a list of numbers, labels or fine_labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (len(values), 3072):
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise _mistaken(path, f"must hold data, uint8 ({len(values)}, 3072)", got)
    return np.array(values, dtype=np.int64)


def _images(batches: list[tuple[Path, int]]) -> Iterator[Array]:
    for path, _ in batches:
        yield _load(path)[b"data"].reshape(-1, *SHAPE)


def _load(path: Path) -> dict[bytes, Any]:
    """A pickled dict; keys and texts are bytes, whichever Python wrote them."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _mistaken(path, f"must have at most {MOST_BYTES} bytes", str(path.stat().st_size))
        data = path.read_bytes()
        _inspect(data)
        loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except PermissionError as error:
        raise BadInput(Mistake(str(path), "cannot be read", "permission denied", "change its permissions")) from error
    except Refused as error:
        raise _mistaken(path, "must hold only arrays, texts, numbers, lists and dicts", str(error)) from error
    except BadInput:
        raise
    except Exception as error:  # a damaged pickle raises anything at all
        raise _mistaken(path, "is no pickled CIFAR batch or is damaged") from error
    if not isinstance(loaded, dict):
        raise _mistaken(path, "must hold a dict", type(loaded).__name__)
    return {key.encode() if isinstance(key, str) else key: _plain(value) for key, value in loaded.items()}


def _plain(value: object) -> object:
    if isinstance(value, _Pixels):
        return value.array
    if isinstance(value, list):
        return [item.encode() if isinstance(item, str) else item for item in value]
    return value


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


class _Unpickler(pickle.Unpickler):
    """Knows four names, and stands in for each with one of ours: nothing of NumPy or Python is ever called."""

    def find_class(self, module: str, name: str) -> Any:
        found = STAND_INS.get((module, name))
        if found is None:
            raise Refused(f"{module}.{name}")
        return found


class _StandIn:
    """A callable without attributes, so that the pickle's BUILD has nothing to change."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise Refused("a changed function")


class _Pixels:
    """What the pickle builds in place of an array."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Bytes) or fortran or not isinstance(data, bytes):
            raise Refused("an array of anything but bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _Bytes:
    """What the pickle builds in place of the dtype uint8; its state (byte order, alignment) is nothing to bytes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


def _dtype(code: object, *_: object) -> _Bytes:
    if code not in (b"u1", "u1"):
        raise Refused(f"an array of {code!r}")
    return _Bytes()


def _encode(text: object, encoding: object) -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 shall read."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise Refused(f"an encoding {encoding!r}")
    return text.encode("latin1")


def _array_type(*_: object) -> object:
    raise Refused("a call of numpy.ndarray")


STAND_INS = {
    ("numpy", "ndarray"): _StandIn(_array_type),
    ("numpy", "dtype"): _StandIn(_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(lambda *_: _Pixels()),
    ("numpy._core.multiarray", "_reconstruct"): _StandIn(lambda *_: _Pixels()),
    ("_codecs", "encode"): _StandIn(_encode),
}


def _mistaken(path: Path, rule: str, got: str = "") -> BadInput:
    return BadInput(Mistake(str(path), rule, got, "fetch the data again"))
