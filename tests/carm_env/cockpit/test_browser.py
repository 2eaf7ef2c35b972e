"""The cockpit in a browser, as a person would use it: wide, narrow, by keyboard, and with the server killed."""

import signal
import time

import numpy as np
import pytest

from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.reference import OraclePolicy
from tests.carm_env.cockpit.browser_checks import AXE, check_accessibility, check_fast, overflow, shoot


def start(page, patient="imported:one", target="11", begin="14", policy="", second=""):
    page.get_by_label("Patient", exact=True).fill(patient)
    page.get_by_label("Target", exact=True).select_option(target)
    page.get_by_label("Start", exact=True).select_option(begin)
    page.get_by_label("Policy", exact=True).select_option(policy)
    page.get_by_label("Second policy").select_option(second)
    page.get_by_role("button", name="Start the episode").click()
    page.locator(".lane").first.wait_for()


def exposures(page, lane=0):
    return int(page.locator(".lane").nth(lane).locator(".facts dd").first.text_content())


def wait_for_exposures(page, count, lane=0):
    page.wait_for_function(
        "([count, lane]) => document.querySelectorAll('.lane')[lane]?.querySelector('.facts dd')?.textContent == count",
        arg=[count, lane],
    )


def test_an_episode_is_driven_by_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("Tab")
    page.get_by_label("Patient", exact=True).focus()
    page.keyboard.type("")
    page.get_by_label("Patient", exact=True).fill("imported:one")
    page.get_by_label("Target", exact=True).select_option("11")
    page.get_by_label("Start", exact=True).select_option("14")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Start the episode").focus()
    page.keyboard.press("Enter")
    page.locator(".lane").wait_for()
    env = CArmNavEnv(patients="imported:one", image_size=512)
    _, info = env.reset(seed=0, options={"target": 11, "start": 14})
    keys = {(0, 1): "ArrowUp", (0, -1): "ArrowDown", (1, 0): "ArrowRight", (-1, 0): "ArrowLeft"}
    count = 1
    for _ in range(12):
        move = OraclePolicy().act(None, {**info, "extents_mm": env.lattice.extents_mm}).move
        if move.is_aligned:
            break
        # One axis after the other, as the keys do.
        x, y = (move.x_step, 0) if move.x_step else (0, move.y_step)
        extent = {1: "", 2: "Shift+", 3: "Control+"}[abs(x or y)]
        page.keyboard.press(f"{extent}{keys[np.sign(x), np.sign(y)]}")
        count += 1
        wait_for_exposures(page, count)
        _, _, _, _, info = env.step(7 * (x + 3) + y + 3)
    shoot(page, "drive-wide")
    page.keyboard.press("Enter")
    page.get_by_text("Success: aligned within the tolerance.").wait_for()
    took = page.evaluate("performance.getEntriesByName('move').map(entry => entry.duration)")
    check_fast(f"key press to X-ray, median of {len(took)}", np.median(took), 60)


def test_display_keys_and_buttons_change_the_picture(opened):
    page = opened()
    start(page)
    canvas = page.locator(".lane canvas")
    picture = "canvas => canvas.toDataURL()"
    before = canvas.evaluate(picture)
    for key in ("l", "Shift+L", "Alt+l", "i", "p", "x", "+"):
        page.keyboard.press(key)
        after = canvas.evaluate(picture)
        assert after != before, key
        before = after
    page.get_by_role("button", name="Reset (0)").click()
    page.evaluate("scrollTo(0, 0)")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130)
    page.mouse.up()
    assert page.get_by_label("Window").input_value() == "316" and page.get_by_label("Level").input_value() == "158"
    assert exposures(page) == 1


def test_a_pixel_of_the_x_ray_is_where_the_pointer_is(opened):
    page = opened()
    start(page)
    found = page.evaluate(
        """async () => {
          const { Viewer, DISPLAY } = await import(new URL("page/viewer.js", location));
          const canvas = document.createElement("canvas");
          canvas.style.cssText = "position:fixed;left:0;top:0;width:300px;height:300px";
          document.body.append(canvas);
          const viewer = new Viewer(canvas, () => {});
          viewer.load(new Uint8Array(64 * 64), 64, 64);
          viewer.draw();
          const results = [];
          for (const zoom of [1, 3]) {
            viewer.zoom = zoom; viewer.centre = [0.4, 0.6]; viewer.keepInside();
            for (const point of [[10.25, 20.5], [32, 32], [40, 50]]) {
              const [x, y] = viewer.toCanvas(...point);
              const ratio = canvas.width / 300;
              results.push([point, viewer.toImage({ clientX: x / ratio, clientY: y / ratio })]);
            }
          }
          canvas.remove();
          return results;
        }"""
    )
    assert np.allclose([point for point, _ in found], [back for _, back in found]), found


def test_a_person_watches_objects_takes_over_and_hands_back(opened):
    page = opened()
    start(page, policy="cockpit_policies.py:Humble")
    page.keyboard.press("n")
    page.get_by_text("The policy declares the view aligned.").wait_for()
    shoot(page, "declaration")
    page.get_by_label("Say", exact=True).select_option("Go a bit higher.")
    page.keyboard.press("Enter")
    page.get_by_text("(understood: up slightly)").wait_for()
    page.get_by_role("button", name="Step (N)").click()
    wait_for_exposures(page, 2)
    page.get_by_text("I was told to go up.").wait_for()
    page.get_by_role("button", name="Take over (T)").click()
    page.get_by_text("you drive", exact=True).wait_for()
    page.get_by_role("button", name="right small", exact=True).click()
    wait_for_exposures(page, 3)
    page.locator("#views").focus()
    page.keyboard.press("t")
    page.get_by_text("policy drives", exact=True).wait_for()
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Accept: end the episode").click()
    page.locator(".outcome").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download the transcripts").click()
    assert download.value.suggested_filename == "carm-env-transcripts.zip"


