"""Proof before training: the formulas against torch on its meta device, where a network takes no memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch

from hpo.models.layers import Layer, Shape, Summary
from hpo.models.network import construct, module

META = torch.device("meta")
BATCH = 2  # two dimensions of one could not be told apart


def disagreement(made: Summary) -> str | None:
    """Where torch builds something else than the formulas say; None if every shape and count is the same."""
    layers = [row.layer for row in made.rows]
    shape = made.shape
    try:
        net = construct(layers, made.shape, META)
        for row in made.rows:
            shape = _passed(replace(row.layer, name=""), shape)
            if shape != row.shape:
                return f"{row.name}: torch gives {shape}, the formula {row.shape}"
            learned = sum(parameter.numel() for parameter in net.get_submodule(row.name).parameters())
            if learned != row.parameters:
                return f"{row.name}: torch learns {learned:,} numbers, the formula says {row.parameters:,}"
    except (RuntimeError, ValueError) as error:  # what torch raises on a shape it cannot work with
        return f"torch refuses {shape}: {str(error).splitlines()[0]}"
    return None


@lru_cache(maxsize=100_000)
def _passed(layer: Layer, shape: Shape) -> Shape:
    """What torch makes of an input of this shape. Architectures share most of their layers: 15 ms become 4 for each."""
    part = module(layer, shape, META).eval()  # the same shapes as in training, for half the work
    with torch.no_grad():
        return tuple(part(torch.empty((BATCH, *shape), device=META)).shape[1:])
