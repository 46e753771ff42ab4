"""Image files: what their headers say, and their pixels. Nothing in them is trusted.

A header is read before anything is decoded, because a PNG of 17 KB can open as 12,000 x 12,000 pixels.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hpo.data.sources.contents import Array, Shape, refuse_any
from hpo.errors import BadInput, Mistake

# Pixels only: Pillow's other readers start Ghostscript (EPS), follow file names (GRIB) or are rarely looked at.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
KINDS = "png, jpg, bmp, gif, webp, tiff, ppm, avif or jp2"
MOST_PIXELS = 2**26  # 8192 x 8192; the largest cameras in common use stay below
GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
TOO_DEEP = ("I", "F")  # 32 bits a pixel, of no agreed range
# EXIF's orientation (CIPA DC-008, 4.6.4) -> what sets it upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Header:
    """An image before it is decoded, as it looks upright."""

    height: int
    width: int
    colour: bool


def header(path: Path) -> Header:
    """Raises BadInput for what is no image, or one with too many pixels."""
    with _opened(path) as image:
        width, height = image.size
        if image.mode in TOO_DEEP:
            remedy = "save it with 8 bits, or hand the data over as .npz"
            raise BadInput(Mistake(str(path), "must have 8 or 16 bits a pixel", "32", remedy))
        if _turn(image) in (5, 6, 7, 8):
            height, width = width, height
        return Header(height, width, image.mode not in GREY)


def decode(path: Path, shape: Shape, resize: bool) -> Array:
    """(C, H, W) uint8, upright. Raises BadInput for a damaged file, or where another size would have to be resized."""
    channels, height, width = shape
    with _opened(path) as image:
        turn = _turn(image)
        image.load()
        picture = _eight_bits(image).convert("L" if channels == 1 else "RGB")
        picture = picture.transpose(UPRIGHT[turn]) if turn in UPRIGHT else picture
    if picture.size != (width, height):
        if not resize:
            got = f"{picture.height}x{picture.width}"
            raise BadInput(Mistake(str(path), f"must be {height}x{width}, as the data are", got, "resize the image"))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def read_images(source: str | Path | Sequence[Path], shape: Shape, *, resize: bool) -> Array:
    """(N, C, H, W) uint8 of image files or of all images under a folder (in the order of `image_files`).

    shape: of the data set the model was trained on; one channel reads them as grey. resize: whether that data set was
    resized. Raises BadInput that names every file which is no image, is damaged or has another size.
    """
    paths = image_files(source)
    images = np.empty((len(paths), *shape), np.uint8)
    mistakes: list[Mistake] = []
    for index, path in enumerate(paths):
        try:
            images[index] = decode(path, shape, resize)
        except BadInput as bad:
            mistakes.extend(own(bad))
    refuse_any(mistakes, paths[0].parent)
    return images


def image_files(source: str | Path | Sequence[Path]) -> list[Path]:
    """The files `read_images` reads: those given, or all under a folder but hidden ones. Raises BadInput if none."""
    if not isinstance(source, str | Path):
        paths = list(source)
    elif os.path.isdir(source):  # noqa: PTH112 - a name no disk can have is False and no error
        paths = list(walk(Path(source)))
    else:
        paths = [Path(source)]
    if not paths:
        raise BadInput(Mistake(str(source), "holds no images", "", f"put {KINDS} files there"))
    return paths


def walk(root: Path, within: Path | None = None) -> list[Path]:
    """All files under root but hidden ones, in order. Raises BadInput for links that lead out and what cannot be read.

    within: the folder nothing may lead out of, root if it is not given.
    """
    within = (within or root).resolve()
    files: list[Path] = []
    mistakes: list[Mistake] = []

    def failed(error: OSError) -> None:
        mistakes.append(
            Mistake(str(error.filename), "cannot be read", str(error.strerror).lower(), "change its permissions")
        )

    for folder, names, file_names in os.walk(root, onerror=failed):
        names[:] = sorted(name for name in names if not hidden(name))
        links = [name for name in names if Path(folder, name).is_symlink()]
        mistakes += [linked_folder(Path(folder, name), within) for name in links]
        for name in sorted(name for name in file_names if not hidden(name)):
            path = Path(folder, name)
            fault = leads_out(path, within)
            mistakes += [fault] if fault else []
            files += [] if fault else [path]
    refuse_any(mistakes, root)
    return files


def hidden(name: str) -> bool:
    """What a system puts beside images without asking."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def leads_out(path: Path, within: Path) -> Mistake | None:
    """Whether a link leads out of the folder of the data."""
    if not path.is_symlink() or path.resolve().is_relative_to(within):
        return None
    return Mistake(
        str(path), "must not lead out of the data's folder", f"a link to {path.resolve()}", "copy the file there"
    )


def linked_folder(path: Path, within: Path) -> Mistake:
    """Why a link to a folder is refused, wherever it leads."""
    return leads_out(path, within) or Mistake(
        str(path),
        "must be no link to a folder, whose images would count twice",
        f"a link to {path.resolve()}",
        "remove it",
    )


def own(bad: BadInput) -> Iterator[Mistake]:
    """The mistakes of an error of ours, to be collected."""
    return (mistake for mistake in bad.mistakes if isinstance(mistake, Mistake))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header was read; whatever Pillow raises on it, here or in the block, becomes one line."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise BadInput(Mistake(str(path), "must be an image file", "no regular file", "remove it"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about palettes, EXIF and size; what matters here is refused below
            # A stream, not a path: Pillow 13 maps paths, and uncompressed TIFFs that are turned then come out garbled.
            with path.open("rb") as stream, Image.open(stream, formats=_formats()) as image:
                _refuse_huge(path, image.width * image.height, f"{image.height}x{image.width}")
                yield image
    except (BadInput, MemoryError):
        raise
    except PermissionError as error:
        raise BadInput(Mistake(str(path), "cannot be read", "permission denied", "change its permissions")) from error
    except FileNotFoundError as error:
        raise BadInput(Mistake(str(path), "is not there", "", "check the path")) from error
    except Image.DecompressionBombError as error:
        raise _huge(path, "more than twice that") from error
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


def _refuse_huge(path: Path, pixels: int, size: str) -> None:
    if pixels > MOST_PIXELS:
        raise _huge(path, size)


def _huge(path: Path, got: str) -> BadInput:
    return BadInput(Mistake(str(path), f"must have at most {MOST_PIXELS:,} pixels", got, "make it smaller"))


def _turn(image: Image.Image) -> int:
    """EXIF's orientation, if it stands before the pixels; 1 where there is none or Pillow itself obeys it (TIFF)."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF raises anything at all and is no reason to refuse a sound image
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
