"""A network that may begin with weights from a file, for hpo; and where such a file comes from without any download.

    python examples/pretrained.py                    # a first study, on other pictures; writes examples/pretrained.pt
    python -m hpo run examples/pretrained.yaml       # the study of interest: few images, with these weights or without

Any file of `torch.save(body.state_dict(), ...)` does. A training is known by its params, not by what is in a file that
they name: give other weights another name.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hpo.core import Params
from hpo.models.layers import Impossible

HERE = Path(__file__).parent
WEIGHTS = "pretrained.pt"
WIDTH = 16


def network(params: Params, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A body that may be pretrained, on images of any size, and a new head."""
    body = nn.Sequential(
        nn.Conv2d(shape[0], WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(4),
        nn.Flatten(),
    )
    if params["weights"] != "none":
        file = HERE / str(params["weights"])
        if not file.exists():
            raise Impossible("body", f"{file} is missing; `python {Path(__file__).name}` writes it")
        body.load_state_dict(torch.load(file, weights_only=True))
        body.requires_grad_(not params["frozen"])
    return nn.Sequential(body, nn.Linear(16 * WIDTH, classes))


def main() -> None:
    """Search on shifted, noisy digits of 16x16, and keep the body of the best network."""
    import hpo

    study = {
        "name": "pretraining",
        "strategy": "random",
        "data": {"source": "digits-hard", "limit": 900},
        "model": "pretrained:network",
        "search_space": {"weights": "none", "learning_rate": {"min": 1e-3, "max": 1e-2, "log": True}, "epochs": 5},
        "budget": {"trials": 2},
        "tracking": False,
    }
    result = hpo.run(study, state=HERE)
    torch.save(result.model().network[0].state_dict(), HERE / WEIGHTS)
    print(f"{HERE / WEIGHTS} is written, from a network with {result.spec.metric.name} {result.best_value:.4f}")


if __name__ == "__main__":
    main()
