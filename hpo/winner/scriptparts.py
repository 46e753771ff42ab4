"""Pieces of a stand-alone train.py: what of hpo.training the winner uses, as text.

Where a function of hpo.training needs torch only, the text is its own; the rest is written for these parameters, with
the same operations in the same order.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from hpo import provenance
from hpo.core import Params, Value
from hpo.data.dataset import Dataset
from hpo.models.parameters import ADAM, ADAMW, CONSTANT, COSINE, RMSPROP, SGD, STEP, TRAINING, setting


@dataclass(frozen=True)
class Winner:
    """What a script is written from.

    title: the study and the trial in words; seed: of the training; epoch: the one that counts; value: the metric there.
    """

    title: str
    params: Params
    seed: int
    epoch: int
    metric: str
    value: float
    model: str
    loss: str
    class_weights: bool
    dataset: Dataset

    def of(self, name: str) -> Value:
        """A parameter of the training, or its default."""
        return setting(self.params, TRAINING, name)

    def number(self, name: str) -> float:
        return float(self.of(name))


# -- code that is ours ---------------------------------------------------------------------------------------------


@cache
def _parsed(module: str) -> tuple[str, Mapping[str, ast.stmt]]:
    text = next(file for folder in provenance.TRAINING_CODE for file in folder.glob(f"{module}.py")).read_text("utf-8")
    named: dict[str, ast.stmt] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            named[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named[node.targets[0].id] = node
    return text, named


def source(module: str, name: str) -> str:
    """The text of a function, class or constant of hpo.training; torch is not imported for it."""
    text, named = _parsed(module)
    found = ast.get_source_segment(text, named[name])
    assert found is not None, (module, name)
    return found


# -- augmentation --------------------------------------------------------------------------------------------------


def augmentation(winner: Winner) -> Iterator[str]:
    """The functions that are used, and what is done to every training image, in that order; nothing without any."""
    steps = [
        (bool(winner.of("flip")), ("flipped",), "flipped(images, generator)"),
        (winner.number("rotation") > 0, ("turned", "turned_by"), "turned(images, ROTATION, generator)"),
        (winner.number("shift") > 0, ("shifted",), "shifted(images, SHIFT, generator)"),
        (winner.number("erase") > 0, ("LONGEST", "erased", "_between"), "erased(images, ERASE, generator)"),
    ]
    used = [(names, call) for asked, names, call in steps if asked]
    if not used:
        return
    yield from (source("augment", name) for names, _ in used for name in names)
    lines = [
        "def augmented(images: Tensor, generator: Generator) -> Tensor:",
        '    """Standardized training images (N, C, H, W), each changed by its own draw."""',
        *(f"    images = {call}" for _, call in used),
        "    return images.contiguous(memory_format=torch.channels_last)",
    ]
    yield "\n".join(lines)


# -- loss and metrics ----------------------------------------------------------------------------------------------


def loss(winner: Winner) -> Iterator[str]:
    """What is minimized, and what validation reports: the same without class weights and smoothing."""
    if winner.dataset.classes is None:
        body = "((outputs - targets) / data.spread).square().mean()"
        yield _function("loss", "Mean squared error in units of the training targets' spread.", body)
        return
    smoothing = winner.number("label_smoothing") > 0
    if winner.loss == "cross_entropy":
        extra = ", weight=data.weights" if winner.class_weights else ""
        extra += ", label_smoothing=LABEL_SMOOTHING" if smoothing else ""
        if extra:
            body = f"F.cross_entropy(outputs, targets{extra})"
            yield _function("training_loss", "Cross entropy of a batch, as it is minimized.", body)
        yield _function("loss", "Cross entropy.", "F.cross_entropy(outputs, targets)")
        return
    outputs = winner.dataset.outputs
    one_hot = f"wanted = F.one_hot(targets, {outputs}).to(outputs.dtype)"
    each = "(outputs.softmax(1) - wanted).square().sum(1)"
    if winner.class_weights or smoothing:
        lines = [one_hot]
        lines += [f"wanted = wanted * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / {outputs}"] if smoothing else []
        if winner.class_weights:
            lines += [f"each, own = {each}, data.weights[targets]"]
        body = "(each * own).sum() / own.sum()" if winner.class_weights else f"{each}.mean()"
        yield _function("training_loss", "The quadratic cost of a batch, as it is minimized.", body, lines)
    yield _function("loss", "The quadratic cost of probabilities.", f"{each}.mean()", [one_hot])


def _function(name: str, doc: str, result: str, before: Sequence[str] = ()) -> str:
    head = f"def {name}(outputs: Tensor, targets: Tensor, data: Data) -> Tensor:"
    return "\n".join([head, f'    """{doc}"""', *(f"    {line}" for line in before), f"    return {result}"])


def _criterion(winner: Winner) -> str:
    """The name of the function that is minimized."""
    plain = winner.dataset.classes is None or not (winner.class_weights or winner.number("label_smoothing") > 0)
    return "loss" if plain else "training_loss"


def metrics(winner: Winner) -> Iterator[str]:
    """The metrics' own code, and what looks at a split with them."""
    numbers = winner.dataset.classes is None
    classes = ("confusion", "accuracy", "balanced_accuracy", "macro_f1", "of_classes")
    for name in ("mse", "r2", "of_numbers") if numbers else classes:
        yield source("metrics", name)
    found = "of_numbers" if numbers else "of_classes"
    yield textwrap.dedent(f'''
        @torch.inference_mode()
        def evaluate(network: Network, data: Data, split: str) -> dict[str, float]:
            """The split's metrics by name: {{"val_loss": ..., ...}}."""
            network.eval()
            rows = data.rows[split]
            if len(rows) == 0:
                return {{}}
            outputs = torch.cat([network(data.pixels(some)) for some in torch.split(rows, LOOK)])
            targets = data.targets[rows]
            found = {{"loss": loss(outputs, targets, data), **{found}(outputs, targets)}}
            return {{f"{{split}}_{{name}}": float(value) for name, value in found.items()}}
        ''')


