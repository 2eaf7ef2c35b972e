"""Our half of the comparison with the paper's frames: what the default patient looks like.

    python benchmarks/contact_sheet.py --out docs/images/frames.png

    python benchmarks/contact_sheet.py --findings --out docs/images/findings.png

The views are those of the published trips (skull, both scapular angles and on the way between them)
and those where anatomy is hardest to fake: carina, diaphragm, spine, crossed wrists, oblique and lateral. With
``--findings`` there is a pair of tiles for each finding: the patient without it, and the same view with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from carm_env.episode import landmark_lps_mm
from carm_env.files import atomic_write
from carm_env.geometry import CArmPlace
from carm_env.patients import Patient
from carm_env.scene import Scene, load_scene

COLUMNS = 4
CAPTION_HEIGHT = 22


@dataclass(frozen=True)
class View:
    """A view: over a landmark, shifted to the patient's left and cranially, under angles."""

    caption: str
    landmark: str
    left_mm: float = 0.0
    cranial_mm: float = 0.0
    alpha_deg: float = 0.0
    beta_deg: float = 0.0


VIEWS = (
    View("skull", "skull"),
    View("from the skull to the right", "skull", -90, -120),
    View("right humeral head", "right humeral head"),
    View("right scapular angle", "right scapular inferior angle"),
    View("carina", "carina"),
    View("neck", "T1", 0, 70),
    View("left scapular angle", "left scapular inferior angle"),
    View("left elbow", "left elbow"),
    View("right hemidiaphragm", "right hemidiaphragm"),
    View("T12", "T12"),
    View("right wrist, over the left half", "right wrist"),
    View("left humeral head", "left humeral head"),
    View("carina, 30 deg LAO", "carina", alpha_deg=-30),
    View("skull, 90 deg", "skull", alpha_deg=90),
    View("T1, 90 deg", "T1", alpha_deg=90),
    View("T12, 25 deg RAO, 15 deg CRAN", "T12", alpha_deg=25, beta_deg=-15),
)

FINDING_VIEWS = {
    "pacemaker": View("", "carina", 35, -20),
    "sternal_wires": View("", "carina", 2, -50),
    "humeral_nail": View("", "right humeral head", 10, -55),
    "hip_screw": View("", "T12", 80, -275),
    "ecg_leads": View("", "carina", 50, -75),
    "endotracheal_tube+central_line": View("", "carina", -8, 30),
    "nasogastric_tube": View("", "left hemidiaphragm", -50, -5),
    "chest_tube": View("", "carina", -62, 0),
    "pleural_effusion": View("", "T1", 0, -130),
    "pneumothorax": View("", "left hemidiaphragm", 0, 65),
    "rib_fracture": View("", "carina", 100, -45),
    "rib_fracture+pleural_effusion:left+chest_tube:left": View("", "left hemidiaphragm", 0, 50),
}
"""Where each finding is seen; the caption is the finding's name."""


def place_of(view: View, patient: Patient) -> CArmPlace:
    """Where the C-arm stands for a view of a patient."""
    x, _, z = landmark_lps_mm(patient, view.landmark)
    isocenter = (x + view.left_mm, patient.mid_depth_mm, z + view.cranial_mm)
    return CArmPlace(isocenter, view.alpha_deg, view.beta_deg)


def take(scene: Scene, view: View, size: int) -> Image.Image:
    """One view with its caption."""
    picture = Image.fromarray(scene.camera.image(place_of(view, scene.patient), size, noise_seed=0))
    canvas = Image.new("L", (size, size + CAPTION_HEIGHT))
    canvas.paste(picture, (0, CAPTION_HEIGHT))
    ImageDraw.Draw(canvas).text((5, 4), view.caption, fill=225, font=ImageFont.load_default(size=13))
    return canvas


def contact_sheet(patient: str, size: int) -> Image.Image:
    """All views of a patient, four in a row, with ``size x size`` pixels each."""
    scene = load_scene(patient)
    tiles = [take(scene, view, size) for view in VIEWS]
    return _in_rows(tiles, size)


def findings_sheet(patient: str, size: int) -> Image.Image:
    """Each of `FINDING_VIEWS` without the finding and beside it with it, two pairs in a row."""
    plain = load_scene(patient)
    tiles = []
    for findings, view in FINDING_VIEWS.items():
        scene = load_scene(f"{patient}?findings={findings}")
        tiles += [
            take(plain, replace(view, caption="without"), size),
            take(scene, replace(view, caption=findings), size),
        ]
    return _in_rows(tiles, size)


def _in_rows(tiles: Sequence[Image.Image], size: int) -> Image.Image:
    rows = int(np.ceil(len(tiles) / COLUMNS))
    sheet = Image.new("L", (COLUMNS * size, rows * (size + CAPTION_HEIGHT)))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % COLUMNS * size, number // COLUMNS * (size + CAPTION_HEIGHT)))
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sheet and save it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patient", default="virtual:0")
    parser.add_argument("--size", type=int, default=320, help="pixels a side of each view")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--findings", action="store_true", help="show every finding beside the patient without it")
    options = parser.parse_args(arguments)
    sheet = (findings_sheet if options.findings else contact_sheet)(options.patient, options.size)
    with atomic_write(options.out) as temporary:
        sheet.save(temporary, optimize=True)
    shown = f"{len(FINDING_VIEWS)} findings" if options.findings else f"{len(VIEWS)} views"
    print(f"{options.out}: {shown} of {options.patient}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
