"""`hpo check` on 1,000 architectures: formulas, costs and the proof on the meta device, on one core.

python benchmarks/check.py            target: 20 s
"""

from __future__ import annotations

import platform
import random
import sys
import time
from pathlib import Path

import torch

from hpo.models.families import FAMILIES, known, peak_memory
from hpo.models.layers import Impossible, Layer, summary
from hpo.models.network import disagreement
from hpo.study_file import reader as study_file

ARCHITECTURES = 1_000
TARGET_SECONDS = 20.0
SHAPE, OUTPUTS = (3, 32, 32), 10
STUDY = Path(__file__).with_name("check.yaml")


def main() -> int:
    torch.set_num_threads(1)
    space = study_file.read_study(STUDY, known=known).space
    rng = random.Random(0)
    impossible, wrong, seen = 0, 0, set[tuple[Layer, ...]]()
    disagreement(summary(FAMILIES["cnn"].layers({}, SHAPE, OUTPUTS), SHAPE))  # torch's meta kernels load on first use
    began = time.perf_counter()
    while len(seen) < ARCHITECTURES:
        params = space.sample(rng)
        try:
            layers = tuple(FAMILIES["cnn"].layers(params, SHAPE, OUTPUTS))
        except Impossible:
            impossible += 1
            continue
        if layers not in seen:
            seen.add(layers)
            made = summary(layers, SHAPE)
            peak_memory(made, params)
            wrong += disagreement(made) is not None
    seconds = time.perf_counter() - began
    print(f"machine: {platform.processor() or platform.machine()}, one core, torch {torch.__version__}")
    print(
        f"n: {ARCHITECTURES:,} distinct architectures of search_spaces/cnn.yaml on 3x32x32, {impossible:,} impossible"
    )
    print(f"time: {seconds:.1f} s, {1e3 * seconds / ARCHITECTURES:.1f} ms each; target {TARGET_SECONDS:.0f} s")
    print(f"disagreements between formula and torch: {wrong}")
    return int(wrong > 0 or seconds > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