# -- training ------------------------------------------------------------------------------------------------------


def training(winner: Winner) -> Iterator[str]:
    yield _rate(winner)
    yield _optimizer(winner)
    yield source("loop", "batch_sizes").replace("def batch_sizes", "def sizes_of")
    yield _batches(winner)
    yield _epoch(winner)


def _rate(winner: Winner) -> str:
    schedule, warmup = winner.of("schedule"), winner.number("warmup") > 0
    doc = "The learning rate after `done` epochs, which may be half-way through one."
    lines = ["def rate(done: float) -> float:", f'    """{doc}"""']
    if warmup:
        lines += ["    if done < WARMUP:", "        return LEARNING_RATE * done / WARMUP"]
    since = "(done - WARMUP)" if warmup else "done"
    if schedule == COSINE:
        whole = "max(1.0, EPOCHS - WARMUP)" if warmup else "max(1.0, EPOCHS)"
        formula = f"LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, {since} / {whole})))"
    elif schedule == CONSTANT:
        formula = "LEARNING_RATE"
    else:
        every = f"{since} / STEP_EPOCHS" if schedule == STEP else since
        formula = f"LEARNING_RATE * DECAY ** math.floor({every})"
    return "\n".join([*lines, f"    return {formula}"])


def _optimizer(winner: Winner) -> str:
    """Two groups: weights, which are regularized; biases, gamma and beta, which are not."""
    name = str(winner.of("optimizer"))
    decay, l2 = winner.number("weight_decay") > 0, winner.number("l2") > 0 and name != ADAMW
    terms = [*(["WEIGHT_DECAY"] if decay else []), *(["2 * L2"] if l2 else [])]
    nesterov = ", nesterov=NESTEROV" if name == SGD and winner.number("momentum") > 0 else ""
    made = {
        SGD: f"SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM{nesterov}, fused=True)",
        RMSPROP: "RMSprop(groups, lr=LEARNING_RATE, alpha=RMS_DECAY, momentum=MOMENTUM, foreach=True)",
        ADAM: "Adam(groups, lr=LEARNING_RATE, betas=(BETA1, BETA2), fused=True)",
        ADAMW: "AdamW(groups, lr=LEARNING_RATE, betas=(BETA1, BETA2), fused=True)",
    }[name]
    kind = made.partition("(")[0]
    lines = [
        f"def optimizer_of(network: Network) -> torch.optim.{kind}:",
        '    """Two groups of parameters: weights, which are regularized; biases, gamma and beta, which are not."""',
        "    weights = [parameter for parameter in network.parameters() if parameter.ndim >= 2]",
        "    others = [parameter for parameter in network.parameters() if parameter.ndim < 2]",
        "    groups = [",
        f'        {{"params": weights, "weight_decay": {" + ".join(terms) or "0.0"}}},',
        '        {"params": others, "weight_decay": 0.0},',
        "    ]",
        f"    return torch.optim.{made}",
    ]
    return "\n".join(lines)


