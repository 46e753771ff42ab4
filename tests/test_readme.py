"""What the documents show is true: commands exist, study files load, links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest

import hpo
from hpo.cli.main import cli
from hpo.study_file.spec import STRATEGIES

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GONE = ("extend", "replay")  # verbs of 0.1; only the changelog names them


def commands(document: Path) -> set[str]:
    """Every `hpo verb ...` in backticks or in an indented block."""
    text = document.read_text()
    spans = re.findall(r"`([^`\n]+)`", text) + [line.strip() for line in text.splitlines() if line.startswith("    ")]
    blocks = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    candidates = [span.removeprefix("$ ").removeprefix("python -m ") for span in spans + lines]
    return {candidate for candidate in candidates if re.match(r"hpo [a-z]", candidate)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists_with_its_flags(document: Path) -> None:
    for command in commands(document):
        words = shlex.split(command.replace("...", ""), comments=True)[1:]
        verb = cli.commands.get(words[0])
        assert verb is not None, f"{document.name}: {command}"
        flags = {
            option for parameter in verb.params if isinstance(parameter, click.Option) for option in parameter.opts
        }
        unknown = [word for word in words[1:] if word.startswith("--") and word not in flags | {"--help"}]
        assert not unknown, f"{document.name}: {command}: {unknown}"


def test_the_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in cli.commands if f"hpo {verb}" not in text] == []


def test_the_changelog_names_every_verb_that_went() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert [verb for verb in GONE if f"`hpo {verb}`" not in text or verb in cli.commands] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_installs_a_name_of_the_public_registry(document: Path) -> None:
    """The package called hpo there belongs to somebody else: an extra is installed from a checkout."""
    assert not re.search(r"pip install\S* +['\"]?hpo", document.read_text())


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
