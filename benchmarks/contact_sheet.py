"""Renders sheets of views that show what virtual patients look like.

    python benchmarks/contact_sheet.py --out docs/images/frames.png
    python benchmarks/contact_sheet.py --findings --out docs/images/findings.png
    python benchmarks/contact_sheet.py --population --out docs/images/population.png
    python benchmarks/contact_sheet.py --families --out docs/images/families.png
    python benchmarks/contact_sheet.py --domain --out docs/images/randomization.png
    python benchmarks/contact_sheet.py --bones --patient virtual:3000 --size 240 --out docs/images/anatomy_5_bones.png
    python benchmarks/contact_sheet.py --organs --size 256 --out docs/images/anatomy_5_organs.png

By default: the views of the published episodes (skull, both scapular angles and the positions between them) and those
in which anatomy is hardest to model. With ``--findings``: each finding, next to the same view of the patient without
it. With ``--population``: whole patients from the front and from the left at the same scale, to show how much they
differ. With ``--families``: patients of the families beside one of ``standard``, from the front at the same scale. With
``--domain``: sixteen views under domain randomisation, each of another scan of one of four patients and by another
X-ray system, with a circle at every visible landmark. With ``--bones``: the bones of a virtual patient. With
``--organs``: views of the soft tissue and findings of several patients.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks._support.sample_views import VIEWS, View
from carm_env.envs.scene import Scene, load_scene
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.patients.cohorts import cohort_patients
from carm_env.sheets.overview import OverviewSide, take_overview
from carm_env.system.command_line import run_script
from carm_env.system.files import atomic_write
from carm_env.views.sample import ViewOptions, render_views

COLUMNS = 4
CAPTION_HEIGHT = 22
CAPTION_GREY = 225

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
"""The view that shows each finding; the caption is the finding's name."""

BONE_VIEWS = (
    View("neck and upper chest", "T1"), View("thoracic spine", "carina"), View("lumbar spine", "T12", 0, -95),
    View("T12, 90 deg", "T12", alpha_deg=90), View("right shoulder", "right humeral head", 10, -10),
    View("left shoulder", "left humeral head", -20, -20), View("left flank", "left scapular inferior angle", 0, 20),
    View("right flank", "right hemidiaphragm", -40, -20), View("right elbow", "right elbow"),
    View("right wrist", "right wrist"), View("face", "skull", 0, -55), View("jaw", "skull", 0, -100),
)  # fmt: skip
"""Views that show bones of each region."""

POPULATION = (
    "virtual:3000",
    "virtual:3001",
    "virtual:3002?sex=female&age=84&arms=sides",
    "virtual:3003?sex=male&age=78&weight_kg=125&stature_cm=172",
    "virtual:3004?sex=female&age=25&weight_kg=48&stature_cm=158&arms=one_up",
    "virtual:3005?age=60&arms=raised",
    "virtual:3006?scoliosis_mm=25&kyphosis_deg=40&arms=sides",
    "virtual:3007?table=true&sex=female&weight_kg=95",
)
"""Two patients drawn at random, then six chosen for their age, habitus, arms, spine and table."""
DOMAIN_PATIENTS = ("virtual:0", "virtual:1", "virtual:2", "virtual:3")
POPULATION_HEIGHT, POPULATION_PIXEL_MM = 440, 2.4

FAMILIES = {
    "standard/test": (0,), "poses/test": (0, 1, 2), "bodies/test": (0, 1, 2, 3, 4), "bones/test": (0, 1, 2),
    "diverse/train": (4, 5, 8, 20),
}  # fmt: skip
"""Numbers of the shown patients of each split: all poses, all kinds of bodies, and four kinds of coverage."""
FAMILY_TILE, FAMILY_PIXEL_MM = (250, 530), 3.0


