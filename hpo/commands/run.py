"""`hpo run`: studies are opened, brought to their target by one driver, their best models published, their reports written.

spec -> data, workers -> journal (the truth) -> driver.run -> best model, report
                              |-> MLflow (one thread, never waited for)
                              |-> listeners
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType

from hpo.commands.sync import comparison_info, tracked_study
from hpo.core import Reason
from hpo.engine import components, opening
from hpo.engine.changes import end_unfinished, load_splits, resumed
from hpo.engine.driver import Driver, Listener
from hpo.engine.opening import OpenStudy
from hpo.engine.result import Published, Result
from hpo.errors import Stopped
from hpo.files import Folders, allow_files
from hpo.publishing.publish_best import Place, Publisher, note_due
from hpo.strategies.points import CONFIRM
from hpo.study_file.spec import StudySpec
from hpo.tracking.sync import Tracker
from hpo.tracking.ui import tracking_uri

log = logging.getLogger(__name__)

REPORT = "hpo.commands.report"  # matplotlib and pandas: 2 s, spent while another process publishes the best model


@dataclass(frozen=True)
class RunOptions:
    """How studies are run this time.

    state: the folder of studies/ and mlflow.db; fresh: set an old study of that name aside; trials: its new target;
    max_running: the most trials of one study at a time; publish: log the best model and write a report for each study;
    group: the title of the comparison these studies are part of; accept_code: continue with the user's code as it is now;
    retry_failed: failed trials are started again.
    """

    state: Path
    fresh: bool = False
    trials: int | None = None
    max_running: int | None = None
    publish: bool = True
    group: str | None = None
    accept_code: bool = False
    listeners: Sequence[Listener] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    retry_failed: bool = False


def run(spec: StudySpec, options: RunOptions) -> Result:
    """Bring one study to its target: a new one, or one that was begun. Raises HpoError."""
    return run_all([spec], options)[0]


def run_all(specs: Sequence[StudySpec], options: RunOptions) -> list[Result]:
    """Studies that differ in strategy, seed, split and first points, by one driver on the same workers; trainings are shared."""
    first = specs[0]
    placement = components.placement(first)
    folders = [Folders(options.state, spec.name, spec.strategy, spec.seed) for spec in specs]
    uri = tracking_uri(first, options.state, options.environ) if first.tracking.enabled else None
    allow_files()
    over, failed = False, list[Exception]()
    published: list[Published | None] = [None] * len(specs)
    try:
        with ExitStack() as stack:
            drivers = stack.enter_context(signals())
            executor = components.start_executor(first, placement)  # first: a worker needs seconds to import torch
            stack.callback(executor.close)
            before = opening.environments(specs, folders, options.fresh)
            data = load_splits(specs, folders[0], before, partial(opening.refuse_impossible, first, placement))
            for note in dataset.notes if (dataset := data[first.base_seed]) is not None else ():
                log.warning("data: %s", note)
            assembled = [components.assemble(spec, data[spec.base_seed], placement) for spec in specs]
            now = resumed(first, before, opening.recorded_environment(assembled[0]), options.accept_code)
            journals = opening.take_over(specs, folders, options.fresh, stack)
            executor.begin(assembled[0].factories())
            if options.group is None and first.strategy != CONFIRM:  # studies that are compared keep the same points
                opening.lengthen(first, journals[0])
            for parts, journal in zip(assembled, journals, strict=True):
                end_unfinished(parts.spec, journal, parts.numerics)
            if options.retry_failed:
                opening.retry_failed(assembled[0], journals[0])
            each = zip(assembled, folders, journals, strict=True)
            studies = [opening.open_study(*one, options.trials, options.max_running) for one in each]
            opening.say_notes(studies)
            trainings = opening.open_trainings(first, folders[0], journals)
            tracker = start_tracker(studies, uri, options.group, stack)
            searches, publisher = [study.search for study in studies], Publisher(uri is not None)
            stack.callback(publisher.close)
            listeners = [*options.listeners, *([publisher.receive] if options.publish and first.train is None else [])]
            driver = Driver(searches, executor, trainings, assembled[0].limits(), listeners=listeners)
            drivers.append(driver)
            driver.run(now)
            over = True  # from here on a signal ends all at once, and what there is is shown
            drivers.clear()
            stopped = driver.stopping
            try:
                published = conclude(studies, driver, tracker, publisher) if options.publish else published
            except Exception as error:
                failed.append(error)
                raise
    except Stopped as leaving:
        if not over:
            raise
        if failed:  # a signal that came while the context was left, which must not hide it
            raise failed[0] from None
        stopped = leaving.number
    undelivered, ui = (tracker.undelivered, tracker.ui_address()) if tracker is not None else (0, "")
    return [
        Result(one.spec, one.folders, one.search.study, one.components.dataset, stopped, model, undelivered, ui)
        for one, model in zip(studies, published, strict=True)
    ]


def start_tracker(studies: Sequence[OpenStudy], uri: str | None, group: str | None, stack: ExitStack) -> Tracker | None:
    """The thread that writes to MLflow until the stack unwinds; None where tracking is off."""
    if uri is None:
        return None
    comparison = None if group is None else comparison_info(studies[0].folders, group)
    tracker = Tracker([tracked_study(study.spec, study.folders, comparison) for study in studies], uri)
    stack.enter_context(tracker)
    return tracker


def conclude(
    studies: Sequence[OpenStudy], driver: Driver, tracker: Tracker | None, publisher: Publisher
) -> list[Published | None]:
    """Publish each best model, unless the run was stopped, and write the reports."""
    draw = lambda *about: import_module(REPORT).draw_search(*about)  # noqa: E731
    published: list[Published | None] = []
    with ThreadPoolExecutor(1) as beside:
        for study in studies:
            about = study.spec, study.folders, study.search.study
            usable = not driver.stopping and study.search.closing is not Reason.FAILING
            if usable:
                note_due(study)
            place = Place.of(tracker if usable else None, study.folders)  # before drawing, which slows MLflow's thread
            drawn = beside.submit(draw, *about)
            published.append(publisher.publish(study, driver.executor, place) if usable else None)
            import_module(REPORT).write_report(*about, drawn.result)
    return published


@contextlib.contextmanager
def signals() -> Iterator[list[Driver]]:
    """The first Ctrl-C or SIGTERM lets the driver in the list finish its epochs; one before or after ends all."""
    drivers: list[Driver] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if not drivers or drivers[0].stopping:
            raise Stopped(number)
        drivers[0].stop(number)

    if threading.current_thread() is not threading.main_thread():
        yield drivers
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield drivers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
