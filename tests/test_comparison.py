"""Finished studies turned into curves, verdicts and sentences; and the finalists trained again."""

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from laws import refused, tables
from made_up import GOAL, scored
from rich.console import Console

from hpo.comparison import text
from hpo.comparison.compare import RANKING, TWICE, Comparison, Curve, CurvePoint, Pair, best_so_far, compare, curve
from hpo.comparison.statistics import Advice, Finalist, Verdict, confirm
from hpo.core import Continued, Ended, Event, Goal, Outcome, Paused, Report, Reported, Started, State, Study
from hpo.errors import BadInput

LOSS = Goal(metric="val_loss", maximize=False)
TABLES = tables("comparison_tables")


def started(trial: int, epochs: int, training: str = "", until: int | None = None) -> Started:
    key = training or f"t{trial}"
    return Started(0.0, trial, {"epochs": epochs}, 0, key, 0, until or epochs)


def reported(training: str, epoch: int, value: float, reused: bool = False) -> Reported:
    return Reported(training, Report(epoch, {"val_accuracy": value, "val_loss": 1 - value}, 0.5, 0.0), reused)


def trained(trial: int, values: Sequence[float], state: State = State.COMPLETE) -> list[Event]:
    """One trial from its start to its end."""
    reports = [reported(f"t{trial}", epoch, value) for epoch, value in enumerate(values, 1)]
    return [started(trial, len(values)), *reports, Ended(0.0, trial, state)]


def made(strategy: str, seed: int, *points: tuple[int, float], epochs: int = 100) -> Curve:
    return Curve(strategy, seed, tuple(CurvePoint(e, e * 0.5, i + 1, v, i) for i, (e, v) in enumerate(points)), epochs)


@pytest.mark.parametrize(
    ("story", "points"),
    [
        (
            [*trained(0, [0.5, 0.6]), *trained(1, [0.4]), *trained(2, [0.7, 0.8, 0.9])],
            [CurvePoint(2, 1.0, 1, 0.6, 0, 2), CurvePoint(3, 1.5, 2, 0.6, 0, 2), CurvePoint(6, 3.0, 3, 0.9, 2, 3)],
        ),
        (  # a reused epoch is charged as if it had been trained
            [started(0, 2), reported("t0", 1, 0.5, True), reported("t0", 2, 0.6, True), Ended(0.0, 0, State.COMPLETE)],
            [CurvePoint(2, 1.0, 1, 0.6, 0, 2)],
        ),
        (  # only complete trials are candidates, but all are charged
            [*trained(0, [0.9], State.PRUNED), *trained(1, [0.95], State.FAILED), *trained(2, [0.5])],
            [CurvePoint(3, 1.5, 3, 0.5, 2, 1)],
        ),
        (  # trials that share a training are charged once
            [
                *(started(0, 1, "t"), reported("t", 1, 0.5), Ended(0.0, 0, State.COMPLETE)),
                *(started(1, 2, "t"), reported("t", 2, 0.6), Ended(0.0, 1, State.COMPLETE)),
                *(started(2, 1, "t"), Ended(0.0, 2, State.COMPLETE)),
            ],
            [CurvePoint(1, 0.5, 1, 0.5, 0, 1), CurvePoint(2, 1.0, 2, 0.6, 1, 2), CurvePoint(2, 1.0, 3, 0.6, 1, 2)],
        ),
        ([*trained(0, [0.9], State.PRUNED)], []),
        ([*trained(0, [math.inf]), *trained(1, [math.nan]), *trained(2, [0.5])], [CurvePoint(3, 1.5, 3, 0.5, 2, 1)]),
        ([started(0, 2), reported("t0", 1, 0.9), Ended(0.0, 0, State.FAILED, Outcome.NAN, "loss nan")], []),
    ],
)
def test_best_so_far_is_charged_in_epochs_seconds_and_trials(story: list[Event], points: list[CurvePoint]) -> None:
    assert best_so_far(story, GOAL) == points


