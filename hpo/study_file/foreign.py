"""The words of other tools (W&B sweeps, Optuna, Ray Tune, Keras, scikit-learn) and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Words = Mapping[str, str]


def _words(**meant: str) -> Words:
    """What to write -> the words meant, as one text."""
    return {word: key.replace("__", ".") for key, words in meant.items() for word in words.split()}


STUDY: Final = {
    **_words(
        strategy="method sampler search_algorithm search_alg algorithm algo tuner",
        search_space="parameters params space config param_space hyperparameters configspace",
        early_stopping="early_terminate early_termination pruner scheduler earlystopping stopper",
        budget__trials="n_trials num_trials max_trials run_cap num_samples trials n_iter count",
        budget__time="timeout time max_time time_budget_s",
        budget__total_epochs="total_epochs max_epochs",
        budget__patience="patience",
        workers="n_jobs num_workers jobs parallelism max_concurrent concurrency",
        metric__goal="direction goal mode maximize minimize",
        metric__name="objective monitor score",
        metric__target="target",
        loss="criterion loss_function",
        data="dataset datasets input source",
        model="network architecture net",
        train="program command entrypoint trainer",
        name="study study_name experiment_name title",
        tracking="mlflow wandb logging",
        tracking__experiment="project experiment",
        tracking__uri="tracking_uri storage",
        tracking__register="register registered_model_name",
        execution="resources backend engine executor",
        device="gpu cuda accelerator",
        seed="random_state random_seed rng",
        start_with="enqueue initial points_to_evaluate initial_points warm_start",
        constraints="constraint",
        search_space__epochs="epochs n_epochs num_epochs",
        search_space__learning_rate="lr learning_rate",
        search_space__batch_size="batch_size",
        search_space__optimizer="optimizer",
    ),
}
BUDGET: Final = {
    **_words(
        trials="n_trials max_trials num_trials num_samples run_cap runs count n_iter",
        total_epochs="epochs max_epochs n_epochs",
        time="timeout max_time seconds wall_time",
        patience="early_stopping no_improvement",
    ),
    "hours": "time: 2h",
    "minutes": "time: 30m",
}
EARLY_STOPPING: Final = _words(
    min_epochs="min_iter grace_period min_resource n_warmup_steps warmup min_t",
    reduction="eta reduction_factor s",
    interval="interval_steps every",
    min_trials="n_startup_trials",
    type="rule name method",
)
EXECUTION: Final = _words(
    engine="backend executor type name",
    trial_timeout="timeout time_limit max_time",
    gpus="gpu num_gpus n_gpus",
    cpus="cpu num_cpus n_cpus cores",
    memory="ram max_memory",
)
TRACKING: Final = _words(
    uri="url tracking_uri server store",
    experiment="experiment_name project",
    register="registered_model_name model_name",
    enabled="enable on",
)
DATA: Final = _words(source="path name dataset folder file", resize="size shape image_size", limit="max_samples n")
METRIC: Final = _words(goal="direction mode", name="metric objective monitor", target="threshold goal_value")
COMPARE: Final = _words(seeds="repeats n_seeds runs", margin="rope tolerance", strategies="methods samplers strategy")

STRATEGIES: Final = _words(
    bayesian="bayes tpe gp optuna bo bohb smac bayesian_optimization",
    random="randomsearch random_search",
    grid="gridsearch grid_search bruteforce",
)
GOALS: Final = _words(maximize="max maximise higher up", minimize="min minimise lower down")
RULES: Final = {
    **_words(asha="hyperband sha successive_halving successivehalving", median="medianpruner median_stopping"),
    **dict.fromkeys(("none", "off", "false", "no"), "null, or leave it out"),
}
LOSSES: Final = _words(
    cross_entropy="ce nll crossentropy categorical_crossentropy log_loss",
    squared_error="mse mean_squared_error l2 quadratic",
)
ENGINES: Final = _words(local="process processes multiprocessing joblib", inline="thread sync serial")

PARAMETERS: Final = _words(
    learning_rate="lr eta step_size learningrate",
    batch_size="bs batch batchsize train_batch_size",
    epochs="n_epochs num_epochs max_epochs epoch iterations",
    channels="filters num_filters n_filters out_channels width",
    kernel_size="kernel kernels filter_size ksize",
    blocks="n_layers num_layers conv_layers depth n_blocks num_blocks",
    activation="act activation_function",
    dropout="dropout_rate drop keep_prob",
    optimizer="opt solver",
    weight_decay="wd",
    dense_units="units hidden_units fc_units",
    leaky_slope="alpha negative_slope",
)
VALUES: Final = _words(silu="swish", leaky_relu="leakyrelu lrelu", sigmoid="logistic", sgd="gd momentum")
_CHOICES: Final = ("values", "value", "categorical", "choice", "options", "categories", "grid_search")
_EVEN: Final = ("uniform", "quniform", "q_uniform", "int_uniform", "float", "int", "range")
_LOG: Final = ("log_uniform", "loguniform", "log_uniform_values", "reciprocal", "qloguniform")
DOMAIN: Final = {
    **dict.fromkeys(_CHOICES, "choices: [...]"),
    **dict.fromkeys(_EVEN, "min: ..., max: ..."),
    **dict.fromkeys(_LOG, "min: ..., max: ..., log: true"),
    **dict.fromkeys(("distribution", "type", "_type", "dist"), "log: true for log_uniform, nothing for uniform"),
    **dict.fromkeys(("scale", "log_scale", "base"), "log: true"),
    **_words(
        min="low lower lower_bound start",
        max="high upper upper_bound stop",
        step="q quantization",
        count="num n steps",
        when="condition conditions if parent depends_on",
    ),
    "default": "start_with in the study file",
}
