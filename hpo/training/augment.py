"""Augmentation of a batch as tensor code on its device: every image its own draw, no loop over images.

images (N, C, H, W), standardized, so that 0 is the training split's mean. All randomness is the generator's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hpo.core import Params
from hpo.models.parameters import number, setting


def augmented(images: Tensor, params: Params, generator: Generator) -> Tensor:
    """What these params say is done to every training image, in this order; channels last."""
    if setting(params, "flip"):
        images = flipped(images, generator)
    if (rotation := number(params, "rotation")) > 0:
        images = turned(images, rotation, generator)
    if (shift := int(setting(params, "shift"))) > 0:
        images = shifted(images, shift, generator)
    if (erase := number(params, "erase")) > 0:
        images = erased(images, erase, generator)
    return images.contiguous(memory_format=torch.channels_last)


def flipped(images: Tensor, generator: Generator) -> Tensor:
    """Every other image (on average) mirrored left to right."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def shifted(images: Tensor, most: int, generator: Generator) -> Tensor:
    """Moved by -most..most whole pixels down and right; the border's nearest pixel fills what comes into view."""
    count, _, height, width = images.shape
    moves = torch.randint(-most, most + 1, (2, count, 1), generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) - moves[0]).clamp_(0, height - 1)  # (N, H)
    columns = (torch.arange(width, device=images.device) - moves[1]).clamp_(0, width - 1)  # (N, W)
    which = torch.arange(count, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def turned(images: Tensor, most: float, generator: Generator) -> Tensor:
    """Turned about the centre by up to `most` degrees either way, bilinear; the nearest pixel fills the corners."""
    draw = torch.rand(len(images), generator=generator, device=images.device)
    return turned_by(images, (draw * 2 - 1) * math.radians(most))


def turned_by(images: Tensor, angles: Tensor) -> Tensor:
    """Each image by its own angle, in radians, anticlockwise."""
    count, _, height, width = images.shape
    sine, cosine = angles.sin(), angles.cos()
    nil = torch.zeros_like(sine)
    # grid_sample's coordinates run from -1 to 1 along either side, hence the ratio of the sides
    turn = torch.stack([cosine, -sine * height / width, nil, sine * width / height, cosine, nil], 1).view(count, 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def erased(images: Tensor, share: float, generator: Generator) -> Tensor:
    """One rectangle of `share` of the area blanked (set to 0, the mean) at a random place of each image."""
    count, _, height, width = images.shape
    draw = torch.rand(3, count, 1, generator=generator, device=images.device)
    longest = 2.0  # at most twice as long as it is wide (Zhong et al. 2017 take 3.3)
    stretch = longest ** ((draw[0] * 2 - 1) / 2)  # height to width, log-uniform in 1/longest..longest once squared
    tall = (stretch * math.sqrt(share) * height).round().clamp(max(1, math.ceil(share * height)), height)
    wide = (share * height * width / tall).round().clamp(1, width)
    top, left = (draw[1] * (height - tall + 1)).floor(), (draw[2] * (width - wide + 1)).floor()
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)  # (N, H), (N, W)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
