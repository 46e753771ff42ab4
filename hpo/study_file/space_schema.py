"""JSON schema of the parts of a study file that name parameters: search space, constraints, points to start with."""

from __future__ import annotations

from typing import Any, Final

NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"

_VALUE: Final[dict[str, Any]] = {"type": ["number", "string", "boolean"]}
_VALUES: Final[dict[str, Any]] = {"type": "array", "items": _VALUE, "minItems": 1, "uniqueItems": True}
_WHEN: Final[dict[str, Any]] = {
    "description": "it exists only where each of these parameters has this value (a list: one of these)",
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"anyOf": [_VALUE, _VALUES]},
}
_PER: Final[dict[str, Any]] = {"description": "one such parameter for each block", "enum": ["block"]}
_CHOICES: Final[dict[str, Any]] = {
    "description": "a choice with conditions",
    "type": "object",
    "properties": {"choices": _VALUES, "when": _WHEN, "per": _PER},
    "required": ["choices"],
    "additionalProperties": False,
}
_RANGE: Final[dict[str, Any]] = {
    "description": "numbers from min to max; whole ones where the parameter is whole",
    "type": "object",
    "properties": {
        "min": {"type": "number"},
        "max": {"type": "number"},
        "log": {"type": "boolean", "description": "even in the logarithm", "default": False},
        "step": {"type": "number", "exclusiveMinimum": 0, "description": "levels: min, min + step, ..."},
        "count": {"type": "integer", "minimum": 2, "maximum": 100_000, "description": "so many even levels"},
        "when": _WHEN,
        "per": _PER,
    },
    "required": ["min", "max"],
    "not": {"required": ["step", "count"]},
    "additionalProperties": False,
}
_DOMAIN: Final[dict[str, Any]] = {"anyOf": [_VALUE, _VALUES, _RANGE, _CHOICES]}

PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": f"^{NAME}$"},
    "additionalProperties": _DOMAIN,
}
SEARCH_SPACE: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string", "pattern": r"\.ya?ml$", "description": "a file of parameters"}, PARAMETERS]
}
CONSTRAINTS: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "examples": [["model_parameters <= 500_000", "block1.channels <= block2.channels"]],
}
START_WITH: Final[dict[str, Any]] = {"type": "array", "items": {"type": "object", "additionalProperties": _VALUE}}
