"""What augmentation may do to an image, and what not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from hpo.core import Params
from hpo.training.augment import augmented, erased, flipped, shifted, turned, turned_by


def stream(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 50, channels: int = 2, height: int = 6, width: int = 8) -> Tensor:
    return torch.randn(count, channels, height, width, generator=stream(9))


def test_nothing_asked_is_nothing_done() -> None:
    asked: Params
    for asked in ({}, {"shift": 0, "flip": False, "rotation": 0.0, "erase": 0.0}):
        assert torch.equal(augmented(images(), asked, stream()), images())


@pytest.mark.parametrize("asked", [{"shift": 1}, {"flip": True}, {"rotation": 5.0}, {"erase": 0.1}])
def test_each_parameter_alone_changes_images_and_keeps_their_shape(asked: dict[str, float]) -> None:
    given_ = images()
    made = augmented(given_, asked, stream())
    assert made.shape == given_.shape
    assert not torch.equal(made, given_)
    torch.testing.assert_close(given_, images())  # the images themselves are not touched


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    given_ = images(400)
    made = flipped(given_, stream())
    mirrored = torch.tensor([torch.equal(b, a.flip(2)) for a, b in zip(given_, made, strict=True)])
    kept = torch.tensor([torch.equal(b, a) for a, b in zip(given_, made, strict=True)])
    assert bool((mirrored ^ kept).all())
    assert 150 < int(mirrored.sum()) < 250  # 5 standard deviations; the seed is fixed


def move(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """By hand: pad with the nearest pixel, then cut."""
    far = max(abs(down), abs(right))
    padded = np.pad(image, ((0, 0), (far, far), (far, far)), mode="edge")
    _, height, width = image.shape
    return padded[:, far - down : far - down + height, far - right : far - right + width]


def test_a_shift_is_by_whole_pixels_each_way_and_fills_with_the_nearest() -> None:
    given_ = images(300)
    made = shifted(given_, 2, stream())
    seen = set()
    for before, after in zip(given_.numpy(), made.numpy(), strict=True):
        fits = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if np.array_equal(move(before, d, r), after)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25  # false failure below 25 * (24/25)**300 = 1 in 8,000, and the seed is fixed


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2])
def test_a_turn_by_right_angles_is_exact(quarters: int) -> None:
    square = images(4, 2, 5, 5)
    made = turned_by(square, torch.full((4,), quarters * math.pi / 2))
    torch.testing.assert_close(made, torch.rot90(square, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_turn_goes_no_further_than_asked_and_both_ways() -> None:
    beam = torch.zeros(200, 1, 41, 41)
    beam[:, :, 20, 30] = 1  # ten pixels right of the centre: its height tells the angle
    rows = torch.arange(41.0)[:, None] - 20
    made = turned(beam, 30.0, stream())
    heights = (made * rows).sum((1, 2, 3)) / made.sum((1, 2, 3))
    assert heights.abs().max().item() <= 10 * math.sin(math.radians(30)) + 0.5
    assert heights.max().item() > 3
    assert heights.min().item() < -3


def test_a_turn_of_an_oblong_image_keeps_lengths() -> None:
    blank = torch.zeros(40, 1, 21, 41)
    blank[:, :, 10, 16:25] = 1  # a bar of 9 pixels across the centre: it fits the image at any angle
    made = turned(blank, 90.0, stream())
    assert made.sum((1, 2, 3)).min().item() > 7.5
    assert made.sum((1, 2, 3)).max().item() < 10.5


@given(share=st.floats(0.01, 0.9), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_an_erased_rectangle_is_whole_and_about_as_large_as_asked(share: float, seed: int) -> None:
    made = erased(torch.ones(30, 2, 16, 20), share, stream(seed))
    for image in made:
        assert torch.equal(image[0], image[1])
        rows, columns = np.nonzero(image[0].numpy() == 0)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width
        assert abs(height * width - share * 320) <= max(16, 20)  # sides are whole pixels


def test_every_image_has_a_draw_of_its_own() -> None:
    same = images(1).expand(100, -1, -1, -1)
    for made in (shifted(same, 2, stream()), turned(same, 30, stream()), erased(same, 0.2, stream())):
        assert len({image.numpy().tobytes() for image in made}) > 10
