"""The annotation page without a screen: every click through the socket, kills, bad input and downloads."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from carm_env import patient_store
from carm_env.annotation import session as session_module
from carm_env.annotation.files import find_annotation
from carm_env.annotation.projections import DEPTH_AXIS, centred_xray, intensity_projection
from carm_env.annotation.session import AnnotationSession
from carm_env.cockpit import annotation_messages as messages
from carm_env.cockpit.annotation_desk import AnnotationDesk
from carm_env.ct.landmark_files import read_landmarks
from carm_env.landmarks import LANDMARKS
from carm_env.patients.catalogue import load_patient
from tests.carm_env.cockpit.page_client import OWN, DeskPage, connect

NAME = "imported:one"


@pytest.fixture
def page(client):
    with connect(client, "annotate/socket") as socket:
        yield DeskPage(socket)


def open_ct(page, patient=NAME, annotator="anna", images="mip"):
    page.send("open", patient=patient, annotator=annotator, images=images)
    return page.next("annotation")


def change(page, state, kind, **fields):
    page.send(kind, revision=state["revision"], **fields)
    return page.next("annotation")


def annotate(page, state, points, shift_mm=(0.0, 0.0, 0.0)):
    """Clicks every landmark in the frontal and the lateral image of the whole CT, and finishes."""
    volume = load_patient(state["patient"]).volume
    images = {plane: intensity_projection(volume, plane) for plane in DEPTH_AXIS}
    for item in LANDMARKS:
        for plane, image in images.items():
            u, v = image.project(points[item.id] + np.array(shift_mm)).tolist()
            state = change(page, state, "click", view=plane, u=u, v=v)
        page.send("next")
        state = page.next("annotation")
    page.send("finish")
    return page.next("annotation")


def test_fourteen_landmarks_are_placed_within_3_mm(page, settings):
    truth = load_patient(NAME).landmarks_lps_mm
    state = open_ct(page)
    assert [one["state"] for one in state["landmarks"]] == ["open"] * 14 and state["revision"] == 0
    state = annotate(page, state, truth)
    assert state["finished"] and not any("assumed" in text for text in state["warnings"])
    record = find_annotation(settings.annotations, NAME, "anna")
    errors = [np.linalg.norm(record.points_lps_mm[item.id] - truth[item.id]) for item in LANDMARKS]
    assert max(errors) < 3.0 and record.finished


def test_images_are_those_of_the_session_and_hold_no_truth(page, tmp_path):
    state = open_ct(page, images="xray")
    session = AnnotationSession(load_patient(NAME), "other", tmp_path / "other")
    for view in ("frontal_xray", "lateral_xray"):
        np.testing.assert_array_equal(page.frames[view]["image"], session.view(view).image)
    page.send("show", images="mip")
    state = page.next("annotation")
    np.testing.assert_array_equal(page.frames["frontal"]["image"], session.view("frontal").image)
    assert state["marks"] == {"frontal": [], "lateral": []} and all(one["at_mm"] is None for one in state["landmarks"])


def test_a_placed_landmark_is_shown_centred_and_moved_by_millimetres(page):
    state = change(page, open_ct(page), "click", view="frontal", u=20.0, v=30.0)
    before = state["landmarks"][0]["at_mm"]
    assert state["landmarks"][0]["state"] == "placed" and state["marks"]["frontal"] == [[1, 20.0, 30.0]]
    assert state["marks"]["frontal_close"] == [[1, 255.5, 255.5]]
    state = change(page, state, "nudge", plane="frontal", right_mm=5.0, up_mm=-1.0)
    after = state["landmarks"][0]["at_mm"]
    np.testing.assert_allclose(np.subtract(after, before), (5.0, 0.0, -1.0), atol=0.11)
    state = change(page, state, "click", view="frontal_close", u=255.5, v=255.5)
    np.testing.assert_allclose(state["landmarks"][0]["at_mm"], after, atol=0.11)
    state = change(page, state, "absent")
    assert state["landmarks"][0]["state"] == "na" and "frontal_close" not in state["marks"]
    state = change(page, state, "clear")
    assert state["landmarks"][0]["state"] == "open"


def test_next_back_and_go_to(page):
    open_ct(page)
    for kind, fields, current in (("next", {}, 2), ("back", {}, 1), ("back", {}, 1), ("go_to", {"landmark": 14}, 14)):
        page.send(kind, **fields)
        assert page.next("annotation")["current"] == current
    page.send("finish")
    assert "14 landmarks are open" in page.refusal()["text"]


def test_implausible_positions_are_warned_about(page):
    state = open_ct(page)
    # The right and the left humeral head are on the wrong sides.
    for key, u in ((2, 50.0), (3, 8.0)):
        page.send("go_to", landmark=key)
        state = change(page, page.next("annotation"), "click", view="frontal", u=u, v=20.0)
    assert any("Right humeral head" in text for text in state["warnings"])


def test_a_click_on_an_older_image_changes_nothing(page):
    state = open_ct(page)
    newer = change(page, state, "click", view="frontal", u=20.0, v=30.0)
    page.send("click", view="frontal", u=5.0, v=5.0, revision=state["revision"])
    assert "older image" in page.refusal()["text"]
    assert page.next("annotation") == newer


@pytest.mark.parametrize("meant", [{"asked": "imported:two"}, {"annotator": "ben"}])
@pytest.mark.parametrize(
    ("kind", "fields"),
    [("click", {"view": "frontal", "u": 5.0, "v": 5.0}), ("absent", {}), ("clear", {}),
     ("nudge", {"plane": "frontal", "right_mm": 1.0, "up_mm": 0.0})],
)  # fmt: skip
def test_a_change_of_another_ct_or_annotator_is_refused(page, settings, meant, kind, fields):
    # A page that opens two CTs in a row shows the first one while the server loads the second one.
    state = open_ct(page)
    assert (state["asked"], state["annotator"]) == (NAME, "anna")
    page.send(kind, revision=0, **{"asked": NAME, "annotator": "anna", **fields, **meant})
    assert "another CT" in page.refusal()["text"] and page.next("annotation") == state
    assert find_annotation(settings.annotations, NAME, "anna") is None
    page.send("click", view="frontal", u=5.0, v=5.0, revision=0, asked=NAME, annotator="anna")
    assert page.next("annotation")["revision"] == 1


def test_a_landmark_whose_close_x_ray_cannot_be_taken_locks_nothing(page, settings, monkeypatch):
    def in_the_patient(camera, point, plane, size):
        if plane == "lateral":
            raise ValueError("the source would stand in the patient.")
        return centred_xray(camera, point, plane, size)

    monkeypatch.setattr(session_module, "centred_xray", in_the_patient)
    state = change(page, open_ct(page), "click", view="frontal", u=20.0, v=30.0)
    assert set(state["marks"]) == {"frontal", "lateral", "frontal_close"} and set(page.frames) == set(state["marks"])
    state = change(page, state, "clear")
    assert state["landmarks"][0]["state"] == "open"
    state = change(page, state, "click", view="frontal", u=10.0, v=30.0)
    assert open_ct(page) == state


def test_pages_share_the_renderer_of_a_ct_which_needs_no_landmarks(small_patient, settings):
    patient = small_patient("imported:plain", 3)
    patient_store.save_imported(dataclasses.replace(patient, landmarks_lps_mm={}))
    desks = [AnnotationDesk(messages.Open("imported:plain", name, "xray"), settings.annotations) for name in "ab"]
    (first, second) = (desk.show() for desk in desks)
    assert len(first) == 3 and first[:2] == second[:2]
    assert desks[0]._scene.camera is desks[1]._scene.camera


def test_all_names_of_a_patient_are_one_desk(small_patients):
    keys = {messages.Open(name, "anna").key for name in ("virtual:3", "virtual:3?arms=sides", "virtual:3?arms=sides")}
    assert len(keys) == 2
    assert messages.Open("one", "anna").key == messages.Open(NAME, "anna").key


def test_a_change_of_another_program_is_shown(page, settings):
    state = change(page, open_ct(page), "click", view="frontal", u=20.0, v=30.0)
    other = AnnotationSession(load_patient(NAME), "anna", settings.annotations)
    other.next()
    page.send("click", view="frontal", u=5.0, v=5.0, revision=state["revision"])
    assert "Another program has changed this annotation" in page.refusal()["text"]
    assert page.next("annotation")["current"] == 2


def test_of_two_tabs_the_last_one_has_the_annotation(client, page):
    state = open_ct(page)
    with connect(client, "annotate/socket") as socket:
        second = DeskPage(socket)
        again = open_ct(second)
        assert again == state and "another tab" in page.next("taken")["text"]
        assert change(second, again, "click", view="frontal", u=20.0, v=30.0)["revision"] == 1
        assert page.socket.receive()["type"] == "websocket.close"
    with connect(client, "annotate/socket") as socket:
        assert open_ct(DeskPage(socket))["revision"] == 1


def test_two_people_annotate_the_same_ct_at_once(client, page):
    open_ct(page)
    with connect(client, "annotate/socket") as socket:
        second = DeskPage(socket)
        change(second, open_ct(second, annotator="ben"), "click", view="frontal", u=20.0, v=30.0)
    page.send("next")
    assert page.next("annotation")["landmarks"][0]["state"] == "open"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("garbage", "not valid JSON"),
        ('{"type": "click", "view": "frontal", "u": NaN, "v": 1, "revision": 0}', "not valid JSON"),
        ('{"type": "click", "view": "frontal", "u": 1e999, "v": 1, "revision": 0}', "not valid JSON"),
        ('{"type": "click", "view": "frontal", "u": "1", "v": 1, "revision": 0}', "expected float"),
        ('{"type": "click", "view": "frontal", "u": -5, "v": 1, "revision": 0}', "within the image"),
        ('{"type": "click", "view": "frontal", "u": 1e9, "v": 1, "revision": 0}', "within the image"),
        ('{"type": "click", "view": "sideways", "u": 1, "v": 1, "revision": 0}', "unknown view"),
        ('{"type": "click", "view": "lateral", "u": 1, "v": 1, "revision": 0}', "click it in a frontal image first"),
        ('{"type": "nudge", "plane": "frontal", "right_mm": 1e6, "up_mm": 0, "revision": 0}', "expected -50"),
        ('{"type": "go_to", "landmark": 99}', "99"),
        ('{"type": "show", "images": "photo"}', "expected mip or xray"),
        ('{"type": "move", "action": 3}', "expected a type"),
    ],
)
def test_bad_messages_are_refused_and_nothing_changes(page, settings, message, said):
    open_ct(page)
    page.socket.send_text(message)
    assert said in page.refusal()["text"]
    assert find_annotation(settings.annotations, NAME, "anna") is None
    page.send("next")
    assert page.next("annotation")["current"] == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patient": "imported:nobody"}, "nknown imported patient"),
        ({"patient": "../../etc/passwd"}, "nknown patient"),
        ({"patient": "/etc/passwd.nii"}, "nknown patient"),
        ({"patient": "virtual:x"}, "expected a whole number"),
        ({"annotator": "../anna"}, "choose a pseudonym"),
        ({"annotator": "<img src=x onerror=alert(1)>"}, "choose a pseudonym"),
        ({"annotator": ""}, "choose a pseudonym"),
        ({"annotator": "a" * 41}, "choose a pseudonym"),
    ],
)
def test_unknown_patients_and_unfit_names_are_refused(page, settings, caplog, fields, said):
    page.send("open", **{"patient": NAME, "annotator": "anna", **fields})
    assert said in page.refusal()["text"]
    page.send("next")
    assert "No annotation is open" in page.refusal()["text"]
    assert not settings.annotations.exists() and "anna" not in caplog.text and "onerror" not in caplog.text


def test_an_annotation_of_another_version_of_the_ct_is_kept(page, small_patient, settings):
    change(page, open_ct(page), "click", view="frontal", u=20.0, v=30.0)
    before = find_annotation(settings.annotations, NAME, "anna")
    patient_store.save_imported(small_patient(NAME, 7), replace=True)
    page.send("open", patient=NAME, annotator="anna")
    assert "another version of the CT" in page.refusal()["text"]
    assert find_annotation(settings.annotations, NAME, "anna") == before


def test_a_thousand_clicks_a_second_are_told_to_slow_down(make_client, settings):
    with make_client(moves_per_second=5.0) as client, connect(client, "annotate/socket") as socket:
        page = DeskPage(socket)
        open_ct(page)
        for _ in range(1000):
            page.send("click", view="frontal", u=20.0, v=30.0, revision=0)
        while "Slow down" not in page.refusal()["text"]:
            pass
    assert find_annotation(settings.annotations, NAME, "anna").revision == 1


def test_pages_are_bounded(make_client):
    with make_client(max_sessions=1) as client, connect(client, "annotate/socket") as one:
        open_ct(DeskPage(one))
        with connect(client, "annotate/socket") as two:
            second = DeskPage(two)
            second.send("open", patient=NAME, annotator="ben")
            assert "--max-sessions" in second.refusal()["text"]
            second.send("open", patient=NAME, annotator="anna")
            assert second.next("annotation")["annotator"] == "anna"


def test_progress_agreement_and_downloads(client, page, tmp_path):
    truth = load_patient(NAME).landmarks_lps_mm
    annotate(page, open_ct(page), truth)
    annotate(page, open_ct(page, annotator="ben"), truth, shift_mm=(3.0, 4.0, 0.0))
    found = client.get("/api/annotations/progress?annotator=anna").json()
    assert found["annotators"] == ["anna", "ben"] and found["finished"] == 1 and found["patients"] == 4
    assert found["rows"][0]["placed"] + found["rows"][1]["placed"] == 14 and found["next"] != NAME
    both = client.get("/api/annotations/agreement?first=anna&second=ben").json()
    carina = both["landmarks"]["Carina"]
    assert carina["mean_mm"] == pytest.approx(5.0, abs=0.01) and carina["frontal_mean_mm"] == pytest.approx(
        3.0, abs=0.01
    )
    slicer = client.get("/api/annotations/file", params={"patient": NAME, "annotator": "anna", "form": "slicer"})
    assert 'filename="imported-one-anna.mrk.json"' in slicer.headers["content-disposition"]
    (tmp_path / "anna.mrk.json").write_bytes(slicer.content)
    read = read_landmarks(tmp_path / "anna.mrk.json")
    assert all(np.allclose(read[key], point, atol=0.01) for key, point in truth.items())
    paper = client.get("/api/annotations/file", params={"patient": NAME, "annotator": "anna", "form": "paper"})
    rows = list(csv.DictReader(io.StringIO(paper.text)))
    assert len(rows) == 14 and rows[0]["case_number"] == NAME and paper.headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize(
    "path",
    [
        "/api/annotations/progress?annotator=..%2Fanna",
        "/api/annotations/progress?annotator=%3Cscript%3E",
        "/api/annotations/progress?annotator=anna&cohort=%2Fetc%2Fpasswd",
        "/api/annotations/progress?annotator=anna&cohort=..%2Fstandard",
        "/api/annotations/agreement?first=anna&second=..%2F..%2Fanna",
        "/api/annotations/agreement?first=anna",
        "/api/annotations/file?patient=imported:one&annotator=nobody&form=slicer",
        "/api/annotations/file?patient=..%2F..%2Fx&annotator=anna&form=slicer",
        "/api/annotations/file?patient=imported:one&annotator=..%2Fanna&form=slicer",
        "/api/annotations/file?patient=imported:one&annotator=anna&form=..%2Fpaper",
    ],
)
def test_paths_and_markup_in_addresses_are_refused(client, path):
    answer = client.get(path)
    assert answer.status_code == 422 and "root:" not in answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["annotate/socket", "study/socket"])
def test_pages_of_other_sites_cannot_connect(client, path):
    with (
        pytest.raises(Exception),  # noqa: B017
        connect(client, path, origin="http://evil.example") as socket,
    ):
        socket.receive_json()
    for address in ("/annotate", "/agreement", "/study", "/api/annotations/progress", "/api/studies"):
        assert client.get(address, headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get(address, headers={"origin": OWN}).status_code == 200
        assert client.post(address, headers={"origin": OWN}).status_code == 405
