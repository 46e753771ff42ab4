"""hpo in Python: the same as on the command line, in a script, a notebook or under `if __name__ == "__main__"`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.cli.console import COMPARISON_REDRAWS, ComparisonProgress, Terminal, live, watch
from hpo.cli.options import load, state_folder, with_flags
from hpo.commands.run import RunOptions
from hpo.commands.run import run as run_study
from hpo.core import Event
from hpo.engine.driver import Listener
from hpo.engine.result import Result, read_result
from hpo.engine.search import Search
from hpo.errors import BadInput, HpoError, Mistake
from hpo.execution.job_runner import one_line
from hpo.provenance import __version__
from hpo.study_file.spec import StudySpec

if TYPE_CHECKING:
    from hpo.commands.compare import Compared

Source = str | Path | Mapping[str, Any] | StudySpec  # a study file, the same as a mapping, or what `load` made of them


def run(
    study: Source,
    *,
    strategy: str | None = None,
    seed: int | None = None,
    workers: int | str | None = None,
    device: str | None = None,
    state: str | Path | None = None,
    sets: Sequence[str] = (),
    trials: int | None = None,
    fresh: bool = False,
    accept_code: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Bring a study to its target and return its result. Run again, it resumes the same study.

    strategy, seed, workers, device: instead of the study's own; sets: other keys, as `key.path=value`.
    state: the folder of studies/ and mlflow.db; the study file's folder by default; accept_code: continue with your code
    as it is now; retry_failed: start failed trials again, before anything new; on_event: called in this process with every
    hpo.core.Event of the search; what it raises ends the run, which can be resumed. Raises HpoError.
    """
    spec = _spec(study, sets, {"strategy": strategy, "seed": seed, "workers": workers, "device": device})
    options = RunOptions(
        state=state_folder(spec, state),
        fresh=fresh,
        trials=trials,
        environ=os.environ,
        accept_code=accept_code,
        retry_failed=retry_failed,
        listeners=[_telling(on_event)] if on_event is not None else [],
    )
    if quiet:
        return run_study(spec, options)
    with watch(Terminal(), spec) as console:
        return run_study(spec, replace(options, listeners=[console.receive, *options.listeners]))


def open(
    study: Source,
    *,
    strategy: str | None = None,
    seed: int | None = None,
    state: str | Path | None = None,
    sets: Sequence[str] = (),
) -> Result:
    """A study as it is stored, also while it runs; open it again for what is new. Writes nothing. Raises NoResult."""
    spec = _spec(study, sets, {"strategy": strategy, "seed": seed})
    return read_result(spec, state_folder(spec, state))


def compare(
    study: Source,
    other: Source | None = None,
    *,
    strategies: Sequence[str] = (),
    seeds: int | None = None,
    workers: int | str | None = None,
    device: str | None = None,
    state: str | Path | None = None,
    sets: Sequence[str] = (),
    fresh: bool = False,
    rescore: bool = True,
    quiet: bool = False,
) -> Compared:
    """Compare search strategies on the study's data at equal epochs, or two studies by their own. Run again, it resumes.

    strategies, seeds: instead of the first study's own; rescore: the best trials' test score and fresh seeds. Raises HpoError.
    """
    # with matplotlib, which `run` begins without
    from hpo.commands.compare import beginning, compare_and_deliver, epochs_in_all

    names = f"[{strategies if isinstance(strategies, str) else ', '.join(strategies)}]" if strategies else None
    flags = {"compare.strategies": names, "compare.seeds": seeds, "workers": workers, "device": device}
    spec, terminal = _spec(study, sets, flags), Terminal(quiet=quiet)
    second = None if other is None else _spec(other, sets, flags)
    progress = ComparisonProgress(spec, terminal, epochs_in_all(spec, second))
    options = RunOptions(state_folder(spec, state), fresh, listeners=[progress.receive], environ=os.environ)
    with live(terminal, progress, COMPARISON_REDRAWS, beginning(spec, second)):
        return compare_and_deliver(spec, second, options, rescore)


def _telling(on_event: Callable[[Event], None]) -> Listener:
    def tell(search: Search, event: Event) -> None:
        try:
            on_event(event)
        except Exception as error:
            rule, remedy = "must not raise", "the same call resumes the study, once that is fixed"
            raise HpoError(Mistake(f"on_event, at {type(event).__name__}", rule, one_line(error), remedy)) from error

    return tell


def _spec(study: Source, sets: Sequence[str], flags: Mapping[str, object]) -> StudySpec:
    given = with_flags([sets] if isinstance(sets, str) else sets, flags)  # one alone is no list of letters
    if not isinstance(study, StudySpec):
        return load(study, sets=given)
    if given:
        rule, remedy = "must be a file or a mapping to be changed", "give hpo.load this change"
        raise BadInput(Mistake(f"study {study.name}", rule, f"a StudySpec and {given[0]}", remedy))
    return study


__all__ = ["HpoError", "Result", "StudySpec", "__version__", "compare", "load", "open", "run"]
