"""A trainer of one's own for hpo with scikit-learn: any estimator that has `partial_fit`.

    python -m hpo run examples/own_sklearn.yaml

Each epoch is one pass over the training split. What a trainer yields is a plain mapping here, so it cannot be saved: a study
that is killed goes on, and what was half trained begins again (own_trainer.py shows how to save). What it prints is shown by
`python -m hpo show 3 examples/own_sklearn.yaml --log`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from hpo.core import Job


def train(job: Job) -> Iterator[dict[str, float]]:
    """What the study file names. job.params is the trial's point, job.seed its own seed."""
    images, labels = load_digits(return_X_y=True)
    seen, unseen, known, wanted = train_test_split(images / 16, labels, test_size=0.2, stratify=labels, random_state=0)
    network = MLPClassifier(
        hidden_layer_sizes=(int(job.params["units"]),),
        activation=str(job.params["activation"]),
        alpha=float(job.params["alpha"]),
        learning_rate_init=float(job.params["learning_rate"]),
        batch_size=int(job.params["batch_size"]),
        random_state=job.seed % 2**32,
    )
    print(network)
    for _ in range(int(job.params["epochs"])):
        network.partial_fit(seen, known, classes=np.unique(labels))
        guessed = network.predict(unseen)
        yield {
            "train_loss": network.loss_,
            "val_accuracy": float(np.mean(guessed == wanted)),
            "val_macro_f1": float(f1_score(wanted, guessed, average="macro")),
        }
