"""A data set on the device as it is stored; batches are selected by index and standardized on the way.

images (N, C, H, W) uint8 or float32; targets (N,) int64 classes, or (N, K) float32 numbers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpo.data.dataset import Dataset

WIDEST = 255.0  # of a stored uint8 pixel
SPARE = 2  # images go to a GPU when they leave at least half of its free memory; otherwise batch by batch


@dataclass(frozen=True)
class DeviceData:
    """images may stay on the CPU where the device is too small for them."""

    dataset: Dataset
    device: torch.device
    images: Tensor
    targets: Tensor
    scale: Tensor  # standardized = stored * scale + offset, each (1, C, 1, 1)
    offset: Tensor
    splits: dict[str, Tensor]  # "train", "val", "test" -> row numbers

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.dataset.shape

    @property
    def outputs(self) -> int:
        return self.dataset.outputs

    def pixels(self, rows: Tensor) -> Tensor:
        """Rows as the network takes them: (len(rows), C, H, W) float32, channels last."""
        stored = self.images.index_select(0, rows.to(self.images.device)).to(self.device, non_blocking=True)
        floats = stored.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.offset, floats, self.scale)


def to_device(dataset: Dataset, device: torch.device) -> DeviceData:
    """On the CPU the images stay the memory map that all workers share."""
    mean, std = (torch.from_numpy(np.array(part, np.float32)).view(1, -1, 1, 1) for part in (dataset.mean, dataset.std))
    unit = WIDEST if dataset.images.dtype == np.uint8 else 1.0
    targets = torch.from_numpy(np.array(dataset.targets))  # a copy: the map is read-only
    if dataset.classes is None:
        targets = targets.to(torch.float32).view(len(targets), -1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor does anything here write to it
        images = torch.from_numpy(dataset.images)
    return DeviceData(
        dataset=dataset,
        device=device,
        images=images.to(device) if _fits(images, device) else images,
        targets=targets.to(device),
        scale=(1 / (std * unit)).to(device),
        offset=(-mean / std).to(device),
        splits={
            name: torch.from_numpy(np.array(rows, np.int64)).to(device)
            for name, rows in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
        },
    )


def _fits(images: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes * SPARE <= free
