"""What a user would write to search until a score is reached, as the tutorials of Optuna, PyTorch and MLflow do it.

    python search.py DATA.npz TARGET SEED [THREADS]

Optuna's TPE in SQLite over the space of search_spaces/cnn-small.yaml, a DataLoader, one MLflow run a trial and
`mlflow.log_metric` every epoch. THREADS: torch.set_num_threads; torch's default without it. Prints when it was reached.
"""

import sys
import time

import optuna
import torch
from tutorial import data, opened, quiet, suggested, trained


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
