"""The JSON schema of a study file, for editors: completion, hover text and red underlines while typing.

    python -m hpo.study_file.schema > hpo/study_file/study.schema.json

It knows the shape of a file, not what its parts mean together: `hpo check` does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from hpo.study_file.fields import record_schema
from hpo.study_file.spec import StudySpec

FILE: Final = Path(__file__).with_name("study.schema.json")


def schema() -> dict[str, Any]:
    """Draft 2020-12. A study has data, or a training of its own that needs none."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpo study",
        "description": "A hyperparameter study: what is searched, on which data, how and for how long",
        **record_schema(StudySpec),
        "anyOf": [{"required": ["data"]}, {"required": ["train"]}],
    }


def text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