def test_a_paused_trial_is_a_candidate_when_it_ends() -> None:
    story: list[Event] = [started(0, 2, until=1), reported("t0", 1, 0.9), Paused(0.0, 0), *trained(1, [0.3])]
    story += [Continued(0.0, 0, 2), reported("t0", 2, 0.8), Ended(0.0, 0, State.COMPLETE)]
    assert best_so_far(story, GOAL) == [CurvePoint(2, 1.0, 2, 0.3, 1, 1), CurvePoint(3, 1.5, 2, 0.8, 0, 2)]
    assert Study(story).spent == {1: 2, 0: 3}


def test_a_standing_has_the_test_score_of_its_best_trial_at_the_budget_and_no_other_trial_s() -> None:
    story: list[Event] = [*trained(0, [0.5, 0.6]), *trained(1, [0.4]), *trained(2, [0.7, 0.8])]
    story = [*scored(scored(story, 0, 0.61), 2, 0.97)]
    one = curve("random", 3, story, GOAL, fresh={(0, 2): [0.55, 0.57], (2, 2): [0.9]})
    early, late = (compared([one], GOAL, budget=budget).strategies[0] for budget in (3, 5))
    assert (early.test, early.fresh) == (0.61, pytest.approx(0.56))
    assert (late.test, late.fresh) == (0.97, 0.9)
    other = curve("random", 3, scored(story[:5], 1, 0.97), GOAL)
    assert compared([other], GOAL, budget=2).strategies[0].test is None


def test_a_curve_is_steps_with_the_epochs_to_a_target() -> None:
    one = made("random", 0, (10, 0.5), (20, 0.7), (90, 0.9))
    assert [one.value(e) for e in (10, 19, 20, 1000)] == [0.5, 0.5, 0.7, 0.9]
    assert math.isnan(one.value(9))
    assert (one.epochs_to(0.7, GOAL, 100), one.epochs_to(0.9, GOAL, 80)) == (20, math.inf)
    assert made("random", 0, (10, 0.5), (20, 0.3)).epochs_to(0.3, LOSS, 100) == 20
    story = [*trained(0, [0.5]), *trained(1, [0.75]), *trained(2, [0.25])]
    assert [point.value for point in best_so_far(story, LOSS)] == [0.5, 0.25, 0.25], "a smaller loss is better"


def several(strategy: str, values: Sequence[float], epochs: int = 100) -> list[Curve]:
    return [made(strategy, seed, (10, value - 0.1), (50, value), epochs=epochs) for seed, value in enumerate(values)]


GOOD = [0.981, 0.984, 0.979, 0.982, 0.986, 0.980]
FAIR = [0.972, 0.974, 0.970, 0.971, 0.977, 0.972]
POOR = [0.951, 0.957, 0.949, 0.953, 0.955, 0.952]
WILD = [0.99, 0.94, 0.965, 0.98, 0.93, 0.985]


def compared(curves: Sequence[Curve], goal: Goal = GOAL, budget: int = 100, **more: Any) -> Comparison:
    return compare(curves, goal, budget, **more)


def ranked(bayesian: Sequence[float], random: Sequence[float], grid: Sequence[float]) -> Comparison:
    studies = [*several("grid", grid), *several("random", random), *several("bayesian", bayesian)]
    return compared(studies, GOAL, margin=0.002, scope="digits, split seed 4 and training seed 7")


def pair_of(comparison: Comparison, a: str, b: str) -> Pair:
    return next(pair for pair in comparison.pairs if (pair.a, pair.b) == (a, b))


def test_the_notes_ranking_that_holds_is_said_to_hold() -> None:
    comparison = ranked(GOOD, FAIR, POOR)
    assert [s.strategy for s in comparison.strategies] == list(RANKING)
    assert [(p.a, p.b, p.verdict) for p in comparison.pairs] == [
        ("bayesian", "random", Verdict.BETTER),
        ("bayesian", "grid", Verdict.BETTER),
        ("random", "grid", Verdict.BETTER),
    ]
    assert text.sentence(comparison) == (
        "At 100 epochs and 6 seeds, bayesian is better than random by 0.0093 in val_accuracy (95 % interval 0.0082 to "
        "0.010) and grid by 0.029 in val_accuracy (95 % interval 0.028 to 0.031). Random is "
        "better than grid by 0.020 in val_accuracy (95 % interval 0.018 to 0.022). The usual ranking (bayesian, "
        "random, grid) holds here. This holds for digits, split seed 4 and training seed 7."
    )


