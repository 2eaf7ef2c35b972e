"""Findings and phrases of views, against the facts that they are taken from."""

from dataclasses import replace

import numpy as np
import pytest

from carm_env.anatomy.finding_names import DEFAULT_SIDES
from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose, ProjectionGeometry
from carm_env.landmarks import landmark
from carm_env.reports.view_facts import Extent, KnownStructures, view_facts
from carm_env.reports.view_questions import FINDINGS, NO_CLASS, FindingPools, finding_class, questions_of_dataset
from carm_env.views.read import read_views
from carm_env.views.sample import ViewOptions
from carm_env.views.write import write_view_dataset
from tests.conftest import small_patient

WHOLE = Extent((0.2, 0.2, 0.4, 0.4), 1.0, ())


@pytest.fixture(scope="module")
def facts():
    patient = small_patient("virtual:5", 1)
    pose = CArmPose(tuple(patient.landmarks_lps_mm[landmark("Carina").id]))
    projection = ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, 32)
    return view_facts(KnownStructures(patient, {}, {}, True), pose, projection)


@pytest.mark.parametrize(
    ("findings", "name"),
    [
        ({}, "no finding"),
        ({"pacemaker": WHOLE}, "pacemaker"),
        ({"pneumothorax:right": WHOLE, "pneumothorax": WHOLE}, "pneumothorax"),
        ({"hip_screw": replace(WHOLE, share=0.2)}, "dynamic hip screw in the femur"),
        ({"hip_screw": replace(WHOLE, share=0.1)}, None),
        ({"pacemaker": WHOLE, "ecg_leads": WHOLE}, None),
        ({"tubes": WHOLE}, None),
    ],
)
def test_the_class_is_the_only_finding_that_is_shown(facts, findings, name):
    number = finding_class(replace(facts, findings=findings), are_known=True)
    assert number == (NO_CLASS if name is None else FINDINGS.classes.index(name))
    assert finding_class(replace(facts, findings=findings), are_known=False) == NO_CLASS


def test_every_single_finding_has_a_class(facts):
    names = [name for name in DEFAULT_SIDES if name != "tubes"]
    found = {finding_class(replace(facts, findings={name: WHOLE}), are_known=True) for name in names}
    assert found == set(range(1, len(FINDINGS.classes)))


def test_phrases_of_a_dataset_have_one_box_each(small_patients, tmp_path):
    write_view_dataset(tmp_path / "d", {"test": small_patients[:2]}, ViewOptions(8, 32), 1)
    questions = questions_of_dataset(tmp_path / "d", "test", 3)
    assert len(questions) == len(read_views(tmp_path / "d", "test")) == 16
    # The findings of imported patients are not known.
    assert {one.finding for one in questions} == {NO_CLASS}
    phrases = [phrase for one in questions for phrase in one.phrases]
    assert phrases and all(text and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1 for text, box in phrases)
    assert questions_of_dataset(tmp_path / "d", "test", 3, max_views=4) == questions[:4]
    assert questions_of_dataset(tmp_path / "d", "test", 4) != questions


def test_half_of_the_drawn_views_show_no_finding():
    classes = [0] * 90 + [1] * 8 + [7] * 2 + [NO_CLASS] * 20
    pools, rng = FindingPools(classes), np.random.default_rng(0)
    drawn = [classes[pools.draw(rng)] for _ in range(2000)]
    assert {number: round(drawn.count(number) / 2000, 1) for number in set(drawn)} == pytest.approx(
        {0: 0.5, 1: 0.25, 7: 0.25}, abs=0.06
    )
    for wrong in ([0, 0], [1, 1], [NO_CLASS]):
        with pytest.raises(ValueError, match="take patients with and without findings"):
            FindingPools(wrong)
