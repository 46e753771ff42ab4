"""What a user would write to search until a score is reached, as the tutorials of Optuna, PyTorch and MLflow do it.

    python search.py DATA.npz TARGET SEED [THREADS]

Optuna's TPE in SQLite over the space of search_spaces/cnn-small.yaml, a DataLoader, one MLflow run a trial and
`mlflow.log_metric` every epoch. THREADS: torch.set_num_threads; torch's default without it. Prints when it was reached.
"""

import sys
import time

import numpy as np
import optuna
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset
from tutorial import opened, quiet, suggested, trained


def data(path, seed):
    stored = np.load(path)
    images, targets = torch.tensor(stored["X"], dtype=torch.float32).unsqueeze(1), torch.tensor(stored["y"]).long()
    train, rest = train_test_split(range(len(targets)), test_size=0.3, stratify=targets, random_state=seed)
    val, _ = train_test_split(rest, test_size=0.5, stratify=targets[rest], random_state=seed)
    images = (images - images[train].mean()) / images[train].std()
    return TensorDataset(images[train], targets[train]), TensorDataset(images[val], targets[val])


def main():
    target, seed = float(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 4:
        torch.set_num_threads(int(sys.argv[4]))
    torch.manual_seed(seed)
    sets = data(sys.argv[1], seed % 1000)  # the same split for the second process
    study = opened(sampler=optuna.samplers.TPESampler(seed=seed))

    def until(study, trial):
        if study.best_value >= target:
            study.stop()

    study.optimize(lambda trial: trained(trial, suggested(trial), *sets), callbacks=[until])
    print(time.time())


if __name__ == "__main__":
    quiet()
    main()
