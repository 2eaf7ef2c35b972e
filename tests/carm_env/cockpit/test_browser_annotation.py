"""The annotation page in a browser: a whole CT, keyboard alone, a phone, two annotators, and the server killed."""

import numpy as np
import pytest

from carm_env.annotation.files import find_annotation
from carm_env.annotation.projections import intensity_projection
from carm_env.landmarks import LANDMARKS
from carm_env.patients.build import is_built
from carm_env.patients.catalogue import load_patient
from tests.carm_env.cockpit.browser_checks import AXE, check_accessibility, overflow, shoot

NAME = "imported:one"


class ScriptedAnnotator:
    """Knows the truth, and can do nothing but click on the page and press keys there."""

    def __init__(self, page, folder, patient=NAME, annotator="anna"):
        self.page, self.folder, self.name, self.annotator = page, folder, patient, annotator
        patient = load_patient(patient)
        self.truth = patient.landmarks_lps_mm
        self.images = {plane: intensity_projection(patient.volume, plane) for plane in ("frontal", "lateral")}

    def open(self):
        self.page.get_by_label("Your pseudonym").fill(self.annotator)
        self.page.get_by_label("Patient").fill(self.name)
        self.page.get_by_role("button", name="Open the CT").click()
        self.page.locator("#work").wait_for()

    def record(self):
        return find_annotation(self.folder, self.name, self.annotator)

    def error_mm(self, key):
        return self.truth[key] - self.record().points_lps_mm[key]

    def click(self, plane, point_lps_mm):
        """Clicks a point, where a fitted image of the whole CT shows it."""
        image, canvas = self.images[plane], self.page.locator(f"[data-view={plane}] canvas")
        canvas.scroll_into_view_if_needed()
        box, (height, width) = canvas.bounding_box(), image.image.shape
        fit = min(box["width"] / (width * image.pixel_mm[0]), box["height"] / (height * image.pixel_mm[1]))
        u, v = image.project(point_lps_mm)
        x = box["x"] + box["width"] / 2 + (u + 0.5 - width / 2) * image.pixel_mm[0] * fit
        y = box["y"] + box["height"] / 2 + (v + 0.5 - height / 2) * image.pixel_mm[1] * fit
        before = 0 if self.record() is None else self.record().revision
        # A mouse points at whole pixels.
        self.page.mouse.click(round(x), round(y))
        self.wait_for_revision(before + 1)

    def wait_for_revision(self, number):
        self.page.wait_for_function(f"() => document.querySelector('#work').dataset.revision >= {number}")

    def nudge(self, plane, key, count):
        self.page.locator(f"[data-view={plane}_close] canvas").focus()
        for _ in range(count):
            before = self.record().revision
            self.page.keyboard.press(key)
            self.wait_for_revision(before + 1)

    def place(self, key):
        for plane in self.images:
            self.click(plane, self.truth[key])
        right, back, up = np.rint(self.error_mm(key)).astype(int)
        self.nudge("frontal", "ArrowRight" if right > 0 else "ArrowLeft", abs(right))
        self.nudge("frontal", "ArrowUp" if up > 0 else "ArrowDown", abs(up))
        self.nudge("lateral", "ArrowRight" if back > 0 else "ArrowLeft", abs(back))

    def go_on(self):
        before = self.record().revision
        self.page.get_by_role("button", name="Next (N)").click()
        self.wait_for_revision(before + 1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "annotations"


@pytest.mark.parametrize("patient", [NAME, pytest.param("virtual:0", marks=pytest.mark.slow)])
def test_a_scripted_annotator_places_all_landmarks_within_3_mm_through_the_page(opened, folder, patient):
    if patient != NAME and not is_built(patient):
        pytest.skip(f"{patient} is not built on this machine")
    page = opened("annotate")
    shoot(page, "annotate-empty")
    person = ScriptedAnnotator(page, folder, patient)
    person.open()
    for item in LANDMARKS:
        person.place(item.id)
        if item.id == 11:
            shoot(page, f"annotate-{patient.partition(':')[0]}")
        if item.id < 14:
            person.go_on()
    page.keyboard.press("f")
    page.get_by_text("Finished. A change opens it again.").wait_for()
    errors = [float(np.linalg.norm(person.error_mm(item.id))) for item in LANDMARKS]
    print(f"{patient}: largest error {max(errors):.2f} mm, mean {np.mean(errors):.2f} mm")
    assert max(errors) < 3.0 and person.record().finished
    with page.expect_download() as download:
        page.get_by_text("3D Slicer markups").click()
    assert download.value.suggested_filename.endswith("-anna.mrk.json")
    with page.expect_download() as download:
        page.get_by_text("Table (CSV)").click()
    assert download.value.suggested_filename.endswith("-anna.csv")
    page.get_by_text("1 of 4 CTs finished" if patient == NAME else "0 of 4 CTs finished").wait_for()
    page.get_by_role("button", name="Open the next CT").click()
    page.get_by_text("0 of 14 are placed or NA").wait_for()


def test_the_keyboard_alone_places_and_finishes(opened, folder):
    page = opened(f"annotate?patient={NAME}&annotator=anna")
    page.locator("#work").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("Control+ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 14 are placed or NA").wait_for()
    first = find_annotation(folder, NAME, "anna").annotations[1]
    assert first.state == "placed"
    page.keyboard.press("3")
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_text(f"at {first.point_lps_mm[0] + 5:g}").wait_for()
    page.keyboard.press("m")
    page.locator("#xray[aria-pressed=true]").wait_for()
    shoot(page, "annotate-xray")
    for number in range(2, 15):
        page.keyboard.press("n")
        page.locator("#current").get_by_text(f"{number}. ").wait_for()
        page.keyboard.press("a")
        page.get_by_text(f"{number} of 14 are placed or NA").wait_for()
    page.keyboard.press("b")
    page.locator("#current").get_by_text("13. ").wait_for()
    page.keyboard.press("f")
    page.get_by_text("Finished. A change opens it again.").wait_for()
    record = find_annotation(folder, NAME, "anna")
    assert record.finished and record.ids("placed") == [1] and len(record.ids("na")) == 13


def test_a_placed_landmark_is_erased_only_when_asked_twice(opened, folder):
    page = opened(f"annotate?patient={NAME}&annotator=anna")
    page.locator("#work").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 14 are placed or NA").wait_for()
    page.locator("#clear").dblclick()
    for key, name in (("a", "Again: NA"), ("c", "Again: clear")):
        for _ in range(3):
            page.keyboard.down(key)
        page.keyboard.up(key)
        page.get_by_role("button", name=name).wait_for()
    assert find_annotation(folder, NAME, "anna").ids("placed") == [1]
    page.keyboard.press("c")
    page.get_by_text("0 of 14 are placed or NA").wait_for()
    page.get_by_role("button", name="Clear (C)").wait_for()


def test_of_two_cts_that_are_opened_in_a_row_only_the_last_is_shown(opened):
    page = opened("annotate")
    page.get_by_label("Your pseudonym").fill("anna")
    page.evaluate("""() => {
      window.shown = [];
      const link = document.querySelector("#slicer");
      new MutationObserver(() => window.shown.push(link.href)).observe(link, { attributes: true });
      for (const name of ["imported:one", "imported:two"]) {
        document.querySelector("#f-patient").value = name;
        document.querySelector("#open").requestSubmit();
      }
    }""")
    page.locator("#work").wait_for()
    page.keyboard.press("n")
    page.locator("#current").get_by_text("2. ").wait_for()
    shown = page.evaluate("window.shown")
    assert shown and all("two" in address for address in shown)


def test_a_killed_server_loses_at_most_the_last_click_and_the_page_goes_on(opened, server, folder):
    page = opened("annotate")
    person = ScriptedAnnotator(page, folder)
    person.open()
    for key in (1, 2):
        person.click("frontal", person.truth[key])
        person.go_on()
    saved = person.record()
    server.kill()
    page.get_by_text("connection lost, trying again").wait_for()
    page.get_by_text("The connection is lost. Everything shown as saved is on the disk").wait_for()
    shoot(page, "annotate-killed")
    server.start()
    page.locator("#connection.on").wait_for()
    page.locator("#notice").wait_for(state="hidden")
    assert person.record() == saved
    assert page.get_by_text("2 of 14 are placed or NA").is_visible()
    person.click("frontal", person.truth[3])
    assert person.record().ids("placed") == [1, 2, 3]
    # Killed right after a click, whose answer the page never sees.
    page.get_by_role("button", name="NA (A)").click()
    server.kill()
    server.start()
    page.locator("#connection.on").wait_for()
    assert set(person.record().ids("placed")) | set(person.record().ids("na")) >= {1, 2, 3}


def test_a_phone_annotates_by_touch(opened, folder):
    page = opened(f"annotate?patient={NAME}&annotator=anna", width=390, height=844, has_touch=True, is_mobile=True)
    page.locator("#work").wait_for()
    canvas = page.locator("[data-view=frontal] canvas")
    canvas.tap()
    page.get_by_text("1 of 14 are placed or NA").wait_for()
    page.get_by_role("button", name="Next (N)").tap()
    page.locator("#current").get_by_text("2. ").wait_for()
    page.get_by_role("button", name="Back (B)").tap()
    page.locator("#current").get_by_text("1. ").wait_for()
    shoot(page, "annotate-phone")
    assert overflow(page) <= 0 and find_annotation(folder, NAME, "anna").ids("placed") == [1]


def test_two_tabs_two_people_and_their_agreement(opened, folder):
    page = opened("annotate")
    for annotator, shift in (("anna", 0.0), ("ben", 10.0)):
        person = ScriptedAnnotator(page, folder, annotator=annotator)
        person.open()
        for key in (1, 2, 3):
            person.click("frontal", person.truth[key] + (shift, 0.0, 0.0))
            person.go_on()
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#work").wait_for()
    page.get_by_text("This annotation was opened in another tab").wait_for()
    page.get_by_role("button", name="Use it here").click()
    page.locator("#connection.on").wait_for()
    other.get_by_text("This annotation was opened in another tab").wait_for()
    other.goto(page.url.partition("annotate")[0] + "agreement?first=anna&second=ben")
    other.get_by_text("anna and ben: 1 CT in common").wait_for()
    row = other.get_by_role("row", name="Skull").inner_text().split()
    assert row[1] == "1" and 8 < float(row[2]) < 12
    other.get_by_role("button", name="Skull").click()
    other.get_by_text(f"{NAME}: ").wait_for()
    shoot(other, "agreement")
    other.goto(page.url.partition("annotate")[0] + "agreement?first=anna&second=<img src=x>")
    other.get_by_role("alert").get_by_text("choose a pseudonym").wait_for()
    assert other.locator("#notice img").count() == 0


def test_addresses_that_name_nobody_are_said(opened):
    page = opened("annotate?patient=imported:nobody&annotator=anna")
    page.get_by_role("alert").get_by_text("nknown imported patient 'nobody'").wait_for()
    page = opened(f"annotate?patient={NAME}&annotator=..%2F%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    page.get_by_role("alert").get_by_text("choose a pseudonym").wait_for()
    assert page.locator("#notice img").count() == 0 and page.locator("#work").is_hidden()


@pytest.mark.skipif(not AXE, reason="AXE_SCRIPT names no axe-core")
@pytest.mark.parametrize("width", [1400, 390])
def test_accessibility_has_no_serious_finding(opened, folder, width):
    page = opened("annotate", width=width, bypass_csp=True)
    check_accessibility(page)
    person = ScriptedAnnotator(page, folder)
    person.open()
    page.keyboard.press("Control+ArrowLeft")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 14 are placed or NA").wait_for()
    check_accessibility(page)
    page.goto(page.url.partition("annotate")[0] + "agreement")
    page.get_by_text("Fewer than two people").wait_for()
    check_accessibility(page)
