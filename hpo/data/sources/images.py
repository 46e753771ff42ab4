"""Image files, and a folder of them (its layout: folders.py).

Nothing in a file is trusted. A header is read before anything is decoded: a PNG of 17 KB can hold 12,000 x 12,000 pixels.
"""

import contextlib
import math
import os
import stat
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageColor, ImageFile, ImageOps, UnidentifiedImageError

from hpo.data.sources.contents import SHOWN, Array, Contents, Shape, labelled, raise_all, unreadable
from hpo.data.sources.folders import File, class_files, walk
from hpo.errors import BadInput, Mistake
from hpo.formatting import count, printable
from hpo.study_file.spec import DataSpec

# Pixels only: Pillow's other readers start Ghostscript (EPS), follow file names (GRIB) or are rarely looked at.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
KINDS = "png, jpg, bmp, gif, webp, tiff, ppm, avif or jp2"
MOST_PIXELS = 2**26  # 8192 x 8192; the largest cameras in common use stay below
GREY = ("1", "L", "LA", "La")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # more than 8 bits a pixel: kept as float32, of any range
DEPTHS = ("8 bits", "more than 8 bits")
ORIENTATION = 0x0112  # of EXIF (CIPA DC-008, 4.6.4); 5 to 8 exchange height and width

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says before it is decoded. size: (height, width) upright; cut: Pillow keeps 8 of its bits only."""

    size: tuple[int, int]
    colour: bool
    transparent: bool
    deep: bool
    cut: bool
    frames: int = 1


@dataclass(frozen=True, slots=True)
class Pixels:
    """What every file becomes, in training and in prediction alike.

    dtype: float32 for files of more than 8 bits a pixel; resize: whether files may have any size; background: under transparency.
    """

    shape: Shape
    dtype: str = "uint8"
    resize: bool = False
    background: str = "white"


def header(path: Path, whole: bool = False) -> Header:
    """Raises BadInput. It decodes nothing, or all to see whether it is sound, if the whole file is to be read."""
    with _opened(path) as image:
        deep = image.mode in DEEP
        told = Header(
            size=image.size if _on_its_side(image) else image.size[::-1],
            colour=image.mode not in (*GREY, *DEEP),
            transparent=image.has_transparency_data and not deep,
            deep=deep,
            cut=not deep and any(";16" in str(tile.args) for tile in image.tile),
        )
        if whole:
            image.load()
        frames = 1
        if image.format != "MPO":  # a photograph and its preview
            with contextlib.suppress(Exception):  # damage beyond the first is no reason to refuse the image
                frames = getattr(image, "n_frames", 1)
        return replace(told, frames=frames)


def decode(path: Path, wanted: Pixels) -> Array:
    """(C, H, W), upright. Raises BadInput for a damaged file, and for another depth, or size that is not resized."""
    channels, height, width = wanted.shape
    with _opened(path) as image:
        if (image.mode in DEEP) != (wanted.dtype == "float32"):
            rule = f"must have {DEPTHS[wanted.dtype == 'float32']} a pixel, as the data have"
            raise BadInput(Mistake(str(path), rule, DEPTHS[image.mode in DEEP], "convert the image"))
        image.load()
        upright: Image.Image = image
        with contextlib.suppress(Exception):  # damaged EXIF
            upright = ImageOps.exif_transpose(image)
        if image.mode in DEEP:
            picture = Image.fromarray(np.asarray(upright).astype(np.float32))
        else:
            if upright.has_transparency_data:
                ground = Image.new("RGBA", upright.size, wanted.background)
                upright = Image.alpha_composite(ground, upright.convert("RGBA"))
            picture = upright.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        if not wanted.resize:
            got = f"{picture.height}x{picture.width}"
            raise BadInput(Mistake(str(path), f"must be {height}x{width}, as the data are", got, "resize the image"))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture).reshape(height, width, -1)  # a grey picture is the same in every channel
    return np.broadcast_to(pixels, (height, width, channels)).transpose(2, 0, 1)


def usable(read: Callable[[Path], R], paths: Sequence[Path]) -> tuple[dict[Path, R], list[Mistake | str]]:
    """What `read` gives for each file that is an image, and why others are none. Raises BadInput where one is not Unusable."""
    results: dict[Path, R] = {}
    refused: list[BadInput] = []
    for path in paths:
        try:
            results[path] = read(path)
        except BadInput as bad:
            refused.append(bad)
    mistakes = [mistake for bad in refused for mistake in bad.mistakes]
    if not all(isinstance(bad, Unusable) for bad in refused):
        raise BadInput(*mistakes)
    return results, mistakes


def left_out(unusable: Sequence[Mistake | str]) -> str:
    shown = [printable(one.place) for one in unusable[:SHOWN] if isinstance(one, Mistake)]
    more = ", ..." if len(unusable) > SHOWN else ""
    return f"left out {count(len(unusable), 'file')} that cannot be read as images: {', '.join(shown)}{more}"


def several_frames(headers: Collection[Header]) -> Iterator[str]:
    """A sentence on files that hold more than is read."""
    frames = [one.frames for one in headers if one.frames > 1]
    if frames:
        yield f"{count(len(frames), 'file')} of several frames or pages, {sum(frames):,} in all: the first is used"


def decode_all(paths: Sequence[Path], wanted: Pixels) -> Array:
    """(N, C, H, W). Raises BadInput with every file that `decode` refuses."""
    images, unusable = usable(lambda path: decode(path, wanted), paths)
    if unusable:
        raise BadInput(*_skippable(unusable))
    return np.stack([*images.values()])


def _skippable(unusable: Sequence[Mistake | str]) -> list[Mistake | str]:
    """With the other remedy that there is for a folder's files."""
    other = ", or set data.damaged: skip"
    return [replace(one, remedy=one.remedy + other) if isinstance(one, Mistake) else one for one in unusable]


