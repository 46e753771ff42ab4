"""docs/deploy.md, cluster.md and admin.md: their commands, run as they stand there, as far as one machine without a GPU and without Docker allows."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
import stage
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from stage import ROOT, Stage

PAGE, CLUSTER, ADMIN = ((ROOT / "docs" / name).read_text() for name in ("deploy.md", "cluster.md", "admin.md"))
STUDY = stage.STUDY + "workers: 1\ntracking: false\n"


on_a_stage = pytest.mark.skipif(bool(stage.missing()), reason=stage.missing())


def commands(heading: str, page: str = PAGE) -> list[str]:
    """The indented lines under a heading, without comments; not those behind ◦, which this machine cannot run."""
    section = re.split(rf"^##+ {re.escape(heading)}$", page, flags=re.MULTILINE)[1].partition("\n##")[0]
    found, runnable = [], True
    for line in section.splitlines():
        if not line.startswith("    "):
            runnable = "◦" not in line if line.strip() else runnable
        elif runnable and "◦" not in line:
            found.append(line.partition("  #")[0].strip())
    return found


def test_the_project_reads_on_the_python_and_torch_of_the_gpu_check_and_a_page_has_commands_for_every_place() -> None:
    """`make gpu` is for a bare machine: Python 3.12, and the torch that benchmarks/gpu.py names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "torch"]
    (needed,) = re.findall(r"torch (\d+\.\d+) or newer", (ROOT / "benchmarks/gpu.py").read_text())
    assert needed in torch.specifier and "3.12" in SpecifierSet(project["requires-python"])
    gone = re.compile(r"^\s*(import|from) (asynchat|asyncore|distutils|imp|smtpd)\b", re.MULTILINE)  # in 3.12
    assert [str(path) for path in ROOT.glob("hpo/**/*.py") if gone.search(path.read_text())] == []
    assert commands("A laptop") == ["hpo run study.yaml", "hpo ui study.yaml"]
    assert commands("One server with GPUs")[0].startswith("tmux new-session")
    assert len(commands("A small cluster", CLUSTER)) == 5


