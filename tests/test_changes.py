"""A study is one thing: other data, other code and other versions under it are noticed before anything is written."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import params_of, refused
from studied import TINY, TRAINER, Place, hpo

from benchmarks.prior_tasks import TASKS
from hpo import api, provenance
from hpo.check import check_study
from hpo.cli.console import varying
from hpo.cli.summary import best_lines, exit_code, status_json
from hpo.commands import best, compare, confirm, predict, reproduce
from hpo.commands.run import RunOptions, run
from hpo.commands.sync import log_due, tracked_study
from hpo.comparison.text import SAME_SPLIT
from hpo.core import Ended, Opened, Outcome, Params, Reason, State
from hpo.engine.changes import warn_of_other_files
from hpo.engine.opening import in_epochs, notes, total_epochs
from hpo.engine.result import Published, Result, read_result, statuses, study_report
from hpo.errors import Conflict, EnvironmentFailed
from hpo.journal import Journal, read_events
from hpo.strategies import prior
from hpo.strategies.surrogate import ENGINE
from hpo.study_file.spec import Compare, StudySpec
from hpo.tracking.runs import History, study_run

COMPARED = Compare(("bayesian", "random"), seeds=1)
SPACE = {"rate": [0.05, 0.1, 0.2, 0.4], "epochs": 4}


def write_data(folder: Path, images: int, classes: int, brightness: int = 200) -> None:
    """Squares in places that say the class."""
    rng, labels = np.random.default_rng(3), np.arange(images) % classes
    pixels = rng.integers(0, 60, (images, 8, 8)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[label * 2 : label * 2 + 2] = brightness
    np.savez(folder / "data.npz", X=pixels, y=labels)


def on_data(folder: Path, **changes: Any) -> Result:
    spec = api.load({**TINY, "data": str(folder / "data.npz"), "budget": {"trials": 2}, **changes})
    return run(spec, RunOptions(folder, publish=False))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, which name the process; without SQLite's own, which readers make and remove."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".lock", ".pyc"))
    return {str(path): path.read_bytes() for path in files if not path.name.endswith(("-wal", "-shm", "lock"))}


USES: dict[str, Callable[[Result, Path], object]] = {
    "run": lambda result, folder: on_data(folder, budget={"trials": 4}),
    "another strategy beside it": lambda result, folder: compare.compare_strategies(
        replace(result.spec, compare=replace(result.spec.compare, strategies=("bayesian", "random"), seeds=1)),
        RunOptions(folder),
    ),
    "confirm": lambda result, folder: confirm.run_confirmation(result.spec, folder, 1, 1),
    "refit": lambda result, folder: best.refit(result, {}),
    "reproduce": lambda result, folder: reproduce.reproduce(result, 0),
}


def test_what_reads_a_study_takes_the_space_of_its_run_and_names_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(tmp_path, 60, 2)
    ran = on_data(tmp_path)
    found = read_result(replace(ran.spec, budget=replace(ran.spec.budget, trials=9)), tmp_path)
    assert (found.spec.space, caplog.messages) == (ran.spec.space, [])
    space = {"learning_rate": [0.3], "epochs": [1, 2]}
    other = api.load({**TINY, "data": str(tmp_path / "data.npz"), "search_space": space, "metric": "val_loss"})
    found = read_result(other, tmp_path)
    assert found.spec.space == ran.spec.space
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        "read with the search space of its last run, which is another than the file's",
        "was last run with another metric; repeat the flags of the run, or undo the change of the file",
    ]


@pytest.fixture
def trained(tmp_path: Path) -> Result:
    write_data(tmp_path, 60, 2)
    on_data(tmp_path)
    return read_result(api.load({**TINY, "data": str(tmp_path / "data.npz"), "budget": {"trials": 2}}), tmp_path)


OTHER_DATA = {
    "60 images in 2 classes, now 90 in 3;": (90, 3),
    "other images, 60 images in 2 classes as before;": (60, 2, 210),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("said", OTHER_DATA)
def test_other_data_are_refused_before_a_byte_is_written(tmp_path: Path, trained: Result, use: str, said: str) -> None:
    write_data(tmp_path, *OTHER_DATA[said])
    before = contents(tmp_path)
    text = refused(Conflict, USES[use], trained, tmp_path)
    assert text.startswith(f"{tmp_path / 'data.npz'}: the data have changed: {said}")
    assert contents(tmp_path) == before


def test_what_only_reads_goes_on_with_the_old_data_and_warns(
    tmp_path: Path, trained: Result, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.load(tmp_path / "data.npz")["X"][:4]
    before = trained.predict(images)
    warn_of_other_files(trained.spec, trained.folders, trained.study)
    assert not caplog.messages
    write_data(tmp_path, 90, 3)
    again = replace(trained)
    assert np.array_equal(again.predict(images), before)
    assert predict.trained(again).classes == ("0", "1")
    best.write_script(again, tmp_path / "script")
    assert np.load(tmp_path / "script" / "data.npz")["images"].shape == (60, 1, 8, 8)
    warn_of_other_files(trained.spec, trained.folders, trained.study)
    (tmp_path / "data.npz").unlink()
    assert np.array_equal(replace(trained).predict(images), before)
    changed, other_files, gone = caplog.messages
    assert "60 images in 2 classes, now 90 in 3; going on with the study's copy" in changed
    assert "the files are not those that the study was trained on" in other_files
    assert "check the path" not in gone and gone.endswith("going on with the study's copy of the old ones")


def test_a_fresh_study_and_its_confirmation_take_the_new_data(tmp_path: Path) -> None:
    write_data(tmp_path, 60, 2)
    old = on_data(tmp_path, budget={"trials": 1})
    confirm.run_confirmation(old.spec, tmp_path, 1, 1)
    write_data(tmp_path, 60, 2, 210)
    fresh = run(old.spec, RunOptions(tmp_path, publish=False, fresh=True))
    assert fresh.study.environments[-1]["data"] != old.study.environments[-1]["data"]
    assert fresh.best.params == old.best.params, "so that the same points are confirmed"
    assert confirm.run_confirmation(old.spec, tmp_path, 1, 1)[-1].endswith(SAME_SPLIT)


def test_code_that_was_edited_is_refused_until_it_is_accepted(place: Place) -> None:
    first = place.run(search_space=SPACE, budget={"trials": 2})
    code = place.folder / "studied_trainer.py"
    code.write_text(TRAINER.replace("a line in", "a LINE in") + "# a comment\n")
    assert len(place.run(search_space=SPACE, budget={"trials": 3}).study) == 3, "only a docstring and a comment"
    code.write_text(TRAINER.replace("rate *", "2 * rate *"))
    before = contents(place.folder / "studies")
    spec = place.spec(search_space=SPACE, budget={"trials": 4})
    for use, when in (
        (lambda: run(spec, place.options), ", in more than comments and layout"),
        (lambda: confirm.run_confirmation(spec, place.folder, 1, 1), r" since trial \d was trained"),
    ):
        with pytest.raises(Conflict, match=f"code of studied_trainer:train has changed{when}"):
            use()
    assert contents(place.folder / "studies") == before
    accepted = run(spec, replace(place.options, accept_code=True))
    old, _, new = accepted.study.environments
    assert new["accepted_code"] == old["user_code"] != new["user_code"]
    again = place.run(search_space=SPACE, budget={"trials": 4})
    assert again.study.trials == accepted.study.trials, "accepted once for this edit"
    assert again.study.trials[:2] == first.study.trials
    code.write_text(TRAINER)
    with pytest.raises(Conflict):
        place.run(search_space=SPACE, budget={"trials": 4})


NET = """
from torch import nn
def network(params, shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))
"""
OTHER_CODE = "model: the code of coded:network has changed since trial 0 was trained; "
AGAIN = f"{OTHER_CODE}undo that and repeat `hpo run --accept-code`"


def coded(folder: Path, trials: int) -> StudySpec:
    """The second trial learns nothing, so that the first is the best."""
    space = {"learning_rate": [0.01, 1e-7], "epochs": 4}
    own = {"model": "coded:network", "search_space": space, "start_with": [{"learning_rate": 0.01}]}
    (folder / "study.yaml").write_text(json.dumps({**TINY, **own, "strategy": "random", "budget": {"trials": trials}}))
    return api.load(folder / "study.yaml")


def test_what_other_code_trained_is_never_taken_for_that_of_todays_though_the_edit_was_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (code := tmp_path / "coded.py").write_text(NET)
    first = run(spec := coded(tmp_path, 1), RunOptions(tmp_path, publish=False))
    before = first.predict(images := first.data().images[:9])
    assert "and `hpo run` continues it" in "".join(best_lines(first))
    code.write_text(NET.replace("ReLU", "Sigmoid"))
    accepted = RunOptions(tmp_path, accept_code=True)
    edited = run(coded(tmp_path, 2), accepted)
    *_, further, model = best_lines(edited)
    assert further.endswith("and `hpo run` trains it from the start, as other code or versions began it")
    assert model.startswith("model:  not published") and AGAIN in model
    assert (edited.best.number, edited.published and edited.published.model, exit_code(edited)) == (0, None, 4)
    assert sum(AGAIN in line for line in caplog.messages) == 1
    assert edited.predict(images, edited.trial(1)).shape == before.shape, "that one is of today's code"
    trainings = contents(tmp_path / "studies" / "tiny" / "trainings")
    uses: list[Callable[[], object]] = [
        lambda: edited.predict(images),
        lambda: predict.trained(read_result(spec, tmp_path)),
        lambda: best.refit(edited, {}),
        lambda: log_due(spec, edited.folders, "http://127.0.0.1:9"),  # where nothing answers
        lambda: confirm.run_confirmation(spec, tmp_path, 2, 1),
    ]
    for use in uses:
        assert f"{OTHER_CODE}undo that, or start again with" in refused(Conflict, use)
    with pytest.raises(Conflict, match=f"{OTHER_CODE}add --model models:/m-1, its model in MLflow, undo that, or"):
        predict.trained(replace(edited, published=Published(model="models:/m-1")))
    assert contents(tmp_path / "studies" / "tiny" / "trainings") == trainings
    code.write_text(NET)
    undone = run(spec, accepted)
    assert exit_code(undone) == 0
    assert np.array_equal(undone.predict(images), before)


def test_a_comparison_scores_nothing_again_that_other_code_trained(place: Place) -> None:
    both = {"strategies": ["random", "grid"], "seeds": 1}
    spec = place.spec(search_space=SPACE, budget={"total_epochs": 8}, compare=both)
    compare.compare_strategies(spec, place.options, rescore=False)
    code = place.folder / "studied_trainer.py"
    code.write_text(TRAINER.replace("rate *", "2 * rate *"))
    before = len(place.trained())
    with pytest.raises(Conflict, match=r"has changed since trial \d was trained"):
        compare.compare_strategies(spec, replace(place.options, accept_code=True))
    assert len(place.trained()) == before
    code.write_text(TRAINER)
    assert compare.compare_strategies(spec, replace(place.options, accept_code=True)).comparison


@pytest.fixture
def paused(place: Place) -> Result:
    """One trial is complete, one paused after two of its four epochs."""
    return place.run(search_space=SPACE, budget={"total_epochs": 6})


@pytest.mark.parametrize("name", ["TRAINER", "torch", None])
def test_what_another_version_began_is_never_continued(
    place: Place, paused: Result, name: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = paused.study.with_state(State.PAUSED)
    finished = paused.study.with_state(State.COMPLETE)
    assert waiting and finished and paused.study.closed is Reason.BUDGET
    if name == "TRAINER":
        monkeypatch.setattr(provenance, "TRAINER", 1000)
    elif name == "torch":
        monkeypatch.setattr(provenance, "version", lambda package: "99.0")
    before = len(place.trained())
    spec = replace(paused.spec, budget=replace(paused.spec.budget, total_epochs=12))
    with caplog.at_level(logging.WARNING):
        study = run(spec, place.options).study
    kinds = [type(event) for event in read_events(paused.folders.journal)]
    continued = {key for key, _ in place.trained()[before:]} & {trial.training for trial in waiting}
    assert bool(continued) == (name is None)
    assert [study.trials[trial.number] for trial in finished] == finished
    if name is None:
        assert not caplog.messages
        return
    for trial in waiting:
        now = study.trials[trial.number]
        assert (now.state, now.outcome, now.reports) == (State.PRUNED, Outcome.OK, trial.reports)
        assert now.error.startswith(f"not continued by another version: {name.lower()} ")
    assert kinds.count(Opened) == 2 and kinds.index(Ended) > 0
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("finished trials keep theirs, unfinished ones are not continued")
    assert study.active_seconds < 60, "the time between the runs is nobody's"


WIDTHS = {"width": [1, 2, 3], "rate": [0.1, 0.2], "epochs": 8}
ASHA = {"early_stopping": {"type": "asha", "reduction": 2}, "search_space": WIDTHS}
LATER: dict[str, tuple[dict[str, Any], Callable[[Params], bool]]] = {
    "constraint": ({"constraints": ["width <= 1"]}, lambda params: params["width"] > 1),
    "values": ({"search_space": {**WIDTHS, "width": [1, 4]}}, lambda params: params["width"] > 1),
    "shorter": ({"search_space": {**WIDTHS, "epochs": 4}}, lambda params: True),
    "longer": ({"search_space": {**WIDTHS, "epochs": 16}}, lambda params: False),
}


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("name", LATER)
def test_an_unfinished_trial_that_the_file_no_longer_allows_is_not_continued(
    place: Place, name: str, interrupted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    begun = place.run(**ASHA, budget={"total_epochs": 13} if interrupted else {"trials": 5})
    resting, before = begun.study.with_state(State.PAUSED), len(place.trained())
    (changes, forbids), more = LATER[name], {"total_epochs": 40} if interrupted else {"trials": 9}
    gone = [trial for trial in resting if forbids(trial.params)]
    assert resting and bool(gone) == (name != "longer")
    with caplog.at_level(logging.WARNING):
        later, _ = (place.run(**ASHA | changes, budget=more) for _ in "ab")
    assert not {key for key, _ in place.trained()[before:]} & {trial.training for trial in gone}
    for trial in gone:
        now = later.study.trials[trial.number]
        assert (now.state, now.reports) == (State.PRUNED, trial.reports), "what it has stays"
    assert all(forbids(one.params) for one in gone) and later.study.trials[: len(begun.study)] != []
    assert sum("no longer allows" in line for line in caplog.messages) == (name != "longer"), "it is said once"


def test_a_best_trial_that_the_file_no_longer_has_is_shown_as_it_is_and_not_said_to_go_on(place: Place) -> None:
    """Its width is another than that of all trials to come."""
    best, space = {"width": 3, "rate": 0.2, "epochs": 8}, {**WIDTHS, "epochs": [4, 8]}
    begun = place.run(search_space=space, start_with=[best])
    later = place.run(search_space={**space, "width": 1}, budget={"trials": 8})
    for result, there in ((begun, True), (later, False)):
        said = "".join(best_lines(result))
        report = study_report(result.spec, result.folders, result.study, {})
        page = report.document()
        assert result.best.params == best and "width=3 rate=0.2 epochs=8" in said
        assert "<li><span>width</span> 3</li>" in page and '<th scope="row">width</th>' in page
        assert '<th scope="col">width</th>' in page
        assert ("and `hpo run` continues it" in said) == ("For longer training" in page) == there
    assert "width" not in varying({**best, "width": 1}, later.spec.space.constants)
    whole = place.run(name="whole", prefix_safe=False, search_space=space, start_with=[best])
    why = "trains it from the start, as an epoch of it depends on how many follow"
    assert "".join(best_lines(whole)).endswith(f"and `hpo run` {why}")


def test_a_retry_that_the_file_no_longer_allows_is_neither_started_nor_paid_for(place: Place) -> None:
    (failing := place.folder / "failing").write_text("crashed")
    begun = place.run(search_space=SPACE, budget={"trials": 1})
    failing.unlink()
    with Journal.open(begun.folders.journal) as journal:
        journal.put("retried", "[0]")  # a run with --retry-failed that was killed at once
    rate = begun.study.trials[0].params["rate"]
    study = place.run(search_space=SPACE, constraints=[f"rate != {rate}"], budget={"trials": 2}).study
    assert len(study) == 2
    assert study.trials[1].params["rate"] != rate


def test_a_trial_that_failed_before_its_first_epoch_is_compared_with_what_it_was_started_in(place: Place) -> None:
    code = place.folder / "studied_trainer.py"
    code.write_text(TRAINER.replace('drift = job.params["rate"]', 'drift = job.params["rat"]'))
    result = place.run(search_space=SPACE, budget={"trials": 1}, execution={"engine": "local"}, workers=1)
    assert (result.study.trials[0].outcome, result.study.trials[0].reports) == (Outcome.CRASHED, ())
    code.write_text(TRAINER)
    difference, changed = reproduce.lines(reproduce.reproduce(result, 0))
    assert difference.endswith("after epoch 4 it ended as ok; then it was crashed")
    assert changed.startswith("changed since: user_code ")


def test_a_checkpoint_is_not_made_again_by_another_version(
    tmp_path: Path, trained: Result, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (checkpoint := trained.checkpoint()).unlink()
    monkeypatch.setattr(provenance, "TRAINER", 1000)
    run(trained.spec, RunOptions(tmp_path))
    assert any("is gone, and is made by the same versions only, got trainer" in line for line in caplog.messages)
    assert not checkpoint.exists()


def test_a_training_in_bf16_has_a_key_of_its_own_and_one_in_fp32_the_key_it_had_before_there_was_another() -> None:
    plain, bf16 = (provenance.numerics("data", "cpu", "loss", False, "none", bits, ()) for bits in ("fp32", "bf16"))
    first = {"data", "device", "loss", "class_weights", "trainer", "user_code", "torch", "machine", "threads"}
    assert plain.keys() == first
    assert bf16 == {**plain, "precision": "bf16"}


def history(result: Result) -> History:
    followed = History(tracked_study(result.spec, result.folders))
    for event in read_events(result.folders.journal):
        followed.apply(event)
    return followed


@pytest.mark.parametrize("kind", ["", ", none of them a regression,"])
def test_what_a_search_knew_is_recorded_and_one_resumed_with_another_prior_says_so_and_goes_on(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(tmp_path, 60, 2)
    data = {"source": str(tmp_path / "data.npz"), "regression": bool(kind)}
    ran = on_data(tmp_path, data=data, warm_start="builtin")
    known, recorded = f"{prior.load()}{kind}", ran.study.environments[-1]
    assert (recorded["engine"], recorded["known"]) == (ENGINE, known)
    assert f"prior: it begins with what {known} have shown" in [*check_study(ran.spec, False)]
    assert (ran.folders.study / "priors" / f"{recorded['prior']}.npz").exists()
    tags = study_run(history(ran), live=False, comparison=None).tags
    assert (tags["hpo.prior"], tags["hpo.engine"], tags["hpo.known"]) == (recorded["prior"], str(ENGINE), known)
    assert tags["hpo.precision"] == "fp32"
    report = study_report(ran.spec, ran.folders, ran.study, {}).document()
    assert f"The search began with what {known} have shown." in report
    assert status_json(statuses(ran.spec, tmp_path)[0])["known"] == known.removesuffix(",")
    assert caplog.messages == []
    again = on_data(tmp_path, data=data, budget={"trials": 3}, strategy="bayesian", warm_start="none")
    assert (len(again.study), again.study.environments[-1]["prior"]) == (3, "none")
    assert caplog.messages == [
        f"tiny/bayesian-0: prior {recorded['prior']} -> none since the last run; the search goes on with what it is now",
        "strategy bayesian searches as tpe, because warm_start is none",
    ]


def test_which_recorded_task_a_study_is_like_is_in_the_report_in_mlflow_and_said_with_the_best(tmp_path: Path) -> None:
    """Pictures of a recorded task, trained here: templates, in which a convolution has nothing to find."""
    data = TASKS["templates-10-8"].dataset()
    np.savez(tmp_path / "data.npz", X=data.images, y=data.targets)
    space: dict[str, Any] = {"blocks": [0, 1, 2], "channels": [4, 16], "activation": ["relu", "tanh", "sigmoid"]}
    space |= {"dense_layers": [0, 1], "batch_norm": ["off", "before"], "optimizer": ["sgd", "adam", "rmsprop"]}
    space |= {"batch_size": [16, 64], "epochs": 4, "learning_rate": {"min": 1e-4, "max": 0.3, "log": True}}
    stops = {"strategy": "random", "early_stopping": {"type": "predictive", "min_epochs": 3}}
    ran = on_data(tmp_path, search_space=space, budget={"total_epochs": 120}, **stops)
    report = study_report(ran.spec, ran.folders, ran.study, {}).document()
    (said,) = re.findall(r"have shown\. (The prior was right about .* cases; .*?\.)<", report)
    assert "; the study is most like templates" in said
    assert study_run(history(ran), live=False, comparison=None).tags["hpo.learned"] == said
    (tmp_path / "study.yaml").write_text(ran.spec.text)
    assert said in hpo(tmp_path, "best").stdout.replace("\n", " ")


def test_a_search_learns_from_earlier_studies_and_goes_on_with_what_it_knew_when_they_have_grown_or_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole or in pieces the trials are the same; what it began with is in the journal, the report and status."""
    write_data(tmp_path, 60, 2)
    space = {**TINY["search_space"], "learning_rate": {"min": 1e-4, "max": 1e-1, "log": True}, "epochs": [1, 2]}
    common: dict[str, Any] = {"search_space": space, "early_stopping": "predictive"}
    warm = common | {"warm_start": ["builtin", "studies"], "name": "second"}
    on_data(tmp_path, **common, name="first", budget={"total_epochs": 12})
    on_data(tmp_path, **common, name="first", budget={"total_epochs": 9}, strategy="random", seed=3)
    shutil.copytree(tmp_path, other := tmp_path.parent / f"{tmp_path.name}-other")
    whole = on_data(other, **warm, budget={"total_epochs": 12})
    begun = on_data(tmp_path, **warm, budget={"total_epochs": 5})
    known = f"{prior.load()} and earlier studies (first)"
    assert begun.study.environments[-1]["known"] == known == status_json(statuses(begun.spec, tmp_path)[0])["known"]
    report = study_report(begun.spec, begun.folders, begun.study, {}).document()
    assert f"The search began with what {known} have shown." in report
    yours = f"{prior.load()} and your earlier studies"
    assert f"prior: it begins with what {yours} have shown" in [*check_study(begun.spec, False)]
    shutil.rmtree(tmp_path / "studies" / "first")
    on_data(tmp_path, **common, name="third")
    again = on_data(tmp_path, **warm, budget={"total_epochs": 12})
    assert params_of(again.study) == params_of(whole.study)
    assert len({one["prior"] for one in [*again.study.environments, *whole.study.environments]}) == 1
    assert again.study.environments[-1]["prior"] != prior.load().digest
    assert [line for line in caplog.messages if "budget" not in line] == []
    with pytest.raises(Conflict, match="it has learned from earlier studies, which a comparison and another"):
        compare.compare_strategies(replace(again.spec, compare=COMPARED), RunOptions(tmp_path))
    (kept,) = (tmp_path / "studies" / "second" / "priors").glob("*")
    prior.load.cache_clear()
    kept.write_bytes(kept.read_bytes()[:-50])
    with pytest.raises(EnvironmentFailed, match="is not the file that the study began with; restore it"):
        on_data(tmp_path, **warm, budget={"total_epochs": 13})


