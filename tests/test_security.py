"""What docs/security.md says is not trusted, is not. Readers of files have laws of their own in their own tests."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from laws import refused
from pictures import job
from PIL import Image
from studied import hpo
from survival import never_left
from test_faults import check_whole, journal_of, whole

from hpo.__main__ import fail_by_bug
from hpo.cli.main import cli
from hpo.commands.report import study_facts
from hpo.commands.sync import serve_ui, tracked_study
from hpo.core import Outcome, Study, TrainingFailed
from hpo.engine.opening import take_over
from hpo.engine.result import study_report
from hpo.errors import BadInput, EnvironmentFailed, Mistake, NoResult
from hpo.execution.job_runner import failed
from hpo.files import Folders
from hpo.formatting import without_password
from hpo.journal import Journal
from hpo.study_file import reader as spec
from hpo.tracking import ui
from hpo.tracking.ui import ui_address

HPO = Path(__file__).parent.parent / "hpo"


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in hpo."""
    for path in sorted(HPO.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(HPO)), ast.unparse(node.func), node


def flag(call: ast.Call, name: str) -> object:
    found = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else None


def test_text_is_never_run_as_code() -> None:
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"}
    assert [(file, name) for file, name, _ in calls() if name in forbidden] == []
    assert [(file, name) for file, name, call in calls() if flag(call, "shell")] == []


def test_pickles_tensors_and_yaml_are_read_in_safe_ways_only() -> None:
    """Pickles: CIFAR's files, by an unpickler that builds arrays only; what a driver sends to Ray or its own processes."""
    readers = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "cloudpickle.loads"}
    found = {(file, name) for file, name, _ in calls() if name in readers or name.endswith("_Unpickler")}
    of_the_driver = {("publishing/publish.py", "pickle.loads"), ("training/recipe.py", "pickle.load")}
    of_the_driver |= {("execution/ray_worker.py", "pickle.loads")}
    assert found == {("data/sources/originals.py", "_Unpickler"), *of_the_driver}
    loads = [(file, name, call) for file, name, call in calls() if name in ("torch.load", "np.load", "numpy.load")]
    assert len(loads) >= 4
    for file, name, call in loads:
        safe = flag(call, "weights_only") is True if name == "torch.load" else flag(call, "allow_pickle") is False
        assert safe, (file, call.lineno)
    names = {name for _, name, _ in calls() if name.startswith("yaml.")}
    assert names <= {"yaml.safe_dump", "yaml.compose", "yaml.parse"}, names  # nodes and events, never objects
    loaders = {ast.unparse(k.value) for _, name, call in calls() for k in call.keywords if name == "yaml.compose"}
    assert loaders <= {"yaml.SafeLoader"}


STUDY = """\
name: mine
strategy: random
train: stranger:train
search_space: {rate: [0.1, 0.2], epochs: [1]}
budget: {trials: 1}
workers: 1
tracking: {enabled: false}
"""
STRANGER = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
def train(job):
    yield {"val_accuracy": 1.0}