def test_the_interval_of_a_loser_is_given_from_the_best_trial_s_side() -> None:
    """Random minus grid is what was measured; grid over random is what is said."""
    comparison = compared([*several("random", POOR), *several("grid", GOOD)], GOAL)
    assert comparison.pairs[0].difference.interval.high < 0
    words = "grid is better than random by 0.029 in val_accuracy (95 % interval 0.028 to 0.031)"
    assert words in text.sentence(comparison)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            (GOOD, FAIR, [value + 0.0001 for value in FAIR]),
            "The usual ranking (bayesian, random, grid) holds in part: bayesian beats random and bayesian beats "
            "grid, but there is no evidence for random over grid.",
        ),
        ((FAIR, GOOD, POOR), "The usual ranking (bayesian, random, grid) does not hold here: random beats bayesian."),
        (
            (FAIR, FAIR, [value + 0.0001 * (i % 2) for i, value in enumerate(FAIR)]),
            "The usual ranking (bayesian, random, grid) makes no difference here.",
        ),
    ],
)
def test_a_ranking_may_hold_in_part_or_be_wrong_or_of_no_use(values: tuple[list[float], ...], words: str) -> None:
    comparison = ranked(*values)
    assert text.ranking(comparison) == words
    said = text.sentence(comparison)
    equal = "andom against grid (" in said and " practically equal (within 0.002)" in said
    assert said.count("practically equal") <= 1, "one clause for all pairs"
    assert equal == (pair_of(comparison, "random", "grid").verdict is Verdict.EQUAL) == (values[2] is not POOR)


@pytest.mark.parametrize(
    ("curves", "note"),
    [
        (
            [*several("random", FAIR)[:2], *several("grid", POOR)[4:]],
            "random and grid: there is no seed at which both have a complete trial.",
        ),
        ([*several("grid", POOR), made("grid", 9)], "grid, seed 9: no complete trial within 100 epochs; left out."),
    ],
)
def test_what_cannot_be_compared_is_noted(curves: list[Curve], note: str) -> None:
    comparison = compared(curves, GOAL)
    assert note in comparison.notes
    assert comparison.pairs == ()
    assert "there is no pair to compare" in text.lines(comparison)[-1]
    assert not any(line.startswith("pair") for line in text.lines(comparison)), "no header without rows"


def test_an_undecided_pair_gets_advice_with_its_range() -> None:
    comparison = ranked(GOOD, WILD, POOR)
    pair = pair_of(comparison, "bayesian", "random")
    assert pair.verdict is Verdict.UNDECIDED
    assert pair.advice.low <= pair.advice.more <= pair.advice.high
    assert re.search(r"seeds, bayesian against random \(.*?\) is undecided: about", text.sentence(comparison))
    assert "more seeds would be needed" in text.sentence(comparison)


@pytest.mark.parametrize(("advice", "words"), TABLES["advice"])
def test_advice_in_words(advice: list[float], words: str) -> None:
    assert text.advice_text(Advice(*advice), 10) == words


def test_one_seed_is_allowed_and_undecided() -> None:
    comparison = compared([*several("bayesian", GOOD[:1]), *several("random", FAIR[:1])], GOAL, margin=0.5)
    assert [pair.verdict for pair in comparison.pairs] == [Verdict.UNDECIDED]
    assert text.sentence(comparison) == (
        "At 100 epochs bayesian reaches 0.9810 and random reaches 0.9720 in val_accuracy. Every verdict is undecided: "
        "one seed says nothing about chance, use at least 5. The usual ranking (bayesian, random) is not settled "
        "here: not confirmed by any pair. This holds for these data."
    )


