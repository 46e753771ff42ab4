"""The messages a user gets for a bad study file, exactly: tests/bad_study_files.yaml, and here what bytes can do."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from laws import tables

from hpo.errors import BadInput, Mistake
from hpo.models.families import known
from hpo.study_file import yaml_nodes
from hpo.study_file.reader import read_study

CASES: list[dict[str, Any]] = tables("bad_study_files")
NEEDED = {"name": "name: x", "data": "data: digits", "search_space": "search_space: {epochs: [1, 2]}"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(path: str = "study.yaml", sets: list[str] | None = None) -> str:
    with pytest.raises(BadInput) as refused:
        read_study(path, sets=sets or [], known=known)
    assert refused.value.exit_code == 2
    return str(refused.value)


def whole(case: dict[str, Any]) -> str:
    file: str = case.get("file", "")
    if case.get("bare"):
        return file
    given = [line.partition(":")[0] for line in file.splitlines()]
    return file + "".join(f"{line}\n" for key, line in NEEDED.items() if key not in given)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_bad_study_file_is_refused_in_these_words(case: dict[str, Any]) -> None:
    Path("study.yaml").write_text(whole(case), encoding="utf-8")
    if "space" in case:
        Path("space.yaml").write_text(case["space"], encoding="utf-8")
    before = sorted(Path().iterdir())
    assert said(sets=case.get("sets")) == case["says"].rstrip()
    assert sorted(Path().iterdir()) == before


def test_both_parsers_of_yaml_lead_to_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """libyaml, which comes with the wheel, and Python's, where there is no wheel."""
    assert yaml_nodes._PARSER is yaml.CSafeLoader
    monkeypatch.setattr(yaml_nodes, "_PARSER", yaml.SafeLoader)
    for case in CASES:
        Path("space.yaml").write_text(case.get("space", ""), encoding="utf-8")
        Path("study.yaml").write_text(whole(case), encoding="utf-8")
        assert said(sets=case.get("sets")) == case["says"].rstrip()


BYTES = [
    (b"", "study.yaml: is empty; see `hpo init` for a study file to start from"),
    (b"# only a comment\n", "study.yaml: is empty; see `hpo init` for a study file to start from"),
    (b"---\n", "study.yaml: is empty; see `hpo init` for a study file to start from"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "study.yaml: must be text, got a binary file; name a .yaml file"),
    (b"name: caf\xe9\n", "study.yaml:1:10: must be UTF-8, got byte 0xe9; save the file as UTF-8"),
    ("name: x\n".encode("utf-16"), "study.yaml: must be text, got a binary file; name a .yaml file"),
    (b"seed: 1\nname: \x1b[31m\n", "study.yaml:2:7: must not contain control characters, got U+001B; delete it"),
    (b"#" * ((1 << 20) + 1), "study.yaml: must be at most 1 MiB, got more; keep data out of it"),
    (b"x: [" + b"0," * 20_000 + b"]", "study.yaml:1:40001: must hold at most 20,000 values, got more"),
    (b"x: " + b"[" * 3000, "study.yaml:1:43: must be nested at most 40 deep, got deeper; flatten it"),
    (b"x: " + b"{a: " * 3000, "study.yaml:1:160: must be nested at most 40 deep, got deeper; flatten it"),
    (b"- " * 3000 + b"x", "study.yaml:1:81: must be nested at most 40 deep, got deeper; flatten it"),
]


@pytest.mark.parametrize(("raw", "words"), BYTES, ids=lambda value: None if isinstance(value, bytes) else value[11:50])
def test_a_file_that_is_no_document_is_refused_in_these_words(raw: bytes, words: str) -> None:
    Path("study.yaml").write_bytes(raw)
    assert said() == words


def test_a_file_that_is_not_there_or_cannot_be_one() -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    lost = "does not exist; check the path, or write one with `hpo init`"
    assert said("none.yaml") == f"none.yaml: {lost}"
    assert said("folder") == "folder: must be a file, got a folder; name a .yaml file"
    assert said("pipe") == "pipe: must be a file, got a device or a pipe; name a .yaml file"
    assert said("a\0b").startswith("a\\x00b: cannot be read")
    assert said("x" * 300).endswith("cannot be read, got file name too long; check the path")


def test_a_misspelt_path_is_answered_with_what_lies_beside_it_and_of_a_thousand_mistakes_a_hundred_listed() -> None:
    Path("shots/pictures").mkdir(parents=True)
    Path("study.yaml").write_text("data: shots/picturs\n", encoding="utf-8")
    assert "got shots/picturs; did you mean shots/pictures?" in said()
    Path("study.yaml").write_text("".join(f"key{i}: 1\n" for i in range(1000)), encoding="utf-8")
    lines = said().splitlines()
    assert len(lines) == 101
    assert lines[-1] == "study.yaml:100:1: has more mistakes than these; fix these first"


def test_a_mistake_found_later_can_name_its_line_too() -> None:
    """Data and models are looked at after the file: `place` gives their messages the same form."""
    Path("study.yaml").write_text("name: x\ndata: {source: digits,\n  limit: 3}\nsearch_space: {epochs: 1}\n")
    spec = read_study("study.yaml")
    assert spec.place("data.limit") == "study.yaml:3:10 data.limit"
    assert spec.place("data.split.train") == "study.yaml:2:7 data.split.train"
    assert spec.place("loss") == "study.yaml:1:1 loss"
    assert str(Mistake(spec.place("data"), "is too small")) == "study.yaml:2:7 data: is too small"
