"""Numbers, lists and durations in the words of the program."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo import formatting
from hpo.core import Reason
from hpo.formatting import byte_size, count, decimals, duration, gap, listed, number, tabulated, wrapped, written


@given(
    text=st.text(st.sampled_from("ab: \n"), max_size=200).map(lambda text: f"best:   {text}"), width=st.integers(24, 80)
)
def test_a_wrapped_text_has_the_same_words_in_lines_of_the_width(text: str, width: int) -> None:
    shown = wrapped(text, width)
    assert shown.split() == text.split()
    assert all(len(line) <= max(width, 12 + max(map(len, line.split()), default=0)) for line in shown.split("\n"))
    assert wrapped(text, 1000) == text


def test_labels_go_on_below_and_a_space_was_tried_whole_if_it_can_be_walked_through() -> None:
    assert wrapped("best:   one two three", 15) == "best:   one two\n        three"
    assert tabulated([("loss", "0.5"), ("val", "12")], 10) == ["  loss  0.5", "  val    12"]
    assert tabulated([("loss", "0.5"), ("val", "12")], 24) == ["  loss  0.5    val    12"]
    assert formatting.ending(Reason.EXHAUSTED, True) == "every point of the space tried"
    assert formatting.ending(Reason.EXHAUSTED, False) == "no untried point found"


@pytest.mark.parametrize(
    ("write", "given", "words"),
    [
        (number, [0.00031, 0.0001, 0.98148, 64.0, 123456.7, 0, math.inf], "3.1e-4, 1e-4, 0.9815, 64, 123457, 0, never"),
        (number, [1e14, 1e20, -2.5e30], "100000000000000, 1e20, -2.5e30"),
        (decimals, [0.5, 0.0, 0.0123, 0.0029491, 1234.5], "0.5000, 0, 0.0123, 0.002949, 1234"),
        (decimals, [3.2e-05, 1e-06, -1e-06], "3.2e-5, 1e-6, -1e-6"),
        (gap, [0.0006, -0.0123, 0.0], "0.00060, -0.012, 0"),
        (written, [True], "true"),
        (lambda n: count(n, "epoch"), [1, 1200], "1 epoch, 1,200 epochs"),
        (lambda n: count(n, "study"), [2, 10**31, 10**400], "2 studies, about 10^31 studies, about 10^400 studies"),
        (lambda names: listed(names, "or"), ["a", "abc"], "a, a, b or c"),
        (duration, [0.44, 75, 7500], "0.4 s, 1 min 15 s, 2 h 5 min"),
        (byte_size, [12, 4_300, 512_000_000, 1_400_000_000, 64e9], "12 bytes, 4.3 kB, 512 MB, 1.4 GB, 64 GB"),
    ],
)
def test_numbers_are_written_as_people_write_them(write: Callable[..., str], given: list[object], words: str) -> None:
    assert ", ".join(map(write, given)) == words
