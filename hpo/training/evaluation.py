"""What a network is worth on a split, and what it says of raw pixels: in eval and inference mode, in big batches."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.core import Outcome, Params, TrainingFailed
from hpo.data.dataset import Dataset
from hpo.data.sources.contents import FAR, Array
from hpo.errors import BadInput, Conflict, Mistake
from hpo.formatting import printable, some
from hpo.training.setup import DeviceData, Loss, Setup, denormals_flushed, to_device

COUNTS, SAID, TRUTH = "counts", "said", "truth"  # beside an evaluation's metrics: what the others are made of
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
    """The split's metrics by name (val_loss, ...), and what `read` makes the others of, on the device; {} of no rows."""
    rows = data.splits[split]
    if len(rows) == 0:
        return {}
    predicted, targets, classes = outputs(network, data, rows), data.targets[rows], data.dataset.classes
    of = of_numbers if classes is None else of_classes
    values = {"loss": loss.plain(predicted, targets), **of(predicted, targets)}
    values = {f"{split}_{name}": value for name, value in values.items()}
    if classes is not None:
        values[COUNTS] = torch.stack([tally(kinds, len(classes)) for kinds in (predicted.argmax(1), targets)])
    return values if data.besides is None else {**values, SAID: probabilities(predicted, classes), TRUTH: targets}


