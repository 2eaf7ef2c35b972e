"""``carm-env render``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        out: image file to write.
        patient: virtual:SEED, the name of an imported patient, or a CT file.
        landmark: point the C-arm at this landmark (name or id).
        at: point the C-arm at X Z or X Y Z (LPS mm); by default at the middle of the workspace.
        alpha: angle in degrees, positive to RAO.
        beta: angle in degrees, positive to CAUD.
        projection: AP or PA.
        isocenter_depth: distance of the isocentre from this point towards the source, mm; by default as in the paper.
        size: side of the image in pixels, 16 to 2048.
        noise_seed: seed of the noise; by default 0 with --photons, --mas or --exposure-control, and no noise otherwise.
        kvp: tube voltage, 40 to 150 kV.
        aluminium_mm: filtration, mm of aluminium.
        copper_mm: additional filtration, mm of copper.
        mas: tube current times exposure time, mAs; by default 0.5 and no noise.
        photons: photons per pixel in the open field, instead of --mas; 0 for no noise.
        exposure_control: choose the mAs automatically.
        collimation: side of the field as a share of the detector's side, 0.1 to 1.
        scatter: ratio of scatter to primary per unit of -ln I, 0 to 1.
        display: robust or neglog.
        polarity: bone_bright or bone_dark.
        backend: auto, cpu, torch or deepdrr.
        fidelity: fast or reference, of the CPU backend.
    """

    out: Path
    patient: str = "virtual:0"
    landmark: str | None = None
    at: Annotated[tuple[float, ...] | None, arg(metavar="MM [MM ...]")] = None
    alpha: float = 0.0
    beta: float = 0.0
    projection: str = "AP"
    isocenter_depth: float = DEFAULT_ISOCENTER_DEPTH_MM
    size: int = 512
    noise_seed: int | None = None
    kvp: float = 90.0
    aluminium_mm: float = 4.0
    copper_mm: float = 0.0
    mas: float | None = None
    photons: float | None = None
    exposure_control: bool = False
    collimation: float = 1.0
    scatter: float = 0.0
    display: str = "robust"
    polarity: str = "bone_bright"
    backend: str = "cpu"
    fidelity: str = "fast"


def render(arguments: Arguments) -> int:
    """Take an X-ray and save it."""
    from PIL import Image

    from carm_env.cli._image_files import check_image_path, save_image
    from carm_env.envs.episode import landmark_lps_mm, parse_start, start_isocenter_lps_mm
    from carm_env.envs.scene import load_scene
    from carm_env.geometry import CArmPose, check_image_size, check_isocenter_depth
    from carm_env.patients.reference import PatientRef
    from carm_env.xray.settings import XRaySettings

    check_image_path(arguments.out)
    size = check_image_size(arguments.size)
    depth = check_isocenter_depth(arguments.isocenter_depth)
    if arguments.landmark is not None and arguments.at is not None:
        raise ValueError("--landmark and --at are both given, expected one of them.")
    target = arguments.landmark if arguments.at is None else arguments.at
    start = None if target is None else parse_start(target)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    settings = XRaySettings(**{field.name: given[field.name] for field in fields(XRaySettings) if field.name in given})
    scene = load_scene(PatientRef.parse(arguments.patient), settings=settings)
    patient = scene.patient
    if start is None:
        low, high = patient.workspace_mm
        start = tuple((low + high) / 2)
    # Over a landmark the point is the landmark itself, so that it is in the middle from every angle.
    point = (
        landmark_lps_mm(patient, start)
        if isinstance(start, int)
        else start_isocenter_lps_mm(start, patient, isocenter_depth_mm=0.0)
    )
    pose = CArmPose(tuple(point), arguments.alpha, arguments.beta, arguments.projection)  # type: ignore[arg-type]
    pose = pose.towards_source(depth)
    # Who asks for an exposure wants to see its noise.
    noisy = arguments.photons or arguments.mas is not None or arguments.exposure_control
    seed = 0 if arguments.noise_seed is None and noisy else arguments.noise_seed
    xray = scene.camera.expose(pose, size, seed)
    save_image(Image.fromarray(xray.image), arguments.out)
    x, y, z = pose.isocenter_lps_mm
    exposure = xray.exposure
    print(f"{arguments.out}: {patient.id}, isocentre x {x:.1f}, y {y:.1f}, z {z:.1f} mm (LPS), {size} x {size} pixels")
    noise = "no noise" if seed is None or settings.photons == 0 else f"{exposure.photons:.3g} photons per pixel"
    print(
        f"{settings.kvp:g} kV, {exposure.mas:.3g} mAs, {noise}, reference air kerma "
        f"{exposure.air_kerma_mgy:.3g} mGy, {exposure.dap_mgy_cm2:.3g} mGy cm2; view: {xray.quality}"
    )
    return 0
