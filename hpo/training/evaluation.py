"""What a network is worth on a split: in eval mode, in inference mode, in big batches."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hpo.core import Params
from hpo.training import metrics
from hpo.training.metrics import Loss
from hpo.training.setup import DeviceData, Setup, denormals_flushed

MOST_ROWS = 1024
MOST_PIXELS = 2**18  # of one channel in a batch: 64 maps of them are 64 MiB


def outputs(network: nn.Module, data: DeviceData, rows: Tensor) -> Tensor:
    """(len(rows), K), as the network gives them, on the device."""
    network.eval()
    _, height, width = data.shape
    batches = torch.split(rows, max(1, min(MOST_ROWS, MOST_PIXELS // (height * width))))
    with torch.inference_mode():
        return torch.cat([network(data.pixels(batch)) for batch in batches])


def evaluate(network: nn.Module, data: DeviceData, loss: Loss, split: str) -> dict[str, Tensor]:
    """The split's metrics by name (val_loss, val_accuracy, ...), on the device; none of an empty split."""
    rows = data.splits[split]
    if len(rows) == 0:
        return {}
    predicted, targets = outputs(network, data, rows), data.targets[rows]
    of = metrics.of_numbers if data.dataset.classes is None else metrics.of_classes
    return {
        f"{split}_loss": loss.plain(predicted, targets),
        **{f"{split}_{name}": value for name, value in of(predicted, targets).items()},
    }


# -- checkpoints ---------------------------------------------------------------------------------------------------


def load_network(ready: Setup, params: Params, checkpoint: Path) -> nn.Module:
    """The network of a checkpoint, in eval mode, on the device: standardized images to logits or numbers."""
    network = ready.network(params, seed=0)  # any seed: every number is replaced
    state = torch.load(checkpoint, map_location=ready.data.device, weights_only=True)
    network.load_state_dict(state["network"])
    return network.eval()


def score(ready: Setup, params: Params, checkpoint: Path, split: str = "test") -> dict[str, float]:
    """The metrics of a checkpoint on a split, by name (test_accuracy, ...)."""
    network = load_network(ready, params, checkpoint)
    with denormals_flushed():
        values = evaluate(network, ready.data, ready.loss, split)
    return {name: float(value) for name, value in values.items()}
