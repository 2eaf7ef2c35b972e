"""Zip archives of others: whatever they hold, they stay in their folder, within their limit, and raise one error."""

import gzip
import shutil
import stat
import struct
import zipfile

import pytest

from carm_env.ct import archives
from carm_env.ct._archive_entries import MAX_DEPTH
from carm_env.ct.archives import extracted, safe_extract, size_limit
from carm_env.ct.errors import ArchiveError

MEGABYTE = 1 << 20


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def with_directory(path, change):
    """Changes the records of an archive's directory; `change` maps a list of records to another one."""
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<2I", content, end + 12)
    records, at = [], start
    while at < start + size:
        lengths = struct.unpack_from("<3H", content, at + 28)
        length = 46 + sum(lengths)
        records.append(bytearray(content[at : at + length]))
        at += length
    records = change(records)
    directory = b"".join(records)
    tail = bytearray(content[end:])
    struct.pack_into("<2H2I", tail, 8, len(records), len(records), len(directory), start)
    path.write_bytes(content[:start] + directory + tail)
    return path


def renamed(record, name):
    old = struct.unpack_from("<H", record, 28)[0]
    record = bytearray(record[:46] + name + record[46 + old :])
    struct.pack_into("<H", record, 28, len(name))
    return record


def overlapping(path):
    """Many entries of a directory that lead to one member."""
    zipped(path, [("0000.dcm", b"\0" * MEGABYTE)])
    return with_directory(path, lambda records: [renamed(records[0], b"%04d.dcm" % n) for n in range(500)])


def folder_with_content(path):
    zipped(path, [("a", b"\0" * MEGABYTE)])
    content = path.read_bytes().replace(b"a" + b"\xed", b"/" + b"\xed", 1)
    path.write_bytes(content)
    return with_directory(path, lambda records: [renamed(records[0], b"/")])


def special(path, kind):
    entry = zipfile.ZipInfo("a.dcm")
    entry.external_attr = (kind | 0o644) << 16
    return zipped(path, [(entry, b"/etc/passwd")])


def larger_than_stated(path):
    def change(records):
        struct.pack_into("<I", records[0], 24, 10)
        return records

    return with_directory(zipped(path, [("a.dcm", b"\0" * MEGABYTE)]), change)


def header_elsewhere(path):
    def change(records):
        struct.pack_into("<I", records[0], 42, 0xFFFFFF00)
        return records

    return with_directory(zipped(path, [("a.dcm", b"x")]), change)


HOSTILE = {
    "one entry": (lambda path: zipped(path, [("a.dcm", b"\0" * 30 * MEGABYTE)]), "zip bomb"),
    "many entries of a megabyte": (
        lambda path: zipped(path, [(f"{n}.dcm", b"\0" * MEGABYTE) for n in range(80)]), "zip bomb"),
    "bzip2": (lambda path: zipped(path, [("a.dcm", b"\0" * 30 * MEGABYTE)], zipfile.ZIP_BZIP2), "zip bomb"),
    "lzma": (lambda path: zipped(path, [("a.dcm", b"\0")], zipfile.ZIP_LZMA), "method 14, expected a zip with deflate"),
    "overlap": (overlapping, "share their bytes"),
    "folder with content": (folder_with_content, "with content|outside its folder"),
    "larger than stated": (larger_than_stated, "is damaged"),
    "header elsewhere": (header_elsewhere, "is damaged"),
    "compressed image": (
        lambda path: zipped(path, [("a.nii.gz", gzip.compress(b"\0" * 80 * MEGABYTE, 1))], zipfile.ZIP_STORED),
        "zip bomb"),
    "image compressed in parts": (
        lambda path: zipped(path, [("a.nii.gz", gzip.compress(b"\0" * MEGABYTE, 9) * 80)], zipfile.ZIP_STORED),
        "zip bomb"),
    **{
        f"a file {suffix}": (lambda path, suffix=suffix: zipped(path, [(f"a{suffix}", b"x")]), "holds the archive")
        for suffix in (".gz", ".xz", ".bz2", ".zst", ".jar", ".lz4", ".7z", ".tar.xz", ".ZIP", ".zip. ", ".nii.xz")
    },
    "same name": (lambda path: zipped(path, [("a.dcm", b"x"), ("A.DCM", b"y")]), "holds both 'a.dcm' and 'A.DCM'"),
    "same name, other accents": (
        lambda path: zipped(path, [("\u00e9.dcm", b"x"), ("e\u0301.dcm", b"y")]), "holds both"),
    "same name on Windows": (
        lambda path: zipped(path, [("ab:c", b""), ("ab?c", b"")]), "holds both 'ab:c' and 'ab.c'"),
    "file and folder": (lambda path: zipped(path, [("a", b"x"), ("a/b", b"y")]), "as a file and as a folder"),
    "long name": (lambda path: zipped(path, [("a" * 300, b"x")]), "too long"),
    "long name of accents": (lambda path: zipped(path, [("\u00e9" * 150, b"x")]), "too long"),
    "deep name": (lambda path: zipped(path, [("a/" * MAX_DEPTH + "b", b"x")]), "too deep"),
    "link": (lambda path: special(path, stat.S_IFLNK), "holds the link"),
    "pipe": (lambda path: special(path, stat.S_IFIFO), "holds the device"),
    "device": (lambda path: special(path, stat.S_IFCHR), "holds the device"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path, kind):
    build, message = HOSTILE[kind]
    path, folder = build(tmp_path / "a.zip"), tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ArchiveError, match=message):
        safe_extract(path, folder)
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= size_limit(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zip", "out"]


def test_a_large_directory_is_not_read(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.dcm", b"x")])
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\5\6") + 12, 1 << 30)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="has a directory of 1,073,741,824 bytes"):
        safe_extract(path, tmp_path)


def test_names_that_windows_cannot_store_are_changed(tmp_path):
    names = ["CON.dcm", "THORAX W. CONTR./1.dcm", "Series 3: chest/2.dcm", "aux/3.dcm", "x\ty.dcm"]
    with extracted(zipped(tmp_path / "a.zip", [(name, name) for name in names])) as folder:
        found = {str(file.relative_to(folder)): file.read_text(encoding="utf-8") for file in folder.rglob("*.dcm")}
    assert found == dict(zip(
        ["_CON.dcm", "THORAX W. CONTR_/1.dcm", "Series 3_ chest/2.dcm", "_aux/3.dcm", "x_y.dcm"], names, strict=True
    ))  # fmt: skip


def test_an_ordinary_archive_is_unpacked_and_removed(tmp_path):
    image = gzip.compress(bytes(range(256)) * 4000)
    path = zipped(tmp_path / "a.zip", [("a/", b""), ("a/1.dcm", b"x" * 1000), ("a/b.nii.gz", image)])
    with extracted(path) as folder:
        assert (folder / "a" / "1.dcm").read_bytes() == b"x" * 1000
        assert (folder / "a" / "b.nii.gz").read_bytes() == image
    assert not folder.exists()


def test_the_free_space_is_checked_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage._replace(free=archives._FREE_AFTERWARDS))
    path, folder = zipped(tmp_path / "a.zip", [("a.dcm", b"x")]), tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ArchiveError, match="set TMPDIR"):
        safe_extract(path, folder)
    assert not list(folder.iterdir())