def _batches(winner: Winner) -> str:
    augmented = bool(list(augmentation(winner)))
    lines = [
        "def batches(data: Data, sizes: list[int], generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:",
        '    """The training split in a new order; many batches are made ready in one go."""',
        '    rows = data.rows["train"]',
        "    rows = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]",
        "    for first in range(0, len(sizes), TOGETHER):",
        "        some = sizes[first : first + TOGETHER]",
        "        own = rows[sum(sizes[:first]) :][: sum(some)]",
        f"        images = {'augmented(data.pixels(own), generator)' if augmented else 'data.pixels(own)'}",
        "        yield from zip(torch.split(images, some), torch.split(data.targets[own], some), strict=True)",
    ]
    return "\n".join(lines)


def _epoch(winner: Winner) -> str:
    """One pass over the training split."""
    name, of = str(winner.of("optimizer")), winner.number
    penalties = []
    if of("l1") > 0:
        penalties += ["            weight.grad.add_(weight.sign(), alpha=L1)"]
    if of("l2") > 0 and name == ADAMW:
        penalties += ["            weight.grad.add_(weight, alpha=2 * L2)"]
    lines = [
        "def train_epoch(network: Network, optimizer: torch.optim.Optimizer, data: Data, epoch: int) -> float:",
        '    """One pass over the training split; returns the mean loss."""',
        '    torch.manual_seed(stream(epoch, "global"))  # what dropout draws from',
        "    generator = Generator(data.images.device).manual_seed(stream(epoch))",
        "    network.train()",
        '    sizes, losses = sizes_of(len(data.rows["train"]), BATCH_SIZE), []',
        "    for images, targets in batches(data, sizes, generator):",
        f"        value = {_criterion(winner)}(network(images), targets, data)",
        "        value.backward()",
        *(["        penalize(optimizer)"] if penalties else []),
    ]
    if of("clip") > 0:
        every = '[parameter for group in optimizer.param_groups for parameter in group["params"]]'
        lines += [f"        every = {every}", "        nn.utils.clip_grad_norm_(every, CLIP, foreach=True)"]
    lines += [
        "        for group in optimizer.param_groups:",
        '            group["lr"] = rate(epoch - 1 + (len(losses) + 1) / len(sizes))',
        "        optimizer.step()",
        "        optimizer.zero_grad()",
        "        losses.append(value.detach())",
        "    return float((torch.stack(losses) * torch.tensor(sizes, device=value.device) / sum(sizes)).sum())",
    ]
    if not penalties:
        return "\n".join(lines)
    head = [
        "@torch.no_grad()",
        "def penalize(optimizer: torch.optim.Optimizer) -> None:",
        '    """Add the gradient of l1 * sum |w| and l2 * sum w^2 over the weights."""',
        '    for weight in optimizer.param_groups[0]["params"]:',
        *(line[4:] for line in penalties),
        "",
        "",
    ]
    return "\n".join([*head, *lines])
