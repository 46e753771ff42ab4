"""Every parameter of all models, and of training. Imports no torch: a bad study file is refused at once.

L      loss of a batch (after label smoothing)        eta   learning rate of the epoch (after schedule and warm-up)
w      weights: matrices and kernels; biases, gamma and beta are never penalized by l1 and l2
"""

from typing import Final

from hpo.core import UNSAFE, Params, Value
from hpo.space.domains import Condition, ParameterSpec

SGD: Final = "sgd"
ADAM: Final = "adam"
ADAMW: Final = "adamw"
RMSPROP: Final = "rmsprop"
OPTIMIZERS: Final = (SGD, ADAM, ADAMW, RMSPROP)
_MEANS: Final = {SGD: 0, ADAM: 2, ADAMW: 2, RMSPROP: 1}  # running means for each weight, besides the momentum

CONSTANT: Final = "constant"
STEP: Final = "step"
EXPONENTIAL: Final = "exponential"
COSINE: Final = "cosine"
SCHEDULES: Final = (CONSTANT, STEP, EXPONENTIAL, COSINE)


def _with(name: str, *values: Value) -> tuple[Condition, ...]:
    return (Condition(name, values),)


def fraction(default: float, doc: str, *, per: str = "", when: tuple[Condition, ...] = ()) -> ParameterSpec:
    """A parameter in [0, 1)."""
    return ParameterSpec(default, "float", low=0, high=1, open_high=True, per=per, when=when, doc=doc)


TRAINING: Final[dict[str, ParameterSpec]] = {
    "optimizer": ParameterSpec(ADAM, "choice", choices=OPTIMIZERS, doc="the rule that turns gradients into updates"),
    "learning_rate": ParameterSpec(1e-3, "float", low=0, open_low=True, doc="eta in w <- w - eta dL/dw"),
    "momentum": fraction(0.0, "share of the last update kept", when=_with("optimizer", SGD, RMSPROP)),
    "nesterov": ParameterSpec(
        False, "bool", when=_with("optimizer", SGD), doc="look ahead along the momentum; without effect at momentum 0"
    ),
    "beta1": fraction(0.9, "decay of the mean gradient", when=_with("optimizer", ADAM, ADAMW)),
    "beta2": fraction(0.999, "decay of the mean square", when=_with("optimizer", ADAM, ADAMW)),
    "rms_decay": fraction(0.99, "decay of the mean square", when=_with("optimizer", RMSPROP)),
    "weight_decay": ParameterSpec(
        0.0, "float", low=0, doc="the optimizer's own: decoupled from the gradient in adamw, added to it in the others"
    ),
    "l1": ParameterSpec(0.0, "float", low=0, doc="adds l1 * sum |w| to the loss"),
    "l2": ParameterSpec(0.0, "float", low=0, doc="adds l2 * sum w^2 to the loss"),
    "batch_size": ParameterSpec(32, "int", low=1, doc="images a step: memory against noise"),
    "epochs": ParameterSpec(10, "int", low=1, doc="passes over the training split: too few underfit, too many overfit"),
    "schedule": ParameterSpec(CONSTANT, "choice", choices=SCHEDULES, doc="how eta changes from epoch to epoch"),
    "step_epochs": ParameterSpec(5, "int", low=1, when=_with("schedule", STEP), doc="epochs between two steps"),
    "decay": ParameterSpec(
        0.9,
        "float",
        low=0,
        high=1,
        open_low=True,
        when=_with("schedule", STEP, EXPONENTIAL),
        doc="factor on eta at each step; each epoch, if exponential",
    ),
    "warmup": ParameterSpec(0, "int", low=0, doc="epochs in which eta rises to its value"),
    "clip": ParameterSpec(
        0.0, "float", low=0, doc="largest norm of the whole gradient, with that of l1 and l2; 0 clips nothing"
    ),
    "label_smoothing": fraction(0.0, "share of the target spread over all classes (cross entropy)"),
    "shift": ParameterSpec(0, "int", low=0, doc="augmentation: moved by up to so many pixels in each direction"),
    "flip": ParameterSpec(False, "bool", doc="augmentation: mirrored left to right, every other image"),
    "rotation": ParameterSpec(0.0, "float", low=0, high=180, doc="augmentation: turned by up to so many degrees"),
    "erase": fraction(0.0, "augmentation: share of the area blanked as one rectangle"),
}


LEAKY: Final = "leaky_relu"
ACTIVATIONS: Final = ("relu", LEAKY, "tanh", "sigmoid", "silu")

