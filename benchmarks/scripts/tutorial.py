"""What a user would write with the same parts, as the tutorials of Optuna, PyTorch and MLflow do it.

    python tutorial.py DATA.npz CONFIGURATIONS.json FIRST STEP [THREADS]

Trains configurations FIRST, FIRST + STEP, ... of the list on the images X of the classes y: Optuna in SQLite, a DataLoader, one MLflow run a trial and
`mlflow.log_metric` every epoch. THREADS: torch.set_num_threads; torch's default without it. Prints JSON: trial-epochs, seconds.
"""

import json
import sys
import time
import warnings

import mlflow
import numpy as np
import optuna
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def data(path, seed=0):
    stored = np.load(path)
    images, targets = torch.tensor(stored["X"], dtype=torch.float32).unsqueeze(1), torch.tensor(stored["y"]).long()
    train, rest = train_test_split(range(len(targets)), test_size=0.3, stratify=targets, random_state=seed)
    val, _ = train_test_split(rest, test_size=0.5, stratify=targets[rest], random_state=seed)
    images = (images - images[train].mean()) / images[train].std()
    return TensorDataset(images[train], targets[train]), TensorDataset(images[val], targets[val])


class Net(nn.Module):
    def __init__(self, p, size):
        super().__init__()
        layers, channels = [], 1
        for block in range(1, p["blocks"] + 1):
            out = p[f"block{block}.channels"]
            layers += [
                nn.Conv2d(channels, out, p["kernel_size"], padding=p["kernel_size"] // 2),
                ACTIVATIONS[p["activation"]](),
                nn.MaxPool2d(2),
            ]
            channels, size = out, size // 2
        layers += [nn.Flatten(), nn.Linear(channels * size * size, p["dense_units"]), ACTIVATIONS[p["activation"]]()]
        layers += [nn.Dropout(p["dropout"]), nn.Linear(p["dense_units"], 10)]
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)


def suggested(trial):
    p = {"blocks": trial.suggest_categorical("blocks", [1, 2])}
    for block in range(1, p["blocks"] + 1):
        p[f"block{block}.channels"] = trial.suggest_categorical(f"block{block}.channels", [8, 16, 32])
    p["kernel_size"] = trial.suggest_categorical("kernel_size", [3, 5])
    p["activation"] = trial.suggest_categorical("activation", ["relu", "tanh"])
    p["dense_units"] = trial.suggest_categorical("dense_units", [32, 64])
    p["dropout"] = trial.suggest_categorical("dropout", [0.0, 0.25, 0.5])
    p["optimizer"] = trial.suggest_categorical("optimizer", ["adam", "sgd"])
    p["learning_rate"] = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    if p["optimizer"] == "sgd":
        p["momentum"] = trial.suggest_categorical("momentum", [0.0, 0.9])
    p["batch_size"] = trial.suggest_categorical("batch_size", [32, 64])
    p["epochs"] = trial.suggest_categorical("epochs", [5, 10])
    return p


def trained(trial, p, train_set, val_set):
    model = Net(p, train_set[0][0].shape[1])
    if p["optimizer"] == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=p["learning_rate"])
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=p["learning_rate"], momentum=p["momentum"])
    train_loader = DataLoader(train_set, batch_size=p["batch_size"], shuffle=True)
    val_loader = DataLoader(val_set, batch_size=256)
    with mlflow.start_run():
        mlflow.log_params(p)
        for epoch in range(p["epochs"]):
            model.train()
            for images, targets in train_loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), targets)
                loss.backward()
                optimizer.step()
            model.eval()
            correct = total_loss = 0
            with torch.no_grad():
                for images, targets in val_loader:
                    output = model(images)
                    total_loss += F.cross_entropy(output, targets, reduction="sum").item()
                    correct += (output.argmax(1) == targets).sum().item()
            accuracy = correct / len(val_set)
            mlflow.log_metric("train_loss", loss.item(), step=epoch)
            mlflow.log_metric("val_loss", total_loss / len(val_set), step=epoch)
            mlflow.log_metric("val_accuracy", accuracy, step=epoch)
            trial.report(accuracy, epoch)
    return accuracy


def opened(**sampler):
    mlflow.set_tracking_uri("sqlite:///mlflow.db?timeout=60")
    mlflow.set_experiment("tutorial")
    storage = "sqlite:///optuna.db?timeout=60"
    return optuna.create_study(
        study_name="tutorial", storage=storage, direction="maximize", load_if_exists=True, **sampler
    )


def quiet():
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def main():
    configurations = json.load(open(sys.argv[2]))
    mine = configurations[int(sys.argv[3]) :: int(sys.argv[4])]
    if len(sys.argv) > 5:
        torch.set_num_threads(int(sys.argv[5]))
    train_set, val_set = data(sys.argv[1])
    study, epochs = opened(), []

    def objective(trial):
        p = suggested(trial)
        epochs.append(p["epochs"])
        return trained(trial, p, train_set, val_set)

    for p in mine:
        study.enqueue_trial(p)
    began = time.time()
    study.optimize(objective, n_trials=len(mine))
    print(json.dumps({"epochs": sum(epochs), "began": began, "ended": time.time()}))


if __name__ == "__main__":
    quiet()
    main()
