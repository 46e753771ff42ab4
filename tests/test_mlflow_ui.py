"""What a person sees of a study in MLflow's own UI, in headless Chromium: words, sorted numbers, drawn charts."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import made_up
import pytest
from chromium import BINARY, MISSING, Chromium
from mlflow_fixtures import sync_of_lists, tracked_study
from mlflow_real import Server, mlflow_server, mlflow_store

from hpo.strategies.points import CONFIRM
from hpo.tracking import ui
from hpo.tracking.ui import ui_address

__all__ = ["mlflow_server"]
pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)
COLUMNS = ("learning_rate", "batch_size", "activation", "dropout", "blocks", "batch_norm", "epochs")
# MLflow's own: it asks for a user although no user can log in, its table is older than its table library, and on a busy
# machine its layout takes more than a frame.
DRAWN = "[...document.querySelectorAll('.js-plotly-plot path.js-line')].filter(e => e.getAttribute('d')).length"
THEIRS = ("users/current", "AG Grid", "ResizeObserver loop completed")


@dataclass
class Shown:
    """An experiment with two studies, and the browser in front of it."""

    page: Chromium
    server: str
    experiment: str
    runs: dict[str, str]

    def open(self, address: str, *words: str) -> None:
        """Open it anew and wait for the words. Whatever the page complains about was there without hpo."""
        self.page.open("about:blank")
        self.page.complaints.clear()
        self.page.open(address)
        for word in words:
            self.until(f"document.body.innerText.includes({json.dumps(word)})")
        assert not [text for text in self.page.complaints if not any(theirs in text for theirs in THEIRS)]

    def until(self, condition: str, ticks: int = 600) -> None:
        for _ in range(ticks):
            if self.page.run(f"(() => {{ try {{ return Boolean({condition}) }} catch {{ return false }} }})()"):
                return
            self.page.run("new Promise(done => setTimeout(done, 100))")
        raise AssertionError(f"never so: {condition}\n{self.page.text[:2_000]}")

    def column(self, name: str) -> list[str]:
        """The cells of a column of the table, from top to bottom."""
        cells = f"[...document.querySelectorAll('.ag-row [col-id=\"{name}\"]')]"
        rows = f"{cells}.map(e => [Number(e.closest('.ag-row').getAttribute('row-index')), e.innerText])"
        return [text for _, text in sorted(self.page.run(rows))]


@pytest.fixture(scope="module")
def shown(mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("ui")
    report = folder / "report.html"
    report.write_text("<!doctype html><h1>Nineteen trials searched</h1>")
    about: dict[str, object] = {"name": "ui", "columns": COLUMNS, "texts": {"study.yaml": "name: ui\n"}}
    studies = [
        (tracked_study(folder / name, strategy=name, artifacts=(report,), **about), made_up.events(12, seed=seed))
        for seed, name in enumerate(("bayesian", "random", CONFIRM))  # confirm is no search: both views leave it out
    ]
    sync = sync_of_lists(studies, mlflow_store.connect, mlflow_server.url)
    assert sync.round(live=False), sync.trouble
    assert sync.store is not None
    runs = {study.tracked.strategy: str(study.run()) for study in sync.studies}
    with Chromium(1700, 1100) as page:
        yield Shown(page, mlflow_server.url, sync.store.experiment, runs)
    sync.close()


def test_the_printed_line_opens_the_trials_best_first_and_a_click_turns_them(shown: Shown) -> None:
    shown.open(ui_address(shown.server, shown.experiment), "val_accuracy", "24 matching runs", "bayesian-0 trial 0")
    shown.until("document.querySelectorAll('.ag-row [col-id*=\"best_val_accuracy\"]').length > 10")
    metric = shown.page.run("document.querySelector('.ag-row [col-id*=\"best_val_accuracy\"]').getAttribute('col-id')")
    best = [-math.inf if text == "-" else float(text.rstrip(".…")) for text in shown.column(metric)]
    assert len(best) > 10
    assert best == sorted(best, reverse=True), "those that failed have no value and come last"
    for word in ("activation", "batch_size", "blocks"):
        assert word in shown.page.text
    first = json.dumps(shown.column(metric)[0])
    shown.page.click(f'.ag-header-cell[col-id="{metric}"] [role="columnheader"], .ag-header-cell[col-id="{metric}"]')
    shown.until(f'document.querySelector(\'.ag-row[row-index="0"] [col-id="{metric}"]\').innerText != {first}')
    worst = [math.inf if text == "-" else float(text.rstrip(".…")) for text in shown.column(metric)]
    assert worst == sorted(worst)


def test_the_charts_of_the_trials_are_drawn_and_strategies_compared_by_epochs_spent(shown: Shown) -> None:
    address = ui.link(shown.server, shown.experiment, ui.TRIALS) + "&compareRunsMode=CHART"
    shown.open(address, "Learning curves", "val_loss vs train_loss", "Parameters")
    shown.until(f"{DRAWN} >= 10")
    shown.until(f"document.querySelectorAll('.parcoords .dimension').length == {len(COLUMNS) + 1}")
    address = ui.link(shown.server, shown.experiment, ui.STRATEGIES)
    shown.open(address, "best_val_accuracy", "2 matching runs", "hpo.strategy", "bayesian-0", "random-0")
    shown.open(f"{address}&compareRunsMode=CHART", "Best so far against epochs spent")
    shown.until(f"{DRAWN} >= 2")


def test_the_studys_page_says_what_came_of_it_and_shows_the_report(shown: Shown) -> None:
    page = f"{shown.server}/#/experiments/{shown.experiment}/runs/{shown.runs['bayesian']}"
    shown.open(
        f"{page}?workflowType=machine_learning", "Stopped by: budget.", "Best: trial", "Finished", "learning_rate"
    )
    shown.open(f"{page}/artifacts/report.html?workflowType=machine_learning", "report.html", "study.yaml")
    shown.until("document.querySelector('iframe').srcdoc.includes('Nineteen') || document.querySelector('iframe').src")
