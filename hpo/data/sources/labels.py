"""Targets as a source gives them -> class numbers with names, or numbers to regress on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpo.data.sources.contents import Array
from hpo.errors import BadInput, Mistake


def numbered(values: Array, place: str, names: Sequence[str] | None = None) -> tuple[Array, tuple[str, ...]]:
    """Labels (N,), integers or texts -> (class numbers (N,) int64, class names).

    names: of the classes 0, 1, ... where the source tells them. Without them the labels that occur are the classes,
    in order, and gaps are closed. Raises BadInput.
    """
    if values.dtype.kind == "f":
        values = _whole(values, place)
    if values.dtype.kind in "iu":
        _refuse_negative(values, place)
        if names is not None:
            return _named(values, place, names)
    elif values.dtype.kind not in "bUS":
        raise BadInput(Mistake(place, "must be class numbers or names", f"{values.dtype}", "save integers or texts"))
    kinds, numbers = np.unique(values, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), tuple(_text(kind) for kind in kinds.tolist())


def regressed(values: Array, place: str) -> Array:
    """Numbers to predict, float32. Raises BadInput for what is no finite number."""
    if values.dtype.kind not in "iufb":
        raise BadInput(Mistake(place, "must be numbers for regression", f"{values.dtype}", "remove data.regression"))
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        got = f"{values[bad[0]]} at index {bad[0]}{_more(len(bad))}"
        raise BadInput(Mistake(place, "must hold finite numbers", got, "remove or mend these rows"))
    return numbers


def _named(values: Array, place: str, names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    above = np.flatnonzero(values >= len(names))
    if len(above):
        got = f"{values[above[0]]} at index {above[0]}{_more(len(above))}"
        remedy = "name every class or mend the labels"
        raise BadInput(Mistake(place, f"must be below the number of class names ({len(names)})", got, remedy))
    return values.astype(np.int64), tuple(names)


def _whole(values: Array, place: str) -> Array:
    bad = np.flatnonzero(~(np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2**53)))
    if len(bad):
        got = f"{values[bad[0]]} at index {bad[0]}{_more(len(bad))}"
        raise BadInput(
            Mistake(place, "must be whole class numbers", got, "save integers, or set data.regression: true")
        )
    return values.astype(np.int64)


def _refuse_negative(values: Array, place: str) -> None:
    bad = np.flatnonzero(values < 0)
    if len(bad):
        got = f"{values[bad[0]]} at index {bad[0]}{_more(len(bad))}"
        raise BadInput(Mistake(place, "must be class numbers from 0 on", got, "remove or mend these rows"))


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _text(kind: object) -> str:
    return kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind)