def test_each_pair_is_compared_at_the_seeds_that_both_of_its_two_have() -> None:
    """Grid has seeds 4 and 5 only; that says nothing of bayesian against random at all six."""
    comparison = compared([*several("bayesian", GOOD), *several("random", FAIR), *several("grid", POOR)[4:]], GOAL)
    assert [pair.difference.seeds for pair in comparison.pairs] == [6, 2, 2]
    alone = compared([*several("bayesian", GOOD), *several("random", FAIR)], GOAL)
    assert comparison.pairs[0].difference == alone.pairs[0].difference


def test_of_a_loss_the_smaller_is_better_on_fresh_seeds_too() -> None:
    low = several("bayesian", [1 - value for value in GOOD])
    high = several("random", [1 - value for value in FAIR])
    comparison = compared([*low, *high], LOSS)
    assert comparison.pairs[0].better == "bayesian"
    assert comparison.pairs[0].difference.mean > 0
    confirmation = confirm([Finalist(1, 0.10, (0.20, 0.21, 0.22)), Finalist(2, 0.12, (0.15, 0.16, 0.14))], LOSS)
    assert confirmation.finalists[0].trial == 1
    assert confirmation.best.trial == 2
    assert confirmation.lead == pytest.approx(0.02)
    assert confirmation.fresh_lead == pytest.approx(-0.06)
    assert confirmation.interval.low < -0.06 < confirmation.interval.high < 0


def test_random_with_twice_the_budget_stands_beside_the_others_unless_it_completes_nothing() -> None:
    steps = [((10, value - 0.1), (50, value), (150, value + 0.02)) for value in FAIR]
    longer = [made("random-x2", seed, *points, epochs=200) for seed, points in enumerate(steps)]
    comparison = compared([*several("bayesian", GOOD), *several("random", FAIR)], GOAL, doubled=longer)
    assert comparison.twice.values == tuple(value + 0.02 for value in FAIR)
    assert [(p.a, p.b, p.better) for p in comparison.beside] == [("bayesian", TWICE, TWICE)]
    assert any(line.startswith(TWICE) for line in text.lines(comparison))
    studies = [*several("bayesian", GOOD), made("random", 0)]
    comparison = compared(studies, doubled=[made("random-x2", 0, epochs=200)])
    assert (comparison.twice, comparison.beside) == (None, ())
    note = "random with twice the budget is missing: no study of random went on that far."
    assert [note in one.notes for one in (comparison, compared(studies))] == [True, False]


def test_rivals_are_shown_and_said_after_the_ranked_and_change_nothing_about_these() -> None:
    studies = [*several("bayesian", GOOD), *several("random", FAIR)]
    rivals = [*several("another", FAIR), *several("tpe", WILD), made("tpe", 9)]
    alone, comparison = compared(studies), compared(studies, rivals=rivals)
    assert (comparison.pairs, comparison.target) == (alone.pairs, alone.target)
    assert [(p.a, p.b) for p in comparison.beside] == [("bayesian", "another"), ("bayesian", "tpe")]
    assert comparison.beside[0].corrected == pytest.approx(2 * alone.pairs[0].corrected), "for the two pairs beside"
    assert "tpe, seed 9: no complete trial within 100 epochs; left out." in comparison.notes
    words = text.verdicts(comparison).removeprefix(text.verdicts(alone))
    assert words.startswith(
        " Beside the ranking, bayesian is better than another by 0.0093 in val_accuracy (95 % interval 0.0082 to 0.010). "
        "Bayesian against tpe (95 % interval "
    )
    assert text.ranking(comparison) == text.ranking(alone)
    assert [row[0] for row in text.strategy_rows(comparison)[1]] == ["bayesian", "random", "another", "tpe"]
    single = compared([*studies[:1], *several("random", FAIR[:1])], rivals=rivals[:1])
    assert "Beside the ranking, another reaches 0.9720. Every verdict" in text.verdicts(single)


def test_a_budget_too_small_to_compare_names_the_least() -> None:
    line = "compare: some trial must be complete within the budget, got 5 epochs; give it at least 10"
    assert refused(BadInput, compared, [*several("random", FAIR), *several("grid", POOR)], GOAL, 5) == line
    assert "look at the outcomes" in refused(BadInput, compared, [made("random", 0)], GOAL, 5)


