"""Ordinary surroundings: caches and data folders that cannot be used, clocks that are wrong, odd names of folders."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from carm_env.anatomy import build
from carm_env.cli import main
from carm_env.envs import scene
from carm_env.envs.navigation import CArmNavEnv
from carm_env.patient import Patient
from carm_env.patient_store import imported_names, load_imported, save_imported
from carm_env.system.files import write_json
from carm_env.system.folders import FolderError
from carm_env.volume import Volume

PATIENT = Patient("imported:p", Volume.from_origin(np.full((12, 12, 12), 40, np.int16), 30.0, (0, 0, 0)), {})
UNUSABLE = ("a file", "below a file", "a name that is too long", "nowhere")


@pytest.fixture
def quick(monkeypatch, small_patient):
    """A virtual patient that takes no time to build, and no scene in memory."""
    monkeypatch.setattr(build, "build_patient", lambda virtual: small_patient("virtual:0", 0))
    monkeypatch.setattr(scene, "_store", scene._SceneStore())


@pytest.fixture
def unusable(request, tmp_path):
    """A folder that can be neither read nor created, even by root."""
    (tmp_path / "file").touch()
    paths = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "x",
        "a name that is too long": tmp_path / ("x" * 300),
        "nowhere": Path("/proc/nowhere"),
    }
    if request.param == "nowhere" and not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    return paths[request.param]


@pytest.mark.parametrize("unusable", UNUSABLE, indirect=True)
def test_the_environment_runs_without_a_cache_and_says_what_to_set(quick, unusable, monkeypatch, capsys):
    monkeypatch.setenv("CARM_ENV_CACHE", str(unusable))
    with pytest.warns(UserWarning, match="cannot be cached.*set CARM_ENV_CACHE"):
        env = CArmNavEnv(image_size=16)
        env.reset(seed=0)
    assert env.step(3)[0]["image"].any()
    assert "building virtual patient virtual:0 (about" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.EIO)])
def test_the_environment_runs_if_the_disk_of_the_cache_is_full(quick, monkeypatch, tmp_path, number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(np, "save", fail)
    with pytest.warns(UserWarning, match="set CARM_ENV_CACHE"):
        CArmNavEnv(image_size=16).reset(seed=0)
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob("patients/virtual-*/")), "nothing half written stays"


@pytest.mark.parametrize("unusable", UNUSABLE, indirect=True)
def test_commands_end_with_one_sentence_that_names_the_variable(unusable, monkeypatch, capsys):
    monkeypatch.setenv("CARM_ENV_CACHE", str(unusable))
    assert main(["patients", "build", "--patients", "3"]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ") and printed.endswith("set CARM_ENV_CACHE to another folder.")


@pytest.mark.parametrize("unusable", UNUSABLE, indirect=True)
def test_a_data_folder_that_cannot_be_used_is_named_with_its_variable(unusable, monkeypatch):
    monkeypatch.setenv("CARM_ENV_DATA", str(unusable))
    with pytest.raises(FolderError, match="set CARM_ENV_DATA to another folder"):
        save_imported(PATIENT)


@pytest.mark.skipif(sys.platform == "win32", reason="every user has a home folder")
@pytest.mark.parametrize("configured", [None, "~/cache"])
def test_a_user_without_a_home_folder_has_no_cache(quick, monkeypatch, configured):
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "CARM_ENV_CACHE", "CARM_ENV_DATA"):
        monkeypatch.delenv(name, raising=False)
    if configured:
        monkeypatch.setenv("CARM_ENV_CACHE", configured)
    with pytest.warns(UserWarning, match="set CARM_ENV_CACHE"):
        CArmNavEnv(image_size=16).reset(seed=0)
    with pytest.raises(FolderError, match="no-home-folder.*set CARM_ENV_DATA"):
        save_imported(PATIENT)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_data_folder_of_another_user_is_named_with_its_variable(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir(mode=0)
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    with pytest.raises(FolderError, match="set CARM_ENV_DATA"):
        imported_names()


@pytest.mark.parametrize(
    "name", ["with spaces", "Schädel \u4e2d", 'it\'s "quoted"', "two\nlines", "-dash", "%s {x} $HOME", "Sch\udce4del"]
)
def test_folders_may_have_any_name(quick, monkeypatch, tmp_path, name, capsys):
    folder = tmp_path / name
    try:
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("the file system refuses the name")
    monkeypatch.setenv("CARM_ENV_CACHE", str(folder / "cache"))
    monkeypatch.setenv("CARM_ENV_DATA", str(folder / "data"))
    monkeypatch.chdir(folder)
    save_imported(PATIENT)
    assert load_imported("p").id == "imported:p"
    assert main(["render", "--out", "x.png", "--size", "16", "--patient", "p"]) == 0
    assert main(["render", "--out", str(folder / "x.txt"), "--patient", "p"]) == 2
    CArmNavEnv(image_size=16).reset(seed=0)
    assert main(["patients"]) == 0
    assert "virtual:0" in capsys.readouterr().out


@pytest.mark.parametrize("now", [0.0, 4_070_908_800.0])
def test_a_wrong_clock_changes_nothing(quick, monkeypatch, tmp_path, now):
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path))
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    ticks = iter(range(10**6))
    # It also runs backwards.
    monkeypatch.setattr(time, "time", lambda: now - next(ticks))
    env = CArmNavEnv(image_size=16)
    first = env.reset(seed=0)[0]["image"]
    save_imported(PATIENT)
    for path in (*tmp_path.rglob("*.npy"), *tmp_path.rglob("*.json")):
        os.utime(path, (now, now))
    monkeypatch.setattr(scene, "_store", scene._SceneStore())
    np.testing.assert_array_equal(CArmNavEnv(image_size=16).reset(seed=0)[0]["image"], first)
    assert load_imported("p").id == "imported:p"


ALL_IN_ONE = """
import sys
import gymnasium as gym
import carm_env
from carm_env.cli import main
from carm_env.system.messages import announce

