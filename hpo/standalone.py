"""`hpo best --script`: the winner as one Python file that needs torch and numpy only, with its data beside it.

The network is written out layer by layer, and of the training only what the winner uses. Random streams, the order of the
operations and, where it can be, the code itself are those of hpo.training: on the same machine with the same versions the
script repeats the winner's training bit for bit, elsewhere it does so within the noise of a seed.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from hpo import __version__, provenance
from hpo.core import Params, Value, epochs_of
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.scriptlayers import class_network, function_initialize
from hpo.training.data import Dataset
from hpo.training.families import FAMILIES
from hpo.training.parameters import ADAM, ADAMW, CONSTANT, COSINE, RMSPROP, SGD, STEP, TRAINING, setting

SCRIPT, DATA = "train.py", "data.npz"
MARK: Final = "Written by `hpo best --script`"
CHUNK_BYTES: Final = 8 * 2**20  # as training/loop.py makes images ready
MOST_ROWS, MOST_PIXELS = 1024, 2**18  # as training/evaluation.py looks at them
TRAINING_CODE: Final = Path(__file__).parent / "training"


@dataclass(frozen=True)
class Winner:
    """What a script is written from.

    title: the study and the trial in words; seed: of the training; epoch: the one that counts; value: of the metric there.
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


def write(winner: Winner, folder: Path) -> Path:
    """Write the script and its data into a folder; returns the script's path. Never overwrites a file of somebody else's."""
    path = folder / SCRIPT
    text = script(winner)
    try:
        if path.exists() and MARK not in path.read_text(errors="replace")[:2000]:
            rule = "must not be there yet, unless `hpo best --script` wrote it"
            raise BadInput(Mistake(str(path), rule, "", "name another folder with --to"))
        folder.mkdir(parents=True, exist_ok=True)
        write_data(winner.dataset, folder / DATA)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise EnvironmentFailed(
            Mistake(str(folder), "must be writable", why, "name another folder with --to")
        ) from error
    return path


def write_data(data: Dataset, path: Path) -> None:
    """Everything of a data set in one .npz without pickle."""
    arrays = {name: getattr(data, name) for name in ("images", "targets", "train", "val", "test", "mean", "std")}
    if data.classes is not None:
        arrays["classes"] = np.array(data.classes, dtype=np.str_)
    np.savez(path, allow_pickle=False, **arrays)


def script(winner: Winner) -> str:
    """The text of train.py. Raises BadInput for a model of a user's own."""
    if winner.model not in FAMILIES:
        rule = "a script can be written for cnn and rnn only"
        remedy = "your own function is the network's code already; `hpo show` has its params"
        raise BadInput(Mistake("model", rule, winner.model, remedy))
    parts = [
        _head(winner),
        _imports(winner),
        _title("what the search found"),
        _settings(winner),
        _title("data"),
        _data(winner),
        _title("network"),
        *_network(winner),
        *_augmentation(winner),
        _title("loss and metrics"),
        *_loss(winner),
        *_metrics(winner),
        _title("training"),
        *_training(winner),
        _title("the script"),
        _main(winner),
    ]
    head, *rest = _together(parts)
    return head + "\n\n" + "\n\n\n".join(rest) + "\n"


def _together(parts: Sequence[str]) -> Iterator[str]:
    """A title belongs to what follows it."""
    head = ""
    for part in parts:
        if part.startswith("# -- "):
            head = part + "\n\n"
            continue
        gap = "\n" if head and part.lstrip().startswith(("def ", "class ", "@")) else ""
        yield head + gap + part.strip("\n")
        head = ""


def _title(text: str) -> str:
    return f"# -- {text} ".ljust(119, "-")


# -- the head ------------------------------------------------------------------------------------------------------


def _head(winner: Winner) -> str:
    used = ", ".join(f"{name} {provenance.version(name)}" for name in ("torch", "numpy"))
    lines = [
        f'"""Trains the winner of {winner.title}: {winner.metric} {winner.value:.6g} after epoch {winner.epoch}.',
        "",
        f"{MARK} (hpo {__version__}). Needs torch >= 2.10 and numpy, and {DATA} beside it;",
        f"{used} were used.",
        "On the CPU of the same machine with the same versions it repeats a training on the CPU bit for bit; elsewhere it",
        "reaches the same within the noise of a seed.",
        "",
        f"    python {SCRIPT}                  # trains, scores the test split, writes model.pt",
        f"    python {SCRIPT} --device cuda",
        '"""',
    ]
    return "\n".join(lines)