def image_files(source: str | Path) -> list[Path]:
    """The file given, or all under a folder but hidden ones. Raises BadInput if none."""
    folder = os.path.isdir(source)  # noqa: PTH112 - a name no disk can have is False and no error
    paths = walk(Path(source)) if folder else [Path(source)]
    if not paths:
        raise BadInput(Mistake(str(source), "holds no images", "", f"put {KINDS} files there"))
    return paths


class Unusable(BadInput):
    """A file that is damaged, or no image at all."""


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image whose header was read; whatever Pillow raises on it, here or in the block, becomes one line."""
    size = "more than twice that"  # above that Pillow itself refuses
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise Unusable(Mistake(str(path), "must be an image file", "no regular file", "remove it"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about palettes, EXIF and size; what matters here is refused below
            # A stream, not a path: Pillow 13 maps paths, and uncompressed TIFFs that are turned then come out garbled.
            with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
                size = f"{image.height}x{image.width}"
                if image.width * image.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except (BadInput, MemoryError):
        raise
    except PermissionError as error:
        raise unreadable(path) from error
    except FileNotFoundError as error:
        raise BadInput(Mistake(str(path), "is not there", "", "check the path")) from error
    except Image.DecompressionBombError as error:
        rule = f"must have at most {MOST_PIXELS:,} pixels"
        raise Unusable(Mistake(str(path), rule, size, "make it smaller")) from error
    except UnidentifiedImageError as error:
        got = "an empty file" if path.stat().st_size == 0 else "another file"
        raise Unusable(Mistake(str(path), f"must be an image ({KINDS})", got, "remove it")) from error
    except Exception as error:  # Pillow's readers raise anything at all on damaged files
        raise Unusable(Mistake(str(path), "is damaged and cannot be decoded", "", "replace or remove it")) from error


def _on_its_side(image: Image.Image) -> bool:
    """Whether EXIF exchanges height and width. In a TIFF Pillow did it; a PNG is not decoded to look behind its pixels."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    with contextlib.suppress(Exception):  # damaged EXIF raises anything at all and is no reason to refuse the image
        return image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return False


