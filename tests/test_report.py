"""The report: what it says, that every figure is there, and that a browser shows it as a user should see it."""

import base64
import hashlib
import html
import io
import itertools
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import chromium
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import GOAL, events, scored
from matplotlib.figure import Figure
from PIL import Image

from hpo.comparison.compare import Comparison, compare, curve
from hpo.core import Ended, Event, Goal, Outcome, Params, Report, Reported, Started, State, Study, Trial, without_epochs
from hpo.engine.result import diagnoses, trials_table
from hpo.formatting import number
from hpo.report import figures, findings
from hpo.report.document import StudyReport, comparison_document, comparison_picture
from hpo.report.figures import ModelFigures
from hpo.report.findings import Edge
from hpo.report.page import DARK, LIGHT, Picture
from hpo.space.domains import Choice, Condition, Parameter, ParameterSpec, Range
from hpo.space.space import Space

SPACE = Space(
    (
        Parameter("learning_rate", Range(1e-4, 1e-1, integer=False, log=True)),
        Parameter("batch_size", Choice((16, 32, 64, 128))),
        Parameter("activation", Choice(("relu", "leaky_relu", "tanh", "sigmoid"))),
        Parameter("leaky_slope", Range(0.01, 0.3, integer=False), (Condition("activation", ("leaky_relu",)),)),
        Parameter("dropout", Range(0.0, 0.6, integer=False)),
        Parameter("blocks", Choice((1, 2, 3))),
        Parameter("batch_norm", Choice((True, False))),
        Parameter("optimizer", Choice(("adam",))),
        Parameter("epochs", Choice((5, 10, 20))),
    )
)
SMALL = Space(SPACE.parameters[:1] + SPACE.parameters[-1:])  # for what is said rather than drawn


def made(trials: int = 40, seed: int = 3, story: Sequence[Event] | None = None, space: Space = SMALL) -> StudyReport:
    story, facts = events(trials, seed) if story is None else story, {"Data": "digits", "Model": "cnn"}
    return StudyReport("digits-cnn", "bayesian", 0, GOAL, space, story, facts=facts)


def ended(number: int, params: Params, value: float, state: State = State.COMPLETE, error: str = "") -> list[Event]:
    """One trial of one epoch."""
    key = f"t{number}"
    outcome = Outcome.DIVERGED if state is State.FAILED else Outcome.OK
    report_ = Reported(key, Report(1, {"val_accuracy": value}, 0.1, 0.0))
    start = Started(0.0, number, {**params, "epochs": 5}, 0, key, 0, 5)
    return [start, report_, Ended(0.0, number, state, outcome, error)]


def listing(*rows: Any) -> list[Event]:
    """Trials of one epoch each; a row is what `ended` takes besides the number."""
    return [event for number, row in enumerate(rows) for event in ended(number, *row)]


def lined_up(rates: Sequence[float], best_high: bool = True) -> list[Event]:
    """Trials that differ in learning_rate only; the higher, the better."""
    return listing(*(({"learning_rate": rate}, rate if best_high else -rate) for rate in rates))


@cache
def compared() -> Comparison:
    curves = [curve("bayesian", s, events(30, s, lift=0.5), GOAL) for s in range(4)]
    curves += [curve("random", s, events(70, s + 50), GOAL) for s in range(4)]
    doubled = [curve("random-x2", s, events(140, s + 50), GOAL) for s in range(4)]
    return compare(curves, GOAL, margin=0.002, budget=250, doubled=doubled, scope="digits")


def seen(trial: int = 0) -> ModelFigures:
    rng = np.random.default_rng(0)
    return ModelFigures(
        trial=trial,
        classes=tuple(f"kind <{i}>" for i in range(3)),
        filters=rng.normal(size=(6, 1, 3, 3)),
        samples=rng.random((2, 1, 8, 8)),
        maps=rng.random((2, 6, 6, 6)),
        confusion=np.diag([9] * 3) + 1,
        mistakes=rng.random((3, 1, 8, 8)),
        truth=np.array([0, 1, 2]),
        guess=np.array([1, 2, 0]),
        confidence=np.array([0.99, 0.8, 0.6]),
    )


# -- the whole page ----------------------------------------------------------------------------------------------