DENSE: Final[dict[str, ParameterSpec]] = {
    "activation": ParameterSpec("relu", "choice", choices=ACTIVATIONS, doc="one for the whole network"),
    "leaky_slope": ParameterSpec(
        0.01, "float", low=0.01, high=0.3, when=_with("activation", LEAKY), doc="slope below zero (alpha)"
    ),
    "dense_layers": ParameterSpec(
        1, "int", low=0, high=100, doc="hidden dense layers between the features and the output"
    ),
    "dense_units": ParameterSpec(64, "int", low=1, per="layer", doc="width of each hidden dense layer"),
    "dropout": fraction(0.0, "after each hidden dense layer"),
}


VALID: Final = "valid"
SAME: Final = "same"
PADDINGS: Final = (VALID, SAME, *range(12))
MODES: Final = ("zeros", "replicate", "reflect", "circular")
OFF: Final = "off"
NONE: Final = "none"
_POOLED: Final = _with("pool", "max", "average")

CNN: Final[dict[str, ParameterSpec]] = {
    "blocks": ParameterSpec(2, "int", low=0, high=100, doc="convolution blocks; none makes an MLP"),
    "channels": ParameterSpec(16, "int", low=1, per="block", doc="filters"),
    "kernel_size": ParameterSpec(3, "int", low=1, per="block", doc="k: side of the kernel"),
    "stride": ParameterSpec(1, "int", low=1, per="block", doc="S: of the block's first convolution"),
    "padding": ParameterSpec(
        SAME, "choice", choices=PADDINGS, per="block", doc="valid: none; same: keeps the size at stride 1; or P"
    ),
    "padding_mode": ParameterSpec(
        "zeros", "choice", choices=MODES, per="block", doc="what is padded; replicate is the nearest pixel"
    ),
    "convs_per_block": ParameterSpec(1, "int", low=1, high=16, doc="convolutions before the pooling of each block"),
    "batch_norm": ParameterSpec(
        OFF, "choice", choices=(OFF, "before", "after"), per="block", doc="before or after the activation"
    ),
    "pool": ParameterSpec(  # max goes before an activation that only rises, which is the same function
        "max", "choice", choices=("max", "average", NONE), per="block", doc="pooling of the block, after the activation"
    ),
    "pool_size": ParameterSpec(2, "int", low=1, per="block", when=_POOLED, doc="side of the pooling window"),
    "pool_stride": ParameterSpec(None, "int", low=1, per="block", when=_POOLED, doc="pool_size where it is left out"),
    "conv_dropout": fraction(0.0, "after the pooling", per="block"),
    "global_pool": ParameterSpec(
        NONE, "choice", choices=(NONE, "average"), doc="average: the mean of each map enters the dense layers"
    ),
    **DENSE,
}

PLAIN_CELL: Final = "rnn"

RNN: Final[dict[str, ParameterSpec]] = {
    "cell": ParameterSpec(
        "gru", "choice", choices=(PLAIN_CELL, "lstm", "gru"), doc="what carries the state from row to row"
    ),
    "hidden_size": ParameterSpec(64, "int", low=1, doc="numbers in the state, in each direction"),
    "rnn_layers": ParameterSpec(1, "int", low=1, high=100, doc="recurrent layers on top of each other"),
    "nonlinearity": ParameterSpec(
        "tanh", "choice", choices=("tanh", "relu"), when=_with("cell", PLAIN_CELL), doc="of the plain cell"
    ),
    "bias": ParameterSpec(True, "bool", doc="whether the recurrent layers learn one"),
    "rnn_dropout": fraction(0.0, "between recurrent layers; without effect on a single one"),
    "bidirectional": ParameterSpec(False, "bool", doc="also read from the last row to the first"),
    **DENSE,
}

_ALL: Final = {**TRAINING, **CNN, **RNN}


def setting(params: Params, name: str) -> Value:
    """The value of a parameter, or its default where the search space leaves it out."""
    if name in params:
        return params[name]
    default = _ALL[name].default
    assert default is not None, name
    return default


def number(params: Params, name: str) -> float:
    return float(setting(params, name))


def prefix_safe(params: Params) -> bool:
    """Whether epoch e is the same however many epochs follow it (docs/design.md: training identity)."""
    name, value = UNSAFE
    return setting(params, name) != value


def optimizer_states(params: Params) -> int:
    """How many numbers the optimizer keeps for each weight."""
    name = str(setting(params, "optimizer"))
    momentum = name in (SGD, RMSPROP) and number(params, "momentum") > 0
    return _MEANS[name] + momentum
