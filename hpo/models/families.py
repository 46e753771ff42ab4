"""The model families by name, and what is known of any of them. The convolutional one is cnn.py.

The recurrent one reads an image row by row, (batch, H, C * W); its final state goes to dense layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple

from hpo.core import Params, Value
from hpo.models import cnn
from hpo.models.cnn import dense_stack
from hpo.models.layers import FLOAT_BYTES, Impossible, Layer, Recurrent, Rows, Shape, Summary, summary
from hpo.models.parameters import CNN, RNN, TRAINING, number, optimizer_states, setting
from hpo.space.domains import ParameterSpec, part_of
from hpo.space.expressions import Constraint
from hpo.space.space import Space
from hpo.study_file.spec import StudySpec

TORCH_BYTES: Final = 220_000_000  # a worker with torch imported and nothing else (docs/design.md: 218 MB)


def rnn_layers(params: Params, shape: Shape, outputs: int) -> list[Layer]:
    """The network these params describe, for images of shape (C, H, W). Every one of them is possible."""
    depth = int(setting(params, "rnn_layers"))
    recurrent = Recurrent(
        "recurrent",
        cell=str(setting(params, "cell")),
        hidden=int(setting(params, "hidden_size")),
        layers=depth,
        nonlinearity=str(setting(params, "nonlinearity")),
        bias=bool(setting(params, "bias")),
        dropout=number(params, "rnn_dropout") if depth > 1 else 0.0,
        bidirectional=bool(setting(params, "bidirectional")),
    )
    return [Rows("rows"), recurrent, *dense_stack(params, outputs)]


class Family(NamedTuple):
    """parameters: what it knows; layers: params, shape (C, H, W) and outputs to a network, or Impossible."""

    parameters: Mapping[str, ParameterSpec]
    layers: Callable[[Params, Shape, int], list[Layer]]


FAMILIES: Final = {"cnn": Family(CNN, cnn.layers), "rnn": Family(RNN, rnn_layers)}


def known(model: str, train: str | None = None) -> dict[str, ParameterSpec]:
    """Every parameter that a study of this model may name; empty where a user's own code decides that."""
    if train is not None or model not in FAMILIES:
        return {}
    return {**FAMILIES[model].parameters, **TRAINING}


def defaults(spec: StudySpec) -> dict[str, Value]:
    """What parameters of the space are in trials without them; of a user's own code nothing is certain."""
    table, found = known(spec.model, spec.train), dict[str, Value]()
    for name in spec.space.names:
        bare = part_of(name)[2]
        default = table[bare].default if bare in table and (bare == name or bare not in spec.space) else None
        if default is not None:
            found[name] = default
    return found


def completing(spec: StudySpec) -> Callable[[Params], Params]:
    """What gives a trial the default of each parameter that is younger than it is."""
    return partial(with_defaults, space=spec.space, defaults=defaults(spec))


def with_defaults(params: Params, space: Space, defaults: Params) -> Params:
    """The params of a trial, with the default of each parameter that was not in the space when it started."""
    whole = dict(params)
    for parameter in space.parameters:  # parents first
        if parameter.name not in params and parameter.name in defaults and parameter.active(whole):
            value = parameter.domain.coerce(defaults[parameter.name])
            whole |= {} if value is None else {parameter.name: value}
    return whole


def sizes(model: str, params: Params, shape: Shape, outputs: int) -> Summary:
    """What the network these params describe costs. Raises Impossible."""
    return _sizes(model, tuple(sorted(params.items())), shape, outputs)


@lru_cache(10_000)  # neighbours of the best trials are looked at before every decision
def _sizes(model: str, point: tuple[tuple[str, Value], ...], shape: Shape, outputs: int) -> Summary:
    return summary(FAMILIES[model].layers(dict(point), shape, outputs), shape)


@dataclass(frozen=True, slots=True)
class Feasibility:
    """Whether params can be trained. network is None where it is impossible, which has a reason, or a user's own."""

    network: Summary | None = None
    impossible: str | None = None
    broken: tuple[str, ...] = ()  # constraints

    @property
    def reason(self) -> str | None:
        """In a phrase why these params can never be trained; None if they can."""
        return f"breaks the constraint {self.broken[0]}" if self.broken else self.impossible


def feasibility(
    model: str, params: Params, shape: Shape, outputs: int, constraints: Sequence[Constraint] = ()
) -> Feasibility:
    """Of a user's own model only the constraints are judged."""
    network, values = None, dict(params)
    if model in FAMILIES:
        try:
            network = sizes(model, params, shape, outputs)
        except Impossible as impossible:
            return Feasibility(impossible=impossible.why)
        values |= {"model_parameters": network.parameters, "multiply_adds": network.multiply_adds}
    return Feasibility(network, None, tuple(one.text for one in constraints if not one.holds(values)))


def infeasible(model: str, params: Params, shape: Shape, outputs: int, constraints: Sequence[Constraint]) -> str | None:
    """The reason, if there is one; what breaks a constraint is not described as a network, which takes 20 times longer."""
    broken = tuple(one.text for one in constraints if not one.holds(params))  # one on a measure holds so far
    judged = Feasibility(broken=broken) if broken else feasibility(model, params, shape, outputs, constraints)
    return judged.reason


def peak_memory(network: Summary, params: Params) -> int:
    """Bytes at the height of a training step, by arithmetic: an estimate to show, on which nothing is decided.

    Weights, gradients, optimizer state, what a batch keeps for the backward pass, and two more tensors as large as the
    widest: the gradients that enter and leave a layer. Without torch itself and the work space of its kernels.
    """
    copies = 2 + optimizer_states(params)
    batch_size = int(setting(params, "batch_size"))
    return FLOAT_BYTES * copies * network.parameters + batch_size * (network.kept + 2 * FLOAT_BYTES * network.widest)