def test_the_target_is_the_goal_s_own_or_what_random_reaches() -> None:
    comparison = ranked(GOOD, FAIR, POOR)
    assert comparison.target == pytest.approx(0.972)
    assert [s.reached for s in comparison.strategies] == [6, 4, 0]
    assert [s.to_target for s in comparison.strategies] == [50, 50, math.inf]
    own = compared(several("random", FAIR), Goal(target=0.999))
    assert (own.target, own.strategies[0].to_target) == (0.999, math.inf)
    assert "over 100 (0 of 6)" in text.strategy_rows(own)[1][0]


def test_the_table_is_plain_text_in_columns_and_json_says_the_same() -> None:
    comparison = ranked(GOOD, WILD, POOR)
    lines = text.lines(comparison)
    assert lines[:5] == [
        "strategy  seeds  val_accuracy        10 to 90 %   epochs to 0.9725  trials  time",
        "bayesian      6        0.9815  0.9795 to 0.9850        50 (6 of 6)       2  25 s",
        "random        6        0.9725  0.9350 to 0.9875        50 (3 of 6)       2  25 s",
        "grid          6        0.9525  0.9500 to 0.9560  over 100 (0 of 6)       2  25 s",
        "",
    ]
    random, grid = (" ".join(line.split()) for line in lines[6:8])
    verdict = "undecided, about 21 more seeds (3 to any number)"
    assert random == f"bayesian - random +0.0170 -0.0113 to +0.0453 0.367 {verdict}"
    assert grid == "bayesian - grid +0.0292 +0.0276 to +0.0307 <0.001 better"
    assert lines[-1] == text.sentence(comparison)
    data = json.loads(json.dumps(text.as_json(comparison), allow_nan=False))
    assert [row["strategy"] for row in data["strategies"]] == ["bayesian", "random", "grid"]
    assert data["strategies"][0]["values"] == GOOD
    assert data["strategies"][2]["to_target"] is None
    pair = data["pairs"][1]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("bayesian", "grid", "better")
    assert pair["difference"]["mean"] == pytest.approx(np.mean(np.subtract(GOOD, POOR)))
    assert data["said"] == text.sentence(comparison)


@pytest.mark.parametrize("width", [300, 100, 60])
def test_a_terminal_of_any_width_shows_every_cell_whole(width: int) -> None:
    comparison = replace(ranked(GOOD, WILD, POOR), notes=("a note.",))
    out = io.StringIO()
    terminal = Console(file=out, width=width)
    terminal.print(*text.lines(comparison, width), sep="\n", highlight=False, markup=False)
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "a note." in shown
    for row in (*text.strategy_rows(comparison)[1], *text.pair_rows(comparison)[1]):
        assert all(cell in shown for cell in row[:-1])
        assert all(word in shown for word in row[-1].split())


def test_test_scores_and_fresh_seeds_get_their_columns_only_if_there_are_any() -> None:
    plain = several("random", FAIR)
    one = [
        replace(c, tests={c.points[-1].trial_epoch: 0.97}, fresh={c.points[-1].trial_epoch: (0.96, 0.98)})
        for c in plain
    ]
    header, rows = text.strategy_rows(compared(one, GOAL))
    assert header[-2:] == ("test", "fresh seeds")
    assert rows[0][-2:] == ("0.9700", "0.9700")
    assert "test" not in text.strategy_rows(compared(plain, GOAL))[0]


@pytest.mark.parametrize(
    ("repetitions", "cell"),
    [((0.96, Outcome.DIVERGED), "0.9600 (1 of 2 seeds)"), ((Outcome.OOM, Outcome.OOM), "(0 of 2 seeds)")],
)
def test_the_column_of_fresh_seeds_counts_values(repetitions: tuple[float | Outcome, ...], cell: str) -> None:
    (one,) = several("random", FAIR)[:1]
    comparison = compared([replace(one, fresh={one.points[-1].trial_epoch: repetitions})], GOAL)
    assert text.strategy_rows(comparison)[1][0][-1] == cell


