"""Importing deepdrr where packages are missing, broken or fine; each machine is a process of its own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Packages that are not there, whatever this machine has: their stand-ins are what is tested.
HEADER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import fake_cupy
sys.modules["cupy"] = fake_cupy.build()
for name in ("OpenGL", "pyrender", "pyvista", "torch", "torchvision", "matplotlib", "pandas", "skimage", "cv2"):
    sys.modules[name] = None
from carm_env.xray.deepdrr import _compat as compat
"""


@pytest.fixture
def run(has_deepdrr, tmp_path):
    """``run(script, files)``: the lines that a script prints, with these modules on its path."""

    def build(script, files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        code = HEADER + f"sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(script)
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
        assert process.returncode == 0, process.stderr
        return process.stdout.splitlines()

    return build


def test_only_missing_packages_are_replaced(run):
    lines = run(
        """
        import nrrd
        deepdrr = compat.load_deepdrr()
        print(deepdrr.Projector.__name__, compat.load_deepdrr() is deepdrr)
        # No stand-in stays where others could import it.
        left = [n for n, m in sys.modules.items() if isinstance(m, compat._StandInModule)]
        print(left, [f for f in sys.meta_path if isinstance(f, compat._StandInFinder)])
        print(sys.modules["torch"] is None, "open3d" in sys.modules, "open3d.part" in sys.modules)
        try:
            import open3d
        except OSError as error:
            print(error)
        # What works is what deepdrr got, and stays.
        from deepdrr.vol import volume
        print(volume.nrrd is nrrd, sys.modules["nrrd"] is nrrd)
        # What does not work says so when it is called.
        try:
            volume.o3d.geometry.PointCloud()
        except ImportError as error:
            print(error)
        # cuda-python 13 has cudart in another place, and its package is left as it was.
        import cuda
        from deepdrr.utils import cuda_utils
        print(cuda_utils.cudart.cudaError_t, "cuda.cudart" in sys.modules, hasattr(cuda, "cudart"))
        """,
        {
            "nrrd.py": "",
            "open3d/part.py": "",
            "open3d/__init__.py": "import open3d.part\nraise OSError('no libGL here')",
            "cuda/__init__.py": "",
            "cuda/bindings/__init__.py": "",
            "cuda/bindings/runtime.py": "cudaError_t = 'real'",
        },
    )
    assert lines[0] == "Projector True"
    assert lines[1] == "[] []"
    assert lines[2:4] == ["True False True", "no libGL here"]
    assert lines[4] == "True True"
    assert "'open3d', which cannot be imported here" in lines[5]
    assert lines[6] == "real False False"


def test_a_failed_import_can_be_tried_again(run):
    lines = run(
        """
        sys.modules["killeengeo"] = type(sys)("killeengeo")
        try:
            compat.load_deepdrr()
        except ImportError:
            print([name for name in sys.modules if name.startswith("deepdrr")])
        del sys.modules["killeengeo"]
        print(compat.load_deepdrr().geo.__name__)
        import cuda
        print("cuda.cudart" in sys.modules, hasattr(cuda, "cudart"))
        """,
        # A cuda package without bindings.
        {"cuda/__init__.py": ""},
    )
    assert lines == ["[]", "deepdrr.geo", "False False"]