@given(st.text(max_size=30))
def test_any_text_comes_back_out_of_the_markup(text: str) -> None:
    page = StudyReport(text, "grid", 0, GOAL, SMALL, []).document()
    said = re.search(r"<title>([^<>]*): grid</title>.*<h1>([^<>]*) · grid, seed 0</h1>", page, re.DOTALL)
    assert said
    assert {html.unescape(one) for one in said.groups()} == {text}


@pytest.mark.parametrize("trials", [0, 1, 3, 500])
def test_any_number_of_trials_has_a_report(trials: int) -> None:
    text = made(trials, space=SPACE).document()
    assert text.endswith("</html>\n")
    assert len(text) < 2_000_000
    assert text.count("<tr") >= trials


def test_a_page_requests_nothing_and_a_comparison_alone_has_one() -> None:
    study, comparison = replace(made(5), model=seen()).document(), comparison_document("digits", compared())
    for text in (study, comparison):
        assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
        assert "http" not in text.replace("http-equiv", "")
        assert "@import" not in text
    assert "finished trials are too few; 20 are needed." in plain(study)
    assert plain(comparison).count("The usual ranking (bayesian, random) ") == 1
    assert "Search space" not in plain(comparison)
    assert "random x2" in plain(comparison)


def test_the_top_says_the_best_trial_its_params_and_how_often_the_test_split_was_evaluated() -> None:
    story = events(20)
    best = GOAL.best(Study(story).trials)
    text = plain(made(story=scored(story, best.number, 0.9778)).document())
    assert f"Best of 20 trials: trial {best.number}, val_accuracy {GOAL.value(best):.4f}" in text
    assert "The test split was evaluated once; this trial scored test_accuracy 0.9778." in text
    assert f"learning_rate {number(float(best.params['learning_rate']))}" in text
    assert "Status budget spent" in text
    other = (best.number + 1) % 20
    text = plain(made(story=scored(scored(story, other), other)).document())
    assert f"The test split was evaluated twice, for trial {other}, but not for this trial." in text
    assert "The test split has not been evaluated." in plain(made().document())


REUSED = [replace(event, reused=True) if isinstance(event, Reported) else event for event in events(3)]
RUNNING = list(itertools.takewhile(lambda event: not (isinstance(event, Ended) and event.trial == 5), events(6)))


@pytest.mark.parametrize(
    ("story", "sentences"),
    [
        (
            listing(*[({"learning_rate": 0.05}, 0.1, State.FAILED, "loss 3e+08")] * 5),
            ["No result yet. 5 trials: 5 failed (5 diverged).", "diverged: loss 3e+08 (trials 0, 1, 2, 3 and 4)"],
        ),
        (
            listing(*(({"learning_rate": 0.05}, 0.1 * i, State.PRUNED) for i in range(3))),
            ["those trained longest, the best is trial 2, val_accuracy 0.2000, epoch 1 of 5; counts from epoch 5 on"],
        ),
        (
            listing(({}, 0.1), ({}, 0.2, State.PRUNED), ({}, 0.05, State.PRUNED)),
            ["trial 0, val_accuracy 0.1000, epoch 1 of 5 ", "1 pruned, epoch 1 of 5; counts from", "2 pruned 0.05"],
        ),
        (REUSED, [f"{Study(REUSED).epochs} ({Study(REUSED).epochs} reused)"]),
        (RUNNING, ["Status running", "1 running"]),
    ],
    ids=["failed", "pruned", "ahead", "reused", "running"],
)
def test_a_study_of_any_kind_says_how_it_stands(story: list[Event], sentences: list[str]) -> None:
    text = made(story=story).document()
    assert all(sentence in plain(text) for sentence in sentences)
    assert ("<svg" in text) == bool(GOAL.ranked(Study(story).trials))


NASTY = '<script>alert("x")</script>&amp;<b>'


def test_names_with_html_in_them_are_shown_and_never_run() -> None:
    nasty = Parameter(NASTY, Choice((NASTY, "b", "<img src=x onerror=alert(1)>")))
    space = Space((nasty, Parameter("epochs", Choice((5, 6)))))
    states = (State.FAILED, State.COMPLETE, State.COMPLETE)
    rows = [({NASTY: (NASTY, "b")[i % 2]}, i / 20, states[i % 3], NASTY) for i in range(12)]
    texts = {"facts": {NASTY: NASTY}, "diagnoses": {1: NASTY}}
    text = StudyReport(NASTY, NASTY, 0, GOAL, space, listing(*rows), **texts).document()
    assert text.count("<script>") == 1
    assert "<img src=x" not in text
    assert "<b>" not in re.sub(r"<b>[\d.]+</b>", "", text)
    assert NASTY in html.unescape(text)


