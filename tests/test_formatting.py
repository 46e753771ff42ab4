"""Numbers, lists and durations in the words of the program."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.core import Reason
from hpo.formatting import (
    byte_size,
    count,
    decimals,
    duration,
    ending,
    gap,
    listed,
    number,
    tabulated,
    wrapped,
    written,
)


@given(
    text=st.text(st.sampled_from("ab: \n"), max_size=200).map(lambda text: f"best:   {text}"), width=st.integers(24, 80)
)
def test_a_wrapped_text_has_the_same_words_in_lines_of_the_width(text: str, width: int) -> None:
    shown = wrapped(text, width)
    assert shown.split() == text.split()
    assert all(len(line) <= max(width, 12 + max(map(len, line.split()), default=0)) for line in shown.split("\n"))
    assert wrapped(text, 1000) == text


def test_what_goes_on_stands_below_the_words_after_a_label() -> None:
    assert wrapped("best:   one two three", 15) == "best:   one two\n        three"
    assert tabulated([("loss", "0.5"), ("val", "12")], 10) == ["  loss  0.5", "  val    12"]
    assert tabulated([("loss", "0.5"), ("val", "12")], 24) == ["  loss  0.5    val    12"]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (number(0.00031), "3.1e-4"),
        (number(0.0001), "1e-4"),
        (number(0.98148), "0.9815"),
        (number(64.0), "64"),
        (number(123456.7), "123457"),
        (number(0), "0"),
        (number(math.inf), "never"),
        (decimals(0.5), "0.5000"),
        (decimals(0.0), "0"),
        (decimals(0.0123), "0.0123"),
        (decimals(0.0029491), "0.002949"),
        (decimals(3.2e-05), "3.2e-5"),
        (decimals(1e-06), "1e-6"),
        (decimals(-1e-06), "-1e-6"),
        (decimals(1234.5), "1234"),
        (gap(0.0006), "0.00060"),
        (gap(-0.0123), "-0.012"),
        (gap(0.0), "0"),
        (written(True), "true"),
        (count(1, "seed"), "1 seed"),
        (count(1200, "epoch"), "1,200 epochs"),
        (count(2, "study"), "2 studies"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"], "or"), "a, b or c"),
        (duration(0.44), "0.4 s"),
        (duration(75), "1 min 15 s"),
        (duration(7500), "2 h 5 min"),
        (count(10**31, "point"), "about 10^31 points"),
        (count(10**400, "point"), "about 10^400 points"),
        (byte_size(12), "12 bytes"),
        (byte_size(4_300), "4.3 kB"),
        (byte_size(512_000_000), "512 MB"),
        (byte_size(1_400_000_000), "1.4 GB"),
        (byte_size(64e9), "64 GB"),
    ],
)
def test_numbers_are_written_as_people_write_them(shown: str, words: str) -> None:
    assert shown == words


@pytest.mark.parametrize(
    ("enumerable", "said"), [(True, "every point of the space tried"), (False, "no untried point found")]
)
def test_that_every_point_was_tried_is_said_of_a_space_that_can_be_walked_through_only(
    enumerable: bool, said: str
) -> None:
    assert ending(Reason.EXHAUSTED, enumerable) == said
