"""What becomes of annotations: progress of a cohort, export, agreement, and the command line."""

import json

import numpy as np
import pytest

from carm_env import cli
from carm_env.annotation.agreement import disagreement
from carm_env.annotation.cohort import cohort_progress, next_patient, progress_table
from carm_env.annotation.export import export_annotation
from carm_env.annotation.files import annotations_by, annotations_folder
from carm_env.annotation.records import AnnotationError
from carm_env.annotation.session import AnnotationSession
from carm_env.ct.landmark_files import read_landmarks
from carm_env.landmarks import LANDMARKS
from carm_env.patient_store import load_imported


@pytest.fixture
def annotate(small_patients):
    """Annotates an imported patient in the default folder, with an offset in mm; returns the session."""

    def run(name, annotator, offset_mm=(0.0, 0.0, 0.0), absent=()):
        patient = load_imported(name)
        session = AnnotationSession(patient, annotator)
        for item in LANDMARKS:
            session.go_to(item.id)
            if item.id in absent:
                session.mark_absent()
                continue
            session.click("frontal", session.view("frontal").project(patient.landmarks_lps_mm[item.id]))
            session.nudge("frontal", offset_mm[0], offset_mm[2])
            session.nudge("lateral", offset_mm[1], 0.0)
        session.finish()
        return session

    return run


def test_progress_of_a_cohort(annotate, small_patients):
    folder = annotations_folder()
    annotate("one", "anna", absent=(6, 7))
    AnnotationSession(load_imported("two"), "anna").mark_absent()
    rows = cohort_progress(folder, small_patients, "anna")
    assert [row.status for row in rows] == ["finished", "begun", "not begun", "not begun"]
    assert (rows[0].placed, rows[0].na, rows[0].open, rows[1].open) == (12, 2, 0, 13)
    assert next_patient(rows) == "imported:two"
    assert "1 of 4 CTs finished, 15 of 56 landmarks." in progress_table(rows)


@pytest.mark.parametrize("suffix", [".mrk.json", ".csv"])
def test_exported_files_are_read_by_the_import(annotate, tmp_path, suffix, capsys):
    session = annotate("one", "anna", absent=(6,))
    path = tmp_path / f"out{suffix}"
    assert cli.main(["annotations", "export", "one", "--annotator", "anna", "--out", str(path)]) == 0
    assert "13 placed, 1 na, 0 open" in capsys.readouterr().out
    found = read_landmarks(path, volume=session.volume)
    ours = session.record.points_lps_mm
    assert set(found) == set(ours) and 6 not in found
    for key, point in ours.items():
        # The paper's table has no depth.
        shown = slice(None) if suffix == ".mrk.json" else [0, 2]
        np.testing.assert_allclose(found[key][shown], point[shown], atol=1e-3)


def test_exports_that_make_no_sense_are_refused(annotate, tmp_path):
    session = annotate("one", "anna")
    with pytest.raises(AnnotationError, match="another suffix, expected .csv"):
        export_annotation(tmp_path / "a.txt", session.record, session.volume, "paper")
    with pytest.raises(AnnotationError, match="another version of its CT"):
        export_annotation(tmp_path / "a.csv", session.record, load_imported("two").volume, "paper")
    empty = AnnotationSession(load_imported("two"), "anna")
    with pytest.raises(AnnotationError, match="has placed no landmark"):
        export_annotation(tmp_path / "a.csv", empty.record, empty.volume, "paper")


def test_the_disagreement_of_two_people(annotate, tmp_path, capsys):
    for name in ("one", "two"):
        annotate(name, "anna", absent=(6,) if name == "one" else ())
        annotate(name, "ben", (3.0, 4.0, 0.0), absent=(8,) if name == "two" else ())
    words = ["annotations", "compare", "anna", "ben", "--json", str(tmp_path / "d.json")]
    assert cli.main([*words, "--markdown", str(tmp_path / "d.md")]) == 0
    table = capsys.readouterr().out
    assert (
        "anna and ben: 2 CTs in common" in table
        and table.strip() == (tmp_path / "d.md").read_text(encoding="utf-8").strip()
    )
    assert "| Skull | 2 | 5.0 | 5.0 | 5.0 | 3.0 | 0 | 0 |" in table
    assert "| Right elbow | 1 | 5.0 | 5.0 | 5.0 | 3.0 | 0 | 1 |" in table
    assert "| all | 26 | 5.0 | 5.0 | 5.0 | 3.0 | 1 | 1 |" in table
    figures = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))
    assert figures["landmarks"]["Skull"]["mean_mm"] == pytest.approx(5.0)
    assert figures["landmarks"]["Right wrist"]["only_first"] == ["imported:two"]


def test_people_without_a_common_ct_cannot_be_compared(annotate, capsys):
    annotate("one", "anna")
    annotate("two", "ben")
    assert cli.main(["annotations", "compare", "anna", "ben"]) == 2
    assert "no CT in common: the first has imported:one, the second imported:two" in capsys.readouterr().err
    assert cli.main(["annotations", "compare", "anna", "bem"]) == 2
    assert "Did you mean 'ben'" in capsys.readouterr().err
    ours = list(annotations_by(annotations_folder(), "anna"))
    with pytest.raises(AnnotationError, match="both annotations are by anna"):
        disagreement(ours, ours)


def test_progress_on_the_command_line(annotate, capsys):
    annotate("one", "anna")
    assert cli.main(["annotations", "progress"]) == 0
    assert "| imported:one | finished | 14 | 0 | 0 |" in capsys.readouterr().out
    assert cli.main(["annotations", "progress", "--annotator", "ben", "--patients", "two"]) == 0
    assert "| imported:two | not begun |" in capsys.readouterr().out