def test_a_question_is_answered_on_the_page(opened):
    page = opened("?patient=imported:one&target=11&start=14&policy=cockpit_policies.py:Asking")
    page.locator(".lane").wait_for()
    page.get_by_role("button", name="Step (N)").click()
    page.get_by_text("The policy asks: Which way is it?").wait_for()
    page.get_by_role("button", name="Answer", exact=True).click()
    page.keyboard.type("It is far higher.")
    page.keyboard.press("Enter")
    page.get_by_text("(understood: up far)").wait_for()
    assert page.locator(".held").is_hidden()


def test_two_policies_stand_side_by_side(opened):
    page = opened()
    start(page, policy="oracle", second="cockpit_policies.py:Humble")
    page.locator(".lane").nth(1).wait_for()
    page.keyboard.press("n")
    wait_for_exposures(page, 2)
    page.get_by_text("The policy declares the view aligned.").wait_for()
    shoot(page, "side-by-side")
    first, second = (lane.bounding_box() for lane in page.locator(".lane").all())
    assert abs(first["y"] - second["y"]) < 2 and overflow(page) <= 0


@pytest.mark.parametrize("width", [1400, 1000, 390, 320])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(width=width)
    assert overflow(page) <= 0
    shoot(page, f"empty-{width}")
    start(page, policy="oracle")
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    assert overflow(page) <= 0
    shoot(page, f"open-{width}")


def test_a_phone_drives_by_touch(opened):
    page = opened(width=390, height=844, has_touch=True, is_mobile=True)
    start(page)
    page.get_by_role("button", name="up moderate", exact=True).tap()
    wait_for_exposures(page, 2)
    shoot(page, "phone")
    assert overflow(page) <= 0


def test_a_killed_server_is_noticed_and_comes_back(opened, server):
    page = opened()
    start(page)
    page.keyboard.press("ArrowUp")
    wait_for_exposures(page, 2)
    server.kill()
    page.get_by_text("connection lost, trying again").wait_for()
    page.keyboard.press("ArrowUp")
    page.get_by_text("There is no connection to the server").wait_for()
    shoot(page, "killed")
    server.start()
    page.get_by_text("This session has expired, or the server was restarted").wait_for()
    start(page)
    assert exposures(page) == 1
    folders = list((server.folder / "out" / "transcripts").glob("*/transcript.jsonl"))
    assert len(folders) == 2


def test_a_reloaded_page_continues_and_a_second_tab_takes_over(opened):
    page = opened()
    start(page)
    page.keyboard.press("ArrowUp")
    wait_for_exposures(page, 2)
    page.reload()
    wait_for_exposures(page, 2)
    session = page.evaluate("sessionStorage.getItem('carm-env session')")
    other = page.context.new_page()
    other.add_init_script(f"sessionStorage.setItem('carm-env session', '{session}')")
    other.goto(page.url)
    wait_for_exposures(other, 2)
    page.get_by_text("This session was opened in another tab").wait_for()
    page.get_by_role("button", name="Use it here").click()
    wait_for_exposures(page, 2)
    other.get_by_text("This session was opened in another tab").wait_for()


def test_an_unknown_patient_in_the_address_is_said(opened):
    page = opened("?patient=imported:nobody")
    page.get_by_role("alert").get_by_text("Unknown imported patient 'nobody'").wait_for()
    assert page.locator(".lane").count() == 0
    hostile = opened("?patient=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&policy=%3Cscript%3E")
    hostile.get_by_role("alert").get_by_text("Unknown patient").wait_for()
    assert hostile.locator("#notice img").count() == 0


def test_an_upload_that_is_no_ct_is_said(opened, tmp_path):
    page = opened()
    (tmp_path / "holiday.zip").write_bytes(b"not a zip")
    page.get_by_text("Import a CT").click()
    page.get_by_label("Archive").set_input_files(tmp_path / "holiday.zip")
    page.get_by_label("Name", exact=True).fill("holiday")
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_role("alert").get_by_text("Not imported:").wait_for()


def test_the_page_is_ready_within_a_second(opened):
    page = opened()
    page.locator("#patients option").first.wait_for(state="attached")
    ready = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    check_fast("page ready", ready, 1000)


@pytest.mark.skipif(not AXE, reason="AXE_SCRIPT names no axe-core")
@pytest.mark.parametrize("width", [1400, 390])
def test_accessibility_has_no_serious_finding(opened, width):
    # The policy of the page forbids foreign scripts, also those of this test.
    page = opened(width=width, bypass_csp=True)
    for policy in ("", "cockpit_policies.py:Asking"):
        if policy:
            start(page, policy=policy)
            page.keyboard.press("n")
            page.get_by_text("The policy asks").wait_for()
        check_accessibility(page)


def test_a_server_ends_cleanly(server):
    started = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    server.process.wait(30)
    assert time.monotonic() - started < 20
