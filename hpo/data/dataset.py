"""A data set as the trainer wants it: all images as one array, split, with the statistics of its training split.

Images stay uint8 where they were and are standardized on the fly: (x / 255 - mean) / std; float32 ones are not divided.
On disk a data set is a folder of .npy files, opened as one memory map that all workers of a machine share, and one file of
indices a split: the studies of a comparison are cut from the same pixels in different ways.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hpo.data import splits
from hpo.data.sources.contents import Array, Contents, Part, available_memory, dull, in_blocks, raise_all, refuse_above
from hpo.data.sources.find import find, fingerprint
from hpo.errors import BadInput, EnvironmentFailed, Mistake
from hpo.files import replace_file, replace_folder
from hpo.formatting import byte_size, count, listed, some
from hpo.study_file.spec import DataSpec

MAPPED_BYTES = 2**26  # images above this are decoded into a file, so that the peak of memory is small
LAYOUT = 2  # of a saved data set; another number is another folder in the cache
DESCRIPTION = "dataset.json"
ARRAYS = ("images", "targets", "parts")
SPLIT = ("train", "val", "test", "mean", "std", "digest", "leaks")  # what another split has of its own
EPSILON = 1e-8  # under the root, so that what never varies is divided by 1e-4 and not by 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and what they show.

    images: (N, C, H, W) uint8 or float32; targets: (N,) int64 class numbers, or float32 where classes is None
    (regression); train, val, test: ascending indices; mean, std: (C,) float32 of the training split, on the scale the
    net is fed with; digest: the same for the same arrays, classes, split and resizing on any machine; background: what
    transparent image files are drawn on; remarks, leaks: sentences on what is wrong or unusual in it, and in this split;
    folder: where it is saved; split: the seed of this split; content: the digest without the split; parts: (N,) the part
    of each image, as the source gave it; shares: of train, val and test in what is cut; files: whether the pixels are those
    of image files.
    """

    name: str
    images: Array
    targets: Array
    classes: tuple[str, ...] | None
    train: Array
    val: Array
    test: Array
    mean: Array
    std: Array
    digest: str
    resize: tuple[int, int] | None = None
    background: str = "white"
    remarks: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    folder: Path | None = None
    split: int = 0
    content: str = ""
    parts: Array | None = None
    shares: tuple[float, float, float] = (1.0, 0.0, 0.0)
    files: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: (C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.remarks, *self.leaks)

    @property
    def outputs(self) -> int:
        """How many numbers a net gives for an image."""
        return 1 if self.classes is None else len(self.classes)

    def class_weights(self) -> Array:
        """(K,) float32, n / (K n_k) over the training split, so that classes weigh the same; no regression."""
        assert self.classes is not None
        counts = np.bincount(self.targets[self.train], minlength=len(self.classes))
        return (len(self.train) / (len(self.classes) * counts)).astype(np.float32)

    @property
    def counted(self) -> str:
        """As people count it, and where the two differ, the data do."""
        kind = f"in {len(self.classes)} classes" if self.classes is not None else "with numbers to predict"
        return f"{len(self.images):,} images {kind}"

    def described(self) -> str:
        """How many images there are, of which size, and who sees them."""
        kind = self.counted.partition("images ")[2] + (f" ({some(self.classes)})" if self.classes is not None else "")
        split = f"{len(self.train):,} to train, {len(self.val):,} to validate, {len(self.test):,} to test"
        return f"{len(self.images):,} images of {'x'.join(map(str, self.shape))} {kind}: {split}"

    def save(self, folder: Path) -> Dataset:
        """Write it there, all or nothing, and return it as a memory map; what has another digest is replaced."""
        if _digests_at(folder, self.split)[1] != self.digest:
            try:
                if _digests_at(folder)[0] != self.content:
                    replace_folder(folder, self._write, lambda there: _digests_at(there)[0] == self.content)
                with replace_file(_split_file(folder, self.split)) as draft:
                    self._write_split(draft)
            except OSError as error:
                why = error.strerror or type(error).__name__
                mistake = Mistake(str(folder), "cannot be written", why, "make room there or choose another --state")
                raise EnvironmentFailed(mistake) from error
        return Dataset.open(folder, self.split)

    def with_split(self, split: int) -> Dataset:
        """The same images in the split of another seed, which is kept where the data set is saved."""
        if split == self.split:
            return self
        if self.folder is not None:
            with suppress(EnvironmentFailed):
                other = Dataset.open(self.folder, split)  # its maps go: each has a file descriptor
                return replace(other, **{name: getattr(self, name) for name in ARRAYS})
        rows = splits.split(splits.strata(self.targets, self.classes is None), self.parts, self.shares, split)
        cut = _cut(self, split, rows)
        if self.folder is not None:
            cut.save(self.folder)
        return cut

    @staticmethod
    def open(folder: Path, split: int | None = None) -> Dataset:
        """A saved data set as read-only maps, in its first split or that of a seed. Raises EnvironmentFailed."""
        try:
            saved = json.loads((folder / DESCRIPTION).read_text("utf-8"))
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
            split = saved["split"] if split is None else split
            with _split_file(folder, split).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                rows = {name: stored[name] for name in SPLIT}
            return Dataset(
                classes=None if saved["classes"] is None else tuple(saved["classes"]),
                resize=None if saved["resize"] is None else (saved["resize"][0], saved["resize"][1]),
                remarks=tuple(saved["remarks"]),
                leaks=tuple(map(str, rows.pop("leaks"))),
                folder=folder,
                split=split,
                shares=tuple(saved["shares"]),
                **{name: saved[name] for name in ("name", "background", "content", "files")},
                **(arrays | rows | {"digest": str(rows["digest"])}),
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            mistake = Mistake(str(folder), "is no saved data set or is damaged", "", "delete the folder and run again")
            raise EnvironmentFailed(mistake) from error

    def _write(self, folder: Path) -> None:
        parts = np.full(len(self.images), Part.TRAIN, np.int8) if self.parts is None else self.parts
        for name, array in zip(ARRAYS, (self.images, self.targets, parts), strict=True):
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        self._write_split(_split_file(folder, self.split))
        named = ("name", "classes", "resize", "background", "remarks", "split", "content", "shares", "files")
        description = {name: getattr(self, name) for name in named}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), "utf-8")

    def _write_split(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: getattr(self, name) for name in SPLIT})