def test_the_same_study_gives_the_same_page_and_only_its_own_script_may_run() -> None:
    text = made(12).document()
    assert made(12).document() == text
    drawn = {picture.name: picture.svg() for picture in made(12).search_pictures}
    assert replace(made(12), drawn=drawn).document() == text, "pictures drawn before the model is published stand in it"
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text
    assert "default-src 'none'" in text


def test_diagnoses_levels_of_a_range_and_tallies_are_said() -> None:
    story = listing(({"learning_rate": 0.001}, 0.9), ({"learning_rate": 0.01}, 0.95))
    sentences = {2: "", 0: "too slow: loss still falling 4 % an epoch", 1: "too slow: loss still falling 9 % an epoch"}
    text = plain(replace(made(story=story), diagnoses=sentences).document())
    assert "From the curves and probes of 2 trials; the best trial of each kind comes first." in text
    assert "too slow: trials 1 and 0; in trial 1: loss still falling 9 % an epoch" in text
    rate = Parameter("learning_rate", Range(1e-3, 1e-1, integer=False, log=True, count=5))
    assert "from 0.001 to 0.1, log scale, 5 values" in plain(made(3, space=Space((rate,))).document())
    assert findings.tally(Study(events(100, 3)).trials) == "100 trials: 88 complete, 8 pruned and 4 failed (4 diverged)"
    assert findings.tally([]) == "no trials yet"


def plain(text: str) -> str:
    """The words of a page."""
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", text, flags=re.DOTALL)
    words = html.unescape(re.sub(r"<[^>]+>", " ", body))
    return re.sub(r" ([.,;])", r"\1", " ".join(words.split()))


# -- figures -----------------------------------------------------------------------------------------------------


def test_every_figure_is_on_the_page_and_comes_as_png() -> None:
    whole = replace(made(space=SPACE), model=seen())
    drawn = {picture.name: picture for picture in whole.pictures()}
    assert list(drawn) == [
        "best-so-far",
        "learning-curves",
        "importances",
        *(f"slice-{i}" for i in range(8)),
        *(f"best-{of}" for of in ("learning", "confusion", "mistakes", "filters", "maps")),
    ]
    text = whole.document()
    assert text.count("<svg") == len(drawn)
    for name in ("best-so-far", "best-mistakes", "slice-0"):
        with Image.open(io.BytesIO(drawn[name].png())) as image:
            assert image.size[0] > 300
            assert len(image.convert("L").getcolors(1 << 16) or []) > 3


def test_a_figure_has_the_page_s_own_colours_and_leaves_the_look_of_others_alone() -> None:
    """Else a dark page would have dark text on it."""
    before = dict(mpl.rcParams)
    assert LIGHT.keys() == DARK.keys()
    for picture in [*made(20).pictures(), comparison_picture(compared())]:
        svg = picture.svg()
        assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)) - {"#ffffff"}, picture.name
        assert "var(--" in svg
        assert html.escape(picture.label) in svg
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("domain", "ticks"),
    [
        (Range(1e-4, 1e-1, integer=False, log=True), ["1e-4", "0.001", "0.01", "0.1"]),
        (Range(2, 9, integer=True, log=True), ["3", "6", "9"]),
        (Range(0.0, 0.6, integer=False), ["0", "0.2", "0.4", "0.6"]),
        (Choice(("relu", "tanh")), ["relu", "tanh"]),
    ],
)
def test_a_slice_has_ticks_in_the_parameter_s_own_numbers(domain: Range | Choice, ticks: list[str]) -> None:
    value = domain.values[0] if isinstance(domain, Choice) else domain.low
    trials = Study(listing(({"x": value}, 0.5), ({"x": value}, 0.6))).trials
    (axes,) = figures.slice_of(Parameter("x", domain), GOAL.ranked(trials), [], GOAL).axes
    low, high = axes.get_xlim()
    assert [t.get_text() for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high * (1 + 1e-9)] == ticks


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.1))
def test_labels_keep_their_distance_and_their_order(places: list[float], distance: float) -> None:
    placed = figures.spread(sorted(places), distance)
    assert all(above - below >= distance - 1e-9 for below, above in itertools.pairwise(placed))
    assert math.isclose(sum(placed), sum(places), abs_tol=1e-9), "around their own places, not away from them"
    inside = figures.spread(sorted(places), 0.1, 0.0, 1.0)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in inside)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.booleans())
