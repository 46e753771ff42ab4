"""A network of one's own for hpo: a function from params, input shape and number of classes to a torch module.

    python -m hpo run examples/own_model.yaml

Every parameter of the search space arrives in `params`; those that the training loop knows (optimizer, learning_rate,
batch_size, epochs, ...) work as they do for the built-in models. Raise Impossible for what cannot be built.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpo.core import Params
from hpo.models.layers import Impossible


class Residual(nn.Module):
    """x + f(x), He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(images)))
        return self.relu2(images + self.norm2(self.conv2(inner)))


def network(params: Params, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """shape is (channels, height, width); the module maps (batch, *shape) to (batch, classes)."""
    channels, groups = int(params["width"]), int(params["norm_groups"])
    if channels % groups:
        raise Impossible("stem", f"norm_groups {groups} does not divide width {channels}")
    return nn.Sequential(
        nn.Conv2d(shape[0], channels, 3, padding=1),
        nn.GroupNorm(groups, channels),
        nn.ReLU(),
        *(Residual(channels) for _ in range(int(params["depth"]))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


if __name__ == "__main__":  # what to try before a study: does it build, and does an image pass?
    made = network({"width": 16, "norm_groups": 4, "depth": 2}, (1, 8, 8), 10)
    print(made(torch.zeros(2, 1, 8, 8)).shape)
