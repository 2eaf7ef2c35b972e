import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carm_env.anatomy import build as anatomy_build
from carm_env.cli import main
from carm_env.system import object_storage
from carm_env.system.errors import MissingExtraError
from carm_env.system.object_storage import StorageError, StorageFolder
from carm_env.views import store
from carm_env.views.read import ViewDatasetError, read_views
from carm_env.views.sample import ViewOptions
from carm_env.views.store import store_view_dataset
from carm_env.views.write import write_view_dataset

pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")
FEW = ViewOptions(views_per_patient=6, size=32)


@pytest.fixture
def bucket():
    """The URL of an empty folder in the memory of this process."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield "memory://bucket/views"
    memory.store.clear()


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*") if not path.name.startswith(".")}


def fetched(url, folder):
    """The folder with the files of a URL, as a user would copy them."""
    fs, root = fsspec.url_to_fs(url)
    fs.get(root, str(folder), recursive=True)
    return folder


def test_stored_views_are_those_of_a_local_dataset(small_patients, bucket, tmp_path):
    one, two, three, _ = small_patients
    splits = {"train": [one, two], "test": [three]}
    stored = store_view_dataset(bucket, splits, FEW, 1)
    write_view_dataset(tmp_path / "local", splits, FEW, 1)
    copy = fetched(bucket, tmp_path / "copy")
    assert files_of(copy).keys() == files_of(tmp_path / "local").keys() and stored.rendered == 3
    for name, path in files_of(copy).items():
        if name.endswith((".parquet", ".md")):
            assert path.read_bytes() == (tmp_path / "local" / name).read_bytes(), name
    views = read_views(copy, "train")
    assert views.names == (one, two) and len(views) == 12
    assert stored.nbytes == sum(path.stat().st_size for path in copy.rglob("*.parquet"))


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_interrupted_run_lists_what_is_finished_and_continues(kind, small_patients, bucket, tmp_path, monkeypatch):
    url = bucket if kind == "memory" else f"file://{tmp_path / 'shared'}"
    written = []

    def interrupted(shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.path.name)
        real(shard)

    real = store.write_shard
    monkeypatch.setattr(store, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store_view_dataset(url, {"train": small_patients}, FEW, 1)
    folder = StorageFolder(url)
    with folder.open("views.json") as file:
        assert json.load(file)["files"] == {"train": written}
    assert read_views(fetched(url, tmp_path / "half"), "train").names == small_patients[:2]
    # What a killed process leaves: a part of a file, under a name that no reader looks at.
    folder.write("data/train/.x.parquet.unfinished-0123abcd.parquet", Path(__file__))

    monkeypatch.setattr(store, "write_shard", lambda shard: (written.append(shard.path.name), real(shard)))
    store_view_dataset(url, {"train": small_patients}, FEW, 1)
    assert len(written) == len(set(written)) == 4
    assert sorted(folder.sizes("data/train")) == sorted(written)
    assert read_views(fetched(url, tmp_path / "whole"), "train").names == small_patients


def test_a_file_that_is_cut_off_is_rendered_again(small_patients, bucket):
    store_view_dataset(bucket, {"train": small_patients[:2]}, FEW, 1)
    memory = fsspec.filesystem("memory")
    path = next(name for name in memory.store if name.endswith(".parquet"))
    whole = memory.cat(path)
    memory.pipe(path, whole[:-100])
    stored = store_view_dataset(bucket, {"train": small_patients[:2]}, FEW, 1)
    assert memory.cat(path) == whole and len(stored.files["train"]) == 2


def test_a_virtual_patient_is_not_built_to_find_out_that_its_file_is_there(
    bucket, small_patient, tmp_path, monkeypatch
):
    built = []

    def build(virtual):
        built.append(virtual.seed)
        return small_patient(f"virtual:{virtual.seed}", 1)

    monkeypatch.setattr(anatomy_build, "build_patient", build)
    for cache in ("a", "b"):  # the second machine has an empty cache
        monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / cache))
        stored = store_view_dataset(bucket, {"train": ["virtual:7"]}, FEW, 1)
        assert len(stored.files["train"]) == 1 and built == [7]
    monkeypatch.setattr(store, "ANATOMY_VERSION", "another")
    assert store_view_dataset(bucket, {"train": ["virtual:7"]}, FEW, 1).rendered == 0
    assert built == [7, 7], "with another anatomy the patient may be another one"


def test_patients_built_for_their_views_are_discarded_if_asked(bucket, small_patient, tmp_path, monkeypatch):
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(anatomy_build, "build_patient", lambda virtual: small_patient(f"virtual:{virtual.seed}", 1))
    kept, built = (store.PatientRef.parse(name) for name in ("virtual:7", "virtual:8"))
    kept.load()
    store_view_dataset(bucket, {"train": ["virtual:7", "virtual:8"]}, FEW, 1, discard_patients=True)
    assert kept.folder.is_dir() and not built.folder.exists()
    stored = store_view_dataset(bucket, {"train": ["virtual:7", "virtual:8", "virtual:9"]}, FEW, 1)
    assert stored.rendered == 1 and store.PatientRef.parse("virtual:9").folder.is_dir() and not built.folder.exists()


def test_other_splits_stay_and_other_options_are_refused(small_patients, bucket, tmp_path):
    one, two, three, _ = small_patients
    store_view_dataset(bucket, {"train": [one]}, FEW, 1)
    store_view_dataset(bucket, {"test": [two, three]}, FEW, 1)
    copy = fetched(bucket, tmp_path / "copy")
    assert read_views(copy, "train").names == (one,) and read_views(copy, "test").names == (two, three)
    assert "| test | 2 | 12 |" in (copy / "README.md").read_text(encoding="utf-8")
    store_view_dataset(bucket, {"train": [two]}, FEW, 1)
    assert read_views(fetched(bucket, tmp_path / "again"), "test").names == (three,), "two is trained on now"
    with pytest.raises(ViewDatasetError, match="holds views with other options"):
        store_view_dataset(bucket, {"train": [one]}, ViewOptions(6, 16), 1)
    fsspec.filesystem("memory").pipe("/bucket/views/views.json", b"{")
    with pytest.raises(ViewDatasetError, match="memory://bucket/views/views.json is damaged"):
        store_view_dataset(bucket, {"train": [one]}, FEW, 1)


def test_a_place_that_processes_do_not_share_is_named(small_patients, bucket, monkeypatch):
    monkeypatch.setattr(store, "_store_shard", lambda task: store._Stored(task, "elsewhere.parquet", True))
    with pytest.raises(StorageError, match="does not find it there"):
        store_view_dataset(bucket, {"train": small_patients[:1]}, FEW, 1)


def test_a_failed_write_leaves_the_earlier_file(bucket, tmp_path, monkeypatch):
    folder = StorageFolder(bucket)
    (tmp_path / "a").write_text("first", encoding="utf-8")
    folder.write("a", tmp_path / "a")

    def fail(*arguments, **options):
        raise ConnectionError("gone")

    monkeypatch.setattr(type(folder._fs), "mv", fail)
    (tmp_path / "a").write_text("second", encoding="utf-8")
    with pytest.raises(StorageError, match="memory://bucket/views/a cannot be written .*gone"):
        folder.write("a", tmp_path / "a")
    with folder.open("a") as file:
        assert file.read() == b"first"
    assert list(folder.sizes("")) == ["a"]


@pytest.mark.parametrize("scheme", ["nothing", "s3"])
def test_storage_that_cannot_be_used_is_named(scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    error, text = (
        (MissingExtraError, r"carm-env\[s3\]") if scheme == "s3" else (StorageError, "nothing://b/v cannot be")
    )
    with pytest.raises(error, match=text):
        StorageFolder(f"{scheme}://b/v")


def test_a_missing_fsspec_is_named_and_local_folders_need_none(small_patients, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    words = ["render-dataset", "--views-per-patient", "2", "--size", "32", "--split", f"train={small_patients[0]}"]
    assert main([*words, "--out", "memory://views"]) == 2
    assert "carm-env[storage]" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "local"), "--workers", "1"]) == 0
    assert not object_storage.is_url(str(tmp_path / "local"))


def test_the_command_stores_views(small_patients, tmp_path, capsys):
    url = f"file://{tmp_path}/a folder"
    words = ["render-dataset", "--out", url, "--views-per-patient", "2", "--size", "32", "--workers", "1"]
    for rendered in (1, 0):
        assert main([*words, "--split", f"train={small_patients[0]}"]) == 0
        output = capsys.readouterr().out
        assert "1 patients, 2 views" in output and f"Rendered: {rendered} patients" in output
    assert read_views(tmp_path / "a folder", "train").names == small_patients[:1]
    assert main(["render-dataset", "--out", str(tmp_path / "b"), "--discard-patients"]) == 2
    assert "needs a URL as --out" in capsys.readouterr().err
    assert main([*words, "--split", "train=virtual:5-3"]) == 2
    assert "expected virtual:FIRST-LAST" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_renders_the_same_files(small_patients, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'carm-env[ray]'")
    root = str(Path(__file__).parents[3])
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("RAY_ADDRESS", None)
    words = ["--views-per-patient", "6", "--size", "32", "--workers", "1", "--split", f"train={small_patients[0]}"]
    command = [sys.executable, "-m", "carm_env.cli", "render-dataset", *words]
    for engine in ("ray", "processes"):
        subprocess.run([*command, "--engine", engine, "--out", str(tmp_path / engine)], env=environment, check=True)
    found, expected = files_of(tmp_path / "ray"), files_of(tmp_path / "processes")
    assert found.keys() == expected.keys()
    assert all(found[name].read_bytes() == expected[name].read_bytes() for name in found if name != "views.json")
