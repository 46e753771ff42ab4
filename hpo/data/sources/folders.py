"""How a folder of images is laid out: one sub-folder a class, directly or under train, val and test. Opens no file."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpo.data.sources.contents import Part, raise_all, words
from hpo.errors import BadInput, Mistake
from hpo.files import written_by_hpo
from hpo.formatting import count, some

LAYOUT = "make one sub-folder a class"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")
MLFLOW = (".db", ".db-wal", ".db-shm", ".db-journal")
TEXTS = (".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".py", ".log", *MLFLOW)
SYSTEMS = frozenset(("Thumbs.db", "desktop.ini", "__MACOSX", "lost+found", "@eaDir", "_DS_Store"))
NO_NAMES = frozenset(("set", "data", "images", "imgs"))  # words that tell train_images from test_images no better

File = tuple[Path, str, Part | None]  # an image, its class, its part (None: the source does not come split)


def class_files(root: Path) -> list[File]:
    """Every file in a class folder. Raises BadInput."""
    files: list[File] = []
    mistakes: list[Mistake] = []
    for folder, part in _part_folders(root):
        for label in _class_folders(folder, root, part):
            paths = walk(label, within=root)
            name = os.fsencode(label.name).decode("utf-8", "backslashreplace")  # whatever bytes the disk has
            files += [(path, name, part) for path in paths]
            if not paths:
                mistakes.append(Mistake(str(label), "holds no images", "", "put images there or remove the folder"))
    raise_all(mistakes, root)
    if not files:
        got = some(sorted(path.name for path in root.iterdir()))
        raise BadInput(Mistake(str(root), "holds no images in class folders", got, LAYOUT))
    return files


def _part_folders(root: Path) -> Sequence[tuple[Path, Part | None]]:
    """The folders of train, val and test with their class folders, if these are what root holds; else root itself."""
    folders = _folders(root, root)
    parts = [(folder, part) for folder in folders if (part := Part.named(folder.name)) is not None]
    others = [folder.name for folder in folders if Part.named(folder.name) is None]
    if not _come_split(parts, bool(others)):
        return [(root, None)]
    if others:
        _refuse_parts_as_classes(folders, root)
        rule, remedy = "must hold either class folders or train, val and test", "move these into train or elsewhere"
        raise BadInput(Mistake(str(root), rule, f"{some(others)} beside {parts[0][0].name}", remedy))
    for part in Part:
        names = [folder.name for folder, of in parts if of is part]
        if len(names) > 1:
            raise BadInput(Mistake(str(root), f"must hold one folder for {part.text}", ", ".join(names), "join them"))
    return [(_innermost(folder), part) for folder, part in parts]


def _come_split(parts: Sequence[tuple[Path, Part]], others: bool) -> bool:
    """Whether folders with the names of parts are parts. Classes may be named train, or train_station and test_lab, too."""
    kinds = {part for _, part in parts}
    names = [frozenset(word for word in words(path.name) if Part.named(word) is None) - NO_NAMES for path, _ in parts]
    if len(parts) > 1 and all(names) and len({*names}) > 1 and not any(folder_names(path) for path, _ in parts):
        return False
    if len(parts) == 1 and others:
        return Part.TRAIN in kinds and bool(folder_names(parts[0][0]))
    return Part.TRAIN in kinds and (len(kinds) > 1 or len(parts) == 1)


def first_images(root: Path) -> list[Path]:
    """An image of each of its class folders, or of those of its parts, where there are two at least."""
    inner = [root / name for name in folder_names(root)]
    first = [image for one in inner for image in itertools.islice(_loose_images(one), 1)]
    if len(first) > 1:
        return first
    return [image for one in inner if Part.named(one.name) is not None for image in first_images(one)]


def alone(folder: Path) -> Path | None:
    """The folder it holds and nothing else to read, as archives unpack."""
    names = folder_names(folder)
    return folder / names[0] if len(names) == 1 and not any(_loose_images(folder)) else None


def _innermost(folder: Path) -> Path:
    """The folder of a part, or the one in it that holds the class folders: training_set/training_set/cats."""
    inner = alone(folder)
    return _innermost(inner) if inner is not None and folder_names(inner) else folder


def _refuse_parts_as_classes(folders: Sequence[Path], root: Path) -> None:
    """Where all hold the same sub-folders, these are the classes, and a study would learn one part from another."""
    if len(folders) < 2:
        return
    shared = set(folder_names(_innermost(folders[0])))
    for folder in folders[1:]:
        if len(shared) < 2:
            return
        shared &= set(folder_names(_innermost(folder)))
    if len(shared) > 1:
        got = f"{some(sorted(shared))} in each of {some([folder.name for folder in folders])}"
        remedy = "name these train, val or test; if they are the classes, put the images right below them"
        raise BadInput(Mistake(str(root), "must hold one folder a class, or train, val and test", got, remedy))


def folder_names(folder: Path) -> list[str]:
    """Of its sub-folders. Raises OSError."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return [name for name in names if not ignored_folder(folder / name)]