ORGAN_VIEWS = (
    ("virtual:0", View("neck and chest", "T1", 0, -30)),
    ("virtual:0", View("carina", "carina", 0, -15)),
    ("virtual:0", View("heart", "carina", 20, -70)),
    ("virtual:3001", View("neck and chest", "T1", 0, -30)),
    ("virtual:0", View("lumbar spine", "T12", 0, -60)),
    ("virtual:3000", View("abdomen", "T12", 0, -150)),
    ("virtual:3002?sex=female", View("right breast", "right hemidiaphragm", -20, 0)),
    ("virtual:0?findings=sternal_wires", FINDING_VIEWS["sternal_wires"]),
    ("virtual:0?findings=pneumothorax", FINDING_VIEWS["pneumothorax"]),
    ("virtual:0?findings=rib_fracture", FINDING_VIEWS["rib_fracture"]),
)
"""Patients and views of the soft tissue."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        out: PNG file to write.
        patient: name of the patient.
        size: pixels along each side of a view.
        findings: show every finding next to the patient without it.
        population: show eight different patients; --patient and --size have no effect.
        families: show patients of the families; --patient and --size have no effect.
        domain: show views under domain randomisation; --patient has no effect.
        bones: show the bones of the patient.
        organs: show the soft tissue and findings of patients; --patient has no effect.
    """

    out: Path
    patient: str = "virtual:0"
    size: int = 320
    findings: bool = False
    population: bool = False
    families: bool = False
    domain: bool = False
    bones: bool = False
    organs: bool = False

    def __post_init__(self) -> None:
        exclusive = ("findings", "population", "families", "domain", "bones", "organs")
        given = [name for name in exclusive if getattr(self, name)]
        if len(given) > 1:
            flags = " and ".join(f"--{name}" for name in given)
            raise ValueError(f"{flags} were both given, expected one of them.")


def render_tile(scene: Scene, view: View, size: int) -> Image.Image:
    """Renders one view with its caption."""
    image = Image.fromarray(scene.camera.image(view.pose(scene.patient), size, noise_seed=0))
    tile = Image.new("L", (size, size + CAPTION_HEIGHT))
    tile.paste(image, (0, CAPTION_HEIGHT))
    ImageDraw.Draw(tile).text((5, 4), view.caption, fill=CAPTION_GREY, font=ImageFont.load_default(size=13))
    return tile


def contact_sheet(patient: str, size: int) -> Image.Image:
    """Renders all views over landmarks that a patient has, with ``size x size`` pixels each.

    Raises:
        ValueError: the patient has none of the landmarks.
    """
    scene = load_scene(patient)
    views = [view for view in VIEWS if landmark(view.landmark).id in scene.patient.landmarks_lps_mm]
    if not views:
        raise ValueError(f"Patient {patient} has none of the landmarks that the views show.")
    return arrange([render_tile(scene, view, size) for view in views])


def findings_sheet(patient: str, size: int) -> Image.Image:
    """Renders each view of `FINDING_VIEWS` without and with the finding."""
    plain = load_scene(patient)
    tiles = []
    for findings, view in FINDING_VIEWS.items():
        tiles.append(render_tile(plain, replace(view, caption="without"), size))
        tiles.append(render_tile(load_scene(f"{patient}?findings={findings}"), replace(view, caption=findings), size))
    return arrange(tiles)


def bones_sheet(patient: str, size: int) -> Image.Image:
    """Renders each view of `BONE_VIEWS`."""
    scene = load_scene(patient)
    return arrange([render_tile(scene, view, size) for view in BONE_VIEWS])


def population_sheet() -> Image.Image:
    """Renders each patient of `POPULATION` from the front and from the left."""
    return arrange([_render_patient(name) for name in POPULATION])


def _render_patient(name: str) -> Image.Image:
    scene = load_scene(name)
    sides: tuple[OverviewSide, ...] = ("frontal", "lateral")
    images = [Image.fromarray(take_overview(scene, POPULATION_PIXEL_MM, side).image) for side in sides]
    tile = Image.new("L", (sum(image.width for image in images), POPULATION_HEIGHT + CAPTION_HEIGHT))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=11)
    label, _, options = name.partition("?")
    draw.text((5, 0), label, fill=CAPTION_GREY, font=font)
    draw.text((5, 11), options.replace("&", ", "), fill=CAPTION_GREY, font=font)
    x = 0
    for image in images:
        # Heads are at the same height; the thighs of tall patients are cut off.
        tile.paste(image, (x, CAPTION_HEIGHT + 6))
        x += image.width
    return tile


