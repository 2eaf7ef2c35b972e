"""Every sentence of a report is checked against the truth, computed here from the points in three dimensions."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose, ProjectionGeometry
from carm_env.landmarks import landmark
from carm_env.patient import Patient
from carm_env.reports import structures
from carm_env.reports.sentences import report_sentences
from carm_env.reports.view_facts import KnownStructures, region_half_mm, view_facts
from carm_env.reports.view_reports import ReportWriter, read_poses
from carm_env.views.read import ViewDatasetError, read_views
from carm_env.views.sample import ViewOptions, render_views
from carm_env.views.write import write_view_dataset
from carm_env.volume import Volume
from tests.conftest import small_patient

SIZE = 64


def with_lungs(name="virtual:5", findings=()):
    """The small patient with two lungs of air, and metal at the places of its findings."""
    patient = small_patient(name, 1)
    hu = np.array(patient.volume.hu)
    t1, t12 = (np.rint(patient.landmarks_lps_mm[landmark(key).id] / 8).astype(int) for key in ("T1", "T12"))
    middle = (t1[0] + t12[0]) // 2
    hu[middle + 4 : middle + 13, 6:18, t12[2] : t1[2] - 3] = -800
    hu[middle - 12 : middle - 3, 6:18, t12[2] : t1[2] - 3] = -800
    for number, _ in enumerate(findings):
        hu[middle + 14 : middle + 18, 6:9, t1[2] - 8 - 8 * number : t1[2] - 4 - 8 * number] = 3000
    card = {"parameters": {"findings": list(findings)}}
    return Patient(name, Volume.from_origin(hu, 8.0, (0.0, 0.0, 0.0)), patient.landmarks_lps_mm, card)


def known(patient, load=None):
    found = structures.finding_points(patient, load or (lambda name: with_lungs(name)))
    return KnownStructures(patient, structures.lungs(patient), found, structures.known_findings(patient) is not None)


NORMAL = known(with_lungs())
SICK = known(with_lungs("virtual:5?findings=pacemaker", ("pacemaker",)))


class Truth:
    """The facts of a view, from the definitions and not from the code."""

    def __init__(self, structures, pose):
        self.structures, self.patient, self.pose = structures, structures.patient, pose
        self.projection = ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, SIZE)

    def at(self, points):
        return (self.projection.project(points) + 0.5) / SIZE

    def point(self, name):
        return self.patient.landmarks_lps_mm[landmark(name).id]

    def inside(self, name):
        return bool(((self.at(self.point(name)) > 0) & (self.at(self.point(name)) < 1)).all())

    def region(self, name):
        x, z = region_half_mm(landmark(name).name)
        corners = self.at(self.point(name) + np.array([[a * x, 0, b * z] for a in (-1, 1) for b in (-1, 1)]))
        return corners.min(0), corners.max(0)

    def offset_mm(self, name):
        columns, rows, _ = self.pose.axes_lps()
        away = self.point(name) - np.asarray(self.pose.isocenter_lps_mm)
        return np.array([away @ columns, -(away @ rows)])

    def share(self, points):
        at = self.at(points)
        return ((at >= 0) & (at <= 1)).all(1).mean()

    def beyond(self, low, high, margin):
        return {"right": low[0] < 0, "left": high[0] > 1, "superior": low[1] < 0, "inferior": high[1] > 1}[margin]


def check_zone(position, words):
    rows = {"upper": 0, "middle": 1, "lower": 2}
    columns = {"right": 0, "central": 1, "left": 2}
    found = words.removesuffix(" zone").split()
    row = next((rows[word] for word in found if word in rows), 1)
    column = next((columns[word] for word in found if word in columns), 1)
    assert (min(int(3 * position[0]), 2), min(int(3 * position[1]), 2)) == (column, row)


def nearest(truth):
    ids = truth.patient.landmarks_lps_mm
    return min(ids, key=lambda key: float(np.hypot(*truth.offset_mm(key))))


def center(truth, name):
    assert landmark(name).id == nearest(truth)
    return landmark(name).id


CHECKS = []


def checks(pattern):
    def register(function):
        CHECKS.append((re.compile(pattern), function))
        return function

    return register


@checks(r"(?:The view|The field) is centered on (?:the )?(?P<a>.+)\.")
def check_centered(truth, a):
    center(truth, a)
    assert np.hypot(*truth.offset_mm(a)) < 20
    return 1


@checks(r"The landmark closest to the center of the field is (?:the )?(?P<a>.+)\.")
@checks(r"Of all landmarks, (?:the )?(?P<a>.+) is closest to the center of the field\.")
def check_closest(truth, a):
    center(truth, a)
    assert np.hypot(*truth.offset_mm(a)) >= 20
    return 1 if truth.inside(a) else 0


@checks(r"No .*pneumothorax.*\.|No (?:support|implanted) device.*\.")
def check_no_findings(truth):
    assert truth.structures is NORMAL
    return 0


@checks(r"Left-sided pacemaker with its leads in the (?P<zone>[^,]+)(?P<part>, partially included)?\.")
def check_pacemaker(truth, zone, part):
    assert truth.structures is SICK
    points = truth.structures.findings["pacemaker"]
    assert (truth.share(points) < 0.97) == bool(part)
    at = truth.at(points)
    shown = at[((at >= 0) & (at <= 1)).all(1)]
    check_zone((shown.min(0) + shown.max(0)) / 2, zone)
    return 1


@checks(r"Both lungs are (?:included|completely imaged)\.")
def check_both_lungs(truth):
    assert all(truth.share(truth.structures.organs[f"{side} lung"]) >= 0.97 for side in ("right", "left"))
    return 2


@checks(r"The (?:whole )?(?P<side>right|left) lung is (?:completely included|imaged)\.")
def check_whole_lung(truth, side):
    assert truth.share(truth.structures.organs[f"{side} lung"]) >= 0.97
    return 1


@checks(r"The (?P<side>right|left) lung is partially included, cut off at the (?P<margin>\w+) margin\.")
def check_part_of_lung(truth, side, margin):
    points = truth.structures.organs[f"{side} lung"]
    assert 0.15 <= truth.share(points) < 0.97
    assert truth.beyond(truth.at(points).min(0), truth.at(points).max(0), margin)
    return 1


@checks(r"(?:The )?(?P<a>.+) projects over the (?P<zone>.+) of the image\.")
@checks(r"(?:The )?(?P<a>.+) is seen in the (?P<zone>.+)\.")
def check_in_zone(truth, a, zone):
    assert truth.inside(a)
    check_zone(truth.at(truth.point(a)), zone)
    return 1


@checks(r"(?:The )?(?P<a>.+) lies (?P<where>.+ the center|at the center of the field)\.")
def check_offset(truth, a, where):
    x, z = 0, 0
    for number, side in re.findall(r"(\d+) cm (?:to the )?(right|left|above|below)", where):
        x += int(number) * {"left": 1, "right": -1}.get(side, 0)
        z += int(number) * {"above": 1, "below": -1}.get(side, 0)
    assert truth.inside(a)
    assert np.abs(truth.offset_mm(a) / 10 - [x, z]).max() <= 0.5001
    return 1


@checks(r"(?:The )?(?P<a>.+) is at the (?P<margin>\w+) margin of the image\.")
def check_margin(truth, a, margin):
    assert truth.inside(a) and truth.beyond(*truth.region(a), margin)
    return 1


@checks(r"(?:The|Both) (?P<pair>.+)s are (?:level|at the same height)\.")
def check_level(truth, pair):
    heights = [truth.offset_mm(f"{side} {pair}")[1] for side in ("right", "left")]
    assert abs(heights[0] - heights[1]) < 8
    return 2


@checks(r"The (?P<side>right|left) (?P<pair>.+) is (?P<relation>higher|lower) than the (?P<other>right|left)\.")
def check_higher(truth, side, pair, relation, other):
    difference = truth.offset_mm(f"{side} {pair}")[1] - truth.offset_mm(f"{other} {pair}")[1]
    assert side != other and difference * (1 if relation == "higher" else -1) >= 8
    return 2


@checks(r"The thoracic spine is included from T1 to T12\.")
def check_spine(truth):
    assert truth.inside("T1") and truth.inside("T12")
    return 2


@checks(r"The forearms are crossed in front of the body\.")
def check_arms(truth):
    assert truth.offset_mm("Right wrist")[0] > truth.offset_mm("Left wrist")[0]
    return 2


@checks(r"(?:The )?(?P<a>.+) is (?:not included in the image|outside the field)\.")
def check_absent(truth, a):
    assert not truth.inside(a)
    return 0


@checks(r"(?:Frontal projection|Straight frontal view without angulation)\.")
def check_frontal(truth):
    assert truth.pose.alpha_deg == truth.pose.beta_deg == 0
    return 0


@checks(r"Oblique projection, angulated by (?P<angle>\d+) degrees\.")
def check_oblique(truth, angle):
    assert abs(max(abs(truth.pose.alpha_deg), abs(truth.pose.beta_deg)) - int(angle)) <= 0.5
    return 0


@checks(r"(?P<full>The body fills the field|No open field around the body)\.")
@checks(r"(?:Part of the field is outside of the body|The field includes air beside the body)\.")
def check_field(truth, full=None):
    corners = []
    for u in np.linspace(0, SIZE - 1, 40):
        for v in np.linspace(0, SIZE - 1, 40):
            source, ray = truth.projection.ray([u, v])
            x, _, z = source + (truth.patient.mid_depth_mm - source[1]) / ray[1] * ray
            corners.append(truth.patient.covers(x, z))
    assert np.mean(corners) > 0.9 if full else np.mean(corners) < 0.87
    return 0


poses = st.builds(
    lambda x, z, alpha, beta: CArmPose((x, 96.0, z), alpha, beta),
    st.floats(60, 460), st.floats(60, 640), st.sampled_from((0.0, 0.0, 12.0, -7.4)), st.sampled_from((0.0, 3.6)),
)  # fmt: skip


@settings(max_examples=60)
@given(poses, st.integers(0, 99), st.booleans())
def test_every_sentence_is_true_and_has_its_boxes(pose, seed, is_sick):
    structures = SICK if is_sick else NORMAL
    truth = Truth(structures, pose)
    projection = ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, SIZE)
    sentences = report_sentences(view_facts(structures, pose, projection), seed)
    assert sentences == report_sentences(view_facts(structures, pose, projection), seed)
    for sentence in sentences:
        found = [(check, match) for pattern, check in CHECKS if (match := pattern.fullmatch(sentence.text))]
        assert found, sentence.text
        check, match = found[0]
        assert len(sentence.boxes) == check(truth, **match.groupdict()), sentence.text


@settings(max_examples=40)
@given(poses)
def test_boxes_hold_what_they_are_about(pose):
    truth = Truth(NORMAL, pose)
    facts = view_facts(NORMAL, pose, truth.projection)
    for key, region in facts.regions.items():
        low, high = truth.region(key)
        assert region.box == pytest.approx((*np.clip(low, 0, 1), *np.clip(high, 0, 1)))
    for name, extent in facts.organs.items():
        at = truth.at(NORMAL.organs[name])
        shown = at[((at >= 0) & (at <= 1)).all(1)]
        assert extent.box == pytest.approx((*shown.min(0), *shown.max(0)))


def test_lungs_are_on_their_sides_and_need_landmarks():
    patient = with_lungs()
    middle = (patient.landmarks_lps_mm[10][0] + patient.landmarks_lps_mm[14][0]) / 2
    found = structures.lungs(patient)
    assert set(found) == {"right lung", "left lung"}
    assert found["right lung"][:, 0].max() < middle < found["left lung"][:, 0].min()
    without = Patient("x", patient.volume, {11: patient.landmarks_lps_mm[11]})
    assert structures.lungs(without) == {} == structures.lungs(small_patient("y", 0))


def test_a_finding_is_what_differs_from_the_patient_without_it():
    asked = []

    def load(name):
        asked.append(name)
        return with_lungs(name)

    patient = with_lungs("virtual:5?findings=pacemaker", ("pacemaker",))
    points = structures.finding_points(patient, load)["pacemaker"]
    assert asked == ["virtual:5"]
    metal = patient.volume.lps_from_index(np.argwhere(patient.volume.hu == 3000))
    assert points.min(0).tolist() == metal.min(0).tolist() and points.max(0).tolist() == metal.max(0).tolist()
    assert structures.known_findings(small_patient("z", 0)) is None


def test_reports_of_a_dataset_are_those_of_its_views(small_patients, tmp_path):
    options = ViewOptions(6, 32, angles_deg=10)
    write_view_dataset(tmp_path, {"test": small_patients[:2]}, options, 1)
    reports = ReportWriter(32).of_dataset(tmp_path, "test", 9)
    assert ReportWriter(32).of_dataset(tmp_path, "test", 9, workers=2) == reports
    views = read_views(tmp_path, "test", max_views=9)
    assert [report.patient for report in reports] == [views.names[number] for number in views.patients]
    direct = [report for _, report in ReportWriter(32).of_views(render_views(small_patients[0], options))]
    assert [[s.text for s in report.sentences] for report in direct] == [
        [s.text for s in report.sentences] for report in reports[:6]
    ]
    with pytest.raises(ViewDatasetError, match="no split 'train'"):
        read_poses(tmp_path, "train")
    write_view_dataset(tmp_path / "d", {"test": small_patients[:1]}, ViewOptions(1, 32, augment=("domain",)), 1)
    with pytest.raises(ViewDatasetError, match="rotated and cropped"):
        read_poses(tmp_path / "d", "test")
