import os

import pytest

from carm_env.system.files import atomic_folder, atomic_write, cache_dir, content_hash, file_hash, write_json


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_finished_write_replaces_the_file_and_makes_folders(tmp_path):
    path = tmp_path / "x" / "y.txt"
    for text in ("one", "two"):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["y.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "f"
    for name in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / name).write_text(name, encoding="utf-8")
    assert os.listdir(folder) == ["new"]
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        raise RuntimeError
    assert os.listdir(folder) == ["new"] and os.listdir(tmp_path) == ["f"]


def test_json_with_nan_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_hashes_depend_on_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")
    assert content_hash([1, 2]) != content_hash([2, 1])


def test_the_cache_folder_is_set_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c"
    monkeypatch.delenv("CARM_ENV_CACHE")
    assert cache_dir().name == "carm-env"