def _imports(winner: Winner) -> str:
    math = winner.of("schedule") != CONSTANT or winner.number("rotation") > 0 or winner.number("erase") > 0
    lines = ["from __future__ import annotations", "", "import argparse", "import hashlib", "import json"]
    lines += ["import math"] if math else []
    lines += ["from collections import OrderedDict"] if winner.model == "cnn" else []
    lines += ["from collections.abc import Iterator", "from pathlib import Path", "", "import numpy as np"]
    lines += ["import torch", "import torch.nn.functional as F", "from torch import Generator, Tensor, nn"]
    return "\n".join(lines)


def _settings(winner: Winner) -> str:
    """Constants of what is used, with what they mean."""
    channels, height, width = winner.dataset.shape
    batch_size = int(winner.of("batch_size"))
    together = max(1, CHUNK_BYTES // (4 * channels * height * width * batch_size))
    lines = [
        f"SEED = {winner.seed}  # names every random stream: weights, order of the images, dropout, augmentation",
        *_epochs(winner),
        f"BATCH_SIZE = {batch_size}",
    ]
    names = ["learning_rate", *_used(winner)]
    lines += [f"{name.upper()} = {winner.of(name)!r}  # {TRAINING[name].doc}" for name in names]
    lines += [
        f"TOGETHER = {together}  # batches made ready in one go",
        f"LOOK = {max(1, min(MOST_ROWS, MOST_PIXELS // (height * width)))}  # images looked at together outside of training",
    ]
    return "\n".join(lines)


def _epochs(winner: Winner) -> list[str]:
    whole = epochs_of(winner.params)
    if winner.epoch == whole:
        return [f"EPOCHS = UNTIL = {whole}"]
    return [f"EPOCHS = {whole}", f"UNTIL = {winner.epoch}  # the epoch that counts; the schedule is that of EPOCHS"]


def _used(winner: Winner) -> list[str]:
    """The training parameters that matter beside learning rate, batch size and epochs."""
    optimizer, schedule = winner.of("optimizer"), winner.of("schedule")
    own = {SGD: ["momentum"], RMSPROP: ["rms_decay", "momentum"]}.get(str(optimizer), ["beta1", "beta2"])
    own += ["nesterov"] if optimizer == SGD and winner.number("momentum") > 0 else []
    own += {CONSTANT: [], STEP: ["step_epochs", "decay"], COSINE: []}.get(str(schedule), ["decay"])
    others = ("weight_decay", "l1", "l2", "warmup", "clip", "label_smoothing", "shift", "rotation", "erase")
    return own + [name for name in others if winner.number(name) > 0]


# -- data ------------------------------------------------------------------------------------------------------------


def _data(winner: Winner) -> str:
    stored = winner.dataset.images.dtype
    unit = " * 255.0" if stored == np.uint8 else ""
    regression = winner.dataset.classes is None
    lines = [
        "def stream(*name: int | str) -> int:",
        '    """The seed of one named random stream."""',
        '    text = json.dumps(["stream", SEED, *name], separators=(",", ":"))',
        "    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)",
        "",
        "",
        "class Data:",
        f'    """{DATA} on the device: images (N, C, H, W) as they are stored ({stored}), standardized on the way out."""',
        "",
        "    def __init__(self, path: Path, device: torch.device) -> None:",
        "        with np.load(path, allow_pickle=False) as file:",
        "            arrays = {name: torch.from_numpy(file[name]) for name in file.files"
        + (" if name != 'classes'}" if not regression else "}").replace("'", '"'),
        '        self.images, self.targets = arrays["images"].to(device), arrays["targets"].to(device)',
    ]
    if regression:
        lines += ["        self.targets = self.targets.to(torch.float32).view(len(self.targets), -1)"]
    lines += [
        '        self.rows = {name: arrays[name].to(device) for name in ("train", "val", "test")}',
        '        mean, std = arrays["mean"].view(1, -1, 1, 1), arrays["std"].view(1, -1, 1, 1)  # of the training split',
        f"        self.scale, self.offset = (1 / (std{unit})).to(device), (-mean / std).to(device)",
        *_known_targets(winner),
        "",
        "    def pixels(self, rows: Tensor) -> Tensor:",
        "        floats = self.images[rows].to(torch.float32, memory_format=torch.channels_last)",
        "        return torch.addcmul(self.offset, floats, self.scale)",
    ]
    return "\n".join(lines)


def _known_targets(winner: Winner) -> list[str]:
    """What the loss is told of the training targets."""
    known = '        known = self.targets[self.rows["train"]]'
    if winner.dataset.classes is None:
        return [
            known,
            "        self.centre, self.spread = known.mean(0), known.std(0, correction=0).clamp(min=1e-12)",
        ]
    if not winner.class_weights:
        return []
    outputs = winner.dataset.outputs
    return [
        f"{known}.cpu().numpy()",
        f"        weights = len(known) / ({outputs} * np.bincount(known, minlength={outputs}))",
        "        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)  # so that classes weigh the same",
    ]


# -- network and augmentation -----------------------------------------------------------------------------------------


def _network(winner: Winner) -> Iterator[str]:
    data = winner.dataset
    layers = FAMILIES[winner.model].layers(winner.params, data.shape, data.outputs)
    if winner.model == "rnn":
        yield source("network", "Rows")
        yield source("network", "Recurrent")
    if data.classes is None:
        yield source("setup", "Rescale")
    yield class_network(layers, data.shape, regression=data.classes is None)
    yield function_initialize(layers)


def _augmentation(winner: Winner) -> Iterator[str]:
    """The functions that are used, and what is done to every training image, in that order."""
    steps = [
        (bool(winner.of("flip")), ("flipped",), "flipped(images, generator)"),
        (winner.number("rotation") > 0, ("turned", "turned_by"), "turned(images, ROTATION, generator)"),
        (winner.number("shift") > 0, ("shifted",), "shifted(images, SHIFT, generator)"),
        (winner.number("erase") > 0, ("LONGEST", "erased", "_between"), "erased(images, ERASE, generator)"),
    ]
    used = [(names, call) for asked, names, call in steps if asked]
    if not used:
        return
    yield _title("augmentation")
    yield from (source("augment", name) for names, _ in used for name in names)
    lines = [
        "def augmented(images: Tensor, generator: Generator) -> Tensor:",
        '    """Standardized training images (N, C, H, W), each changed by its own draw."""',
        *(f"    images = {call}" for _, call in used),
        "    return images.contiguous(memory_format=torch.channels_last)",
    ]
    yield "\n".join(lines)


# -- loss and metrics ---------------------------------------------------------------------------------------------------


def _loss(winner: Winner) -> Iterator[str]:
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


def _metrics(winner: Winner) -> Iterator[str]:
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


# -- training ------------------------------------------------------------------------------------------------------------


def _training(winner: Winner) -> Iterator[str]:
    yield _rate(winner)
    yield _optimizer(winner)
    yield source("loop", "_sizes").replace("def _sizes", "def sizes_of")
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
    augmented = bool(list(_augmentation(winner)))
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


# -- the script ----------------------------------------------------------------------------------------------------------


def _main(winner: Winner) -> str:
    network = "Network(data.centre, data.spread)" if winner.dataset.classes is None else "Network()"
    text = textwrap.dedent(f'''
        def train(data: Data, device: torch.device) -> Iterator[tuple[Network, dict[str, float]]]:
            """The network after each epoch, and its metrics."""
            network = {network}
            initialize(network, Generator().manual_seed(stream("weights")))
            network.to(device, memory_format=torch.channels_last)
            optimizer = optimizer_of(network)
            for epoch in range(1, UNTIL + 1):
                loss_of_epoch = train_epoch(network, optimizer, data, epoch)
                yield network, {{"train_loss": loss_of_epoch, **evaluate(network, data, "val")}}


        def main() -> None:
            parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
            here = Path(__file__).parent
            parser.add_argument("--data", type=Path, default=here / "{DATA}")
            parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
            parser.add_argument("--threads", type=int, default=1, help="another number rounds differently [1]")
            parser.add_argument("--out", type=Path, default=here / "model.pt", help="where the weights go")
            options = parser.parse_args()
            torch.set_num_threads(options.threads)
            torch.set_flush_denormal(True)  # dying units breed denormal numbers, which are many times slower
            device = torch.device(options.device)
            data = Data(options.data, device)
            for epoch, (network, metrics) in enumerate(train(data, device), 1):
                print(f"epoch {{epoch}}/{{UNTIL}}", *(f"{{name}} {{value:.6g}}" for name, value in metrics.items()), flush=True)
            print("test", *(f"{{name}} {{value:.6g}}" for name, value in evaluate(network, data, "test").items()))
            torch.save(network.state_dict(), options.out)
            print(f"the weights are in {{options.out}}")


        if __name__ == "__main__":
            main()
        ''')
    return text


# -- code that is ours -----------------------------------------------------------------------------------------------------


@cache
def _parsed(module: str) -> tuple[str, Mapping[str, ast.stmt]]:
    text = (TRAINING_CODE / f"{module}.py").read_text(encoding="utf-8")
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