"""


@pytest.mark.parametrize("verb", [["check"], ["status"], ["show", "0"], ["best"], ["check", "--trust"]])
def test_a_stranger_s_code_is_imported_by_run_and_by_who_trusts_it_only(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "stranger.py").write_text(STRANGER)
    done = CliRunner().invoke(cli, [*verb, str(tmp_path / "study.yaml")])
    assert not isinstance(done.exception, ImportError)
    assert (tmp_path / "imported").exists() is ("--trust" in verb)
    if verb == ["check"]:
        assert "your own code, which check imports only with --trust" in done.output


SECRETS = [
    "http://:hunter2@host",
    "http://host:5000/a",
    "tracking: {uri: 'http://user:hunter2@host'}\nname: a@b\n",
    'uri: "http://a:hunter2@h" # http://b:hunter2@h',
    "('mysql://h/db?user=u&password=hunter2&ssl=1')",
    "{uri: 'http://h/?Access_Token=hunter2'}",
    "mssql://?odbc_connect=UID%3Du%3BPWD%3Dhunter2",
    "http://host/#/runs?viewStateShareKey=hpo",
]
MARKS = st.text("'\"`:/@?#;=%,.(){}[]\\$!~a1", max_size=4)


@pytest.mark.parametrize("text", SECRETS)
def test_a_password_is_taken_out_of_any_text(text: str) -> None:
    assert without_password(text) == text.replace("hunter2", "***")


@given(before=MARKS, after=MARKS, query=st.booleans(), quote=st.sampled_from(["", "'", '"', "`"]))
def test_any_password_is_masked_wherever_it_stands(before: str, after: str, query: bool, quote: str) -> None:
    secret = f"{before}hunter2{after}"
    uri = f"mysql://u@host/db?a=b&password={secret}&c=d" if query else f"mysql://u:{secret}@host/db?a=b"
    masked = "mysql://u@host/db?a=b&password=***&c=d" if query else "mysql://u:***@host/db?a=b"
    assert without_password(f"at {quote}{uri}{quote}, or") == f"at {quote}{masked}{quote}, or"
    assert "hunter2" not in f"{Mistake(uri, uri, uri, uri)} {BadInput(uri)} {ui_address(uri, '1')}"


def test_a_password_in_an_error_of_a_users_own_code_is_masked(tmp_path: Path, capsys: Any) -> None:
    for error in (ValueError("http://u:hunter2@host"), TrainingFailed(Outcome.INVALID, "mysql://h?password=hunter2")):
        assert "hunter2" not in repr(failed(job({}, tmp_path / "trainings"), error))
    with pytest.raises(SystemExit):
        fail_by_bug(ValueError("http://u:hunter2@host"))
    place = Path(capsys.readouterr().err.partition(": a bug of hpo")[0])
    kept = [*(tmp_path / "errors").iterdir(), place]
    texts = [path.read_text() for path in kept]
    assert [("http://u:***@host" in text, "hunter2" in text) for text in texts] == [(True, False)] * 2
    place.unlink()


@pytest.mark.parametrize(
    "uri", ["http://u:hunter2@localhost:1", 'http://u:x"hunter2@h', "mysql://h/d?password=hunter2"]
)
def test_a_password_in_the_study_file_is_kept_in_the_study_file_only(tmp_path: Path, uri: str) -> None:
    text = STUDY.replace("tracking: {enabled: false}", f"tracking: {{uri: '{uri}'}}")
    (tmp_path / "study.yaml").write_text(text)
    one = spec.read_study(tmp_path / "study.yaml")
    place = Folders(tmp_path, "mine", "random", 0)
    with ExitStack() as stack:
        (journal,) = take_over([one], [place], False, stack)
        told = study_report(one, place, Study(), study_facts(one))
        assert journal.get("text") == without_password(text)
    assert "hunter2" not in repr(told)
    assert "hunter2" not in repr(tracked_study(one, place).texts)
    assert all(b"hunter2" not in path.read_bytes() for path in place.study.rglob("*") if path.is_file())


def test_the_ui_is_refused_where_there_is_nothing_to_see_and_leaves_no_store(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    off, on = (spec.read_study(tmp_path / "study.yaml", sets=sets) for sets in ((), ["tracking=true"]))
    assert "must not be off to open MLflow" in refused(BadInput, serve_ui, off, tmp_path, 5000)
    assert "mlflow.db: MLflow has nothing yet; `hpo run" in refused(NoResult, serve_ui, on, tmp_path, 5000)
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize("uri", ["http://user:hunter2@localhost:1", "postgresql://user:hunter2@localhost:1/db"])
def test_the_ui_is_served_to_this_machine_and_shows_no_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("{enabled: false}", f"{{uri: '{uri}'}}"))
    started: list[list[str]] = []
    popen = subprocess.Popen

    def start(command: list[str], env: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
        started.append(command)
        assert env["MLFLOW_BACKEND_STORE_URI"] == uri
        return popen([sys.executable, "-c", f"raise SystemExit('no database at {uri}')"], **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(ui, "missing_package", lambda uri, scheme: "")  # psycopg need not be here
    study = spec.read_study(tmp_path / "study.yaml")
    if uri.startswith("http"):
        serve_ui(study, tmp_path, 5000)
    else:
        line = "MLflow's server: has ended by itself, got no database at postgresql://user:***@"
        assert refused(EnvironmentFailed, serve_ui, study, tmp_path, 5000).startswith(line)
    assert "hunter2" not in capsys.readouterr().out + str(started)
    assert len(started) == uri.startswith("postgresql")
    assert all(command[command.index("--host") + 1] == "127.0.0.1" for command in started)


def test_a_folder_of_any_name_is_a_folder(tmp_path: Path) -> None:
    """Names that mean something to SQLite's URIs, to shells and to terminals."""
    folder = tmp_path / "a?mode=memory&b#c%20d 'e' \"f\" $(g) \u202e"
    folder.mkdir()
    with never_left(whole(folder, "--workers", "1")) as process:
        said = process.finish()
    assert said.code == 0, said
    check_whole(folder, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    with Journal.open(journal_of(folder), read_only=True) as journal:
        assert journal.path.exists()


HOSTILE = "cat\x1b]0;owned\x07\x1b[2J\u202e"


def test_names_of_classes_and_files_reach_a_terminal_without_escapes_and_a_program_as_they_are(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (40, 6, 6)).astype(np.uint8)
    for number, pixels in enumerate(images):
        folder = tmp_path / "images" / (HOSTILE, "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}{HOSTILE[3:]}.png")
    space = "search_space: {epochs: 1, blocks: 1}, execution: inline, tracking: false"
    (tmp_path / "study.yaml").write_text(f"{{name: icons, data: images, {space}}}")
    (tmp_path / "images" / "dog" / f"bad{HOSTILE}.png").write_text("no image")
    bad = hpo(tmp_path, "check", code=2)
    assert "bad" in bad.stderr
    skip = ("--set", "data={source: images, damaged: skip}")
    for words in (("check",), ("run", "--trials", "1"), ("show",), ("best",), ("predict",)):
        arguments = {"show": ["0"], "predict": [str(tmp_path / "images")]}.get(words[0], [])
        done = hpo(tmp_path, words[0], *arguments, "study.yaml", *skip, *words[1:])
        people = done.stderr if words == ("predict",) else done.stdout + done.stderr
        assert [line for line in people.split("\n") if not line.isprintable()] == [], words
        assert words[0] not in ("run", "predict") or "\\x1b" in people, "the name is there, and harmless"
    assert f"39{HOSTILE[3:]}.png," in done.stdout
    assert all(line.isprintable() for line in bad.stderr.split("\n"))
