"""Files and folders that are there whole or not at all."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpo.files import replace_file, replace_folder, scratch, sweep


def dead() -> int:
    """The pid of a process that is gone."""
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def filled(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a").write_text(content)

    return write


def test_a_file_or_folder_is_replaced_at_the_end_of_the_block_unless_what_is_there_is_good(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.npz"
    for content in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with replace_file(path) as draft:
            draft.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert draft.suffix == ".npz"  # NumPy would add another
    assert list(path.parent.iterdir()) == [path]
    folder = tmp_path / "other" / "saved"
    for content in ("first", "second"):
        replace_folder(folder, filled(content), lambda _: False)
        assert (folder / "a").read_text() == content
    replace_folder(folder, filled("third"), lambda there: (there / "a").read_text() == "second")
    assert (folder / "a").read_text() == "second"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_block_or_a_folder_that_cannot_be_written_leaves_the_old_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def write(content: Iterator[str]) -> None:
        with replace_file(tmp_path / "a") as draft, draft.open("w") as file:
            file.writelines(content)

    with pytest.raises(ZeroDivisionError):
        write(str(1 // number) for number in (1, 0))
    assert (tmp_path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    folder = tmp_path / "saved"
    replace_folder(folder, filled("old"), lambda _: False)
    with pytest.raises(IsADirectoryError):
        replace_folder(folder, lambda new: new.write_text("in the way"), lambda _: False)  # type: ignore[arg-type, return-value]
    assert (folder / "a").read_text() == "old"
    assert {*tmp_path.iterdir()} == {tmp_path / "a", folder}


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    """Also if another process has got its pid since; drafts of living processes and of other machines stay."""
    host, own, gone = os.uname().nodename, os.getpid(), dead()
    with replace_file(tmp_path / "file") as draft, scratch(tmp_path) as folder:
        draft.touch()
        for place in (tmp_path, folder):
            (place / f".saving-{host}+{gone}-1-x").mkdir()
            (place / f".saving-{host}+{gone}-1-x" / "new").touch()
            (place / f".saving-{host}+{own}-1-x").touch()
        elsewhere = tmp_path / f".saving-{host}-2+{own}-1-x"
        elsewhere.touch()
        sweep(tmp_path)
        assert set(tmp_path.iterdir()) == {draft, folder, elsewhere}
        assert len(list(folder.iterdir())) == 2
    assert set(tmp_path.iterdir()) == {tmp_path / "file", elsewhere}
