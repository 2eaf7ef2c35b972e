"""One person annotates one CT: clicks, states, files, kills."""

import dataclasses
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from carm_env.annotation import files
from carm_env.annotation.files import AnnotationConflictError, annotation_path, find_annotation, save_annotation
from carm_env.annotation.records import AnnotationError
from carm_env.annotation.session import AnnotationSession
from carm_env.landmarks import LANDMARKS
from carm_env.patient import Patient
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import write_json
from carm_env.volume import Volume

NAME = "imported:one"


@pytest.fixture
def patient(small_patient):
    return small_patient(NAME, 0)


@pytest.fixture
def session(patient, tmp_path):
    return AnnotationSession(patient, "anna", tmp_path, size=128)


def again(session, patient):
    """The session of a new process."""
    return AnnotationSession(patient, session.record.annotator, session.folder, size=128)


class ScriptedAnnotator:
    """Knows where the truth is in each image, and can do nothing but click on whole pixels."""

    def __init__(self, session, truth):
        self.session, self.truth = session, truth

    def click(self, view):
        projection = self.session.view(view)
        pixel = np.rint(projection.project(self.truth[self.session.current.id])).astype(int)
        self.session.click(view, pixel.tolist())

    def annotate(self, *views):
        for _ in LANDMARKS:
            for view in views:
                self.click(view)
            self.session.next()
        self.session.finish()

    def errors_mm(self):
        found = self.session.record.points_lps_mm
        return [float(np.linalg.norm(found[key] - point)) for key, point in self.truth.items()]


@pytest.mark.parametrize(
    "views",
    [
        ("frontal",),
        ("frontal", "lateral"),
        ("frontal_xray", "lateral_xray", "frontal_close", "lateral_close"),
    ],
    ids=",".join,
)
def test_a_scripted_annotator_places_all_landmarks_within_3_mm(patient, session, views):
    truth = dict(patient.landmarks_lps_mm)
    if len(views) > 2:
        # Off the grid of the voxels, which are 8 mm wide.
        rng = np.random.default_rng(0)
        truth = {key: point + rng.uniform(-4, 4, 3) for key, point in truth.items()}
    person = ScriptedAnnotator(session, truth)
    person.annotate(*views)
    assert max(person.errors_mm()) < 3.0
    assert session.record.finished and len(session.record.ids("placed")) == 14
    assert {one.depth for one in session.record.annotations.values()} == {"bone" if len(views) == 1 else "lateral"}
    assert again(session, patient).record == session.record


def test_the_truth_of_the_patient_is_neither_shown_nor_saved(patient, tmp_path):
    blank = AnnotationSession(Patient(NAME, patient.volume, {}), "anna", tmp_path / "blank")
    informed = AnnotationSession(patient, "anna", tmp_path / "informed")
    for one in (blank, informed):
        one.click("frontal", (20, 30))
    assert blank.record.annotations == informed.record.annotations
    assert blank.warnings() == informed.warnings()


def test_a_lateral_click_keeps_the_point_on_the_line_of_the_frontal_click(patient, session):
    xray = session.view("frontal_xray")
    session.click("frontal_xray", (40, 50))
    session.click("lateral", (10, 60))
    assert session.annotation.depth == "lateral"
    np.testing.assert_allclose(xray.project(session.annotation.point_lps_mm), (40, 50), atol=1e-6)
    # A later frontal click keeps this depth.
    depth = session.annotation.point_lps_mm[1]
    session.click("frontal", (20, 30))
    assert session.annotation.point_lps_mm[1] == depth and session.annotation.depth == "lateral"


def test_without_bone_the_depth_is_assumed_and_said(patient, tmp_path):
    soft = Volume.from_origin(np.full((20, 12, 30), 40, np.int16), 8.0, (0.0, 0.0, 0.0))
    session = AnnotationSession(Patient(NAME, soft, {}), "anna", tmp_path)
    session.click("frontal", (10, 10))
    assert session.annotation.depth == "assumed" and session.annotation.point_lps_mm[1] == 44.0
    assert any("depth of Skull is assumed" in text for text in session.warnings())


def test_states_next_back_and_finish(session):
    assert session.current.name == "Skull" and session.back().id == 1
    session.click("frontal", (20, 30))
    session.next()
    session.mark_absent()
    assert session.annotation.state == "na" and session.record.ids("placed") == [1]
    session.clear()
    assert session.annotation.state == "open"
    with pytest.raises(AnnotationError, match="13 landmarks are open: Right humeral head, .*mark them as NA"):
        session.finish()
    for item in LANDMARKS[1:]:
        session.go_to(item.id)
        session.mark_absent()
    assert session.next().id == 14
    session.finish()
    assert session.record.finished
    session.clear()
    assert not session.record.finished