def _cut(data: Dataset, split: int, rows: tuple[Array, Array, Array]) -> Dataset:
    classes = None if data.classes is None else data.targets
    digest = _sha(data.content, rows)
    leaks = (*_absent(data, rows), *splits.leaks(data.images, classes, *rows))
    own: tuple[Any, ...] = (*rows, *standards(data.images, rows[0]), digest, leaks)
    return replace(data, split=split, **dict(zip(SPLIT, own, strict=True)))


def _absent(data: Dataset, rows: tuple[Array, Array, Array]) -> Iterator[str]:
    """A sentence where a split that came with the data lacks a class."""
    for split, text in zip(rows[1:], ("validate", "test"), strict=True):
        there = {*data.targets[split].tolist()} if data.classes is not None else set()
        if there and (gone := [name for k, name in enumerate(data.classes or ()) if k not in there]):
            yield f"no image to {text} is of {some(gone)}: scores there leave {'it' if len(gone) == 1 else 'them'} out"


def load_dataset(
    source: DataSpec,
    seed: int,
    cache: Path | None = None,
    accept: Callable[[Dataset], None] = lambda data: None,
    *,
    available: int | None = None,
) -> Dataset:
    """Read, check and split a data set. Raises BadInput with every mistake, before anything is written.

    seed: of the split; cache: a folder where it is kept, to be opened when the same source, unchanged, is loaded again; accept:
    may raise, before anything is written; available: bytes that the images may take; None: what the machine has.
    """
    if cache is None:
        return _load(source, seed, None, available)
    folder = cache / fingerprint(source, LAYOUT)
    try:
        data = Dataset.open(folder).with_split(seed)
    except EnvironmentFailed:
        data = _load(source, seed, cache, available)
    accept(data)
    return data if data.folder is not None else data.save(folder)


def known(source: DataSpec, seed: int, cache: Path) -> str | None:
    """The digest of what `load_dataset` has kept of these very files; None where it has not read them."""
    return _digests_at(cache / fingerprint(source, LAYOUT), seed)[1]


