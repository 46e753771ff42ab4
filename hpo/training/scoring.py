"""Scores checkpoints on the test split in a short-lived process: `python -m hpo.training.scoring`, JSON in, JSON out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from hpo.core import Params
from hpo.training.recipe import Recipe


def request(recipe: Recipe, models: list[tuple[Params, Path]]) -> str:
    """What the process reads."""
    return json.dumps(
        {"recipe": asdict(recipe), "models": [[dict(params), str(path)] for params, path in models]}, default=str
    )


def main() -> None:
    from hpo.training.evaluation import score  # torch: only this process pays for it

    told = json.loads(sys.stdin.read())
    fields = told["recipe"]
    fields |= {"data": Path(fields["data"]), "folder": fields["folder"] and Path(fields["folder"])}
    recipe = Recipe(**fields)
    print(json.dumps([score(recipe, params, Path(path)) for params, path in told["models"]]))


if __name__ == "__main__":
    main()