def test_nudging_moves_by_millimetres(session):
    session.click("frontal", (20, 30))
    before = np.array(session.annotation.point_lps_mm)
    session.nudge("frontal", 1.0, -2.0)
    session.nudge("lateral", 3.0, 0.5)
    np.testing.assert_allclose(session.annotation.point_lps_mm, before + [1.0, 3.0, -1.5])


def test_implausible_positions_are_warned_of_and_kept(patient, session):
    person = ScriptedAnnotator(session, {**patient.landmarks_lps_mm, 2: patient.landmarks_lps_mm[3],
                                         3: patient.landmarks_lps_mm[2]})  # fmt: skip
    person.annotate("frontal")
    assert any("right and left are swapped in humeral head" in text for text in session.warnings())
    assert session.record.finished


@pytest.mark.parametrize(
    ("view", "pixel", "message"),
    [
        ("frontal", (-1, 5), "expected column and row within the image"),
        ("frontal", (5,), "expected column and row within"),
        ("frontal", ("a", 5), "expected column and row within"),
        ("frontal", (float("nan"), 5), "expected column and row within"),
        ("lateral", (5, 5), "Skull has no position yet, .* click it in a frontal image first"),
        ("frontal_close", (5, 5), "Skull has no position yet"),
    ],
)
def test_clicks_that_cannot_be_used_change_nothing(session, view, pixel, message):
    before = session.record
    with pytest.raises(AnnotationError, match=message):
        session.click(view, pixel)
    assert session.record == before


def test_unknown_views_and_annotators_are_named(patient, session, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'frontal'"):
        session.view("frontl")
    for name in ("../anna", "a/b", "", "a" * 41, "Anna Müller"):
        with pytest.raises(ValueError, match="the annotator's name is .* choose a pseudonym"):
            AnnotationSession(patient, name, tmp_path)


def test_two_windows_do_not_overwrite_each_other(patient, session):
    session.click("frontal", (20, 30))
    other = again(session, patient)
    session.next()
    with pytest.raises(AnnotationConflictError, match="changed in another window"):
        other.mark_absent()
    assert again(session, patient).record.ids("placed") == [1]


def test_of_two_writers_at_the_same_moment_one_is_refused(session, monkeypatch):
    record, barrier = session.record, threading.Barrier(2)
    monkeypatch.setattr(files, "write_json", lambda *given: (time.sleep(0.2), write_json(*given)))

    def save(current):
        barrier.wait(10)
        try:
            return save_annotation(session.folder, dataclasses.replace(record, current=current)).revision
        except AnnotationConflictError:
            return "refused"

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(save, (2, 3)))
    assert sorted(map(str, found)) == ["1", "refused"]
    assert find_annotation(session.folder, NAME, "anna").current == (2, 3)[found.index(1)]


def test_a_click_on_an_outdated_image_is_refused(session):
    shown = session.record.revision
    session.click("frontal", (20, 30), shown)
    with pytest.raises(AnnotationConflictError, match="drawn for revision 0, expected 1"):
        session.click("frontal", (25, 30), shown)
    session.click("frontal", (25, 30), session.record.revision)


def test_another_version_of_the_ct_is_refused(patient, session):
    session.click("frontal", (20, 30))
    changed = patient.volume.hu.copy()
    changed[0, 0, 0] += 1
    with pytest.raises(AnnotationError, match="another version of the CT of imported:one"):
        AnnotationSession(Patient(NAME, Volume(changed, patient.volume.affine_lps_mm), {}), "anna", session.folder)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"landmarks": {}}, {"current": 15}, {"x": 1}, {"finished": 1}], ids=str
)
def test_damaged_files_are_named(patient, session, change):
    session.click("frontal", (20, 30))
    path = annotation_path(session.folder, NAME, "anna")
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**value, **change}), encoding="utf-8")
    with pytest.raises(AnnotationError, match="anna.json is not an annotation of carm-env"):
        again(session, patient)


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_kill_loses_at_most_the_last_click(patient, session, killed_at, call):
    session.click("frontal", (20, 30))
    first, number, killed = session.record, 0, True

    def second_click():
        later = again(session, patient)
        later.click("frontal", (21, 31))

    while killed:
        killed = killed_at(os, call, number, second_click)
        found = find_annotation(session.folder, NAME, "anna")
        assert found.points_lps_mm and found.revision in (first.revision, first.revision + 1)
        number += 1
        if found.revision > first.revision:
            break
    assert number > 1