def kept(digest: str, cache: Path) -> Dataset | None:
    """What was loaded once, whatever its source holds now; None where it is not there any more."""
    files = sorted(cache.glob("*/split-*.npz"))
    places = ((file.parent, int(file.stem.removeprefix("split-"))) for file in files)
    return next((Dataset.open(*place) for place in places if _digests_at(*place)[1] == digest), None)


def _load(source: DataSpec, seed: int, scratch: Path | None, available: int | None) -> Dataset:
    available = available_memory() if available is None else available
    contents = find(source, available)
    if source.duplicates == "drop":
        contents = _distinct(contents)
    shares = source.split.train, source.split.val, source.split.test
    cut = splits.cut_from_train(contents.parts, shares)
    raise_all([*_target_mistakes(contents, cut)], contents.place)
    chosen = _limited(contents, source.limit, len(cut))
    targets = np.ascontiguousarray(contents.targets[chosen])
    parts = None if contents.parts is None else contents.parts[chosen]
    try:
        rows = splits.split(splits.strata(targets, contents.classes is None), parts, shares, seed)
    except splits.TooFew as few:
        rule = f"must have at least {few.least} images to train, validate and test"
        raise BadInput(Mistake(contents.place, rule, str(len(targets)), "add images")) from few
    refuse_above(contents.place, len(chosen) * contents.image_bytes, available, "set data.resize or data.limit")
    pixels = _pixels(contents, chosen, scratch)
    content = _sha([LAYOUT, contents.classes, source.resize], (pixels, targets))
    empty = np.empty(0, np.float32)
    dataset = Dataset(
        *(contents.name, pixels, targets, contents.classes, *rows, empty, empty, "", source.resize, source.background),
        remarks=(*contents.notes, *dull(pixels, contents.advice)),
        content=content,
        parts=parts,
        shares=shares,
        files=contents.files,
    )
    return _cut(dataset, seed, rows)


def _target_mistakes(contents: Contents, cut: list[Part]) -> Iterator[Mistake]:
    """Numbers must differ. Every class must be in train, and in each part that is cut from it."""
    if contents.classes is None:
        if len(contents.targets) and np.ptp(contents.targets) == 0:
            got = f"{contents.targets[0]:g} for all {len(contents.targets)}"
            yield Mistake(contents.place, "must have targets that differ", got, "hand over other targets")
        return
    counts = np.bincount(contents.targets, minlength=len(contents.classes))
    to_train = contents.targets if contents.parts is None else contents.targets[contents.parts == Part.TRAIN]
    train_counts = np.bincount(to_train, minlength=len(contents.classes))
    where, remedy = "" if contents.parts is None else " in train", "add images or leave the class out"
    if all(map(str.isdecimal, contents.classes)):
        remedy += ", or set data.regression: true if these are numbers to predict"
    needs = f"needs at least {len(cut)} images to be in {listed([part.text for part in cut])}"
    for name, there, in_train in zip(contents.classes, counts, train_counts, strict=True):
        if not there:
            yield Mistake(contents.place, f"class {name!r} has no images", "", remedy)
        elif in_train < len(cut):
            yield Mistake(contents.place, f"class {name!r} {needs}", f"{in_train}{where}", remedy)
    if len(contents.classes) < 2:
        got = f"only {contents.classes[0]!r}" if contents.classes else "none"
        yield Mistake(contents.place, "must have at least two classes", got, "add images of another class")
    for name, times in Counter(contents.classes).items():
        if times > 1:
            yield Mistake(contents.place, "must name each class once", repr(name), "rename one")


def _limited(contents: Contents, limit: int | None, least: int) -> Array:
    """Indices of the images that are used: all, or data.limit of them, `least` of each class to train."""
    if limit is None or limit >= len(contents.targets):
        return np.arange(len(contents.targets))
    strata = splits.strata(contents.targets, contents.classes is None)
    try:
        return splits.sample(strata, contents.parts, limit, least, seed=0)
    except splits.TooFew as few:
        rule = f"must be at least {few.least}, so that every class is in every part"
        raise BadInput(Mistake("data.limit", rule, str(few.got), f"set it to {few.least} or more")) from few