def test_a_window_holds_the_best_and_most_of_the_rest(values: list[float], maximize: bool) -> None:
    goal = Goal(maximize=maximize)
    low, high = figures.window(values, goal)
    assert low <= (max(values) if maximize else min(values)) <= high
    assert sum(low <= value <= high for value in values) >= 0.7 * len(values)
    assert low < high
    assert figures.window([*(0.9 + 0.002 * i for i in range(20)), 0.1], GOAL)[0] > 0.8  # far off: counted, not drawn


def test_metrics_that_are_not_numbers_break_no_figure() -> None:
    story: list[Event] = []
    for i in range(12):
        start, _, end = ended(i, {"learning_rate": 0.01}, 0.5)
        story.append(start)
        for epoch, value in ((1, 0.5), (2, math.nan), (3, math.inf if i == 3 else 0.6 + i / 100)):
            metrics = {"val_accuracy": value, "val_loss": value, "train_loss": math.inf}
            story.append(Reported(f"t{i}", Report(epoch, metrics, 0.1, 0.0)))
        story.append(end)
    assert made(story=story).document().count("<svg") >= 3


@pytest.mark.parametrize("draw", ["learning_curves", "learning"])
def test_a_name_beside_a_curve_that_ends_in_nan_has_room(draw: str) -> None:
    values = [0.3, 0.4, *[math.nan] * 10]
    reports = tuple(Report(i + 1, {"val_accuracy": one, "val_loss": one}, 1.0, 1.0) for i, one in enumerate(values))
    trial = Trial(0, {"epochs": 12}, 0, "key", 12, reports)
    figure = figures.learning(reports) if draw == "learning" else figures.learning_curves([trial], 0, GOAL)
    figure.savefig(io.BytesIO(), format="png")  # a warning of matplotlib is an error here
    assert figure.axes[0].get_xlim()[1] >= 12
    few = figures.learning(reports[:2]).axes[0]
    assert all(tick == int(tick) for tick in few.get_xticks()), "there is no epoch 1.5"


def test_a_curve_is_named_at_its_end_with_those_that_end_there_too_and_none_hides_another() -> None:
    def trial(number: int, *values: float) -> Trial:
        curve = (Report(i, {"val_accuracy": v, "val_macro_f1": v}, 1.0, 0.0) for i, v in enumerate(values, 1))
        return Trial(number, {"epochs": 9}, 0, f"t{number}", 9, tuple(curve))

    trials = [trial(0, *[0.1] * 3), *(trial(n, 0.9, 0.95) for n in (1, 2)), *(trial(n, 0.8, 0.9, 0.96) for n in (3, 4))]
    trials += [trial(n, 0.91, 0.94, 0.9) for n in (5, 6, 7)]
    (axes,) = figures.learning_curves(trials, 4, GOAL).axes
    low, high = axes.get_ylim()
    named = {text.get_text(): text.xy for text in axes.texts}  # type: ignore[attr-defined]  # annotations
    ends = {"1, 2": (2, 0.95), "trial 4": (3, 0.96), "3": (3, 0.96), "5, 6, 7": (3, 0.9)}
    assert named.keys() == ends.keys()
    assert all(named[name][0] == x and abs(named[name][1] - y) < 0.05 * (high - low) for name, (x, y) in ends.items())
    assert axes.get_title(loc="right") == "1 further below", "and no text lies where a point may be"
    story = [
        *events(6),
        Started(0.0, 6, {"epochs": 9}, 0, "t", 0, 9),
        Reported("t", Report(1, {"val_accuracy": 0}, 1, 1)),
    ]
    (axes,) = made(story=story).pictures()[0].figure().axes
    assert axes.lines[0].get_xdata()[-1] == Study(story).epochs, "a line goes on while nothing ends"
    lines = figures.learning(trials[1].reports).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2
    assert [line.is_dashed() for line in lines] == [False, True]


