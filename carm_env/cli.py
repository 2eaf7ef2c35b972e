"""The command ``carm-env``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from carm_env.errors import MissingExtraError
from carm_env.geometry import PROJECTIONS


def _doctor(options: argparse.Namespace) -> int:
    from carm_env.doctor import examine, warm_up

    # First, so that its time is that of all compilation.
    warmed = [warm_up()] if options.warm else []
    findings = [*examine(), *warmed]
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = "!" if finding.is_problem else " "
        print(f"{mark} {finding.subject:<{width}}  {finding.found}")
    problems = sum(finding.is_problem for finding in findings)
    print(f"{problems} problem(s)." if problems else "The environment works on this machine.")
    return 1 if problems else 0


def _render(options: argparse.Namespace) -> int:
    from PIL import Image

    from carm_env.catalogue import check_patient_name
    from carm_env.episode import parse_start, start_isocenter_lps_mm
    from carm_env.files import atomic_write
    from carm_env.geometry import CArmPlace, check_image_size
    from carm_env.scene import load_scene

    if Image.registered_extensions().get(options.out.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out is {options.out}, expected an image file, e.g. x.png.")
    size = check_image_size(options.size)
    given = options.landmark if options.at is None else options.at
    start = None if given is None else parse_start(given)
    check_patient_name(options.patient)
    scene = load_scene(options.patient)
    patient = scene.patient
    if start is None:
        low, high = patient.workspace_mm
        start = tuple((low + high) / 2)
    isocenter = start_isocenter_lps_mm(start, patient)
    place = CArmPlace(tuple(isocenter), options.alpha, options.beta, options.projection)
    image = scene.camera.image(place, size, options.noise_seed)
    with atomic_write(options.out) as temporary:
        Image.fromarray(image).save(temporary)
    x, y, z = isocenter
    print(f"{options.out}: {patient.id}, isocentre x {x:.1f}, y {y:.1f}, z {z:.1f} mm (LPS), {size} x {size} pixels")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="carm-env", description="X-rays and C-arm navigation. Research software, not a medical device."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what works on this machine, and why the rest does not")
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--warm", action="store_true", help="compile now what the first pictures need, and keep it")

    render = commands.add_parser("render", help="take an X-ray and save it")
    render.set_defaults(command=_render)
    render.add_argument("--patient", default="virtual:0", help="virtual:SEED or a NIfTI file (default virtual:0)")
    where = render.add_mutually_exclusive_group()
    where.add_argument("--landmark", help="point the C-arm at this landmark (name or id)")
    where.add_argument(
        "--at",
        nargs="+",
        type=float,
        metavar="MM",
        help="point it here: X Z or X Y Z, LPS mm (default: the middle of the workspace)",
    )
    render.add_argument("--alpha", type=float, default=0.0, help="degrees, positive RAO (default 0)")
    render.add_argument("--beta", type=float, default=0.0, help="degrees, positive CAUD (default 0)")
    render.add_argument("--projection", default="AP", help=f"{' or '.join(PROJECTIONS)} (default AP)")
    render.add_argument("--size", type=int, default=512, help="pixels a side, 16-2048 (default 512)")
    render.add_argument("--noise-seed", type=int, default=None, help="add quantum noise with this seed (default none)")
    render.add_argument("--out", type=Path, required=True, help="image file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (2 for bad input)."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except (ValueError, OSError, MemoryError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
