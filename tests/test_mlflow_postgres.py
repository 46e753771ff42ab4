"""MLflow's server on PostgreSQL, as docker-compose.yml and docker/auth.yml run it: nothing lost, nothing doubled, and a password."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import stage
from stage import ROOT, Stage

pytestmark = pytest.mark.cluster

WITH_PASSWORD = importlib.util.find_spec("flask_wtf") is not None


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Behind a password where Flask-WTF is there, which that needs; test_compose.py has the open one."""
    if why := stage.missing():
        pytest.skip(why)
    more = [ROOT / "docker" / "auth.yml"] if WITH_PASSWORD else []
    made = Stage(tmp_path_factory.mktemp("stage"), {"MLFLOW_WORKERS": "1"}, more)
    try:
        made.up("postgres", "mlflow")
        yield made
    finally:
        made.close()


def test_eight_workers_lose_nothing_and_double_nothing(up: Stage) -> None:
    (up.folder / "studies" / "chain.yaml").touch()
    script = str(Path(__file__).with_name("served.py"))
    done = up.run(
        "hpo", "entrypoint.sh", "python", script, "/srv/studies/chain", "--trials", "60", plain=True, join=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["trials"], found["undelivered"]) == (60, 0)


@pytest.mark.skipif(not WITH_PASSWORD, reason="Flask-WTF is not installed (pip install '.[server]')")
def test_who_does_not_know_the_password_reads_nothing(up: Stage) -> None:
    ask = (
        "import urllib.request as web; web.urlopen('http://mlflow:5000/api/2.0/mlflow/experiments/get?experiment_id=0')"
    )
    assert "401" in up.run("hpo", "python", "-c", ask, plain=True).stderr