# -- the best trial --------------------------------------------------------------------------------------------------


def test_model_figures_survive_their_file_and_a_torn_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "best.npz"
    assert ModelFigures.open(path) is None
    arrays: Any = asdict(seen(4))
    np.savez_compressed(path, **arrays)
    back = ModelFigures.open(path)
    assert (back.trial, back.classes) == (4, ("kind <0>", "kind <1>", "kind <2>"))
    assert np.array_equal(back.maps, seen().maps)
    whole = path.read_bytes()
    for left in (0, 1, 100, 1_000):
        path.write_bytes(whole[:left])
        assert ModelFigures.open(path) is None, left


def test_any_number_of_channels_classes_and_arrays_is_drawn() -> None:
    assert figures.pictures_of(ModelFigures(0)) == []
    only = ModelFigures(0, filters=np.zeros((2, 3, 5, 5)))
    assert [picture.name for picture in figures.pictures_of(only)] == ["best-filters"]
    assert "<image" in figures.pictures_of(only)[0].svg()
    drawn = texts(figures.confusion(ModelFigures(0, ("cat", "dog"), confusion=np.array([[24, 0], [3, 21]]))))
    assert [text for text in drawn if text.isdigit()] == ["24", "3", "21"]
    many = ModelFigures(0, tuple(map(str, range(100))), confusion=np.eye(100))
    assert Picture("x", "x", lambda: figures.confusion(many)).svg()
    # warnings are errors here
    foreign = ModelFigures(0, ("собака 犬", "Kätzchen"), confusion=np.array([[24, 0], [3, 21]]))
    picture = Picture("x", "x", lambda: figures.confusion(foreign))
    assert "犬" in picture.svg()
    assert picture.png()


def test_mistakes_name_the_true_and_the_predicted_class() -> None:
    drawn = texts(figures.mistakes(seen()))
    assert "true kind <0>\npred. kind <1>\n99 %" in drawn
    short = replace(seen(), classes=("0", "1", "2"))
    assert "true 0\npred. 1 99 %" in texts(figures.mistakes(short))
    long = replace(seen(), classes=("striped pullover", "ankle boot", "2"))
    assert "true strip…lover\npred. ankle boot\n99 %" in texts(figures.mistakes(long))
    numbers = replace(seen(), classes=(), truth=np.array([3.2]), guess=np.array([5.1]), mistakes=seen().mistakes[:1])
    assert texts(figures.mistakes(numbers)) == ["true 3.2\npred. 5.1"]


