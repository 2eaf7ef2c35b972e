"""``carm-env doctor``: reports what works on this machine and why the rest does not."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import numpy as np

from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose, ProjectionGeometry
from carm_env.system.extras import is_installed
from carm_env.system.files import CACHE_VARIABLE, cache_dir
from carm_env.system.threads import usable_cpus
from carm_env.system.versions import package_version
from carm_env.volume import Volume

OPTIONAL_PACKAGES = {
    "SimpleITK": "ct", "stable-baselines3": "rl", "torch": "gpu", "transformers": "llm", "bitsandbytes": "qlora",
    "deepdrr": "deepdrr", "nanodrr": "bench", "itk-rtk": "bench", "rliable": "compare",
    "ray": "ray", "fsspec": "storage",
}  # fmt: skip
"""Optional packages and the extras that install them."""

CUBE_G_CM2 = 10.3
"""Areal density through the middle of `water_cube`: 10 cm at the 1.03 g/cm^3 of 0 HU."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was examined.
        found: the result.
        is_problem: whether the core of the package needs it and it is missing or broken.
    """

    subject: str
    found: str
    is_problem: bool = False


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        warm: compile all kernels now and build the first patient, so that the first reset() is fast.
    """

    warm: bool = False


def doctor(arguments: Arguments) -> int:
    """Report what works on this machine, and why the rest does not."""
    # First: the examination compiles kernels too, and the time reported should be the time of all of them.
    warmed = [warm_up()] if arguments.warm else []
    findings = [*examine(), *warmed]
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = "!" if finding.is_problem else " "
        print(f"{mark} {finding.subject:<{width}}  {finding.found}")
    problems = sum(finding.is_problem for finding in findings)
    print(f"{problems} problem(s)." if problems else "The environment works on this machine.")
    return 1 if problems else 0


def examine() -> list[Finding]:
    """Examines versions, machine, cache and backends."""
    return [*_packages(), *_machine(), _cache(), *_backends()]


def warm_up() -> Finding:
    """Compiles the kernels that patients and images need on this CPU, stores them, and builds patient ``virtual:0``."""
    from carm_env.anatomy.build import build_patient, virtual_patient
    from carm_env.anatomy.population import VirtualPatient
    from carm_env.patients.build import is_built
    from carm_env.system.compilation import cache_folder
    from carm_env.xray.camera import XRayCamera
    from carm_env.xray.cpu._separable_kernels import project_slices
    from carm_env.xray.cpu.simd import MODE
    from carm_env.xray.settings import FIDELITIES, XRaySettings

    start = time.perf_counter()
    # A patient from the cache would compile no anatomy kernel.
    patient = build_patient(VirtualPatient()) if is_built("virtual:0") else virtual_patient()
    for volume in (patient.volume, water_cube(bone_inside=True)):
        for fidelity in FIDELITIES:
            camera = XRayCamera(volume, settings=XRaySettings(fidelity=fidelity))
            for alpha in (0.0, 20.0):
                camera.image(CArmPose((0.0, 0.0, 0.0), alpha), 64, noise_seed=1)
    seconds = time.perf_counter() - start
    found = f"X-ray and anatomy kernels ready for SIMD mode {type(MODE).__name__} after {seconds:.1f} s"
    folder = cache_folder(project_slices)
    if folder is None:
        return Finding(
            "kernels", f"{found}, but not stored: set {CACHE_VARIABLE} or NUMBA_CACHE_DIR to a writable folder", True
        )
    return Finding("kernels", f"{found}, stored in {folder}")


def water_cube(bone_inside: bool = False) -> Volume:
    """Returns a 10 cm cube of water in the middle of 20 cm of air around the world's origin; voxels of 5 mm.

    Args:
        bone_inside: put a bar of bone through the cube, along the patient.
    """
    hu = np.full((40, 40, 40), -1000, np.int16)
    hu[10:30, 10:30, 10:30] = 0
    if bone_inside:
        hu[18:22, 18:22, 10:30] = 1000
    return Volume.from_origin(hu, 5.0, (-97.5, -97.5, -97.5))


