"""The pictures of docs/searching.md, from the shipped prior: python docs/searching.py."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from hpo.core import Goal, Params, Report, Reported, Started, Study
from hpo.space.domains import Choice, Parameter, Range
from hpo.space.space import Space
from hpo.strategies import encoding, prior
from hpo.strategies.encoding import Images
from hpo.strategies.points import Problem
from hpo.strategies.surrogate import Surrogate

PICTURES = Path(__file__).with_name("pictures")
IMAGES = Images((1, 16, 16), 10, 1000)
POINT: Params = {
    "blocks": 2,
    "channels": 16,
    "batch_norm": "before",
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "epochs": 27,
}
CURVE = (0.31, 0.52, 0.58, 0.66, 0.70, 0.71, 0.745, 0.76, 0.77)  # made up


def experience() -> None:
    """The mean over the recorded tasks against the learning rate, with and without batch norm."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    rates = np.geomspace(1e-4, 0.3, 60)
    for optimizer, colour in (("adam", "tab:blue"), ("sgd", "tab:orange")):
        for norm, style in (("before", "-"), ("off", "--")):
            points = [
                {**POINT, "optimizer": optimizer, "batch_norm": norm, "learning_rate": float(rate)} for rate in rates
            ]
            rows = [encoding.at_epochs(encoding.encode(one, IMAGES), one, np.array([9.0])) for one in points]
            values, _ = prior.load().predict(np.vstack(rows))
            label = f"{optimizer}, {'batch norm' if norm == 'before' else 'no norm'}"
            axes.plot(rates, values.mean(1), style, color=colour, label=label)
    axes.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="standard deviations\nabove a task's mean",
        title="what the recorded trainings say, after 9 epochs",
    )
    axes.legend(fontsize=8)
    figure.savefig(PICTURES / "experience.png", dpi=110)


def predicted() -> None:
    """The surrogate's belief of one curve before its first epoch, after 2 and after 9."""
    space = Space((Parameter("learning_rate", Range(1e-4, 0.3, False, log=True)), Parameter("epochs", Choice((27,)))))
    problem = Problem(space, Goal(epochs=(1, 3, 9, 27)), images=IMAGES)
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained", sharey=True)
    for axes, seen in zip(panels, (0, 2, 9), strict=True):
        study = Study([Started(0.0, 0, POINT, 0, "t", 0, seen)] if seen else [])
        for epoch, value in enumerate(CURVE[:seen], 1):
            study.apply(Reported("t", Report(epoch, {"val_accuracy": value}, 1.0, 0.0)))
        epochs, mean, deviation = Surrogate(problem, prior.load()).curve(study, POINT)
        for width, strength in ((1.96, 0.15), (1.0, 0.25)):
            low, high = (1.02 - np.exp(-(mean + sign * width * deviation)) for sign in (-1, 1))
            axes.fill_between(epochs, np.clip(low, 0, 1), np.clip(high, 0, 1), alpha=strength, color="tab:blue", lw=0)
        axes.plot(epochs, np.clip(1.02 - np.exp(-mean), 0, 1), color="tab:blue")
        axes.plot(range(1, seen + 1), CURVE[:seen], "k.")
        axes.set(title=f"{seen} epochs seen", xlabel="epoch", ylim=(0, 1))
    panels[0].set_ylabel("val_accuracy")
    figure.savefig(PICTURES / "predicted.png", dpi=110)


if __name__ == "__main__":
    experience()
    predicted()
