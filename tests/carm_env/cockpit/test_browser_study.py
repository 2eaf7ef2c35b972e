"""The study page in a browser: the oracle's moves, keyboard alone, a phone, and the server killed in the middle."""

import re

import pytest

from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment, reset_episode
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.results import read_results
from carm_env.evaluation.suite import load_suite
from carm_env.patients.build import is_built
from tests.carm_env.cockpit.browser_checks import AXE, check_accessibility, overflow, shoot
from tests.carm_env.cockpit.test_study_page import check_equal_to_the_oracle


def begin(page, suite="short", name="anna"):
    page.get_by_label("Suite").select_option(suite)
    page.get_by_label("Your pseudonym").fill(name)
    page.get_by_role("button", name="Begin or continue").click()
    page.locator("#episode").wait_for()


def wait_for_exposures(page, count):
    page.wait_for_function(
        "count => document.querySelector('.facts dd')?.textContent == count "
        "&& !document.querySelector('#aligned').disabled",
        arg=count,
    )


def results_of(server, suite="short", name="anna"):
    results, errors = read_results(server.folder / "out" / "studies" / suite / name / "episodes.jsonl")
    assert not errors
    return results


def play_episode(page, suite, number, by_keyboard=False, on_move=lambda count: None):
    """Drives an episode with the oracle's knowledge, by the buttons or the keys of the page."""
    env, oracle = make_suite_environment(suite), OraclePolicy()
    _, info = reset_episode(env, EpisodeTask(suite, number, "oracle", number))
    wait_for_exposures(page, 1)
    while not (move := oracle.act(None, info).move).is_aligned:
        action = move.index
        if by_keyboard:
            # One axis after the other, as the keys do.
            x, y = (move.x_step, 0) if move.x_step else (0, move.y_step)
            action = 7 * (x + 3) + y + 3
            key = ("ArrowRight" if x > 0 else "ArrowLeft") if x else ("ArrowUp" if y > 0 else "ArrowDown")
            page.keyboard.press({1: "", 2: "Shift+", 3: "Control+"}[abs(x or y)] + key)
        else:
            page.locator(f"#pad [data-action='{action}']").click()
        info = env.step(action)[-1]
        wait_for_exposures(page, info["exposures"])
        on_move(info["exposures"])
    if by_keyboard:
        page.keyboard.press("Enter")
    else:
        page.get_by_role("button", name="Aligned (Enter)").click()


def next_episode(page):
    page.get_by_text(re.compile("episodes? to go")).wait_for()
    page.get_by_role("button", name="Next episode (N)").click()


@pytest.mark.parametrize("name", ["short", pytest.param("smoke", marks=pytest.mark.slow)])
def test_a_driver_with_the_oracles_knowledge_makes_the_oracles_moves_through_the_page(opened, server, suite_file, name):
    suite = load_suite(str(suite_file) if name == "short" else name)
    if name == "smoke" and not all(map(is_built, suite.patients)):
        pytest.skip("the virtual patients of suite smoke are not built on this machine")
    page = opened("study")
    shoot(page, "study-empty")
    begin(page, name)
    shoot(page, "study-wide")
    for number in range(len(suite.episodes)):
        play_episode(page, suite, number)
        if number + 1 < len(suite.episodes):
            next_episode(page)
    page.get_by_text("The study is finished, thank you", exact=True).wait_for()
    shoot(page, "study-finished")
    check_equal_to_the_oracle(suite, results_of(server, name))
    # Neither the right declarations nor the distance are told, also after a reload.
    page.reload()
    page.get_by_text(f"human:anna has finished all {len(suite.episodes)} episodes").wait_for()
    text = page.locator("body").inner_text().lower()
    assert not any(word in text for word in ("success", "misaligned", "distance"))


def test_the_keyboard_alone_plays_and_hands_back(opened, server, suite_file):
    page = opened("study?suite=short&name=anna")
    play_episode(page, load_suite(str(suite_file)), 0, by_keyboard=True)
    page.get_by_text("3 episodes to go").wait_for()
    shoot(page, "study-ended")
    page.keyboard.press("n")
    wait_for_exposures(page, 1)
    page.keyboard.press("b")
    page.get_by_role("button", name="Again: give this episode up").wait_for()
    page.keyboard.press("b")
    page.get_by_text("2 episodes to go").wait_for()
    assert [one.outcome for one in results_of(server)] == ["success", "abstained"]


def test_a_double_click_and_a_held_key_confirm_nothing_and_take_one_x_ray(opened, server):
    page = opened("study?suite=short&name=anna")
    wait_for_exposures(page, 1)
    page.locator("#hand-back").dblclick()
    page.get_by_role("button", name="Again: give this episode up").wait_for()
    page.locator("#pad button:not([disabled]):not(.centre)[tabindex='0']").first.focus()
    for _ in range(4):
        page.keyboard.down("Enter")
        page.wait_for_timeout(200)
    page.keyboard.up("Enter")
    wait_for_exposures(page, 2)
    page.locator("#hand-back").focus()
    for _ in range(4):
        page.keyboard.down("Enter")
        page.wait_for_timeout(200)
    page.keyboard.up("Enter")
    page.get_by_role("button", name="Again: give this episode up").wait_for()
    assert page.locator("#ended").is_hidden() and page.locator(".facts dd").first.inner_text() == "2"


def test_a_killed_server_loses_no_decision_and_the_study_goes_on(opened, server, suite_file):
    page = opened("study")
    begin(page)

    def kill(exposures):
        if exposures != 2:
            return
        server.kill()
        page.get_by_text("The connection is lost. Your decisions so far are saved").wait_for()
        page.keyboard.press("ArrowUp")
        shoot(page, "study-killed")
        server.start()
        page.locator("#connection.on").wait_for()
        page.locator("#notice").wait_for(state="hidden")
        wait_for_exposures(page, 2)

    suite = load_suite(str(suite_file))
    for number in range(2):
        play_episode(page, suite, number, on_move=kill if number == 0 else lambda count: None)
        next_episode(page)
    check_equal_to_the_oracle(suite, results_of(server), episodes=2)


def test_a_phone_plays_by_touch(opened, server):
    page = opened("study?suite=short&name=anna", width=390, height=844, has_touch=True, is_mobile=True)
    wait_for_exposures(page, 1)
    page.locator("#pad button:not([disabled]):not(.centre)").first.tap()
    wait_for_exposures(page, 2)
    shoot(page, "study-phone")
    assert overflow(page) <= 0
    page.get_by_role("button", name="Aligned (Enter)").tap()
    page.get_by_text("3 episodes to go").wait_for()
    assert results_of(server)[0].exposures == 2


def test_names_that_cannot_be_are_said(opened):
    page = opened("study?suite=nothing&name=anna")
    page.get_by_role("alert").get_by_text("nknown suite 'nothing'").wait_for()
    page = opened("study?suite=short&name=..%2F%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    page.get_by_role("alert").get_by_text("choose a pseudonym").wait_for()
    assert page.locator("#notice img").count() == 0 and page.locator("#episode").is_hidden()


@pytest.mark.skipif(not AXE, reason="AXE_SCRIPT names no axe-core")
@pytest.mark.parametrize("width", [1400, 390])
def test_accessibility_has_no_serious_finding(opened, width):
    page = opened("study", width=width, bypass_csp=True)
    check_accessibility(page)
    begin(page)
    check_accessibility(page)
    page.keyboard.press("Enter")
    page.get_by_text("3 episodes to go").wait_for()
    check_accessibility(page)