def _core_packages() -> list[str]:
    """Returns the packages that carm-env requires without any extra."""
    lines = [line for line in metadata.requires("carm-env") or [] if "extra ==" not in line]
    return sorted(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines)


def _packages() -> list[Finding]:
    findings = [Finding("Python", platform.python_version())]
    for package in ["carm-env", *_core_packages()]:
        version = package_version(package)
        found = version or "missing; install it with: pip install carm-env"
        findings.append(Finding(package, found, is_problem=version is None))
    for package, extra in OPTIONAL_PACKAGES.items():
        absent = f"not installed (optional; pip install 'carm-env[{extra}]')"
        findings.append(Finding(package, package_version(package) or absent))
    return findings


def _machine() -> list[Finding]:
    cpus = f"{os.cpu_count()}, of which this process may use {usable_cpus()}"
    return [Finding("system", f"{platform.system()} {platform.machine()}"), Finding("CPUs", cpus)]


def _cache() -> Finding:
    folder = cache_dir()
    subject = f"cache (${CACHE_VARIABLE})" if CACHE_VARIABLE in os.environ else "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Finding(subject, f"{folder}: cannot be created ({error}); set {CACHE_VARIABLE} to another folder", True)
    if not os.access(folder, os.W_OK):
        return Finding(subject, f"{folder}: not writable; set {CACHE_VARIABLE} to another folder", is_problem=True)
    patients = list((folder / "patients").glob("*/patient.json"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding(subject, f"{folder}: {len(patients)} patient(s), {size / 1e6:.0f} MB")


def _cpu_backend() -> str:
    from carm_env.xray.cpu.simd import MODE

    _check_image("cpu")
    return f"works (numba, SIMD mode {type(MODE).__name__})"


def _torch_backend() -> str:
    if not is_installed("torch"):
        return "no: torch is not installed (extra 'gpu')"
    import torch

    from carm_env.xray.gpu import TorchProjector

    _check_image("torch")
    projector = TorchProjector()
    if projector.device.type != "cuda":
        return f"works on the CPU only, slowly ({projector.backend}): torch finds no CUDA device"
    return f"works ({projector.backend} on {torch.cuda.get_device_name()})"


def _deepdrr_backend() -> str:
    from carm_env.xray.deepdrr._compat import TESTED_VERSION
    from carm_env.xray.deepdrr.requirements import obstacles

    found = obstacles()
    if found:
        return "no: " + "; ".join(found)
    _check_image("deepdrr")
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    version = package_version("deepdrr")
    untested = "" if version == TESTED_VERSION else f", untested: the version tested is {TESTED_VERSION}"
    return f"works (deepdrr {version}, cupy {cupy.__version__}, {name}{untested})"


def _check_image(backend: Literal["cpu", "torch", "deepdrr"]) -> None:
    """Raises RuntimeError unless a frontal image of the cube of water is right."""
    from carm_env.xray.renderers import make_renderer
    from carm_env.xray.settings import XRaySettings

    settings = XRaySettings(backend=backend)
    view = ProjectionGeometry.from_pose(CArmPose((0.0, 0.0, 0.0)), DEFAULT_GEOMETRY, 64)
    image = make_renderer(water_cube(), settings).log_image(view)
    expected = -np.log(settings.beam.transmission(np.array([CUBE_G_CM2, 0.0])))
    if not (np.isclose(image[32, 32], expected, rtol=0.03) and abs(image[32, 0]) < 1e-3):
        raise RuntimeError(f"10 cm of water give -ln I = {image[32, 32]:.3f}, expected {expected:.3f}")


_BACKENDS: dict[str, Callable[[], str]] = {"cpu": _cpu_backend, "torch": _torch_backend, "deepdrr": _deepdrr_backend}


def _backends() -> list[Finding]:
    findings = []
    for name, probe in _BACKENDS.items():
        try:
            findings.append(Finding(f"backend {name}", probe()))
        except Exception as error:
            found = f"fails: {type(error).__name__}: {error}"
            findings.append(Finding(f"backend {name}", found, is_problem=name == "cpu"))
    return findings
