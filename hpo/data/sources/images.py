"""Image files, and a folder of them: one sub-folder a class, directly or under train, val and test.

Nothing in a file is trusted. A header is read before anything is decoded: a PNG of 17 KB can hold 12,000 x 12,000
pixels.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hpo.data.sources.contents import Array, Contents, Part, Shape, collect, labelled, locked, refuse
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DataSpec

# Pixels only: Pillow's other readers start Ghostscript (EPS), follow file names (GRIB) or are rarely looked at.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
KINDS = "png, jpg, bmp, gif, webp, tiff, ppm, avif or jp2"
MOST_PIXELS = 2**26  # 8192 x 8192; the largest cameras in common use stay below
GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
TOO_DEEP = ("I", "F")  # 32 bits a pixel, of no agreed range
ORIENTATION = 0x0112  # of EXIF (CIPA DC-008, 4.6.4); 5 to 8 exchange height and width

PART_NAMES = {
    **dict.fromkeys(("train", "training"), Part.TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), Part.VAL),
    **dict.fromkeys(("test", "testing"), Part.TEST),
}
LAYOUT = "make one sub-folder a class"


def header(path: Path) -> tuple[tuple[int, int], bool]:
    """(height, width) of the upright image and whether it has colour. Raises BadInput; decodes nothing."""
    with _opened(path) as image:
        if image.mode in TOO_DEEP:
            remedy = "save it with 8 bits, or save the data as .npz"
            raise BadInput(Mistake(str(path), "must have 8 or 16 bits a pixel", "32", remedy))
        size = image.size if _on_its_side(image) else image.size[::-1]
        return size, image.mode not in GREY


def decode(path: Path, shape: Shape, resize: bool) -> Array:
    """(C, H, W) uint8, upright. Raises BadInput for a damaged file, or where another size would have to be resized."""
    channels, height, width = shape
    with _opened(path) as image:
        image.load()
        upright = image
        with contextlib.suppress(Exception):  # damaged EXIF
            upright = ImageOps.exif_transpose(image)
        picture = _eight_bits(upright).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        if not resize:
            got = f"{picture.height}x{picture.width}"
            raise BadInput(Mistake(str(path), f"must be {height}x{width}, as the data are", got, "resize the image"))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def decode_all(paths: Sequence[Path], shape: Shape, resize: bool) -> Array:
    """(N, C, H, W) uint8. Raises BadInput with every file that is no image, is damaged or has another size."""
    images = np.empty((len(paths), *shape), np.uint8)

    def fill(index: int) -> None:
        images[index] = decode(paths[index], shape, resize)

    _, mistakes = collect(fill, range(len(paths)))
    if mistakes:
        raise BadInput(*mistakes)
    return images


def read_images(source: str | Path | Sequence[Path], shape: Shape, *, resize: bool) -> Array:
    """(N, C, H, W) uint8 of image files or of all images under a folder (in the order of `image_files`).

    shape: of the data set the model was trained on; one channel reads them as grey. resize: whether that data set was
    resized. Raises BadInput with the first files that `decode_all` refuses.
    """
    paths = image_files(source)
    try:
        return decode_all(paths, shape, resize)
    except BadInput as bad:
        refuse(bad.mistakes, paths[0].parent)
        raise


def image_files(source: str | Path | Sequence[Path]) -> list[Path]:
    """The files `read_images` reads: those given, or all under a folder but hidden ones. Raises BadInput if none."""
    if not isinstance(source, str | Path):
        paths = list(source)
    elif os.path.isdir(source):  # noqa: PTH112 - a name no disk can have is False and no error
        paths = walk(Path(source))
    else:
        paths = [Path(source)]
    if not paths:
        raise BadInput(Mistake(str(source), "holds no images", "", f"put {KINDS} files there"))
    return paths


def walk(root: Path, within: Path | None = None) -> list[Path]:
    """All files under root but hidden ones, in order. Raises BadInput for bad links and what cannot be read.

    within: the folder nothing may lead out of, root if it is not given.
    """
    files: list[Path] = []
    mistakes: list[Mistake] = []

    def failed(error: OSError) -> None:
        why = str(error.strerror).lower()
        mistakes.append(Mistake(str(error.filename), "cannot be read", why, "change its permissions"))

    for folder, names, file_names in os.walk(root, onerror=failed):
        names[:] = sorted(name for name in names if not hidden(name))
        paths = [Path(folder, name) for name in sorted(file_names) if not hidden(name)]
        mistakes += bad_links([*(Path(folder, name) for name in names), *paths], within or root)
        files += paths
    refuse(mistakes, root)
    return files


def hidden(name: str) -> bool:
    """What systems put beside images on their own."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


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
            rule, remedy = "must be no link to a folder, whose images would count twice", "remove it"
        else:
            continue
        mistakes.append(Mistake(str(path), rule, f"a link to {target}", remedy))
    return mistakes


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header was read; whatever Pillow raises on it, here or in the block, becomes one line."""
    size = "more than twice that"  # above that Pillow itself refuses
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise BadInput(Mistake(str(path), "must be an image file", "no regular file", "remove it"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about palettes, EXIF and size; what matters here is refused below
            # A stream, not a path: Pillow 13 maps paths, and uncompressed TIFFs that are turned then come out garbled.
            with path.open("rb") as stream, Image.open(stream, formats=_formats()) as image:
                size = f"{image.height}x{image.width}"
                if image.width * image.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except (BadInput, MemoryError):
        raise
    except PermissionError as error:
        raise locked(path) from error
    except FileNotFoundError as error:
        raise BadInput(Mistake(str(path), "is not there", "", "check the path")) from error
    except Image.DecompressionBombError as error:
        rule = f"must have at most {MOST_PIXELS:,} pixels"
        raise BadInput(Mistake(str(path), rule, size, "make it smaller")) from error
    except UnidentifiedImageError as error:
        got = "an empty file" if path.stat().st_size == 0 else "another file"
        raise BadInput(Mistake(str(path), f"must be an image ({KINDS})", got, "remove it")) from error
    except Exception as error:  # Pillow's readers raise anything at all on damaged files
        raise BadInput(Mistake(str(path), "is damaged and cannot be decoded", "", "replace or remove it")) from error


@cache
def _formats() -> tuple[str, ...]:
    """FORMATS as far as this Pillow reads them."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _on_its_side(image: Image.Image) -> bool:
    """Whether EXIF, as far as it comes before the pixels, exchanges height and width (in a TIFF Pillow did it)."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    with contextlib.suppress(Exception):  # damaged EXIF raises anything at all and is no reason to refuse the image
        return image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return False


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


# -- a folder as a data set ------------------------------------------------------------------------------------------


def read(root: Path, spec: DataSpec) -> Contents:
    """Raises BadInput that names every file which is no image, and different sizes where data.resize is not set."""
    paths, names, parts = zip(*_files(root), strict=True)
    shape = _shape(root, paths, spec)
    labels = np.array(names)
    targets, classes = labelled(_as_numbers(labels, root) if spec.regression else labels, spec, str(root))
    return Contents(
        name=root.name,
        place=str(root),
        targets=targets,
        classes=classes,
        shape=shape,
        dtype=np.dtype(np.uint8),
        pixels=lambda indices: decode_all([paths[index] for index in indices], shape, bool(spec.resize)),
        parts=None if parts[0] is None else np.array(parts, np.int8),
    )


def _files(root: Path) -> list[tuple[Path, str, Part | None]]:
    """Path, class name and part (None: the source does not come split) of every image."""
    files: list[tuple[Path, str, Part | None]] = []
    mistakes: list[Mistake] = []
    for folder, part in _part_folders(root):
        for label in _class_folders(folder, root):
            paths = walk(label, within=root)
            name = label.name.encode("utf-8", "replace").decode()  # whatever bytes the disk has
            files += [(path, name, part) for path in paths]
            if not paths:
                mistakes.append(Mistake(str(label), "holds no images", "", "put images there or remove the folder"))
    refuse(mistakes, root)
    if not files:
        names = sorted(path.name for path in root.iterdir())
        got = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise BadInput(Mistake(str(root), "holds no images in class folders", got, LAYOUT))
    return files


def _part_folders(root: Path) -> Sequence[tuple[Path, Part | None]]:
    """The folders train, val and test, if these are what root holds; else root itself."""
    folders = _folders(root, root)
    parts = [(folder, PART_NAMES[folder.name.lower()]) for folder in folders if folder.name.lower() in PART_NAMES]
    if Part.TRAIN not in (part for _, part in parts):
        return [(root, None)]
    others = [folder.name for folder in folders if folder.name.lower() not in PART_NAMES]
    if others:
        rule = "must hold either class folders or train, val and test"
        raise BadInput(Mistake(str(root), rule, f"both, such as {others[0]}", "move the class folders into train"))
    for part in Part:
        names = [folder.name for folder, of in parts if of is part]
        if len(names) > 1:
            raise BadInput(Mistake(str(root), f"must hold one folder for {part.text}", ", ".join(names), "join them"))
    return parts


def _folders(folder: Path, root: Path) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path.name))
    refuse(bad_links(folders, root), root)
    return folders


def _class_folders(folder: Path, root: Path) -> list[Path]:
    """The sub-folders. Images loose beside them are refused; any other file there (a licence) is left out."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not hidden(path.name)]
    loose = [path for path in files if not collect(header, [path])[1]]
    refuse([Mistake(str(path), "must lie in the folder of its class", "", LAYOUT) for path in loose], folder)
    return _folders(folder, root)


def _shape(root: Path, paths: Sequence[Path], spec: DataSpec) -> Shape:
    """Colour if any image is; of one size, or resized."""
    headers, mistakes = collect(header, paths)
    refuse(mistakes, root)
    channels = 3 if not spec.grey and any(colour for _, colour in headers) else 1
    if spec.resize:
        return channels, *spec.resize
    first_of: dict[tuple[int, int], Path] = {}
    for path, (size, _) in zip(paths, headers, strict=True):
        first_of.setdefault(size, path)
    smallest = min(first_of, key=math.prod)
    if len(first_of) > 1:
        shown = [f"{height}x{width} ({path.relative_to(root)})" for (height, width), path in first_of.items()]
        got = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more sizes" if len(shown) > 3 else "")
        remedy = f"set data.resize, for example resize: {list(smallest)}"
        raise BadInput(Mistake(str(root), "images must have one size (height x width)", got, remedy))
    return channels, *smallest


def _as_numbers(names: Array, root: Path) -> Array:
    try:
        return names.astype(np.float32)
    except ValueError as error:
        rule, remedy = "folders must be named by numbers for regression", "save the data as .npz with numbers as y"
        raise BadInput(Mistake(str(root), rule, ", ".join(np.unique(names)[:3]), remedy)) from error