@pytest.mark.parametrize("count", [2, 12, 40])
def test_long_names_are_told_apart_and_leave_a_figure_its_room(count: int) -> None:
    names = tuple(f"tomato leaf with the yellow curl virus, kind {i:02}" for i in range(count))
    matrix = figures.confusion(replace(seen(), classes=names, confusion=np.diag([9] * count) + 1))
    strategies = [replace(one, strategy=name) for one, name in zip(compared().strategies, names, strict=False)]
    bands = dict(zip(names, compared().bands.values(), strict=False))
    lines = figures.compared(replace(compared(), bands=bands, strategies=strategies))
    bars = figures.importances(dict.fromkeys(names, 0.5))
    for figure, least in ((matrix, 2.0), (lines, 5.0), (bars, 5.0)):
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().width * figure.get_figwidth() > least
        assert {"tomato leaf …us, kind 00", "tomato leaf …us, kind 01"} <= {*texts(figure), *labels(figure)}
    trials = Study(listing(*(({"kind": name}, 0.5) for name in names))).trials
    slice_ = figures.slice_of(Parameter("kind", Choice(names)), trials, [], GOAL)
    slice_.draw_without_rendering()
    boxes = [label.get_window_extent() for label in slice_.axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_filters_of_any_number_of_channels_are_drawn(channels: int) -> None:
    figure = figures.filters(np.random.default_rng(0).normal(size=(40, channels, 3, 3)))
    assert len(figure.axes[0].images) == figures.MOST_FILTERS


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# -- findings ----------------------------------------------------------------------------------------------------


def test_what_decides_is_the_most_important_and_without_importances_there_is_a_reason() -> None:
    found = findings.importances(Study(events(100)).trials, GOAL, SPACE)
    assert next(iter(found.shares)) == "learning_rate"
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert "optimizer" not in found.shares  # a constant
    assert "leaky_slope" in found.shares  # a conditional one
    few, same = "finished trials are too few; 20 are needed", "all trials have the same value"
    for reason, story in ((few, events(4)), (same, lined_up([0.01] * 24))):
        found = findings.importances(Study(story).trials, GOAL, SPACE)
        assert found.shares == {} and reason in found.reason


def test_a_parameter_that_few_trials_had_gets_no_importance() -> None:
    """Two of eleven trials with leaky ReLU once decided 89 % of everything."""
    slopes = [{"leaky_slope": 0.1}, {"leaky_slope": 0.2}] + [{}] * 22
    rows = [({"learning_rate": 0.001 * (1 + i), **slope}, i / 30) for i, slope in enumerate(slopes)]
    space = Space(tuple(Parameter(name, Range(0.001, 0.3, False)) for name in ("learning_rate", "leaky_slope")))
    found = findings.importances(Study(listing(*rows)).trials, GOAL, space)
    assert {*found.shares} == {"learning_rate"}


RATES = [0.001, 0.002, 0.004, 0.01, 0.02, 0.0487, 0.0521, 0.06, 0.08, 0.09, 0.0011, 0.03]
KINDS = ["relu", "tanh", "sigmoid"] * 10


@pytest.mark.parametrize(
    ("points", "diverged", "sentence"),
    [
        (
            [{"learning_rate": rate} for rate in RATES],
            [6, 7, 8, 9],
            "All 4 diverged trials have learning_rate above 0.05; none of the 8 others does.",
        ),
        (
            [{"activation": kind, "learning_rate": 0.01 + 0.001 * (i % 7)} for i, kind in enumerate(KINDS)],
            range(5, 30, 3),
            "All 9 diverged trials have activation sigmoid; 1 of the 21 others does.",
        ),
        (  # two of twelve, both with a high rate, is nothing: 1 in 66 for each of some dozen rules
            [{"learning_rate": 0.001 * (i + 1)} for i in range(12)],
            [10, 11],
            "No single parameter sets the 2 diverged trials apart from the others.",
        ),
    ],
)
def test_what_diverged_trials_have_in_common(points: list[Params], diverged: Sequence[int], sentence: str) -> None:
    states = [State.FAILED if i in diverged else State.COMPLETE for i in range(len(points))]
    story = listing(*((params, 0.5, state) for params, state in zip(points, states, strict=True)))
    assert findings.in_common(Study(story).trials, SPACE) == [sentence]


@given(st.floats(1e-4, 1.0), st.floats(1.0001, 1.5))
def test_the_shortest_number_lies_in_its_gap(low: float, factor: float) -> None:
    assert low <= findings.shortest(low, low * factor) < low * factor
    assert findings.shortest(0.0487, 0.0521) == 0.05


def test_what_is_said_of_the_best_is_said_of_trials_that_count_while_they_rest() -> None:
    complete = Study(lined_up(HIGH)).trials
    paused = [replace(trial, state=State.PAUSED) for trial in complete]
    goal = replace(GOAL, epochs={trial.epoch for trial in complete})
    assert findings.edges(paused, goal, SPACE, {}) == findings.edges(complete, goal, SPACE, {}) != []
    assert findings.edges(paused, GOAL, SPACE, {}) == [], "no epoch of theirs counts"


# -- bounds ------------------------------------------------------------------------------------------------------


def limiting(story: list[Event], space: Space = SPACE, known: dict[str, ParameterSpec] | None = None) -> list[Edge]:
    return findings.edges(findings.within(Study(story), space), GOAL, space, known or {})


HIGH = [0.1, 0.098, 0.095, 0.09, 0.085, 0.01, 0.001, 0.002, 0.003, 0.0004, 0.0005]


def test_the_best_trials_at_an_edge_are_a_hit_unless_chance_could_put_them_there() -> None:
    (edge,) = limiting(lined_up(HIGH))
    assert edge == Edge("learning_rate", upper=True, bound=0.1, at=5, of=5, wider=0.3)
    said = "learning_rate at 0.1, its upper bound: 5 of the 5 best trials are there; try 0.3"
    where = "Move them in a copy of the study file that has another name: "
    assert f"{where}{said}" in plain(made(story=lined_up(HIGH)).document())
    (edge,) = limiting(lined_up([1e-4 * 1.05**i for i in range(6)] + [0.01] * 6, best_high=False))
    assert (edge.upper, edge.wider) == (False, 3e-5)
    assert limiting(lined_up([0.01 + 0.0001 * i for i in range(12)])) == []  # in the middle
    assert limiting(lined_up(HIGH[:9])) == []  # too few to say
    assert limiting(lined_up([0.1, 0.001, 0.002, 0.003, 0.004, *HIGH[5:]])) == []  # the best one by chance


def test_random_trials_hit_nothing() -> None:
    """Twenty studies whose values have nothing to do with their params: 0.3 hits expected; 3 has odds of 1 in 280."""
    found = 0
    for seed in range(20):
        rng = random.Random(seed)
        found += len(limiting(listing(*((without_epochs(SPACE.sample(rng)), rng.random()) for _ in range(40)))))
    assert found <= 2, found


def test_no_bound_is_widened_beyond_its_meaning_and_a_choice_gets_one_more_of_its_kind() -> None:
    space = Space((Parameter("dropout", Range(0.0, 0.9, integer=False)),))
    story = listing(*(({"dropout": 0.9 - i / 100}, 1 - i / 100) for i in range(12)))
    assert [edge.wider for edge in limiting(story, space)] == [1.35]
    for high, open_high, wider in ((1, True, [0.95]), (1, False, [1.0]), (0.9, False, [])):
        known = {"dropout": ParameterSpec(0.1, "float", low=0, high=high, open_high=open_high)}
        assert [edge.wider for edge in limiting(story, space, known)] == wider
    space = Space((Parameter("batch_size", Choice((16, 32, 64, 128))), Parameter("depth", Choice((1, 2, 3, 4)))))
    points = [{"batch_size": 128, "depth": 1}] * 12 + [{"batch_size": 32, "depth": 2}] * 48
    story = listing(*((params, 1 - i / 100) for i, params in enumerate(points)))
    found = {edge.name: edge.wider for edge in limiting(story, space)}
    assert found == {"batch_size": 256}  # depth would be 0, which is no depth


def test_a_best_trial_at_the_longest_epochs_can_train_on_in_the_same_study() -> None:
    said = "add a larger value to epochs in the study file and run it again"
    story = listing(({"learning_rate": 0.01}, 0.9))  # of 5 epochs
    assert said not in plain(made(story=story).document())
    shorter = Space((*SMALL.parameters[:1], Parameter("epochs", Choice((2, 5)))))
    assert said in plain(made(story=story, space=shorter).document())


# -- the trials as a table ---------------------------------------------------------------------------------------


def test_a_row_a_trial_with_params_and_metrics_as_mlflow_names_them(tmp_path: Path) -> None:
    study = Study(events(30))
    table = trials_table(study, GOAL)
    assert list(table["trial"]) == list(range(30))
    assert {"params.learning_rate", "metrics.val_accuracy", "metrics.train_loss"} <= set(table.columns)
    assert {n: said for n, said in table["diagnosis"].items() if said} == diagnoses(study) != {}
    table.to_csv(tmp_path / "trials.csv", index=False)
    back = pd.read_csv(tmp_path / "trials.csv")
    for trial in study.trials:
        value = GOAL.value(trial)
        assert back.loc[trial.number, "value"] == pytest.approx(value)
        assert back.loc[trial.number, "params.batch_size"] == trial.params["batch_size"]


def test_a_whole_number_stays_one_where_other_trials_have_none_and_an_empty_table_has_its_columns() -> None:
    study = Study(listing(({"depth": 3}, 0.5), ({"norm": True}, 0.6), ({"rate": 1.0}, 0.7)))
    table = trials_table(study, GOAL)
    assert str(table["params.depth"].dtype) == "Int64"
    assert str(table["params.norm"].dtype) == "boolean"
    assert "3,," in table[["params.depth", "params.norm", "params.rate"]].to_csv(index=False)
    empty = trials_table(Study(), GOAL)
    assert len(empty) == 0
    assert {"trial", "state", "value", "started"} <= set(empty.columns)


# -- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    if chromium.BINARY is None:
        pytest.skip(chromium.MISSING)
    path = tmp_path_factory.mktemp("report") / "report.html"
    story = events(40)
    best = GOAL.best(Study(story).trials)
    shown = replace(made(story=scored(story, best.number), space=SPACE), model=seen(best.number))
    path.write_text(shown.document(), encoding="utf-8")
    with chromium.Chromium() as browser:
        browser.open(path.as_uri())
        yield browser


def test_the_page_opens_without_an_error_and_every_figure_has_something_in_it(opened: chromium.Chromium) -> None:
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    text = opened.text
    assert "Best of 40 trials: trial " in text
    assert "The test split was evaluated once; this trial scored test_accuracy 0.9778." in text
    headings = "Search space/Optimization history/Best trial/Parameter importance/Outcomes/What to try next/Trials"
    assert all(heading in text for heading in headings.split("/"))
    sizes = opened.run(
        "[...document.querySelectorAll('figure svg')].map(s => {"
        " const r = s.getBoundingClientRect(), marks = s.querySelectorAll('path, use, image').length;"
        " return [s.getAttribute('aria-label'), r.width, r.height, marks, s.querySelectorAll('text').length]; })"
    )
    assert len(sizes) == 16
    for label, width, height, marks, words in sizes:
        assert width > 150, label
        assert height > 20, label
        assert marks > 2, label
        assert words > 2 or "filters" in label, label


def test_a_figure_is_drawn_while_another_thread_imports_what_matplotlib_looks_into(tmp_path: Path) -> None:
    (tmp_path / "IPython.py").write_text("import time\ntime.sleep(2)\nversion_info = 9, 0")
    path = f"import sys, threading, matplotlib.backends.backend_svg; sys.path.insert(0, {str(tmp_path)!r})"
    other = "threading.Thread(target=__import__, args=('IPython',)).start()"
    draw = f"{path}; {other}; from hpo.report.page import canvas; canvas(1, 1)"
    subprocess.run([sys.executable, "-c", draw], check=True, timeout=120)


def test_the_table_is_sorted_from_the_keyboard_with_empty_cells_last(opened: chromium.Chromium) -> None:
    heads = "[...document.querySelectorAll('table.sortable th')]"
    place = opened.run(f"{heads}.findIndex(h => h.textContent == 'leaky_slope')")
    opened.run(f"document.querySelectorAll('table.sortable thead button')[{place}].focus()")
    column = f"[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[{place}].textContent)"
    for turned in (False, True):
        opened.press("Enter")
        cells = opened.run(column)
        filled = [float(cell) for cell in cells if cell]
        assert cells[len(filled) :] == [""] * (len(cells) - len(filled))
        assert filled == sorted(filled, reverse=turned)
        assert opened.run(f"{heads}[{place}].ariaSort") == ("descending" if turned else "ascending")


def test_nothing_is_wider_than_a_narrow_window(opened: chromium.Chromium) -> None:
    opened.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False)
    try:
        assert opened.run("document.documentElement.scrollWidth") <= 360
        small = opened.run(
            "[...document.querySelectorAll('figure svg text')].map(t => t.getBoundingClientRect().height)"
            ".filter(h => h > 0 && h < 7).length"
        )
        assert small == 0
    finally:
        opened.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_the_light_and_in_the_dark(opened: chromium.Chromium, scheme: str) -> None:
    """WCAG's contrast of 4.5 for everything written, in the page and in its figures."""
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    colours = opened.run(
        "(() => { const of = (e, what) => getComputedStyle(e)[what];"
        " const all = [...document.querySelectorAll('p, li, td, th, h2, dt, dd')].map(e => of(e, 'color'));"
        " const drawn = [...document.querySelectorAll('figure svg text')].map(e => of(e, 'fill'));"
        " return [of(document.body, 'backgroundColor'), [...new Set([...all, ...drawn])]]; })()"
    )
    paper, inks = colours
    assert len(inks) > 3
    on_paper = {ink: contrast(ink, paper) for ink in inks if ink != "rgb(255, 255, 255)"}  # white is written on tints
    assert min(on_paper.values()) >= 4.5, on_paper


def contrast(*colours: str) -> float:
    dark, bright = sorted(map(light, colours))
    return (bright + 0.05) / (dark + 0.05)


def light(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