def test_a_study_on_one_machine(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    lines = [*commands("A laptop"), *commands("One server with GPUs"), *commands("An existing MLflow server")]
    lines = [line for line in lines if line.startswith("hpo") and " ui " not in line]  # that serves until Ctrl-C
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = {}
    for line in lines:
        line = line.replace(" --watch", "")
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        said[line] = done.stdout
    assert "2 trials (2 complete)" in said["hpo run study.yaml"]


PROGRAM = """\
import hpo

result: hpo.Result = hpo.run("study.yaml", strategy="random", seed=3, workers=2, device="cpu")
value: float = hpo.open({"name": "mine"}).best_value
verdict: str = hpo.compare("study.yaml", strategies=["random", "grid"]).verdict
html: str = result._repr_html_()

hpo.run("study.yaml", sede=3)
"""


def test_a_wheel_has_all_that_is_read_beside_the_code_and_no_test(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "77", reason="it builds the wheel; no package is downloaded here")
    for name in ("hpo", "search_spaces", "pyproject.toml", "README.md", "LICENSE", "tests"):
        source = ROOT / name
        if source.is_dir():  # setuptools leaves its build/ beside the sources
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    pip = f"{sys.executable} -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir made ."
    done = subprocess.run(pip.split(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "made").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hpo").rglob("*.*") if path.is_file()}
    spaces = {f"hpo/search_spaces/{path.name}" for path in (ROOT / "search_spaces").iterdir()}
    assert inside == {name for name in ours if not name.endswith(".pyc")} | spaces
    assert {Path(name).suffix for name in inside} == {".py", ".yaml", ".json", ".css", ".html", ".js", ".npz", ".typed"}
    assert_typed(wheel, tmp_path / "own")


def assert_typed(wheel: Path, folder: Path) -> None:
    """Who installs it has its types: mypy finds the one mistake in a program, and nothing else to say."""
    venv.create(folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(next(folder.glob("lib/python*/site-packages")))
    (folder / "program.py").write_text(PROGRAM)
    words = ["--strict", "--python-executable", "bin/python", "program.py"]
    done = subprocess.run([sys.executable, "-m", "mypy", *words], cwd=folder, capture_output=True, text=True)
    first, *rest = [line for line in done.stdout.splitlines() if "error" in line]
    assert first.startswith('program.py:8: error: Unexpected keyword argument "sede" for "run"'), done.stdout
    assert rest == ["Found 1 error in 1 file (checked 1 source file)"]


def test_a_team_s_preparations_are_what_the_compose_file_asks_for(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    for line in commands("A service for a team", ADMIN):
        subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    made = stage.compose()
    for secret in made["secrets"].values():
        path = tmp_path / secret["file"]
        assert len(path.read_text().strip()) >= 48
        assert path.parent.stat().st_mode & 0o077 == 0
    assert (tmp_path / "studies" / "digits.yaml").exists()


def test_the_cluster_for_kubernetes_starts_like_that_of_compose() -> None:
    (block,) = re.findall(r"```yaml\n(apiVersion: ray.io.*?)```", CLUSTER, re.DOTALL)
    told = yaml.safe_load(block)["spec"]
    (worker,) = told["workerGroupSpecs"]
    head = told["headGroupSpec"]
    pods = [group["template"]["spec"] for group in (head, worker)]
    mounts = {mount["mountPath"] for pod in pods for one in pod["containers"] for mount in one["volumeMounts"]}
    services = stage.compose()["services"]
    assert mounts == {services["ray-worker"]["volumes"][0]["target"]}
    flags = [f"--{name}={value}" for name, value in head["rayStartParams"].items()]
    assert set(flags) <= set(services["ray-head"]["command"])


OLDEST = """
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine
Base.metadata.create_all(create_engine("postgresql+psycopg://mlflow@postgres:5432/mlflow"))
"""


def play(made: Stage, heading: str) -> str:
    """What the page's commands say, with the stage in place of Docker and its folder in place of the checkout."""
    said = ""
    for line in commands(heading, ADMIN):
        verb, *words = line.removeprefix("docker compose ").split()
        if verb == "stop":
            assert words == ["mlflow"]  # which is not running
        elif verb == "up":
            made.up(*words[2:])
        elif verb == "run":
            done = made.run(*words[1:])
            said += done.stdout + done.stderr
            assert done.returncode == 0, f"{line}: {said}"
        else:
            line = re.sub(r"^docker compose exec -T (\w+)", lambda found: shlex.join(made._as(found[1])), line)
            subprocess.run(line, shell=True, cwd=made.folder, check=True)
    return said


@pytest.mark.cluster
@on_a_stage
@pytest.mark.timeout(900)  # two stages
def test_an_older_database_is_upgraded_and_what_was_backed_up_is_there_after_a_restore(tmp_path: Path) -> None:
    with closing(Stage(tmp_path / "before")) as before, closing(Stage(tmp_path / "after")) as after:
        before.up("postgres")
        assert before.run("mlflow", "python", "-c", OLDEST).returncode == 0
        assert "Updating database tables" in play(before, "Upgrade")
        assert "Updating database tables" not in before.log("mlflow")  # it had nothing left to do
        (before.folder / "studies/digits.yaml").write_text(stage.STUDY + "workers: 1\ntracking: {register: digits}\n")
        done = before.run("hpo", "run", "studies/digits.yaml", join=False)
        assert done.returncode == 0, done.stdout + done.stderr
        play(before, "Backup")
        status = before.run("hpo", "status", "studies/digits.yaml", join=False).stdout
        before.close()
        shutil.copytree(before.folder / "backup", after.folder / "backup")
        play(after, "Restore")
        loaded = after.run("hpo", "python", "-c", stage.LOADED, plain=True)
        assert loaded.stdout.startswith('[["FINISHED", "FINISHED", "FINISHED"], [2, 10]'), loaded.stderr
        assert after.run("hpo", "status", "studies/digits.yaml", join=False).stdout == status != ""


@pytest.mark.cluster
@on_a_stage
def test_a_small_cluster(tmp_path: Path) -> None:
    with closing(Stage(tmp_path / "stage")) as made:
        (made.folder / "study.yaml").write_text(STUDY.replace("workers: 1", "workers: 2"))
        (made.folder / "studies" / "digits.yaml").write_text(STUDY.replace("name: digits", "name: sent"))
        os.chown(made.folder, 1000, 1000)
        for line in commands("A small cluster", CLUSTER) + commands("A study as a job", CLUSTER):
            line = line.replace("HEAD:6379", f"{os.uname().nodename}:6379")
            done = made.run("hpo", "sh", "-c", f"unset RAY_ADDRESS; {line}", plain=True)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            assert "hpo run" not in line or "2 trials (2 complete)" in done.stdout
