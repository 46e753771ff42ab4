"""Where images come from: each module reads one kind of source into Contents, and trusts no file."""

from __future__ import annotations

import stat
from difflib import get_close_matches
from pathlib import Path

from hpo.data.sources import cifar, folder, idx, npz
from hpo.data.sources.contents import Contents, locked, refuse_any
from hpo.data.sources.images import bad_links
from hpo.errors import BadInput, Mistake
from hpo.study_file.spec import DATA_SETS, DataSpec

KINDS = "a folder of images, of IDX files or of CIFAR batches, or an .npz file"


def find(spec: DataSpec, available: int | None) -> Contents:
    """The contents of spec.source, a known name or a path. Raises BadInput.

    available: bytes of memory that may be taken; no more is, whatever a file claims.
    """
    if spec.source in DATA_SETS:
        from hpo.data.sources import builtin  # half a second of scikit-learn that other sources need not pay

        return builtin.read(spec.source, spec, available)
    path = Path(spec.source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _in_folder(path, spec, available)
    except FileNotFoundError as error:
        raise BadInput(_missing(spec.source)) from error
    except PermissionError as error:
        raise locked(error.filename or path) from error
    except (OSError, ValueError) as error:  # a name no disk can have: too long, with a zero byte
        raise BadInput(Mistake("data.source", f"must be {KINDS}", repr(spec.source)[:80], "check the path")) from error
    if not stat.S_ISREG(mode) or path.suffix.lower() != ".npz":
        raise BadInput(Mistake(str(path), f"must be {KINDS}", "another file", "name the folder, or write an .npz"))
    return npz.read(path, spec, available)


def _in_folder(path: Path, spec: DataSpec, available: int | None) -> Contents:
    entries = sorted(path.iterdir())
    if not entries:
        raise BadInput(Mistake(str(path), f"must be {KINDS}", "an empty folder", "put the data there"))
    refuse_any(bad_links(entries, path), path)
    if idx.holds_idx(path):
        return idx.read(path, spec, available)
    if cifar.holds_cifar(path):
        return cifar.read(path, spec)
    return folder.read(path, spec)


def _missing(source: str) -> Mistake:
    close = get_close_matches(Path(source).name.lower(), DATA_SETS, 1, 0.7)
    remedy = f"did you mean {close[0]}?" if close else "check the path"
    return Mistake("data.source", f"must be {', '.join(DATA_SETS)} or the path of {KINDS}", repr(source), remedy)