def families_sheet() -> Image.Image:
    """Renders each patient of `FAMILIES` from the front."""
    names = [(split, cohort_patients(split)[number]) for split, numbers in FAMILIES.items() for number in numbers]
    return arrange([_render_front(split, name) for split, name in names])


def _render_front(split: str, name: str) -> Image.Image:
    image = Image.fromarray(take_overview(load_scene(name), FAMILY_PIXEL_MM).image)
    width, height = FAMILY_TILE
    tile = Image.new("L", (width, height + CAPTION_HEIGHT))
    tile.paste(image, ((width - image.width) // 2, CAPTION_HEIGHT))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=11)
    for row, text in enumerate((split, name)):
        draw.text((5, 11 * row), text, fill=CAPTION_GREY, font=font)
    return tile


def domain_sheet(size: int) -> Image.Image:
    """Renders a view of each of four scans of each patient of `DOMAIN_PATIENTS`, with the visible landmarks."""
    tiles = []
    for patient in DOMAIN_PATIENTS:
        for number in range(COLUMNS):
            name = f"{patient}?scan={number}"
            view = next(render_views(name, ViewOptions(1, size, augment=("domain",), seed=number)))
            tile = Image.new("L", (size, size + CAPTION_HEIGHT))
            tile.paste(Image.fromarray(view.image), (0, CAPTION_HEIGHT))
            draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=11)
            seen = [LANDMARKS[index] for index in np.flatnonzero(view.labels.visible)]
            draw.text((5, 5), f"{name}: {', '.join(item.name for item in seen)}", fill=CAPTION_GREY, font=font)
            for item in seen:
                u, v = view.labels.pixels[item.index]
                for reach, grey in ((6, 255), (5, 0)):
                    box = [u - reach, v - reach + CAPTION_HEIGHT, u + reach, v + reach + CAPTION_HEIGHT]
                    draw.ellipse(box, outline=grey)
            tiles.append(tile)
    return arrange(tiles)


def organs_sheet(size: int) -> Image.Image:
    """Renders each view of `ORGAN_VIEWS`."""
    tiles = []
    for name, view in ORGAN_VIEWS:
        caption = f"{name.partition('?')[0]}, {view.caption or name.partition('=')[2]}"
        tiles.append(render_tile(load_scene(name), replace(view, caption=caption), size))
    return arrange(tiles)


def arrange(tiles: Sequence[Image.Image]) -> Image.Image:
    """Arranges tiles of the same height in rows of `COLUMNS`."""
    width, height = max(tile.width for tile in tiles), tiles[0].height
    sheet = Image.new("L", (COLUMNS * width, -(-len(tiles) // COLUMNS) * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % COLUMNS * width, number // COLUMNS * height))
    return sheet


def run(arguments: Arguments) -> None:
    """Renders the sheet and saves it."""
    if arguments.domain:
        sheet, content = domain_sheet(arguments.size), f"{COLUMNS * len(DOMAIN_PATIENTS)} randomised views"
    elif arguments.population:
        sheet, content = population_sheet(), f"{len(POPULATION)} patients"
    elif arguments.families:
        sheet, content = families_sheet(), f"{sum(map(len, FAMILIES.values()))} patients"
    elif arguments.bones:
        sheet = bones_sheet(arguments.patient, arguments.size)
        content = f"{len(BONE_VIEWS)} views of the bones of {arguments.patient}"
    elif arguments.organs:
        sheet, content = organs_sheet(arguments.size), f"{len(ORGAN_VIEWS)} views of soft tissue and findings"
    elif arguments.findings:
        sheet = findings_sheet(arguments.patient, arguments.size)
        content = f"{len(FINDING_VIEWS)} findings of {arguments.patient}"
    else:
        sheet, content = contact_sheet(arguments.patient, arguments.size), f"views of {arguments.patient}"
    with atomic_write(arguments.out) as temporary:
        sheet.save(temporary, optimize=True)
    print(f"{arguments.out}: {content}")


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