FINALISTS = [
    Finalist(17, 0.9889, (0.982, 0.985, 0.984, 0.981, 0.986), 412_000),
    Finalist(4, 0.9852, (0.983, 0.984, 0.981, 0.985, 0.982), 31_000),
    Finalist(9, 0.9815, (0.951, 0.952, 0.949, 0.955, 0.960), 5_000),
]


def test_a_finalist_that_failed_on_fresh_seeds_is_named_with_that_wherever_it_is_praised() -> None:
    lucky = Finalist(4, 0.7778, (), 9, (Outcome.DIVERGED,) * 3)
    others = [
        Finalist(2, 0.76, (0.95, 0.96, 0.95, 0.96), 700),
        Finalist(5, 0.75, (0.94, 0.95, 0.96), 300, (Outcome.OOM,)),
    ]
    first, _, third, said = text.confirmation_lines(confirm([lucky, *others], GOAL))
    again = "failed on 3 of 3 fresh seeds (diverged)"
    assert first == f"trial 4: 0.7778 then, {again}"
    assert third.endswith("300 parameters, failed on 1 of 4 fresh seeds (oom), not distinguishable from the best")
    assert said.startswith(f"Trial 4 has 0.7778 on the seed that chose it and {again}. Best on fresh seeds is trial 2 ")
    assert "trial 5 (300 parameters, failed on 1 of 4 fresh seeds (oom), against 700 parameters)" in said
    best = text.confirmation_lines(confirm([lucky, replace(others[0], failed=(Outcome.NAN,))], GOAL))[-1]
    assert "Best on fresh seeds is trial 2 (0.9550, failed on 1 of 5 fresh seeds (nan))." in best
    second = text.confirmation_lines(confirm([replace(others[0], value=0.9), lucky], GOAL))[-1]
    assert f"over 4 fresh seeds; trial 4: {again}, so nothing is known of the lead. Best on" in second


def test_how_much_of_the_lead_was_luck_and_the_smallest_model_that_is_tied() -> None:
    confirmation = confirm(FINALISTS, GOAL)
    assert confirmation.luck == pytest.approx(1 - 0.0006 / 0.0037)
    assert [f.trial for f in confirmation.tied] == [17, 4]
    assert confirmation.smallest is FINALISTS[1]
    assert text.confirmation_lines(confirmation)[-1] == (
        "Trial 17 has 0.9889 on the seed that chose it and 0.9836 over 5 fresh seeds. Its lead over trial 4 was 0.0037"
        " and is 0.00060 on fresh seeds, 95 % interval -0.0043 to 0.0055: about 84 % of it is gone, but that interval includes both the whole lead and none of it: "
        "use more seeds. Best on fresh seeds is trial 17 (0.9836); trial 4 cannot be distinguished from it; the smallest of these is trial 4 (31,000 "
        "parameters against 412,000 parameters). Fresh seeds share the validation split, so its luck is still in all of these values."
    )


@pytest.mark.parametrize(("finalists", "luck", "best", "words"), TABLES["luck"])
def test_luck_is_said(finalists: dict[int, tuple[float, ...]], luck: float, best: int, words: list[str]) -> None:
    confirmation = confirm([Finalist(trial, value, fresh) for trial, (value, *fresh) in finalists.items()], GOAL)
    assert confirmation.luck == pytest.approx(luck, nan_ok=True)
    assert confirmation.best.trial == best
    assert all(each in text.confirmation_lines(confirmation)[-1] for each in words)


@pytest.mark.parametrize("fresh", [((0.97,), (0.7,)), ((0.69, 0.69), (0.65, 0.65)), ((0.95,), (0.96,))])
def test_too_few_seeds_are_said_and_no_finalist_is_called_tied(fresh: tuple[tuple[float, ...], ...]) -> None:
    confirmation = confirm([Finalist(0, 0.97, fresh[0], 5_000), Finalist(2, 0.7, fresh[1], 900)], GOAL)
    assert (confirmation.judged, confirmation.tied, confirmation.smallest) == (False, (confirmation.best,), None)
    assert math.isinf(confirmation.interval.high)
    shown = "\n".join(text.confirmation_lines(confirmation))
    assert "too few seeds to say how much of it was luck" in shown
    assert "needs more seeds" in shown
    assert "tied" not in shown
