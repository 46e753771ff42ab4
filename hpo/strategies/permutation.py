"""A seeded order of 0..n-1 that is never built: a Feistel network over the next power of four, walking its cycles.

Source: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 3 (cycle walking) and 5 (Feistel).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

ROUNDS = 4


def permutation(size: int, seed: str) -> Iterator[int]:
    """Each of range(size) once, in an order given by the seed; any size, constant memory."""
    half = max(1, ((max(size, 1) - 1).bit_length() + 1) // 2)
    for index in range(1 << (2 * half)):
        shuffled = _feistel(index, half, seed)
        if shuffled < size:
            yield shuffled


def _feistel(value: int, half: int, seed: str) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for number in range(ROUNDS):
        word = hashlib.blake2b(f"{seed}/{number}/{right}".encode(), digest_size=32).digest()
        left, right = right, left ^ (int.from_bytes(word, "big") & mask)
    return (left << half) | right
