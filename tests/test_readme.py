"""What the documents show is true: commands exist, study files load, links lead somewhere."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest
from laws import refused

import hpo
from hpo.cli.main import cli
from hpo.data.dataset import load_dataset
from hpo.study_file.spec import STRATEGIES

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(document: Path) -> set[str]:
    """Every `hpo verb ...` in backticks or in an indented block."""
    text = document.read_text()
    spans = re.findall(r"`([^`\n]+)`", text) + [line.strip() for line in text.splitlines() if line.startswith("    ")]
    blocks = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    candidates = [span.removeprefix("$ ").removeprefix("python -m ") for span in spans + lines]
    return {candidate for candidate in candidates if re.match(r"hpo [a-z]", candidate)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists_with_its_flags_and_none_installs_another_s_package(document: Path) -> None:
    for command in commands(document):
        words = shlex.split(command.replace("...", ""), comments=True)[1:]
        verb = cli.commands.get(words[0])
        assert verb is not None, f"{document.name}: {command}"
        flags = {one for option in verb.params if isinstance(option, click.Option) for one in option.opts}
        unknown = [word for word in words[1:] if word.startswith("--") and word not in flags | {"--help"}]
        assert not unknown, f"{document.name}: {command}: {unknown}"
    # the package called hpo there belongs to somebody else: an extra is installed from a checkout
    assert not re.search(r"pip install\S* +['\"]?hpo", document.read_text())


def test_the_readme_names_every_verb_and_a_page_that_would_load_something_is_found() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in cli.commands if f"hpo {verb}" not in text] == []
    loaded = runpy.run_path(str(ROOT / "docs/reference.py"))["loaded"]
    page = '<link href="//a.example/x.css"><script src=\'https://b.example/y.js\'></script><img src="c.png"><a href="https://d.example">'
    assert loaded(page) == ["//a.example/x.css", "https://b.example/y.js"]


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_study_file_in_a_document_loads(document: Path, tmp_path: Path) -> None:
    for index, block in enumerate(re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)):
        if "search_space:" not in block or "name:" not in block or "execution: {engine: ray" in block:
            continue
        path = tmp_path / f"{index}.yaml"
        path.write_text(block)
        for strategy in STRATEGIES:  # so that `hpo compare` takes it too
            hpo.load(path, sets=[f"strategy={strategy}"])


def headings(document: Path) -> set[str]:
    """Of its headings the names that links use."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"], ids=lambda path: path.name
)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(document: Path) -> None:
    for path, heading in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not heading or heading in headings(target), f"{path}#{heading}"


def test_the_reference_has_every_key_every_verb_and_every_public_name() -> None:
    made = runpy.run_path(str(ROOT / "docs/reference.py"))
    pages = made["pages"]()
    keys = re.findall(r'^ +"(\w+)": \{$', (ROOT / "hpo/study_file/study.schema.json").read_text(), re.MULTILINE)
    words = set(keys) - {"properties", "additionalProperties", "propertyNames", "items", "not"}
    assert {"search_space", "strategies", "log"} < words
    assert [key for key in words if f"| `{key}` | " not in pages["study-file.md"]] == []
    assert [verb for verb in cli.commands if f"## `hpo {verb}`" not in pages["verbs.md"]] == []
    assert [name for name in hpo.__all__ if f"## `hpo.{name}`" not in pages["python.md"]] == ["__version__"]
    assert "](docs/" not in "".join(pages.values())


@pytest.mark.timeout(1200)  # of each a dozen commands
@pytest.mark.parametrize("name", ["first-study", "own-network", "from-other-tools"])
def test_a_tutorial_works_as_it_is_printed(name: str, tmp_path: Path) -> None:
    """From an empty folder: its files, its commands in their order, and what it shows of their output; of refusals all."""
    text = (ROOT / "docs" / f"{name}.md").read_text()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = partial(subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    part = re.compile(r'^```\w+(?: title="([^"]+)")?\n(.*?)^```$(.*?)(?=^```\w|\Z)', re.DOTALL | re.MULTILINE)
    for title, body, after in part.findall(text):
        if title:
            (tmp_path / title).write_text(body)
        lines, said, shown = [] if title else body.splitlines(), "", re.findall("^    (.+)$", after, re.MULTILINE)
        for line in (one for one in lines if not one.startswith(("python3 -m venv", ". .venv", "hpo ui"))):
            refused = "exit code 2" in line
            done = run(line, shell=True)
            said += done.stdout + done.stderr
            assert done.returncode == (2 if refused else 0), f"{line}: {said[-3000:]}"
            assert not refused or shown == said.splitlines()
        assert [one for one in shown if said and not re.search(f"^{but_for_luck(one)}$", said, re.MULTILINE)] == []


def but_for_luck(line: str) -> str:
    """A pattern of a line of output that leaves open only what depends on when which worker was free."""
    return ".*".join(map(re.escape, re.split(r"\d+ trials \(.*?\)|trial \d+|, epoch \d+ of \d+|\d\.\d{4}", line)))


def test_what_the_readme_shows_of_the_shipped_study_and_of_a_mistake_is_so(tmp_path: Path) -> None:
    text, spec = (ROOT / "README.md").read_text(), hpo.load(ROOT / "study.yaml")
    assert f"    data:   {load_dataset(spec.data, spec.base_seed).described()}\n" in text
    assert re.search(rf"^    {spec.name}: budget spent; .*, {spec.budget.total_epochs} epochs$", text, re.MULTILINE)
    written = tmp_path / "study.yaml"
    written.write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0].replace("min: 1e-4", "min: 0.5"))
    assert f"`{refused(hpo.HpoError, hpo.load, written).removeprefix(f'{tmp_path}/')}`" in text
