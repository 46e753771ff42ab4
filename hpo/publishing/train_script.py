"""`hpo best --script`: the winner as one Python file that needs torch and numpy only, with its data beside it.

The network is written out layer by layer, and of the training only what the winner uses. Random streams, the order of
the operations and, where it can be, the code itself are those of hpo.training: on the same machine with the same
versions the script repeats a training on the CPU bit for bit, elsewhere it comes as far within the noise of a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from hpo import __version__, provenance
from hpo.commands.run import load_data
from hpo.core import epochs_of
from hpo.data.dataset import Dataset
from hpo.engine.result import Result
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.models.families import FAMILIES
from hpo.models.parameters import EXPONENTIAL, RMSPROP, SGD, STEP, TRAINING
from hpo.winner.scriptlayers import class_network, function_initialize
from hpo.winner.scriptparts import Winner, augmentation, loss, metrics, source, training

__all__ = ["Winner", "script", "winner_of", "write", "write_best", "write_data"]

SCRIPT, DATA = "train.py", "data.npz"
MARK: Final = "Written by `hpo best --script`"
CHUNK_BYTES: Final = 8 * 2**20  # as training/loop.py makes images ready
MOST_ROWS, MOST_PIXELS = 1024, 2**18  # as training/evaluation.py looks at them


def write_best(result: Result, folder: Path) -> Path:
    """The best trial of a study as a script. Raises BadInput where hpo has no network to write down."""
    spec = result.spec
    refuse_own(spec.place("train" if spec.train else "model"), spec.train or spec.model)
    dataset = load_data(spec, result.folders)
    assert dataset is not None, "a model of ours has data"
    return write(winner_of(result, dataset), folder)


def refuse_own(place: str, model: str) -> None:
    if model not in FAMILIES:
        rule = "a script can be written for cnn and rnn only"
        raise BadInput(Mistake(place, rule, model, "your own function is the network's code already"))


def winner_of(result: Result, dataset: Dataset) -> Winner:
    """The best trial of a study. Raises NoResult where there is none."""
    spec, best, goal = result.spec, result.best, result.spec.metric.as_goal()
    report = goal.reading(best)
    assert report is not None
    return Winner(
        title=f"the study {spec.name} ({result.folders.run.name}), trial {best.number}",
        params=best.params,
        seed=result.study.trainings[best.training].seed,
        epoch=report.epoch,
        metric=goal.metric,
        value=report.metrics[goal.metric],
        model=spec.model,
        loss=spec.loss,
        class_weights=spec.class_weights,
        dataset=dataset,
    )


def write(winner: Winner, folder: Path) -> Path:
    """Write the script and its data into a folder; returns the script's path. Raises rather than touch a stranger's."""
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
    """The text of train.py."""
    assert winner.model in FAMILIES, winner.model
    augment = list(augmentation(winner))
    parts = [
        _title("what the search found"),
        _settings(winner),
        _title("data"),
        STREAM,
        _data(winner),
        _title("network"),
        *_network(winner),
        *([_title("augmentation")] if augment else []),
        *augment,
        _title("loss and metrics"),
        *loss(winner),
        *metrics(winner),
        _title("training"),
        *training(winner),
        _title("the script"),
        _main(winner),
    ]
    body = "\n\n\n".join(_together(parts))
    return f"{_head(winner)}\n\n{_imports(body)}\n\n\n{body}\n"


def _together(parts: Sequence[str]) -> Iterator[str]:
    """A title stands over what follows it."""
    above = ""
    for part in (part.strip("\n") for part in parts):
        if part.startswith("# -- "):
            above = part + "\n\n"
            continue
        yield above + ("\n" if above and part.startswith(("def ", "class ", "@")) else "") + part
        above = ""


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
        "On the same machine with the same versions it repeats a training on the CPU bit for bit; elsewhere it comes",
        "as far within the noise of a seed.",
        "",
        f"    python {SCRIPT}                  # trains, scores the test split, writes model.pt",
        f"    python {SCRIPT} --device cuda",
        '"""',
    ]
    return "\n".join(lines)


def _imports(body: str) -> str:
    """What the body uses."""
    lines = ["from __future__ import annotations", "", "import argparse", "import hashlib", "import json"]
    lines += ["import math"] if "math." in body else []
    lines += ["from collections import OrderedDict"] if "OrderedDict(" in body else []
    lines += [
        "from collections.abc import Iterator",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "import torch",
    ]
    lines += ["import torch.nn.functional as F"] if "F." in body else []
    return "\n".join([*lines, "from torch import Generator, Tensor, nn"])


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
        f"LOOK = {max(1, min(MOST_ROWS, MOST_PIXELS // (height * width)))}  # images in a batch of validation",
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
    own += {STEP: ["step_epochs", "decay"], EXPONENTIAL: ["decay"]}.get(str(schedule), [])
    others = ("weight_decay", "l1", "l2", "warmup", "clip", "label_smoothing", "shift", "rotation", "erase")
    return own + [name for name in others if winner.number(name) > 0]


