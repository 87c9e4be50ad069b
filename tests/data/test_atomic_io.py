"""Files that are whole or not there, and what killed processes leave."""

import errno
import os

import pytest

from modeling_mgvmoe.data import atomic_io as module
from modeling_mgvmoe.data.atomic_io import partial_name, remove_partial_files, whole_file, whole_folder, write_whole


def test_a_file_appears_when_it_is_whole_and_takes_the_place_of_another(tmp_path):
    target = tmp_path / "numbers.txt"
    write_whole(target, b"one")
    with whole_file(target) as partial:
        with open(partial, "wb") as file:
            file.write(b"two")
        assert target.read_bytes() == b"one" and os.path.dirname(partial) == str(tmp_path)
    assert target.read_bytes() == b"two" and os.listdir(tmp_path) == ["numbers.txt"]


@pytest.mark.parametrize("stop", [ValueError("no"), KeyboardInterrupt()])
def test_what_fails_leaves_what_was_there(tmp_path, stop):
    target = tmp_path / "numbers.txt"
    write_whole(target, b"one")
    with pytest.raises(type(stop)), whole_file(target) as partial:
        with open(partial, "wb") as file:
            file.write(b"tw")
        raise stop
    assert target.read_bytes() == b"one" and os.listdir(tmp_path) == ["numbers.txt"]


def test_a_folder_that_was_interrupted_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(str(tmp_path / "thing"), 1):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "fsync", full)
    with (
        pytest.raises(
            OSError, match=r"disk full: .*numbers.txt could not be written, \d+ bytes are free.*make room, then"
        ),
        whole_file(tmp_path / "numbers.txt", "run the command again") as partial,
        open(partial, "wb") as file,
    ):
        file.write(b"one")
    assert os.listdir(tmp_path) == []


def test_leftovers_of_dead_processes_are_removed_and_of_no_others(tmp_path):
    own = partial_name("a")
    host = own.split(".")[-3]
    dead, elsewhere, other = f".b.{host}.999999999.partial", ".c.far-away.1.partial", ".d.partial"
    for name in (own, dead, elsewhere, other, "e.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f".f.{host}.999999999.partial").mkdir()
    remove_partial_files(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([own, elsewhere, other, "e.txt"])
    remove_partial_files(str(tmp_path), everywhere=True)
    assert sorted(os.listdir(tmp_path)) == sorted([other, "e.txt"])
    remove_partial_files(str(tmp_path / "gone"))
