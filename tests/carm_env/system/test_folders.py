import errno
import os
import stat
import threading

import pytest

from carm_env.ct import _identity
from carm_env.ct._identity import case_id, create_key
from carm_env.ct.errors import CTImportError
from carm_env.system.errors import CArmEnvError
from carm_env.system.folders import FolderError, create_file, explain_os_error, folder_errors


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


NO_LINKS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES]


@pytest.mark.parametrize("number", [None, *NO_LINKS])
def test_a_file_is_created_once_with_and_without_hard_links(monkeypatch, tmp_path, number):
    if number is not None:
        monkeypatch.setattr(os, "link", failing(number))
    path = tmp_path / "a.key"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a.key"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_threads_creates_the_file(monkeypatch, tmp_path, links):
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    created = []
    create = [
        threading.Thread(
            target=lambda text=f"{i}": created.append(text) if create_file(tmp_path / "k", text.encode()) else 0
        )
        for i in range(16)
    ]
    for thread in create:
        thread.start()
    for thread in create:
        thread.join()
    assert (
        len(created) == 1
        and (tmp_path / "k").read_text(encoding="utf-8") == created[0]
        and os.listdir(tmp_path) == ["k"]
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_file_that_cannot_be_written_leaves_nothing(monkeypatch, tmp_path, number):
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        create_file(tmp_path / "a.key", b"x")
    assert os.listdir(tmp_path) == []


def test_an_error_names_the_variable_to_set(tmp_path):
    with (
        pytest.raises(FolderError, match="No space left.*set CARM_ENV_DATA") as caught,
        folder_errors(tmp_path, "CARM_ENV_DATA"),
    ):
        failing(errno.ENOSPC)()
    assert isinstance(caught.value, CArmEnvError)


@pytest.mark.parametrize(
    ("path", "number", "variable"),
    [
        ("cache/patients/x", errno.EACCES, "CARM_ENV_CACHE"),
        ("cache", errno.ENOTDIR, "CARM_ENV_CACHE"),
        ("data/patients", errno.ENOSPC, "CARM_ENV_DATA"),
        ("out/x.png", errno.EACCES, None),
        (".", errno.EACCES, None),
        (".", errno.EISDIR, None),
        ("cache of others", errno.EACCES, None),
    ],
)
def test_an_error_about_the_cache_or_the_data_folder_names_its_variable(monkeypatch, tmp_path, path, number, variable):
    for name in ("cache", "data"):
        monkeypatch.setenv(f"CARM_ENV_{name.upper()}", str(tmp_path / name))
        (tmp_path / name).mkdir()
    error = OSError(number, os.strerror(number), str(tmp_path / path))
    text = explain_os_error(error)
    assert text == str(error) if variable is None else f"set {variable} to another folder" in text


def test_an_error_about_the_folder_that_should_hold_the_cache_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "absent" / "cache"))
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))
    assert "set CARM_ENV_CACHE" in explain_os_error(error)
    assert explain_os_error(FolderError("a sentence")) == "a sentence"
    assert explain_os_error(OSError("without a number")) == "without a number"


class TestKeys:
    @pytest.fixture
    def data(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
        _identity._key_of_process.cache_clear()
        return tmp_path / "data"

    def test_looking_writes_nothing_and_keeps_its_ids_at_the_first_import(self, data):
        looked = case_id("P-77")
        assert not data.exists()
        create_key()
        assert case_id("P-77") == looked
        _identity._key_of_process.cache_clear()
        assert case_id("P-77") == looked, "the key is on disk"

    @pytest.mark.parametrize("number", NO_LINKS)
    def test_a_folder_without_hard_links_gets_a_key(self, data, monkeypatch, number):
        monkeypatch.setattr(os, "link", failing(number))
        create_key()
        create_key()
        assert len((data / "case.key").read_bytes()) == 32 and os.listdir(data) == ["case.key"]

    def test_a_key_that_another_process_is_writing_is_waited_for(self, data):
        data.mkdir()
        (data / "case.key").touch()
        writer = threading.Timer(0.1, (data / "case.key").write_bytes, [b"k" * 32])
        writer.start()
        first = case_id("P-77")
        writer.join()
        assert first == case_id("P-77")

    @pytest.mark.parametrize("size", [0, 31, 33])
    def test_a_damaged_key_is_refused(self, data, monkeypatch, size):
        monkeypatch.setattr(_identity, "_PATIENCE_S", 0.0)
        data.mkdir()
        (data / "case.key").write_bytes(b"k" * size)
        for use in (create_key, lambda: case_id("P-77")):
            with pytest.raises(CTImportError, match=f"holds {size} bytes, expected 32"):
                use()

    def test_a_data_folder_that_is_a_file_names_the_variable(self, data):
        data.write_text("", encoding="utf-8")
        assert len(case_id("P-77")) == 16
        with pytest.raises(FolderError, match="set CARM_ENV_DATA"):
            create_key()

    def test_texts_of_any_file_name_are_hashed(self, data):
        assert case_id("Sch\udce4del") != case_id("Schädel")