def test_what_cannot_be_learned_from_is_said_in_a_line_and_a_comparison_learns_from_no_study(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(tmp_path, 60, 2)
    warm: dict[str, Any] = {"warm_start": ["builtin", "studies"]}
    said = "; it takes a study of cnn that reports val_accuracy and still has its data"
    alone = on_data(tmp_path, **warm, name="alone")
    assert caplog.messages == [f"warm_start: nothing is learned from {tmp_path}, which has no other study{said}"]
    assert alone.study.environments[-1]["known"] == str(prior.load())
    caplog.clear()
    place.run(name="own-trainer")
    shutil.rmtree(tmp_path / "studies" / "alone" / "data")
    on_data(tmp_path, **warm)
    assert [line for line in caplog.messages if "warm_start" in line] == [
        f"warm_start: nothing is learned from own-trainer and alone{said}"
    ]
    caplog.clear()
    place.run(name="names-of-its-own", strategy="bayesian", **warm)
    because = "because the learned prior says nothing of a trainer of your own"
    line = f"strategy bayesian searches as tpe and warm_start learns from no earlier study, {because}"
    assert line in caplog.messages
    new = {"data": str(tmp_path / "data.npz"), "name": "compared", "budget": {"total_epochs": 4}}
    spec, known = api.load({**TINY, **warm, **new}), str(prior.load())
    compared = compare.compare_strategies(replace(spec, compare=COMPARED), RunOptions(tmp_path), rescore=False)
    assert {one.study.environments[-1].get("known", known) for one in compared.results} == {known}


def test_trials_count_as_epochs_where_one_may_be_one_epoch_and_points_without_prefixes_are_trained_whole(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    ran = place.run(early_stopping="predictive", budget={"trials": 4})
    most = in_epochs(ran.spec, 4)
    assert ran.study.epochs == most == total_epochs(ran.spec)
    assert most == pytest.approx(4 * (2 + 4 + 8) / 3, rel=0.03)
    assert caplog.messages == [
        f"budget: 4 trials count as {most} epochs, their mean length each, because with early_stopping: predictive a trial "
        "may end after one",
        "early_stopping predictive stops as asha, because the learned prior says nothing of a trainer of your own",
    ]
    caplog.clear()
    given = place.run(early_stopping="predictive", budget={"total_epochs": 20}, seed=1)
    assert (given.study.epochs, len(caplog.messages)) == (20, 1)
    assert not [note for note in notes(given.spec, 4) if "total_epochs" in note]
    needed = in_epochs(given.spec, 40)
    assert [note for note in notes(given.spec, 40) if "total_epochs" in note] == [
        f"budget: total_epochs (20) may end the study before its 40 trials, which take {needed} epochs at their mean length; "
        f"raise it: --set budget.total_epochs={needed}"
    ]
    caplog.clear()
    whole = place.run(early_stopping="predictive", prefix_safe=False, budget={"total_epochs": 24}, seed=2)
    assert "early_stopping: no point is stopped early" in caplog.text
    assert "asha" not in caplog.text
    cut = [trial for trial in whole.study.trials if trial.state is not State.COMPLETE]
    assert len(cut) <= 1, "the budget may end within the last one"