def _distinct(contents: Contents) -> Contents:
    """Without the copies of images that it has already, and without those of two classes."""
    targets, notes = contents.targets, [*contents.notes]
    own = splits.identities(chain.from_iterable(_blocks(contents, np.arange(len(targets)))))
    torn = np.zeros(len(own), bool) if contents.classes is None else splits.conflicting(own, targets)
    first = splits.first_of_each(own, contents.parts)
    kept = first[~torn[first]]
    if torn.any():
        notes.append(f"dropped {count(int(torn.sum()), 'image')} that have the pixels of one of another class")
    if copies := len(own) - len(kept) - int(torn.sum()):
        notes.append(f"dropped {count(copies, 'image')} that others have the pixels of")
    return replace(
        contents,
        targets=targets[kept],
        parts=None if contents.parts is None else contents.parts[kept],
        pixels=lambda indices: contents.pixels(kept[indices]),
        notes=tuple(notes),
    )


def _pixels(contents: Contents, chosen: Array, scratch: Path | None) -> Array:
    """All chosen images as one array (N, C, H, W); a large one is a map of a nameless file, deleted with the array."""
    needed = len(chosen) * contents.image_bytes
    if needed < MAPPED_BYTES:
        return np.ascontiguousarray(np.concatenate(list(_blocks(contents, chosen))))
    folder = scratch if scratch is not None and scratch.is_dir() else Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for block in _blocks(contents, chosen):  # written first: a disk full under a map is a bus error
                file.write(np.ascontiguousarray(block).data)
            file.flush()
            return np.memmap(file, contents.dtype, "r+", shape=(len(chosen), *contents.shape))
    except OSError as error:
        why = error.strerror or type(error).__name__
        mistake = Mistake(str(folder), f"needs {byte_size(needed)} of disk", why, "make room or set TMPDIR")
        raise EnvironmentFailed(mistake) from error


def _blocks(contents: Contents, chosen: Array) -> Iterator[Array]:
    """The chosen images, block by block. Raises BadInput with all that are damaged."""
    mistakes: list[Mistake | str] = []
    for indices in in_blocks(chosen, contents.image_bytes):
        try:
            block = contents.pixels(indices)
        except BadInput as bad:
            mistakes += bad.mistakes
            continue
        assert block.dtype == contents.dtype and block.shape[1:] == contents.shape, (block.dtype, block.shape)
        if block.dtype == np.float32 and not np.isfinite(block).all():
            row = np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))[0]
            got = f"{block[row][~np.isfinite(block[row])][0]} in image {indices[row]}"
            raise BadInput(Mistake(contents.place, "must hold finite pixels", got, "remove or fix these images"))
        yield block
    raise_all(mistakes, contents.place)


def standards(images: Array, train: Array) -> tuple[Array, Array]:
    """images: (N, C, H, W); train: indices -> mean and sqrt(variance + EPSILON), (C,) float32 each.

    Of x / 255 where images are uint8. Two passes, so that a large mean does not swallow a small variance.
    """
    scale = 255 if images.dtype == np.uint8 else 1
    values = len(train) * math.prod(images.shape[2:])
    blocks = [*in_blocks(train, images[:1].nbytes)]
    mean = np.sum([images[rows].sum(axis=(0, 2, 3), dtype=np.float64) for rows in blocks], axis=0) / values
    squares = [((images[rows] - mean[:, None, None]) ** 2).sum(axis=(0, 2, 3)) for rows in blocks]
    variance = np.sum(squares, axis=0) / (values * scale**2)
    return (mean / scale).astype(np.float32), np.sqrt(variance + EPSILON).astype(np.float32)


def _sha(facts: object, arrays: Iterable[Array]) -> str:
    """SHA-256 over facts that are JSON, and arrays (little-endian)."""
    sha = hashlib.sha256(json.dumps(facts).encode())
    for array in arrays:
        little = array.dtype.newbyteorder("<")
        sha.update(json.dumps([little.str, list(array.shape)]).encode())
        sha.update(np.ascontiguousarray(array, little).data)
    return sha.hexdigest()[:32]


def _split_file(folder: Path, split: int) -> Path:
    return folder / f"split-{split}.npz"


def _digests_at(folder: Path, split: int | None = None) -> tuple[str | None, str | None]:
    """Of what is saved there, without its split and with it; None if nothing sound is."""
    with suppress(EnvironmentFailed):
        saved = Dataset.open(folder, split)
        return saved.content, saved.digest
    return None, None
