"""What helps to write a study file: the one that `hpo init` writes, and the JSON schema for editors.

    python -m hpo.study_file.template > hpo/study_file/study.schema.json

The template runs as it is, and every other key stands in it as a comment. The schema gives completion, hover text and
red underlines; it knows the shape of a file, not what its parts mean together: `hpo check` does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from hpo.study_file.fields import record_schema
from hpo.study_file.spec import DEFAULT_TRIALS, StudySpec

SCHEMA_FILE: Final = Path(__file__).with_name("study.schema.json")

TEXT: Final = """\
# A study of hpo. `hpo run study.yaml` searches, `hpo check study.yaml` looks before, `mlflow ui` shows what happened.
# A line like `#key: value` may be uncommented; what it shows is an example, what is said behind it explains it.

name: {name}                        # names the study's folder and its MLflow experiment
strategy: bayesian                      # bayesian | random | grid, ordered by usefulness

# What is learned: digits | digits-hard | mnist | fashion-mnist | cifar10, a folder of images with one sub-folder a
# class, an .npz file with X and y, a folder of IDX files or of CIFAR batches. Paths start at this file.
data: digits
#data: {{source: digits, resize: [16, 16], split: [0.7, 0.15, 0.15], grey: false, limit: 1000}}
#data: {{source: digits, regression: true}}     # the targets are numbers: loss is squared_error, metric val_mse

model: cnn                              # cnn | rnn | package.module:function of your own
#train: package.module:function         # your own generator of reports; replaces data, model and training
#prefix_safe: true                      # with train: epoch e does not depend on how many follow, so trials share epochs
#loss: cross_entropy                    # cross_entropy | squared_error
#class_weights: true                    # weigh rare classes up
metric: {{name: val_accuracy, goal: maximize}}    # at: last | best epoch of a trial; target: 0.99 ends the study there
#metric: {{name: val_macro_f1, goal: maximize, at: best, target: 0.99}}

# What is searched; or the path of a file of parameters (search_spaces/*.yaml). `hpo check` names every parameter.
#   name: 3                                   a constant
#   name: [3, 5]                              a choice
#   name: {{min: 1e-4, max: 1e-1, log: true}}   a range; step or count divide it, as a grid needs
#   name: {{choices: [8, 16], per: block}}      one for each block: block1.name, block2.name, ...
#   name: {{min: 0, max: 1, when: {{optimizer: sgd}}}}   only there; two keys: both, a list: any of its values
search_space:
  blocks: [1, 2]                        # convolution, activation, pooling
  channels: {{choices: [8, 16, 32], per: block}}
  kernel_size: [3, 5]
  activation: [relu, leaky_relu, tanh]
  leaky_slope: {{min: 0.01, max: 0.3, count: 3}}    # exists only with leaky_relu, as the model knows by itself
  dropout: {{min: 0, max: 0.5, step: 0.1}}
  optimizer: [adam, sgd]
  learning_rate: {{min: 1e-3, max: 1e-1, log: true, count: 5}}
  batch_size: [32, 64]
  epochs: [5, 10]

# Conditions on parameters, model_parameters and multiply_adds; one that names an inactive parameter holds.
#constraints: ["model_parameters <= 500_000", "block1.channels <= block2.channels"]
#start_with: [{{learning_rate: 1e-2, optimizer: sgd}}]    # tried first; the rest of each is drawn

budget: {{trials: 20}}                    # totals; whichever is reached first. None: {trials} trials, or the whole grid
#budget: {{trials: 40, total_epochs: 600, time: 30m, patience: 100}}    # time: 90s, 30m, 1h30m; patience in epochs
#early_stopping: median                 # median | asha, or with their settings:
#early_stopping: {{type: median, min_epochs: 2, interval: 1, min_trials: 5}}
#early_stopping: {{type: asha, min_epochs: 1, reduction: 3}}

workers: auto                           # trials at a time; auto: one a core, or one a GPU
device: auto                            # auto | cpu | cuda | cuda:1
seed: 0
#training_seed: 0                       # of SGD; else the seed
#execution: {{engine: local, memory: 2GiB, report_timeout: 10m, trial_timeout: 1h, checkpoints: 2GiB}}
#execution: {{engine: ray, address: auto, cpus: 1, gpus: 0.5}}
#tracking: {{uri: "sqlite:///mlflow.db", experiment: {name}, register: {name}}}
#tracking: {{enabled: false}}             # or just false: no MLflow
#compare: {{strategies: [bayesian, random, grid], seeds: 10, margin: 0.002, parallel: 1}}
"""


def template(name: str = "digits-cnn") -> str:
    """The text of a study file of this name."""
    return TEXT.format(name=name, trials=DEFAULT_TRIALS)


def schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12. A study has data, or a training of its own that needs none."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpo study",
        "description": "A hyperparameter study: what is searched, on which data, how and for how long",
        **record_schema(StudySpec),
        "anyOf": [{"required": ["data"]}, {"required": ["train"]}],
    }


def schema_text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
