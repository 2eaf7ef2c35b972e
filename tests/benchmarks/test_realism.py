"""Telling real CTs from virtual patients; imported patients of water and cubes stand for both."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import realism
from benchmarks._support.discrimination import Group, Score, leave_one_out, linear_probe, small_cnn
from benchmarks._support.matched_views import (
    Positions,
    Subject,
    Voxels,
    draw_positions,
    match_histograms,
    render_matched,
    rescanned,
)
from benchmarks._support.realism_scores import summary
from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose
from carm_env.landmarks import landmark
from carm_env.patient import Patient
from carm_env.system.command_line import run_script
from carm_env.volume import Volume
from carm_env.xray.camera import XRayCamera

T1 = landmark("T1").id


def cut_below(patient, z_mm):
    """The patient without what lies below a height, so that the body ends with the volume."""
    first = int(patient.volume.index_from_lps([0.0, 0.0, z_mm])[2])
    volume = patient.volume
    origin = volume.lps_from_index([0, 0, first])
    points = {key: point for key, point in patient.landmarks_lps_mm.items() if point[2] > origin[2]}
    return Patient(patient.id, Volume.from_origin(volume.hu[:, :, first:], volume.spacing_mm, origin), points)


def images_of(people, texture, seed):
    """Eight noisy images for each person, with a grid of a period of `texture` pixels, and their groups."""
    rng = np.random.default_rng(seed)
    images, groups = [], []
    for number, person in enumerate(people):
        base = rng.normal(0, 10, (32, 32)) + 20 * (np.arange(32) % texture < texture // 2)
        images += [np.clip(128 + base + rng.normal(0, 5, base.shape), 0, 255) for _ in range(8)]
        groups.append(Group(person, "ct", np.arange(8) + 8 * number))
    return np.array(images, np.float32), groups


def moved(groups, start):
    return [Group(group.person, group.ct, group.rows + start) for group in groups]


def test_no_view_shows_the_end_of_a_volume(small_patient):
    patient = small_patient("imported:cut", 0)
    patient = cut_below(patient, patient.landmarks_lps_mm[T1][2] - 40)
    subject = Subject.of(patient, 140.0)
    low, high = subject.limits_mm
    assert low[1] > patient.volume.origin_lps_mm[2] and np.isinf(low[0]) and np.isinf(high).all()
    positions = draw_positions(subject, 20, np.random.default_rng(0))
    assert len(positions) == 20 and subject.shown(positions).all()
    bottom = patient.volume.origin_lps_mm[2]
    for x, y, z in subject.isocenters(positions):
        # The lowest ray meets the back of the body above the end of the volume.
        projection = XRayCamera(patient.volume).projection(CArmPose((x, y, z)), 64)
        back = patient.volume.corners_lps_mm[1][1] - 5 * 8.0
        assert projection.project(np.array([x, back, bottom]))[1] > 63
    # The same positions in a patient that is not cut are usable, and in one that is cut higher not all of them.
    whole = Subject.of(small_patient("imported:whole", 0), 140.0)
    assert whole.shown(positions).all()
    higher = Subject.of(cut_below(small_patient("imported:higher", 0), bottom + 24), 140.0)
    assert not higher.shown(positions).all()


def test_a_ct_that_shows_its_ends_everywhere_is_named(small_patient):
    patient = small_patient("imported:short", 0)
    skull = patient.landmarks_lps_mm[landmark("Skull").id][2]
    patient = cut_below(patient, patient.landmarks_lps_mm[T1][2] - 10)
    top = int(patient.volume.index_from_lps([0.0, 0.0, skull + 10])[2])
    short = Patient(patient.id, Volume(patient.volume.hu[:, :, :top], patient.volume.affine_lps_mm),
                    patient.landmarks_lps_mm)  # fmt: skip
    with pytest.raises(ValueError, match="imported:short shows an end of its volume"):
        draw_positions(Subject.of(short, 0.0), 10, np.random.default_rng(0))
    bare = Patient("imported:bare", patient.volume, {T1: patient.landmarks_lps_mm[T1]})
    with pytest.raises(ValueError, match="imported:bare lacks landmarks, expected T1 and Skull or T12 and T1"):
        draw_positions(Subject.of(bare, 0.0), 10, np.random.default_rng(0))


def test_only_landmarks_of_the_ct_may_be_closest(small_patient):
    patient = small_patient("imported:whole", 0)
    subject = Subject.of(patient, 0.0)
    at_t1 = Positions(("T1", "Skull"), np.array([0.0]), np.array([0.0]), frozenset({T1}))
    assert subject.shown(at_t1).all()
    elsewhere = Positions(("T1", "Skull"), np.array([0.0]), np.array([0.0]), frozenset({landmark("Skull").id}))
    assert not subject.shown(elsewhere).any()


def test_views_on_the_same_voxels_are_the_same_views(small_patient):
    patient = small_patient("imported:one", 0)
    subject = Subject.of(patient, 140.0)
    positions = draw_positions(subject, 3, np.random.default_rng(0))
    images = render_matched(subject, positions, (0.0, 0.0), 8.0, 64)
    # Nothing is cropped that is seen.
    camera = XRayCamera(subject.patient.volume)
    for image, point in zip(images, subject.isocenters(positions), strict=True):
        expected = camera.image(CArmPose(tuple(point.tolist())), 64)
        assert np.abs(image.astype(int) - expected).max() <= 1
    assert subject.reach_mm > DEFAULT_GEOMETRY.field_of_view_at_mm(140.0) / 2


def test_volumes_pass_through_the_voxels_of_a_ct():
    rng = np.random.default_rng(0)
    volume = Volume.from_origin(rng.integers(-1000, 1000, (30, 30, 30)).astype(np.int16), 2.0, (0.0, 0.0, 0.0))
    found = rescanned(volume, (4.0, 2.0), 1.0)
    assert found.spacing_mm.tolist() == [1.0, 1.0, 1.0]
    # Voxels of 4 mm are means of four, and the cubes between them are interpolated.
    assert found.hu[0, 0, 0] == pytest.approx(volume.hu[:2, :2, 0].mean(), abs=1)
    assert found.hu[2, 0, 0] == pytest.approx((volume.hu[:2, :2, 0].mean() + volume.hu[2:4, :2, 0].mean()) / 2, abs=1)
    card = {"source_voxel_mm": [0.7, 0.7, 2.5]}
    voxels = Voxels.of(Patient("imported:fine", volume, {}, card))
    assert voxels.of_others_mm == (2.0, 2.5) and voxels.own_mm == (2.0, 0.0) and voxels.spacing_mm == 2.0


def test_all_bodies_have_the_same_histogram():
    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(0, 100, (32, 32)), rng.integers(50, 256, (32, 32)), np.ones((32, 32))])
    images = images.astype(np.uint8)
    air = np.zeros(images.shape, bool)
    matched = match_histograms(images, air)
    values = np.sort(matched.reshape(3, -1), axis=1)
    np.testing.assert_allclose(values, np.broadcast_to(values[0], values.shape), atol=1e-3)
    assert values[0].mean() == pytest.approx(images.mean(), abs=0.1)
    # Air is black, and changes nothing else.
    air[0, :8] = True
    beside_air = match_histograms(images, air)[0]
    assert (beside_air[:8] == 0).all()
    assert np.quantile(beside_air[8:], [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(values[0], [0.1, 0.5, 0.9]), abs=2)
    # The order of the pixels stays.
    order = np.argsort(images[0].ravel(), kind="stable")
    assert (np.diff(matched[0].ravel()[order])[np.diff(images[0].ravel()[order].astype(int)) > 0] >= 0).all()


@pytest.mark.parametrize("name", ["linear probe", "small CNN"])
def test_classifiers_find_a_difference_and_none_where_there_is_none(name):
    people = [f"person {number}" for number in range(8)]
    fine, first = images_of(people[:4], 4, 0)
    coarse, second = images_of(people[4:], 8, 1)
    images = np.concatenate([fine, coarse])

    def classifier():
        if name == "small CNN":
            return small_cnn(images, 80, 0)
        return linear_probe(np.abs(np.fft.fft(images.mean(1)))[:, 1:16])

    scores = leave_one_out(first, moved(second, 32), classifier())
    assert [score.person for score in scores] == people[:4] and all(score.images == 40 for score in scores)
    assert np.mean([score.balanced_accuracy for score in scores]) > 0.9
    assert np.mean([score.auc for score in scores]) > 0.95
    scores = leave_one_out(first[:2], first[2:], classifier())
    assert np.mean([score.balanced_accuracy for score in scores]) < 0.9


def test_nobody_is_trained_on_and_tested():
    groups = [Group(f"p{n}", f"ct{n % 2}", np.arange(4) + 4 * n) for n in range(8)]
    first, second = (
        groups[:2],
        [*groups[2:], Group("p2", "ct1", np.arange(32, 36)), Group("p3", "ct0", np.arange(36, 40))],
    )
    person = {row: group.person for group in [*first, *second] for row in group.rows}
    ct = {row: group.ct for group in [*first, *second] for row in group.rows}
    calls = []

    def classify(rows, labels, tested):
        calls.append((rows, labels, tested))
        return np.zeros(len(tested))

    scores = leave_one_out(first, second, classify)
    assert len(calls) == 4 and all(score.balanced_accuracy == 0.5 == score.auc for score in scores)
    for rows, labels, tested in calls:
        assert not {person[row] for row in rows} & {person[row] for row in tested}
        assert {ct[row] for row in rows[~labels]} == {ct[row] for row in rows[labels]}
        assert len({ct[row] for row in tested}) == 1
    with pytest.raises(ValueError, match="nobody in both"):
        leave_one_out(first, first, classify)
    with pytest.raises(ValueError, match="p0 is compared with 1 people"):
        leave_one_out(first, [groups[2], groups[3]], classify)


def test_intervals_need_enough_people():
    four, five = ([Score(f"p{n}", 0.5 + n / 20, 0.6, 8) for n in range(count)] for count in (4, 5))
    found = summary(four)
    assert found["balanced_accuracy"]["interval"] is None and found["people"] == 4
    assert "50% to 65% (range)" in realism.table([{"comparison": "a", "classifier": "b", "blur_px": 0.0, **found}])
    low, high = summary(five)["balanced_accuracy"]["interval"]
    assert low < 0.6 < high
    # Two divisions of the same people are not five people.
    assert summary([*four, *four])["balanced_accuracy"]["interval"] is None


def few(patients):
    """Options of a short run on two CTs and two others."""
    return ["--real", *patients[:2], "--raised", "--people", *patients[2:], "--views", "4", "--size", "64", "--steps",
            "3", "--blurs-px", "0", "2", "--controls", "1"]  # fmt: skip


def main(*words):
    return run_script(realism.run, realism.Arguments, given=[str(word) for word in words])


def test_virtual_patients_are_compared_with_cts(small_patients, tmp_path, capsys):
    words = ["--json", tmp_path / "r.json", "--plot", tmp_path / "r.png", "--sheet", tmp_path / "s.png"]
    assert main(*few(small_patients), *words) == 0
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    rows = found["results"]
    assert {row["comparison"] for row in rows} == {"virtual, real"}  # a control needs more people
    assert [(row["classifier"], row["blur_px"]) for row in rows] == [
        ("linear probe", 0.0), ("small CNN", 0.0), ("linear probe", 2.0)
    ]  # fmt: skip
    for row in rows:
        assert row["people"] == 2 and row["balanced_accuracy"]["interval"] is None
        assert 0 <= row["balanced_accuracy"]["lowest"] <= row["balanced_accuracy"]["mean"] <= 1
    assert len(found["power_relative_to_real"]["T1 to Skull"]["virtual"]) == 4
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (2 * 3 * 64, 2 * 64)
    assert (tmp_path / "r.png").stat().st_size > 1000
    assert "virtual, real" in capsys.readouterr().out

    # Results of an earlier run stand below those of this one.
    found["run"]["git"] = "0123abc"
    found["power_relative_to_real"]["T1 to Skull"] = {"anatomy=4": [0.1, 0.2, 0.3, 7.5]}
    for row in rows:
        row["comparison"] = "anatomy=4, real"
    del found["raised"]
    (tmp_path / "before.json").write_text(json.dumps(found), encoding="utf-8")
    assert main(*few(small_patients), "--compare", tmp_path / "before.json") == 0
    own, _, earlier = capsys.readouterr().out.partition(f"{tmp_path / 'before.json'}, commit 0123abc, ")
    assert "virtual, real" in own and "anatomy=4" not in own
    assert "anatomy=4, real" in earlier and "7.50" in earlier


def test_virtual_patients_in_another_pose_than_the_cts_are_named(small_patients, script_error):
    words = few(small_patients)
    words[4:4] = [small_patients[0]]
    assert f"{small_patients[0].partition('?')[0]} is compared with 0 people" in script_error(realism, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "which holds no results of benchmarks/realism.py"),
        ('{"results": [{}], "power_relative_to_real": {}, "run": {}}', "which holds no results"),
        ('{"results": [], "power_relative_to_real": {}, "run": {"git": "a", "date": "b"}, "views": 9}',
         "which was measured with views 9, expected 4 as in this run"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_results_that_cannot_be_compared_are_named_before_the_run(
    small_patients, tmp_path, monkeypatch, script_error, text, message
):
    monkeypatch.setattr(realism, "collect", lambda *args, **options: pytest.fail("patients were rendered"))
    if text is not None:
        (tmp_path / "r.json").write_text(text, encoding="utf-8")
    assert message in script_error(realism, *few(small_patients), "--compare", tmp_path / "r.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--views", 0], "--views is 0, expected 1 or more"),
        (["--blurs-px", "-1"], "--blurs-px is (-1.0,), expected numbers from 0"),
        (["--size", 8], "8"),
    ],
)
def test_bad_input_is_named(words, message, script_error):
    assert message in script_error(realism, *words)