# -- data ----------------------------------------------------------------------------------------------------------


STREAM: Final = '''
def stream(*name: int | str) -> int:
    """The seed of one named random stream."""
    text = json.dumps(["stream", SEED, *name], separators=(",", ":"))
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)
'''
CLASS_DATA: Final = '''
class Data:
    """The data set on the device: images (N, C, H, W) as they are stored, {stored}, standardized on the way out."""

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=False) as file:
            arrays = {{name: torch.from_numpy(file[name]) for name in file.files if name != "classes"}}
        self.images, self.targets = arrays["images"].to(device), arrays["targets"].to(device)
        self.rows = {{name: arrays[name].to(device) for name in ("train", "val", "test")}}
        mean, std = (arrays[name].view(1, -1, 1, 1) for name in ("mean", "std"))  # of the training split
        self.scale, self.offset = (1 / {std}).to(device), (-mean / std).to(device)
{known}
    def pixels(self, rows: Tensor) -> Tensor:
        floats = self.images[rows].to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(self.offset, floats, self.scale)
'''
NUMBERS: Final = """
        self.targets = self.targets.to(torch.float32).view(len(self.targets), -1)
        known = self.targets[self.rows["train"]]
        self.centre, self.spread = known.mean(0), known.std(0, correction=0).clamp(min=1e-12)
"""
WEIGHTS: Final = """
        known = self.targets[self.rows["train"]].cpu().numpy()
        weights = len(known) / ({classes} * np.bincount(known, minlength={classes}))  # so that classes weigh the same
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
"""


def _data(winner: Winner) -> str:
    stored = winner.dataset.images.dtype
    known = ""
    if winner.dataset.classes is None:
        known = NUMBERS.lstrip("\n")
    elif winner.class_weights:
        known = WEIGHTS.lstrip("\n").format(classes=winner.dataset.outputs)
    std = "(std * 255.0)" if stored == np.uint8 else "std"
    return CLASS_DATA.format(stored=stored, std=std, known=known)


# -- network and augmentation --------------------------------------------------------------------------------------


def _network(winner: Winner) -> Iterator[str]:
    data = winner.dataset
    layers = FAMILIES[winner.model].layers(winner.params, data.shape, data.outputs)
    if winner.model == "rnn":
        yield source("network", "Rows")
        yield source("network", "Recurrent")
    if data.classes is None:
        yield source("network", "Rescale")
    yield class_network(layers, data.shape, regression=data.classes is None)
    yield function_initialize(layers)


# -- the script ----------------------------------------------------------------------------------------------------


MAIN: Final = '''
def train(data: Data, device: torch.device) -> Iterator[tuple[Network, dict[str, float]]]:
    """The network after each epoch, and its metrics."""
    network = Network({targets})
    initialize(network, Generator().manual_seed(stream("weights")))
    network.to(device, memory_format=torch.channels_last)
    optimizer = optimizer_of(network)
    for epoch in range(1, UNTIL + 1):
        mean_loss = train_epoch(network, optimizer, data, epoch)
        yield network, {{"train_loss": mean_loss, **evaluate(network, data, "val")}}


def shown(metrics: dict[str, float]) -> str:
    return " ".join(f"{{name}} {{value:.6g}}" for name, value in metrics.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--data", type=Path, default=here / "{file}")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, default=1, help="another number rounds differently [1]")
    parser.add_argument("--out", type=Path, default=here / "model.pt", help="where the weights go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # dying units breed denormal numbers, which are many times slower
    device = torch.device(options.device)
    data = Data(options.data, device)
    for epoch, (network, metrics) in enumerate(train(data, device), 1):
        print(f"epoch {{epoch}}/{{UNTIL}} {{shown(metrics)}}", flush=True)
    print("test", shown(evaluate(network, data, "test")))
    torch.save(network.state_dict(), options.out)
    print(f"the weights are in {{options.out}}")


if __name__ == "__main__":
    main()
'''


def _main(winner: Winner) -> str:
    numbers = winner.dataset.classes is None
    return MAIN.format(targets="data.centre, data.spread" if numbers else "", file=DATA)