def read(root: Path, spec: DataSpec) -> Contents:
    """Raises BadInput that names every file which is no image, and different sizes where data.resize is not set."""
    files, headers, unusable = _with_headers(class_files(root), root, spec)
    paths, names, parts = zip(*files, strict=True)
    shape, depth = _shape(root, paths, headers, spec), _depth(root, paths, headers)
    wanted = Pixels(shape, depth, bool(spec.resize), spec.background)
    cut = sum(one.cut for one in headers)
    notes = [left_out(unusable)] if unusable else []
    notes += [f"{count(cut, 'file')} of 16 bits in colour, read with 8; save such data as .npz"] if cut else []
    notes += several_frames(headers)
    targets, classes = labelled(np.array(names), spec, str(root))
    return Contents(
        name=root.name,
        place=str(root),
        targets=targets,
        classes=classes,
        shape=wanted.shape,
        dtype=np.dtype(wanted.dtype),
        pixels=lambda indices: decode_all([paths[index] for index in indices], wanted),
        parts=None if parts[0] is None else np.array(parts, np.int8),
        notes=tuple(notes),
        files=True,
        advice=_advice(headers, spec.background),
    )


def _advice(headers: Sequence[Header], background: str) -> str:
    """What to say where every image is of one colour."""
    if any(one.frames > 1 for one in headers):
        return "of files with several frames only the first is looked at"
    if any(one.transparent for one in headers):
        other = "white" if background == "black" else "black"
        return f"transparent ones are drawn on {background}; set data.background: {other}"
    return Contents.advice


def _with_headers(
    files: Sequence[File], root: Path, spec: DataSpec
) -> tuple[Sequence[File], list[Header], list[Mistake | str]]:
    """The files, without those that data.damaged skips; their headers; why others are skipped. Raises BadInput."""
    skip = spec.damaged == "skip"
    headers, unusable = usable(lambda path: header(path, whole=skip), [path for path, _, _ in files])
    if unusable and not skip:  # those whose pixels alone are damaged are named in the same round
        raise_all(_skippable(usable(lambda path: header(path, whole=True), [path for path, _, _ in files])[1]), root)
    sound = [file for file in files if file[0] in headers]
    lost = sorted({name for _, name, _ in files} - {name for _, name, _ in sound})
    remedy = "replace its files"
    raise_all([Mistake(str(root), f"class {name!r} has no image that can be read", "", remedy) for name in lost], root)
    return sound, [*headers.values()], unusable


def _shape(root: Path, paths: Sequence[Path], headers: Sequence[Header], spec: DataSpec) -> Shape:
    """Colour if any image is, on its background; of one size, or resized."""
    tinted = len(set(ImageColor.getrgb(spec.background))) > 1
    coloured = any(one.colour or (one.transparent and tinted) for one in headers)
    channels = 3 if coloured and not spec.grey else 1
    if spec.resize:
        return channels, *spec.resize
    first_of: dict[tuple[int, int], Path] = {}
    for path, one in zip(paths, headers, strict=True):
        first_of.setdefault(one.size, path)
    smallest = min(first_of, key=math.prod)
    if len(first_of) > 1:
        shown = [f"{height}x{width} ({path.relative_to(root)})" for (height, width), path in first_of.items()]
        got = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more sizes" if len(shown) > 3 else "")
        remedy = f"set data.resize, for example resize: {list(smallest)}"
        raise BadInput(Mistake(str(root), "images must have one size (height x width)", got, remedy))
    return channels, *smallest


def _depth(root: Path, paths: Sequence[Path], headers: Sequence[Header]) -> str:
    """uint8, or float32 where all files have more bits: the values of both together would not be on one scale."""
    first_of = {one.deep: path for path, one in zip(reversed(paths), reversed(headers), strict=True)}
    if len(first_of) > 1:
        got = " and ".join(f"{DEPTHS[deep]} ({path.relative_to(root)})" for deep, path in sorted(first_of.items()))
        raise BadInput(Mistake(str(root), "images must have one depth", got, "convert one kind to the other"))
    return "float32" if True in first_of else "uint8"
