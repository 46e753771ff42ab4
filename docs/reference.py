"""Pages of the site that follow from the code, and the hook of mkdocs.yml that adds them: `make docs`.

The reference of the study file is made from the declarations that its reader itself reads, that of the verbs from click,
that of Python from signatures and docstrings. None of these pages is kept: a page cannot be out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click

import hpo
from hpo.cli.main import cli
from hpo.cli.options import StudyVerb
from hpo.core import Trial
from hpo.errors import HpoError
from hpo.formatting import written
from hpo.study_file.fields import Kind, Plain, Record, Several, WrittenDomain, options
from hpo.study_file.reader import template
from hpo.study_file.spec import StudySpec

ROOT = Path(__file__).parents[1]
LOADING = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
}  # what a browser fetches by itself
READ_LATER = {  # keys whose values have a form of their own
    "search_space": "a mapping of parameters, a file or a name",
    "constraints": "a condition, or a list of them",
    "start_with": "a list of mappings",
    "choices": "a list of values",
    "when": "a mapping of parameters to values",
}


def pages() -> dict[str, str]:
    """Every page of the site that is not a file of docs/."""
    kept = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
    home = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    home = re.sub(r"\[([^]]+)\]\((examples/[^)]*)\)", r"\1 (`\2` in the repository)", home)
    return {"index.md": home, **kept, "study-file.md": study_file(), "verbs.md": verbs(), "python.md": python()}


# -- the study file


def study_file() -> str:
    head = "# The study file\n\nEvery key. An empty value stands for the default; a wrong key or value is refused in one line."
    domain = (
        "## A parameter of `search_space`\n\nA value alone is a constant, a list a choice; all else is a mapping of:"
    )
    whole = f"## The file that `hpo init` writes\n\n```yaml\n{template('digits-cnn')}```\n"
    return "\n\n".join([head, table(StudySpec), *sections(StudySpec), domain, table(WrittenDomain), whole])


def sections(of: Any, path: str = "") -> Iterator[str]:
    """A heading and a table for each key that is a mapping, and for those in it."""
    for key, item in options(of).items():
        kind, name = item.metadata["kind"], f"{path}{key}"
        if isinstance(kind, Record):
            yield f"## `{name}`\n\n{sentence(item.metadata['doc'])}"
            yield table(kind.section)
            yield from sections(kind.section, f"{name}.")


def table(of: Any) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, item in options(of).items():
        value = READ_LATER.get(key) or meant(item.metadata["kind"])
        rows.append(f"| `{key}` | {cell(value)} | {default(item)} | {cell(item.metadata['doc'])} |")
    return "\n".join(rows)


def meant(kind: Kind) -> str:
    """What one kind of value is, in words: those of the message that refuses another."""
    match kind:
        case Plain(rule=rule):
            return rule.removeprefix("must be ")
        case Several(kind=inner, count=count, broadcast=broadcast):
            many = f"a list of {count or 'one or more'}: {meant(inner)}"
            return f"{meant(inner)}, or {many}" if broadcast else many
        case Record(section=of, short=short, listed=listed):
            alone = options(of)[short].metadata["kind"] if short else listed
            return "a mapping" if alone is None else f"a mapping, or {meant(alone)}"
    raise TypeError(kind)


def default(item: Any) -> str:
    value = item.default
    if value is MISSING:
        return "must be given"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    if isinstance(value, int) and value >= 1 << 30:
        return f"`{value >> 30}GiB`"
    return f"`{written(value)}`" if isinstance(value, bool | int | float | str) else ""


# -- verbs


def verbs() -> str:
    common = {option.name for option in StudyVerb("").params}
    study = [option for option in StudyVerb("").params if isinstance(option, click.Option)]
    codes = {"0": "Done.", **{str(error.exit_code): inspect.getdoc(error) or "" for error in HpoError.__subclasses__()}}
    codes |= {"130, 143": "Stopped by a signal; the same command resumes.", "1": "A bug of hpo."}
    parts = [
        "# Verbs\n\n"
        + "\n".join(["| exit code | |", "|---|---|", *(f"| {code} | {text} |" for code, text in codes.items())]),
        f"## Options of every verb about a study\n\n{flags(study)}",
    ]
    for name, verb in cli.commands.items():
        usage = " ".join(verb.collect_usage_pieces(click.Context(verb)))
        own = [option for option in verb.params if isinstance(option, click.Option) and option.name not in common]
        parts.append(f"## `hpo {name}`\n\n    hpo {name} {usage}\n\n{inspect.cleandoc(verb.help or '')}")
        parts += [flags(own)] if own else []
    return "\n\n".join(parts)


def flags(of: list[click.Option]) -> str:
    records = [option.get_help_record(click.Context(cli)) or ("", "") for option in of]
    return "\n".join(["| option | |", "|---|---|", *(f"| `{cell(name)}` | {cell(text)} |" for name, text in records)])


# -- Python


def python() -> str:
    errors = ", ".join(f"`{error.__name__}` ({error.exit_code})" for error in HpoError.__subclasses__())
    parts = ["# Python\n\nWhat `import hpo` gives, and what comes out of it."]
    for name in sorted(hpo.__all__, key=lambda name: (not inspect.isfunction(getattr(hpo, name)), name)):
        thing = getattr(hpo, name)
        if inspect.isfunction(thing):
            parts.append(f"## `hpo.{name}`\n\n{described(name, thing)}")
        elif thing is hpo.StudySpec:
            parts.append(
                f"## `hpo.{name}`\n\n{inspect.getdoc(thing)} Its fields are the keys of [the file](study-file.md)."
            )
        elif thing is HpoError:
            parts.append(f"## `hpo.{name}`\n\n{inspect.getdoc(thing)} Its kinds, with the exit codes: {errors}.")
        elif inspect.isclass(thing):
            parts.append(f"## `hpo.{name}`\n\n{inspect.getdoc(thing)}\n\n{members(thing)}")
    return "\n\n".join([*parts, f"## A trial\n\n{inspect.getdoc(Trial)}\n\n{members(Trial)}"]) + "\n"


def members(of: type) -> str:
    """Its fields, then what else it has, each with its docstring."""
    shown = [f"    {name}: {kind}" for name, kind in inspect.get_annotations(of).items()]
    parts = ["\n".join(shown)]
    for name, member in vars(of).items():
        code = member.fget if isinstance(member, property) else getattr(member, "func", member)
        if not name.startswith("_") and inspect.isfunction(code):
            plain = isinstance(member, property | cached_property)
            parts.append(f"### `.{name}`\n\n{described(name, code, plain)}")
    return "\n\n".join(parts)


def described(name: str, function: Any, plain: bool = False) -> str:
    """The signature as it is written, then the docstring. plain: of a value that is not called."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    returns = ast.unparse(node.returns) if node.returns else "None"
    given = [part for part in ast.unparse(node.args).split(", ") if part != "self"]
    signature = f"{name}: {returns}" if plain else f"{name}({', '.join(given)}) -> {returns}"
    shown = textwrap.wrap(signature, 90, initial_indent="    ", subsequent_indent=" " * 8, break_long_words=False)
    return "\n".join([*shown, "", inspect.getdoc(function) or ""])


# -- words


def sentence(text: str) -> str:
    """Begins with a capital and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def cell(text: str) -> str:
    """Markdown ends a cell at a bar."""
    return text.replace("|", "\\|")


# -- hooks of mkdocs


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_post_build(config: Any) -> None:
    """Raises PluginError for a page that would load something from elsewhere."""
    from mkdocs.exceptions import PluginError

    made = Path(config.site_dir).rglob("*.html")
    if astray := [f"{path}: {address}" for path in made for address in loaded(path.read_text(encoding="utf-8"))]:
        raise PluginError("pages must load nothing from elsewhere, got " + ", ".join(sorted(set(astray))))


def loaded(html: str) -> list[str]:
    """Addresses outside the site that a browser fetches by itself when it shows a page."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            address = dict(attrs).get(LOADING.get(tag, "")) or ""
            if "//" in address.partition("?")[0]:
                found.append(address)

    Reader().feed(html)
    return found
