"""Byte mutations of study files: whatever comes in, only a StudySpec or BadInput may come out.

    python tests/test_fuzz.py 100000 [seed]        # prints what it saw as one JSON line

A process of its own, so that its memory is its own. A failing case is printed with its number; (seed, number) makes it.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

from laws import is_point, tables

from hpo.errors import BadInput
from hpo.models.families import known
from hpo.study_file.reader import read_study, template

HERE = Path(__file__).parent
CASES = int(os.environ.get("FUZZ_CASES", "1000"))  # `make chaos`: 100,000
SEED = int(os.environ.get("FUZZ_SEED", "0"))
TABLES = tables("study_file_tables")
KEYS = ("search_space.dropout", "search_space", "budget.trials", "metric", "start_with", "data.resize", "", "a.b")
TOKENS = (*TABLES["tokens of the fuzzer"], " " * 9, "9" * 400, "a" * 3000, "[" * 200)


def corpus() -> list[bytes]:
    cases = tables("bad_study_files")
    spaces = [path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "search_spaces").glob("*.yaml"))]
    whole = [f"name: x\ndata: digits\nsearch_space:\n{indent(text, 2 * ' ')}" for text in spaces]
    rest = "name: y\ndata: digits\nsearch_space: {epochs: [1, 2]}\n"
    short = [case["file"] + rest for case in cases if "file" in case]
    good = [template(), *whole] * (len(short) // (1 + len(whole)))  # as often as the bad ones
    return [text.encode() for text in (*good, *short)]


def _cut(raw: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(raw) + 1)
    return start, min(len(raw), start + int(rng.expovariate(0.05)))


def _token(rng: random.Random) -> bytes:
    return rng.choice(TOKENS).encode("utf-8", "replace")


def mutations(seeds: list[bytes]) -> list[Callable[[bytes, random.Random], bytes]]:
    def flip(raw: bytes, rng: random.Random) -> bytes:
        position = rng.randrange(len(raw) + 1)
        return raw[:position] + bytes([rng.randrange(256)]) + raw[position + 1 :]

    def exchange(raw: bytes, rng: random.Random) -> bytes:
        """Of a piece for a token, one of which may be empty."""
        start, end = _cut(raw, rng)
        return raw[: rng.choice((start, end))] + rng.choice((b"", _token(rng), _token(rng))) + raw[end:]

    def repeat(raw: bytes, rng: random.Random) -> bytes:
        start, end = _cut(raw, rng)
        times = rng.choice((2, 5, 50)) if rng.random() < 0.9 else 20_000
        return (raw[:start] + raw[start:end] * times + raw[end:])[: (1 << 20) + 2]

    def lines(raw: bytes, rng: random.Random) -> bytes:
        rows = raw.splitlines(keepends=True)
        rng.shuffle(rows)
        return b"".join(rows[: rng.randrange(1, len(rows) + 1)] if rows else rows)

    def splice(raw: bytes, rng: random.Random) -> bytes:
        other = rng.choice(seeds)
        return raw[: rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other)) :]

    def value(raw: bytes, rng: random.Random) -> bytes:
        """Another value behind a key that is there."""
        rows = raw.split(b": ")
        index = rng.randrange(len(rows))
        head, separator, tail = rows[index].partition(rng.choice((b"\n", b",", b"}")))
        rows[index] = (_token(rng) if index else head) + separator + tail
        return b": ".join(rows)

    return [flip, exchange, exchange, exchange, exchange, repeat, lines, splice, value, value]


def case(number: int, seed: int, seeds: list[bytes]) -> bytes:
    rng = random.Random(f"{seed}-{number}")
    raw = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        raw = rng.choice(mutations(seeds))(raw, rng)
    return raw


def check(path: Path, number: int) -> bool:
    """Whether the file is a study; raises where something else than a study or BadInput came out."""
    before, rng = sorted(path.parent.iterdir()), random.Random(number)
    sets = [f"{rng.choice(KEYS)}={rng.choice(TOKENS)}" for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    try:
        spec = read_study(path, sets=sets, known=known)
    except BadInput as refused:
        for line in str(refused).splitlines():
            assert line.isprintable(), line
            assert len(line) < 1_500, line
            assert ": " in line, line
            assert "Traceback" not in line, line
        spec = None
    assert sorted(path.parent.iterdir()) == before
    if spec is not None:
        point = spec.space.sample(rng)
        assert is_point(point, spec.space)
        json.dumps(spec.fixed()), [constraint.holds(point) for constraint in spec.constraints]
    return spec is not None


def peak_bytes() -> int:
    """Of this process alone: ru_maxrss would be the parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(count: int, seed: int) -> dict[str, Any]:
    seeds, good, slowest = corpus(), 0, (0.0, -1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        path = Path(folder, "study.yaml")
        for number in range(count):
            path.write_bytes(case(number, seed, seeds))
            start = time.perf_counter()
            try:
                good += check(path, number)
            except Exception:
                sys.stderr.write(f"case {number} of seed {seed}: {path.read_bytes()[:3000]!r}\n")
                raise
            slowest = max(slowest, (time.perf_counter() - start, number))
        os.chdir("/")
    seconds, number = slowest
    seen = {"cases": count, "seed": seed, "studies": good, "peak_mb": peak_bytes() >> 20}
    return {**seen, "slowest_s": round(seconds, 2), "slowest_case": number}


def test_mutated_bytes_are_a_study_or_bad_input_in_little_memory() -> None:
    environ = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, __file__, str(CASES), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    seen = json.loads(done.stdout)
    sys.stdout.write(f"fuzz: {seen}\n")
    assert seen["cases"] == CASES
    assert 0.02 * CASES < seen["studies"] < 0.9 * CASES  # neither blunt nor all refused at the first byte
    assert seen["peak_mb"] < 200


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))) + "\n")
