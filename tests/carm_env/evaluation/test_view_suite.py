"""Suites of frozen views."""

import numpy as np
import pytest

from carm_env.evaluation.localization import RankedLocalizer, evaluate_views
from carm_env.evaluation.suite import SuiteError
from carm_env.evaluation.view_suite import (
    FrozenView,
    ViewSuite,
    draw_centred,
    draw_retrieval,
    load_view_suite,
    view_suite_names,
)
from carm_env.patients.catalogue import load_patient
from carm_env.system.errors import UnknownNameError


@pytest.fixture
def patients(small_patients):
    return {name: load_patient(name) for name in small_patients[:2]}


def suite(views, **changes):
    return ViewSuite(**{"name": "s", "version": 1, "description": "d", "views": tuple(views), **changes})


def test_the_suites_of_the_package_are_those_of_the_paper():
    assert view_suite_names() == ["centred", "retrieval"]
    retrieval, centred = load_view_suite("retrieval"), load_view_suite("centred")
    assert len(retrieval.views) == 10 * 128 and not any(view.landmark for view in retrieval.views)
    assert len(centred.views) == 10 * 14 * 4 and len({view.landmark for view in centred.views}) == 14
    assert retrieval.patients == centred.patients and len(retrieval.patients) == 10
    assert retrieval.hash != centred.hash


def test_true_answers_get_the_best_scores_on_frozen_views(patients):
    both = suite([*draw_retrieval(patients, 6, 1), *draw_centred(patients, 2)])
    views = [both.render(name) for name in both.patients]
    answers = []
    for own in views:
        assert len(own.images) == 6 and len(own.centred.images) == 4 * 14
        answers += [*own.closest, *((key, 1 + key % 14, 1 + (key + 1) % 14) for key in own.centred.targets)]
    queue = iter(answers)
    localizer = RankedLocalizer(lambda images: np.array([next(queue) for _ in images]))
    found = evaluate_views(localizer, views, 0)
    assert all(found.estimates[name].value == 1 for name in ("P@3", "exact", "H@1 centred"))
    assert found.confusion.trace() == 12

    # A suite of one kind has the metrics of this kind.
    queue = iter([(key, 1 + key % 14, 1 + (key + 1) % 14) for own in views for key in own.centred.targets])
    alone = suite(draw_centred(patients, 2))
    names = evaluate_views(localizer, [alone.render(name) for name in alone.patients], 0).estimates
    assert set(names) == {"H@1 centred", "H@2 centred"}


def test_frozen_views_are_the_same_after_a_round_trip(patients, tmp_path):
    drawn = suite(draw_retrieval(patients, 3, 1), isocenter_depth_mm=60.0)
    assert suite(draw_retrieval(patients, 3, 1), isocenter_depth_mm=60.0) == drawn
    assert draw_retrieval(patients, 3, 2) != list(drawn.views)
    path = tmp_path / "s.yaml"
    path.write_text(drawn.to_yaml(), encoding="utf-8")
    again = load_view_suite(str(path))
    assert again == drawn and again.hash == drawn.hash
    name = drawn.patients[0]
    np.testing.assert_array_equal(again.render(name).images, drawn.render(name).images)
    assert (suite(drawn.views).render(name).images != drawn.render(name).images).any()


def test_a_landmark_that_is_not_in_the_middle_is_named(patients):
    name = next(iter(patients))
    view = draw_centred(patients, 2)[0]
    x, z = view.point_lps_mm
    moved = FrozenView(name, (x + 20.0, z), 0, view.landmark)
    with pytest.raises(SuiteError, match=r"suite s, view 0: Skull of imported:one is not in the middle"):
        suite([moved]).render(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("views: []", "views is empty"),
        ("views: [{patient: a, point: [1.0], seed: 1}]", "view 0: .*point|view 0: start is"),
        ("views: [{patient: a, point: [1.0, 2.0], seed: -1}]", "view 0: seed is -1, expected an integer from 0"),
        ("views: [{patient: a, point: [1.0, 2.0]}]", "view 0: .* lacks seed"),
        ("views: [{patient: a, point: [1.0, 2.0], seed: 1, landmark: 99}]", "view 0: unknown landmark"),
        ("views: [{patient: a, point: [1.0, 2.0], seed: 1, target: 1}]", "view 0: unknown key of a view 'target'"),
        ("version: 0", "version is 0, expected an integer from 1"),
        ("isocenter_depth_mm: 9000.0", "isocenter_depth_mm"),
        ("name: 3", "name is 3, expected text"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message):
    values = {"name": "s", "version": "1", "description": "d", "isocenter_depth_mm": "140.0",
              "views": "[{patient: a, point: [1.0, 2.0], seed: 1}]"}  # fmt: skip
    key, _, value = change.partition(": ")
    path = tmp_path / "s.yaml"
    path.write_text("".join(f"{name}: {text}\n" for name, text in {**values, key: value}.items()), encoding="utf-8")
    with pytest.raises(SuiteError, match=message):
        load_view_suite(str(path))


def test_unknown_suites_are_answered_with_the_nearest_one(tmp_path):
    with pytest.raises(UnknownNameError, match="retrieval"):
        load_view_suite("retrival")
    with pytest.raises(FileNotFoundError):
        load_view_suite(str(tmp_path / "no.yaml"))
