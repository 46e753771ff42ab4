"""The whole chain to an MLflow server on PostgreSQL: how many reports a second, and where it saturates (docs/scale.md).

    python -m benchmarks.server [--trials 400] [--slots 8]

Workers whose epochs take no time, the driver and its journal, the writer thread, HTTP, MLflow, PostgreSQL: the services are those
of docker-compose.yml, played by tests/stage.py, with and without a password. Everything that arrived is compared
with the journal: nothing lost, nothing doubled. Needs root, PostgreSQL and the extra server.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import stage  # noqa: E402

from benchmarks.measuring import machine  # noqa: E402

METRICS = 3  # of a report of the fake trainer, with its seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--slots", type=int, default=8)
    told = parser.parse_args()
    if why := stage.missing():
        print(f"skipped: {why}")
        return 0
    print(f"machine: {machine()}\nn: {told.trials} trials of 2, 4 or 8 epochs on {told.slots} workers, 3 metrics each")
    kinds = {"no password": [], "password": [ROOT / "docker" / "auth.yml"]}
    if importlib.util.find_spec("flask_wtf") is None:
        del kinds["password"]
    for kind, more in kinds.items():
        for workers in ("1", "2"):
            print(
                f"{kind}, {workers} server process(es): {measured(told.trials, told.slots, workers, more)}", flush=True
            )
    return 0


def measured(trials: int, slots: int, workers: str, more: list[Path]) -> str:
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        made = stage.Stage(Path(folder) / "stage", {"MLFLOW_WORKERS": workers}, more)
        try:
            made.up("postgres", "mlflow")
            (made.folder / "studies" / "chain.yaml").touch()
            script = ["python", str(ROOT / "tests" / "served.py"), "/srv/studies/chain"]
            size = ["--trials", str(trials), "--slots", str(slots)]
            done = made.run("hpo", "entrypoint.sh", *script, *size, plain=True, join=False)
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
        finally:
            made.close()
    found = json.loads(done.stdout.splitlines()[-1])
    reports, driven, delivered = found["reports"], found["driven"], found["delivered"]
    return (
        f"driver and journal {reports / driven:,.0f} reports a second; all of {reports:,} reports and {trials} runs in MLflow "
        f"after {delivered:.1f} s: {reports / delivered:,.0f} reports, {reports * METRICS / delivered:,.0f} metrics a second; "
        f"{found['undelivered']} undelivered"
    )


if __name__ == "__main__":
    sys.exit(main())
