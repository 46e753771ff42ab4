"""Which images train, which validate and which test: stratified, and a function of (data, seed) alone; no image twice.

A stratum is a class or, for regression, a tenth of the images by rank of their target. Random order comes from the raw
stream of PCG64, which NumPy guarantees for ever (NEP 19), unlike its shuffles.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.data.sources.contents import Array, Part

DECILES = 10


@dataclass(eq=False)
class TooFew(Exception):
    """A stratum has fewer images than it must have."""

    least: int
    got: int


def strata(targets: Array, regression: bool) -> Array:
    """(N,) int64: the class of each image, or the tenth its target ranks in."""
    if not regression:
        return targets
    ranks = np.empty(len(targets), np.int64)
    ranks[np.argsort(targets, kind="stable")] = np.arange(len(targets))
    return ranks * max(1, min(DECILES, len(targets) // DECILES)) // max(1, len(targets))


def split(strata: Array, parts: Array | None, shares: Sequence[float], seed: int) -> tuple[Array, Array, Array]:
    """Ascending indices of train, val and test.

    parts: where the source came split, the part of each image; these stay, and a part that is missing is cut from
    train. shares: of train, val and test. Every stratum is in each part cut from train; raises TooFew where not.
    """
    given = np.full(len(strata), Part.TRAIN, np.int8) if parts is None else parts
    cut = cut_from_train(parts, shares)
    weights = [shares[part] for part in cut]
    assigned = given.copy()
    carry = np.zeros(len(cut))
    for stratum in np.unique(strata):
        members = np.flatnonzero((strata == stratum) & (given == Part.TRAIN))
        if len(members) < len(cut):
            raise TooFew(len(cut), len(members))
        counts, carry = allocate(len(members), weights, 1, carry)
        assigned[members[order(len(members), seed, int(stratum))]] = np.repeat(cut, counts)
    train, val, test = (np.flatnonzero(assigned == part) for part in Part)
    return train, val, test


def cut_from_train(parts: Array | None, shares: Sequence[float]) -> list[Part]:
    """Train and the parts that have a share and did not come with the source."""
    given = set() if parts is None else set(np.unique(parts).tolist())
    return [Part.TRAIN] + [part for part in (Part.VAL, Part.TEST) if part not in given and shares[part] > 0]


def sample(strata: Array, parts: Array | None, limit: int, least: int, seed: int) -> Array:
    """Ascending indices of `limit` images, each stratum of each part in proportion, `least` to train. Raises TooFew."""
    groups = strata * 3 + (0 if parts is None else parts)
    names, sizes = np.unique(groups, return_counts=True)
    leasts = np.minimum(np.where(names % 3 == Part.TRAIN, least, 1), sizes)
    if limit < leasts.sum():
        raise TooFew(int(leasts.sum()), limit)
    counts, _ = allocate(limit, sizes.tolist(), leasts)
    picked = []
    for name, count in zip(names, counts, strict=True):
        members = np.flatnonzero(groups == name)
        picked.append(members[order(len(members), seed, int(name))[:count]])
    return np.sort(np.concatenate(picked))


def allocate(
    count: int, weights: Sequence[float], least: int | Array, carry: Array | None = None
) -> tuple[Array, Array]:
    """`count` items by largest remainder, at least `least` each; and what rounding left, which is `carry` next."""
    exact = count * np.array(weights, float) / sum(weights) if sum(weights) else np.zeros(len(weights))
    wanted = np.maximum(exact + (0 if carry is None else carry), 0)
    counts = np.floor(wanted + 1e-9).astype(np.int64)
    while counts.sum() > count:
        counts[np.argmax(counts)] -= 1
    first = np.argsort(counts - wanted, kind="stable")
    counts[first[: count - counts.sum()]] += 1
    while counts.sum() < count:  # only where carries were cut at 0
        counts[np.argmax(exact)] += 1
    while (counts < least).any():
        counts[np.argmax(counts - least)] -= 1
        counts[np.argmax(least - counts)] += 1
    left = exact + (0 if carry is None else carry) - counts
    return counts, left


def order(count: int, *entropy: int) -> Array:
    """A random order of `count` items, the same in every NumPy."""
    return np.argsort(np.random.PCG64(list(entropy)).random_raw(count), kind="stable")


def identities(images: Iterable[Array]) -> Array:
    """(N,) int64: a number for each image (C, H, W), the same for the same pixels."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images)
    return np.array([seen.setdefault(digest, len(seen)) for digest in digests], np.int64)


def first_of_each(identities: Array, parts: Array | None) -> Array:
    """Ascending indices of one image of each identity: the one to test goes before the one to validate or train."""
    order = np.arange(len(identities)) if parts is None else np.argsort(-parts, kind="stable")
    return np.sort(order[np.unique(identities[order], return_index=True)[1]])


def conflicting(identities: Array, classes: Array) -> Array:
    """(N,) bool: whether one with the same pixels is of another class."""
    first = np.unique(identities, return_index=True)[1]
    return np.isin(identities, identities[classes != classes[first][identities]])


def leaks(images: Array, classes: Array | None, train: Array, val: Array, test: Array) -> Iterator[str]:
    """A sentence where the same image is of two classes, and where it is in two splits. classes: None for regression."""
    own = identities(images)
    if classes is not None:
        if torn := int(conflicting(own, classes).sum()):
            yield f"{torn:,} images have the pixels of one of another class: data.duplicates: drop leaves all of them out"
        own = own * (classes.max() + 1) + classes
    for split, text, before in ((val, "validate", train), (test, "test", np.concatenate([train, val]))):
        shared = int(np.isin(own[split], own[before]).sum())
        if shared:
            seen = f"{shared} of {len(split):,} images to {text} are pixel by pixel in an earlier split too"
            yield f"{seen}, so scores look better than they are: data.duplicates: drop fixes it"