announce("Sch\\u00e4del \\udce4")
env = gym.make("CArmNav-v0", image_size=16, patients="imported:p")
env.reset(seed=0)
assert env.step(3)[0]["image"].any()
assert main(["patients"]) == 0
assert main(["render", "--out", sys.argv[1], "--size", "16", "--patient", "p"]) == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the folders could be created")
@pytest.mark.parametrize(
    ("variables", "unset"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}, ()),
        ({"OMP_NUM_THREADS": "0", "OPENBLAS_NUM_THREADS": "x", "NUMBA_NUM_THREADS": "999", "TZ": "nowhere"}, ()),
        (
            {
                "HOME": "/nonexistent",
                "XDG_CACHE_HOME": "/nonexistent/c",
                "XDG_DATA_HOME": "x",
                "TMPDIR": "/nonexistent",
            },
            ("LANG", "USER", "LOGNAME", "PATH", "CARM_ENV_CACHE"),
        ),
    ],
    ids=["C locale", "odd numbers of threads", "nowhere"],
)
def test_a_process_in_odd_surroundings_works(monkeypatch, tmp_path, small_patient, variables, unset):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    points = small_patient("imported:p", 0)
    save_imported(points)
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = [sys.executable, "-c", ALL_IN_ONE, str(tmp_path / "x.png")]
    ran = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, errors="replace", encoding="utf-8"
    )
    assert ran.returncode == 0, ran.stderr
    assert "imported:p" in ran.stdout and (tmp_path / "x.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a working folder cannot be removed")
def test_an_environment_continues_where_its_working_folder_is_gone(monkeypatch, tmp_path, small_patients):
    env = CArmNavEnv(image_size=16, patients=small_patients[0])
    env.reset(seed=0)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    again = pickle.loads(pickle.dumps(env))
    assert again.step(3)[0]["image"].any()
    monkeypatch.chdir(tmp_path)


def test_a_message_never_ends_a_run(monkeypatch, capsys):
    from carm_env.system.messages import announce

    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    for stream in (None, Closed()):
        monkeypatch.setattr(sys, "stderr", stream)
        announce("building ...")
    assert capsys.readouterr().out == "", "nor does it get among the output"


def test_files_are_written_without_hard_links(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path))
    write_json(tmp_path / "a.json", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_imported(PATIENT)
        save_imported(PATIENT, replace=True)
    assert imported_names() == ["p"]
