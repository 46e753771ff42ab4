"""Writes hpo/study_file/study.schema.json, the shape of a study file for editors, from the declarations that the reader
itself reads: `python docs/schema.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from hpo.study_file.fields import Kind, Plain, Record, Schema, Several, WrittenDomain, options
from hpo.study_file.reader import SHIPPED
from hpo.study_file.space_reader import NAME
from hpo.study_file.spec import StudySpec

_VALUE: Schema = {"type": ["number", "string", "boolean"]}
_VALUES: Schema = {"type": "array", "items": _VALUE, "minItems": 1, "uniqueItems": True}
_CHOICES: Schema = {**_VALUES, "items": {"anyOf": [_VALUE, _VALUES]}}  # between values, or whole lists
_WHEN: Schema = {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": [_VALUE, _VALUES]}}


def text() -> str:
    """JSON schema, draft 2020-12: the shape of a study file, not what its parts mean together."""
    domain = {
        **section(WrittenDomain, {"choices": _CHOICES, "when": _WHEN}),
        "oneOf": [{"required": ["choices"]}, {"required": ["min", "max"]}],
        "not": {"required": ["step", "count"]},
    }
    parameters = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NAME}$"},
        "additionalProperties": {"anyOf": [_VALUE, _CHOICES, domain]},
    }
    file = {"anyOf": [{"enum": list(SHIPPED)}, {"type": "string", "pattern": r"\.ya?ml$"}]}
    shapes: dict[str, Schema] = {
        "search_space": {"anyOf": [file, parameters]},
        "constraints": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "examples": [["model_parameters <= 500_000", "block1.channels <= block2.channels"]],
        },
        "start_with": {"type": "array", "items": {"type": "object", "additionalProperties": _VALUE}},
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpo study",
        "description": "A hyperparameter study: what is searched, on which data, how and for how long",
        **section(StudySpec, shapes),
        "anyOf": [{"required": ["data"]}, {"required": ["train"]}],  # a training of one's own may need no data
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def section(of: Any, shapes: Mapping[str, Schema]) -> Schema:
    """Of a mapping; an empty value stands for the default. shapes: of the keys that are read later."""
    properties = {}
    for key, item in options(of).items():
        kind = dict(shapes.get(key) or value(item.metadata["kind"]))
        optional = {"anyOf": [*kind.pop("anyOf", [kind]), {"type": "null"}]} if item.default is not MISSING else kind
        properties[key] = {"description": item.metadata["doc"], **optional}
        if isinstance(item.default, bool | int | float | str):
            properties[key]["default"] = item.default
    required = [key for key, item in options(of).items() if item.default is MISSING]
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "required": required} if required else schema


def value(kind: Kind) -> Schema:
    """Of what one kind reads."""
    match kind:
        case Plain(schema=schema):
            return schema
        case Several(kind=inner, count=count, broadcast=broadcast):
            more = {"maxItems": count} if count else {"uniqueItems": True}
            many = {"type": "array", "items": value(inner), "minItems": count or 1, **more}
            return {"anyOf": [value(inner), many]} if broadcast else many
        case Record(section=of, short=short, listed=listed):
            alone = options(of)[short].metadata["kind"] if short else listed
            return section(of, {}) if alone is None else {"anyOf": [value(alone), section(of, {})]}
    raise TypeError(kind)


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("hpo/study_file/study.schema.json").write_text(text(), encoding="utf-8")
