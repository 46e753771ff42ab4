"""Where data come from: a known name or a path becomes its contents, and is told from others without being read."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from hpo.data.sources import folders, images, npz, originals
from hpo.data.sources.contents import Contents, Part, raise_all, unreadable
from hpo.errors import BadInput, Mistake
from hpo.formatting import some
from hpo.study_file.spec import DATA_SETS, DataSpec

SOURCES = "a folder of images, of IDX files or of CIFAR batches, or an .npz file"
DEEPEST = 3  # data/MNIST/raw
YAML_WORDS = ("true", "false", "null", "yes", "no", "on", "off")  # that are no texts
LARGE = 64  # pixels: the side that larger images have in the study file that `hpo init` writes


def find(spec: DataSpec, available: int | None) -> Contents:
    """The contents of a known name or a path; available: bytes of memory that it may take. Raises BadInput."""
    if spec.source in DATA_SETS:
        from hpo.data.sources import builtin  # 0.5 s of scikit-learn that the other sources do without

        found = builtin.read(spec.source, spec, available)
        note = f"./{spec.source} is not read: data: ./{spec.source} names it"
        return replace(found, notes=(*found.notes, note)) if Path(spec.source).exists() else found
    path = Path(spec.source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _in_folder(path, spec, available)
    except PermissionError as error:
        raise unreadable(error.filename or path) from error
    except (OSError, ValueError) as error:  # not there, or a name no disk can have
        rule = f"must be {', '.join(DATA_SETS)} or the path of {SOURCES}"
        raise BadInput(Mistake("data.source", rule, repr(spec.source)[:160], "check the path")) from error
    if not stat.S_ISREG(mode) or path.suffix.lower() != ".npz":
        raise BadInput(Mistake(str(path), f"must be {SOURCES}", "another file", "name the folder, or write an .npz"))
    return npz.read(path, spec, available)


def _in_folder(path: Path, spec: DataSpec, available: int | None) -> Contents:
    entries = sorted(path.iterdir())
    if not entries:
        raise BadInput(Mistake(str(path), f"must be {SOURCES}", "an empty folder", "put the data there"))
    raise_all(folders.bad_links(entries, path), path)
    if originals.holds(path):
        return originals.read(path, spec, available)
    inner = folders.alone(path)
    if inner is not None and Part.named(inner.name) is None and (folders.folder_names(inner) or originals.holds(inner)):
        return _in_folder(inner, spec, available)
    try:
        return images.read(path, spec)
    except BadInput as bad:
        below = [*_folders_with_files(path)]
        if not below:
            raise
        rule, remedy = "must be the folder of one data set", f"write data: {below[0]}"
        raise BadInput(Mistake(str(path), rule, f"{some(below)} below it", remedy)) from bad


def _folders_with_files(path: Path) -> Iterator[str]:
    """Folders of IDX files or CIFAR batches, as deep as torchvision puts them."""
    for folder, names, _ in os.walk(path):
        names[:] = sorted(names) if len(Path(folder).relative_to(path).parts) < DEEPEST else []
        if originals.holds(Path(folder)):
            yield folder


def beside(folder: Path) -> Path | None:
    """The first data set in a folder, else the folder itself, by the names of what is in them. Raises OSError."""
    inner = [folder / name for name in folders.folder_names(folder) if Part.named(name) is None]
    seen = (one for one in (*inner, folder) if os.access(one, os.R_OK | os.X_OK))
    found = [one for one in seen if originals.holds(one) or folders.first_images(one)]
    arrays = sorted(folder.glob("[!.]*.npz"))
    return next(iter([*filter(npz.holds, arrays), *found, *arrays]), None)


def written(path: Path, folder: Path) -> str:
    """What `data:` of a study file in this folder says of a data set; images of several sizes, or large ones, are resized."""
    name = os.path.relpath(path, folder)
    plain = re.fullmatch(r"[A-Za-z.][\w./-]*", name) and name.lower() not in YAML_WORDS
    source = f"./{name}" if name in DATA_SETS else name if plain else json.dumps(name)
    sizes = {images.header(image).size for image in folders.first_images(path)} if path.is_dir() else set()
    large = len(sizes) > 1 or any(max(size) > LARGE for size in sizes)
    return f"{{source: {source}, resize: {LARGE}}}" if large else source


def fingerprint(source: DataSpec, *more: int) -> str:
    """Identifies a source without reading it: by the name, size and times of change of every file that may be read."""
    path = Path(source.source)
    files = [path.exists()] if source.source in DATA_SETS else _stamps(path)
    identity = json.dumps([asdict(source), more, files], default=str, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _stamps(root: Path) -> list[tuple[str, int, int, int]]:
    """Of files and of what links lead to. The time of the last change of any kind, since copies keep that of the content."""
    try:
        root = root.resolve()
        paths = [path for _, files in folders.levels(root) for path in files] if root.is_dir() else [root]
        found = [
            (str(path), one)
            for path in paths
            for one in (path.lstat(), (path.stat if path.is_file() else path.lstat)())
        ]
        return [(path, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for path, one in found]
    except (OSError, ValueError):  # find() says what is wrong with it
        return []
