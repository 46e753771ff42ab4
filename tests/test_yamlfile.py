"""YAML 1.2, places, and what hostile files are stopped by."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from laws import refused, tables

from hpo.errors import BadInput
from hpo.study_file import yaml_nodes
from hpo.study_file.yaml_nodes import Node, located, node_of, parse, places, read_yaml, value_of

TABLES = tables("study_file_tables")


def plain(node: Node) -> Any:
    if node.mapping is not None:
        return {key: plain(one) for key, one in node.mapping.items()}
    return [plain(one) for one in node.items] if node.items is not None else node.value


def value(text: str) -> Any:
    return plain(parse(f"x: {text}", "f").root)["x"]


@pytest.mark.parametrize(("text", "expected"), TABLES["scalars of YAML 1.2"])
def test_scalars_are_those_of_yaml_1_2(text: str, expected: object) -> None:
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


@given(st.one_of(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False)))
def test_a_number_that_python_writes_is_read_back(number: float) -> None:
    written = {"inf": ".inf", "-inf": "-.inf"}.get(repr(number), repr(number))
    assert value(written) == number
    assert type(value(written)) is type(number)
    assert math.isnan(value(".nan"))


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text("abc _-0123456789.:#'\"", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz_.", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), trees, min_size=1), st.booleans())
def test_what_a_yaml_library_writes_is_read_back_unless_yaml_1_2_reads_it_otherwise(tree: Any, flow: bool) -> None:
    text = yaml.safe_dump(tree, default_flow_style=flow, width=10_000)
    assert plain(parse(text, "f").root) == _as_yaml_1_2(tree)
    assert plain(node_of(tree, "f")) == tree


def _as_yaml_1_2(tree: Any) -> Any:
    """Text that PyYAML writes bare because YAML 1.1 calls it text: a number to YAML 1.2 (1e3, 08)."""
    if isinstance(tree, dict):
        return {key: _as_yaml_1_2(one) for key, one in tree.items()}
    if isinstance(tree, list):
        return [_as_yaml_1_2(one) for one in tree]
    bare = isinstance(tree, str) and yaml.safe_dump(tree, width=10_000).startswith(f"{tree}\n")
    return value(tree) if bare else tree


def test_every_value_and_key_knows_its_place() -> None:
    root = parse("name: x\nspace:\n  rate: {min: 1, max: 2}\n  sizes:\n    - 3\n    - [4, 5]\n", "study.yaml").root
    by_path = dict(places(located(root)))
    assert by_path["name"] == "study.yaml:1:7"
    assert by_path["space.rate"] == "study.yaml:3:9"
    assert by_path["space.rate.max"] == "study.yaml:3:23"
    assert by_path["space.sizes.1.0"] == "study.yaml:6:8"
    assert root.mapping is not None
    assert root.mapping["space"].keys == {"rate": "study.yaml:3:3", "sizes": "study.yaml:4:3"}
    assert dict(places(located(parse("größe: {ä: 1, b: 2}\n", "f").root)))["größe.b"] == "f:1:18"  # letters, not bytes


def test_a_byte_order_mark_does_not_matter_and_a_duplicate_key_is_named_with_both_lines(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert plain(read_yaml(tmp_path / "f").root) == {"a": 1, "b": "x"}
    document = parse("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n", "f")
    assert [str(mistake) for mistake in document.mistakes] == [
        "f:5:3 b.c: is given twice, first in line 3; keep one",
        "f:6:1 a: is given twice, first in line 1; keep one",
    ]
    assert plain(document.root) == {"a": 1, "b": {"c": 1, "d": 2}}


@given(st.integers(1, 60))
def test_nesting_is_allowed_to_a_depth_and_no_further(depth: int) -> None:
    """The outermost mapping counts."""
    if depth < yaml_nodes.DEEPEST:
        assert value("[" * depth + "]" * depth) != [] or depth == 1
    else:
        assert "nested at most" in refused(BadInput, parse, f"x: {'[' * depth}{']' * depth}", "f")


def test_a_value_of_a_flag_is_read_as_behind_a_key_and_what_is_no_data_is_no_node() -> None:
    assert plain(value_of("[1, 2]", "--set")) == [1, 2]
    assert plain(value_of("1e-3", "--set")) == 1e-3
    assert plain(value_of("", "--set")) is None
    assert {place for _, place in places(value_of("{a: [1, {b: c}]}", "--set"))} == {"--set"}
    for text in ("1\nother: 2", "[1", "{a: 1}}", "- x"):
        with pytest.raises(BadInput):
            value_of(text, "--set")
    rule = "study a.1.b: must be made of mappings, lists, text, numbers and booleans, got range; write "
    assert refused(BadInput, node_of, {"a": [1, {"b": range(3)}]}, "study").startswith(rule)


@given(st.text())
def test_text_in_a_message_is_short_and_cannot_move_the_cursor(text: str) -> None:
    assert yaml_nodes.clean(text).isprintable()
    assert len(yaml_nodes.clean(text)) < 60 * 10
