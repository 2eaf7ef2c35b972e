import os
import shutil
import sys

import pytest

from carm_env.system.editions import edition

WINDOWS = sys.platform == "win32"


def replace_with_equal_size_and_time(path):
    if WINDOWS:
        pytest.skip("there is no time of the last change")
    status = path.stat()
    path.write_bytes(bytes(len(path.read_bytes())))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_renaming(path):
    other = path.with_name("other")
    other.write_bytes(b"xyz")
    shutil.copystat(path, other)
    os.replace(other, path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".zip", ".dcm"])
@pytest.mark.parametrize("change", [replace_with_equal_size_and_time, replace_by_renaming])
def test_a_replaced_file_has_another_edition(tmp_path, suffix, change):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"abc")
    before = edition(path)
    (tmp_path / "neighbour").touch()
    assert edition(path) == before and hash(before)
    change(path)
    assert edition(path) != before


def add(folder):
    (folder / "deep" / "3.dcm").touch()


def remove(folder):
    (folder / "deep" / "2.dcm").unlink()


def rename(folder):
    (folder / "1.dcm").rename(folder / "0.dcm")


def overwrite(folder):
    replace_with_equal_size_and_time(folder / "deep" / "2.dcm")


@pytest.mark.parametrize("change", [add, remove, rename, overwrite])
def test_a_folder_has_another_edition_if_one_of_its_files_changes(tmp_path, change):
    (tmp_path / "deep").mkdir()
    for name in ("1.dcm", "deep/2.dcm"):
        (tmp_path / name).write_bytes(b"abc")
    before = edition(tmp_path)
    assert edition(tmp_path) == before
    change(tmp_path)
    assert edition(tmp_path) != before


@pytest.mark.parametrize(("suffix", "line"), [(".mhd", "ElementDataFile = a.raw"), (".nhdr", "data file: a.raw")])
def test_the_edition_of_a_detached_header_includes_its_data(tmp_path, suffix, line):
    header, data = tmp_path / f"a{suffix}", tmp_path / "a.raw"
    header.write_text(f"x\n{line}\n", encoding="utf-8")
    data.write_bytes(b"abc")
    before = edition(header)
    (tmp_path / "notes.txt").write_text("unrelated", encoding="utf-8")
    assert edition(header) == before
    replace_with_equal_size_and_time(data)
    assert edition(header) != before


@pytest.mark.skipif(WINDOWS, reason="links need a privilege")
def test_a_link_to_another_file_has_another_edition(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"abc")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    before = edition(link)
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert edition(link) != before
    assert edition(tmp_path / "absent") != before, "an absent file has an edition, too"