def read(values: Mapping[str, Tensor], data: DeviceData, split: str) -> tuple[dict[str, float], str]:
    """What `evaluate` and others left on the device, in one copy: the metrics, and the classes that were `missed`."""
    flat = torch.cat([value.double().flatten() for value in values.values()]).cpu().numpy()
    parts = np.split(flat, np.cumsum([value.numel() for value in values.values()])[:-1])
    arrays = {name: part.reshape(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}
    whole = {name: arrays.pop(name) for name in (COUNTS, SAID, TRUTH) if name in arrays}
    metrics = {name: float(value) for name, value in arrays.items()}
    if data.besides is not None:
        metrics |= data.besides(whole[SAID], whole[TRUTH], split, metrics)
    counts, classes = whole.get(COUNTS, np.zeros((2, 0))).astype(int), data.dataset.classes or ()
    return metrics, missed(counts[0], counts[1], classes)


def probabilities(outputs: Tensor, classes: Sequence[str] | None) -> Tensor:
    """(N, K) as a user's functions take them; of regression they are the numbers."""
    return outputs.double() if classes is None else outputs.double().softmax(1)


def missed(said: Array, truth: Array, classes: Sequence[str]) -> str:
    """The classes that occur and are never predicted, of counts (K,), the most frequent first: "2 of 10 (cat, dog)"."""
    never = sorted(np.flatnonzero((truth > 0) & (said == 0)).tolist(), key=lambda k: -truth[k])
    return f"{len(never)} of {(truth > 0).sum()} ({printable(some([classes[k] for k in never]))})" if never else ""


def tally(kinds: Tensor, count: int) -> Tensor:
    """How often each of 0 .. count - 1 occurs; bincount would wait for the device."""
    return kinds.new_zeros(count).scatter_add_(0, kinds, torch.ones_like(kinds))


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """predicted, targets (N,) int64 -> (K, K) counts: rows the truth, columns the prediction."""
    return tally(targets * classes + predicted, classes * classes).view(classes, classes)


def of_classes(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Balanced accuracy is the mean recall over the classes that occur.

    Macro F1 is the mean of 2 tp / (2 tp + fp + fn) over the classes that occur or are predicted, as in scikit-learn.
    """
    counts = confusion(outputs.argmax(1), targets, outputs.shape[1]).to(torch.float64)
    hits, truth = counts.diagonal(), counts.sum(1)
    both = counts.sum(0) + truth
    return {
        "accuracy": hits.sum() / counts.sum(),
        "balanced_accuracy": (hits / truth.clamp(min=1)).sum() / (truth > 0).sum(),
        "macro_f1": (2 * hits / both.clamp(min=1)).sum() / (both > 0).sum(),
    }


@dataclass(frozen=True)
class Besides:
    """What a study names besides: by scikit-learn, as "auc" (one against the rest) or "f1.cat", and by the user's functions.

    What is of no class is the mean over the classes that occur. functions: by reference. Called with `probabilities`
    (N, K), the targets and what is measured already: names as val_f1.cat. Raises TrainingFailed for a name taken.
    """

    names: Sequence[str]
    functions: Mapping[str, Callable[[Array, Array], dict[str, float]]]
    classes: tuple[str, ...] | None

    def __call__(self, said: Array, truth: Array, split: str, own: Collection[str] = ()) -> dict[str, float]:
        truth, sound = truth.astype(np.float64 if self.classes is None else np.int64), np.isfinite(said).all()
        values = {f"{split}_{name}": self._named(name, said, truth) if sound else math.nan for name in self.names}
        for reference, measure in self.functions.items():
            for name, value in measure(truth, said).items():
                if (full := f"{split}_{name}") in values or full in own:
                    rule = f"{reference} must not report what is measured already, got {name}"
                    raise TrainingFailed(Outcome.INVALID, f"{rule}; give it another name")
                values[full] = value
        return values

    def _named(self, name: str, said: Array, truth: Array) -> float:
        from sklearn import metrics  # a second that only a study which names these pays for

        classes, (kind, _, of) = self.classes or (), name.partition(".")
        labels, chosen = range(len(classes)), said.argmax(1)
        if kind == "top5":
            return float(metrics.top_k_accuracy_score(truth, said, k=5, labels=labels)) if len(classes) > 5 else 1.0
        if kind == "auc":
            both = [k for k in labels if 0 < (truth == k).sum() < len(truth)]
            each = {k: float(metrics.roc_auc_score(truth == k, said[:, k])) for k in both}
        else:
            three = metrics.precision_recall_fscore_support(truth, chosen, labels=labels, zero_division=0)
            own = three[("precision", "recall", "f1").index(kind)]
            each = {int(k): float(own[k]) for k in np.union1d(truth, chosen)}
        return each.get(classes.index(of), math.nan) if of else fmean(each.values() or [math.nan])


def of_numbers(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """r2 is 1 - squared error / spread of the targets; where they do not spread, 1 if they are met and else 0."""
    errors, spread = (outputs - targets).square(), (targets - targets.mean(0)).square().sum()
    total = errors.sum()
    r2 = torch.where(spread > 0, 1 - total / spread, (total == 0).to(total.dtype))
    return {"mse": errors.mean(), "r2": r2}


def load_network(ready: Setup, params: Params, checkpoint: Path) -> nn.Module:
    """The network of a checkpoint, in eval mode, on the device: standardized images to logits or numbers."""
    network = ready.network(params, seed=0)  # any seed: every number is replaced
    state = torch.load(checkpoint, map_location=ready.data.device, weights_only=True)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        rule = "holds the weights of another network than the study builds now"
        why = " ".join(str(error).split())[:200]
        raise Conflict(Mistake(str(checkpoint), rule, why, "bring back the code that it was trained with")) from error
    return network.eval()


def score(ready: Setup, params: Params, checkpoint: Path, split: str = "test") -> dict[str, float]:
    """The metrics of a checkpoint on a split, by name (test_accuracy, ...)."""
    network = load_network(ready, params, checkpoint)
    with denormals_flushed():
        values = evaluate(network, ready.data, ready.loss, split)
    return read(values, ready.data, split)[0] if values else {}


class RawInputs(nn.Module):
    """Raw pixels (N, C, H, W), as the data set stores them, -> probabilities (N, classes), or numbers (N, K).

    size: what images are resized to; bytes are rounded to integers, because that is how the data set was made.
    """

    def __init__(self, network: nn.Module, data: Dataset) -> None:
        super().__init__()
        on_cpu = to_device(data, torch.device("cpu"))
        self.network = network
        self.scale, self.offset = nn.Buffer(on_cpu.scale), nn.Buffer(on_cpu.offset)
        self.size = data.resize
        self.bytes, self.classes = data.images.dtype == np.uint8, data.classes is not None

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.to(torch.float32)
        if self.size is not None:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
            images = images.round().clamp(0, 255) if self.bytes else images
        outputs = self.network(torch.addcmul(self.offset, images, self.scale))
        result: Tensor = outputs.softmax(1) if self.classes else outputs
        return result


def predictions(model: nn.Module, images: Array) -> Array:
    """Raw pixels (N, C, H, W) -> what a model that takes them says (N, K)."""
    step = max(1, min(MOST_ROWS, MOST_PIXELS // math.prod(images.shape[2:])))
    with torch.inference_mode():
        blocks = [torch.from_numpy(images[start : start + step]) for start in range(0, max(1, len(images)), step)]
        said: Array = torch.cat([model(block) for block in blocks]).numpy()
    return said


def as_stored(images: Array, data: Dataset) -> Array:
    """Images in any usual shape, or one, -> (N, C, H, W) as the data set has them. Raises BadInput."""
    try:
        given, (channels, height, width) = np.asarray(images), data.shape
    except ValueError:  # what NumPy says of a list whose parts differ
        rule, remedy = "must be all of one size, to be one array", "resize them, or predict one at a time"
        raise BadInput(Mistake("images", rule, "a list of several sizes", remedy)) from None
    last = given.ndim == 3 and given.shape[2] <= 4 < width  # channels, of one image: no grey ones have 4 columns
    alone = last or (given.ndim == 3 and channels > 1) or (given.ndim == 2 and height > 1)
    batch = given[None] if alone else given
    if batch.ndim in (2, 3):
        batch = batch.reshape(len(batch), 1, -1, batch.shape[-1])
    if batch.ndim == 4 and batch.shape[1] != channels == batch.shape[3]:
        batch = batch.transpose(0, 3, 1, 2)
    if batch.ndim != 4 or batch.shape[1] != channels or (data.resize is None and batch.shape[2:] != (height, width)):
        rule = f"must be (N, {channels}, {height}, {width}), as the data are"
        raise BadInput(Mistake("images", rule, f"shape {given.shape}", "reshape or resize them"))
    if batch.size:
        _refuse_other_scale(float(batch.max()), batch.dtype.kind in "bf", data)
    return np.ascontiguousarray(batch if batch.dtype == np.uint8 else batch.astype(np.float32))


def _refuse_other_scale(top: float, floats: bool, data: Dataset) -> None:
    """Raise BadInput for images up to `top` that have been divided and those of the data not, or the other way round."""
    least, most = float(data.images.min()), float(data.images.max())
    if not math.isfinite(top):
        raise BadInput(Mistake("images", "must be finite numbers", f"{top:g}", "leave out what is missing"))
    if data.images.dtype == np.uint8:
        highest, divided = 255.0, floats and 0 < top <= 1 < most
    else:
        pictures = data.shape[1] > 1  # of flat features, one may well be small or far out
        highest = 1.5 if pictures and least >= 0 and most <= 1 else FAR * max(-least, most)
        divided = pictures and 0 < top <= 1 and most >= FAR
    if divided or top > highest:
        rule = f"must be raw pixels, which go up to {most:g} in the data"
        remedy = "hand them over undivided" if divided else "divide them as the data were"
        raise BadInput(Mistake("images", rule, f"numbers up to {top:g}", remedy))
