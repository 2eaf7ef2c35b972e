"""What a killed process leaves behind is put back or removed."""

import os
import sys

import pytest

from carm_env.system import leftovers
from carm_env.system.files import atomic_folder, atomic_write, remove_folder
from carm_env.system.leftovers import COMPLETE, EARLIER, UNFINISHED, hidden_path, lock_path, restore, settle
from carm_env.system.locks import lock

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def make_folder(path, content):
    path.mkdir()
    (path / "content").write_text(content, encoding="utf-8")


def content(path):
    return (path / "content").read_text(encoding="utf-8")


def write_folder(path, text):
    with atomic_folder(path) as temporary:
        (temporary / "content").write_text(text, encoding="utf-8")


@needs_fork
@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("call", range(8))
@pytest.mark.parametrize("name", ["replace", "fsync", "rmdir", "unlink"])
def test_a_kill_at_any_call_leaves_the_old_folder_or_the_new_one(tmp_path, killed_at, existed, call, name):
    target = tmp_path / "t"
    if existed:
        write_folder(target, "old")
    killed = killed_at(os, name, call, lambda: write_folder(target, "new"))
    assert restore(target) or not existed
    settle(tmp_path)
    found = content(target) if target.exists() else None
    assert found in (("old", "new") if existed else (None, "new"))
    assert killed or found == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["t"] * (found is not None)


@needs_fork
@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("name", ["replace", "fsync", "unlink"])
def test_a_kill_while_a_file_is_written_leaves_the_old_one_or_the_new_one(tmp_path, killed_at, call, name):
    def write(text):
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text(text, encoding="utf-8")

    write("old")
    killed = killed_at(os, name, call, lambda: write("new"))
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") in (("old", "new") if killed else ("new",))
    write("next")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text(encoding="utf-8") == "next"


@needs_fork
@pytest.mark.parametrize("call", range(5))
@pytest.mark.parametrize("name", ["replace", "rmdir", "unlink"])
def test_a_kill_during_a_removal_leaves_the_whole_folder_or_none(tmp_path, killed_at, call, name):
    write_folder(tmp_path / "t", "old")
    killed_at(os, name, call, lambda: remove_folder(tmp_path / "t"))
    settle(tmp_path)
    assert [content(path) for path in tmp_path.iterdir()] in ([], ["old"])


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([UNFINISHED], None),
        ([COMPLETE], COMPLETE),
        ([EARLIER], EARLIER),
        ([UNFINISHED, EARLIER, COMPLETE], COMPLETE),
    ],
)
def test_a_missing_folder_is_put_back(tmp_path, states, expected):
    target = tmp_path / "t"
    for state in states:
        make_folder(hidden_path(target, state), state)
    assert restore(target) == (expected is not None)
    settle(tmp_path)
    assert (content(target) if target.exists() else None) == expected
    assert len(os.listdir(tmp_path)) == (expected is not None)


def test_an_existing_folder_is_kept(tmp_path):
    target = tmp_path / "t"
    make_folder(target, "old")
    for state in (UNFINISHED, EARLIER, COMPLETE):
        make_folder(hidden_path(target, state), state)
    settle(tmp_path)
    assert content(target) == "old" and os.listdir(tmp_path) == ["t"]


def test_what_a_living_process_writes_and_what_is_not_ours_is_left_alone(tmp_path):
    others = {".hidden", ".t-old-abcdefgh", ".t.unfinished-1", ".lock", ".t.lock", "t.unfinished-12345678"}
    for name in others:
        (tmp_path / name).touch()
    written = hidden_path(tmp_path / "t", UNFINISHED)
    make_folder(written, "half")
    with lock(lock_path(tmp_path / "t")):
        settle(tmp_path)
        assert content(written) == "half" and not restore(tmp_path / "t")
    settle(tmp_path)
    assert set(os.listdir(tmp_path)) == others


def test_without_locks_a_folder_is_put_back_and_nothing_is_removed(tmp_path, monkeypatch):
    make_folder(hidden_path(tmp_path / "t", EARLIER), "old")
    make_folder(hidden_path(tmp_path / "u", UNFINISHED), "half")
    monkeypatch.setattr("carm_env.system.locks._take", lambda path: (_ for _ in ()).throw(OSError(37, "no locks")))
    monkeypatch.setattr("carm_env.system.locks._WITHOUT_LOCKS", {37})
    settle(tmp_path)
    assert content(tmp_path / "t") == "old" and len(os.listdir(tmp_path)) == 2
    write_folder(tmp_path / "t", "new")
    assert content(tmp_path / "t") == "new"


def test_a_folder_that_cannot_be_changed_is_only_read(tmp_path, monkeypatch):
    make_folder(hidden_path(tmp_path / "t", EARLIER), "old")

    def refuse(*arguments, **options):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(leftovers, "lock", refuse)
    settle(tmp_path)
    assert not restore(tmp_path / "t") and len(os.listdir(tmp_path)) == 1
    settle(tmp_path / "absent")


@needs_fork
def test_a_reader_waits_for_the_process_that_replaces_the_folder(tmp_path, monkeypatch):
    target = tmp_path / "t"
    write_folder(target, "old")
    real, found = os.replace, []

    def slow(source, destination):
        real(source, destination)
        if str(source) == str(target):
            # Between the two renames: a reader in another process.
            child = os.fork()
            if child == 0:
                monkeypatch.undo()
                os._exit(0 if restore(target) and content(target) == "new" else 1)
            found.append(child)

    monkeypatch.setattr(os, "replace", slow)
    write_folder(target, "new")
    assert [os.waitpid(child, 0)[1] for child in found] == [0]


def test_windows_replaces_no_folder_and_removes_no_open_file(tmp_path, monkeypatch):
    """On Windows a folder cannot be moved onto another one, nor moved while one of its files is open."""
    real, opened = os.replace, set()

    def replace(source, destination):
        if os.path.isdir(destination) or str(source) in opened:
            raise PermissionError(13, "Access is denied")
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    target = tmp_path / "t"
    for text in ("one", "two"):
        write_folder(target, text)
        assert content(target) == text and os.listdir(tmp_path) == ["t"]
    opened.add(str(target))
    with pytest.raises(PermissionError, match="end the programs that have its files open"):
        write_folder(target, "three")
    assert content(target) == "two" and os.listdir(tmp_path) == ["t"]


@pytest.mark.skipif(sys.platform == "win32", reason="makes a symbolic link")
def test_a_link_to_a_folder_is_replaced_and_its_folder_kept(tmp_path):
    make_folder(tmp_path / "elsewhere", "kept")
    (tmp_path / "t").symlink_to(tmp_path / "elsewhere")
    write_folder(tmp_path / "t", "new")
    assert content(tmp_path / "t") == "new" and content(tmp_path / "elsewhere") == "kept"
    assert len(os.listdir(tmp_path)) == 2