def _folders(folder: Path, root: Path) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not ignored_folder(path))
    raise_all(bad_links(folders, root), root)
    return folders


def _class_folders(folder: Path, root: Path, part: Part | None) -> list[Path]:
    """The sub-folders. Images loose beside them are refused; any other file there (a licence) is left out."""
    loose, folders = [*_loose_images(folder)], _folders(folder, root)
    if part is not None and loose and not folders:
        got, remedy = count(len(loose), "loose image"), f"{LAYOUT}, or move {folder.name} away for `hpo predict`"
        raise BadInput(Mistake(str(folder), "must hold class folders", got, remedy))
    raise_all([Mistake(str(path), "must lie in the folder of its class", "", LAYOUT) for path in loose], folder)
    _refuse_parts_as_classes(folders, folder)
    return folders


def _loose_images(folder: Path) -> Iterator[Path]:
    paths = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and not ignored_file(path))
    return (path for path in paths if path.is_file())


def walk(root: Path, within: Path | None = None) -> list[Path]:
    """All files under root but those ignored, in order. within: what no link may lead out of. Raises BadInput."""
    files: list[Path] = []
    mistakes: list[Mistake] = []

    def failed(error: OSError) -> None:
        why = str(error.strerror).lower()
        mistakes.append(Mistake(str(error.filename), "cannot be read", why, "change its permissions"))

    for folders, paths in levels(root, failed):
        mistakes += bad_links([*folders, *paths], within or root)
        files += paths
    raise_all(mistakes, root)
    return files


def levels(root: Path, failed: Callable[[OSError], object] | None = None) -> Iterator[tuple[list[Path], list[Path]]]:
    """Sub-folders and files of root and of every folder below it, but those ignored. failed: told what cannot be read."""
    for folder, names, file_names in os.walk(root, onerror=failed):
        names[:] = sorted(name for name in names if not ignored_folder(Path(folder, name)))
        files = [Path(folder, name) for name in sorted(file_names)]
        yield [Path(folder, name) for name in names], [path for path in files if not ignored_file(path)]


def ignored_folder(path: Path) -> bool:
    return _hidden(path) or (not path.is_symlink() and (written_by_hpo(path) or _texts_alone(path)))


def _texts_alone(folder: Path) -> bool:
    """Whether it holds files that count, and all of them are texts or tables."""
    paths = (Path(name) for _, _, names in os.walk(folder) for name in names)
    texts = (path.suffix.lower() in TEXTS for path in paths if not _hidden(path))
    return next(texts, False) and all(texts)


def ignored_file(path: Path) -> bool:
    """Texts and tables beside images, among others."""
    return _hidden(path) or path.suffix.lower() in TEXTS


def _hidden(path: Path) -> bool:
    """What systems put beside images on their own."""
    return path.name.startswith(".") or path.name in SYSTEMS


def bad_links(paths: Sequence[Path], within: Path) -> list[Mistake]:
    """Of links that lead out of the folder of the data, and of links to folders wherever they lead."""
    mistakes = []
    for path in paths:
        if not path.is_symlink():
            continue
        target = Path(os.path.realpath(path))  # Path.resolve raises on a link to itself
        if not target.is_relative_to(within.resolve()):
            rule, remedy = "must not lead out of the data's folder", "copy the file there"
        elif target.is_dir():
            rule, remedy = "must not be a link to a folder, whose images would count twice", "remove it"
        else:
            continue
        mistakes.append(Mistake(str(path), rule, f"a link to {target}", remedy))
    return mistakes
