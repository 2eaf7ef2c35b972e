"""The leaderboard page in a browser: wide, narrow, printed, in the dark, and by keyboard."""

import dataclasses
import shutil

import pytest

from carm_env.evaluation.board import board_of
from carm_env.evaluation.site.page import write_site
from carm_env.evaluation.site.parts import SiteParts
from carm_env.evaluation.suite import load_suite

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page_file(finished, tmp_path):
    """A page with two suites, many policies and long names."""
    names = ["oracle", "a policy of a very long name, which no column of a phone holds?temperature=0.7", *"abcdefgh"]
    results = [
        dataclasses.replace(
            finished(policy=name, episode=number, success=(number + place) % (place + 1) == 0, suite=suite),
            patient=f"virtual:{number % 6}", patient_fingerprint=f"{number}",
        )
        for suite in ("smoke", "uniform")
        for place, name in enumerate(names)
        for number in range(12)
    ]  # fmt: skip
    suites = [load_suite(name) for name in ("smoke", "uniform")]
    return write_site(tmp_path / "site", board_of(results, suites, notes=["a note"]), SiteParts()).page


@pytest.fixture
def opened(browser, page_file):
    """Opens the page; afterwards it must have asked for nothing and reported no error."""
    contexts, requests, errors = [], [], []

    def open_page(width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors and {url.partition("#")[0] for url in requests} == {page_file.as_uri()}


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (320, "dark")])
def test_nothing_is_wider_than_the_window(opened, tmp_path, width, scheme):
    page = opened(width, color_scheme=scheme, reduced_motion="reduce")
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    assert overflow(page) <= 0
    assert page.locator(".scroll:visible").first.evaluate("box => getComputedStyle(box).overflowX") == "auto"


def test_tabs_follow_the_arrow_keys(opened):
    page = opened()
    first, second = page.get_by_role("tab").all()
    assert page.locator("#suite-0").is_visible() and not page.locator("#suite-1").is_visible()
    first.focus()
    page.keyboard.press("ArrowRight")
    assert second.evaluate("tab => tab === document.activeElement") and second.get_attribute("aria-selected") == "true"
    assert not page.locator("#suite-0").is_visible() and page.locator("#suite-1").is_visible()
    page.keyboard.press("Home")
    assert page.locator("#suite-0").is_visible()


def test_a_table_is_sorted_by_keyboard(opened):
    page = opened()
    table = page.locator("#suite-0 table.sortable").first
    heading = table.get_by_role("columnheader", name="success")

    def column():
        return [float(cell.get_attribute("data-v")) for cell in table.locator("tbody tr td:nth-child(2)").all()]

    assert column() == sorted(column(), reverse=True) and heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert column() == sorted(column()) and heading.get_attribute("aria-sort") == "ascending"
    assert page.locator("#status").text_content() == "Sorted by success, ascending."
    name = table.get_by_role("columnheader", name="policy")
    name.get_by_role("button").focus()
    page.keyboard.press("Space")
    names = table.locator("tbody th").all_text_contents()
    assert names == sorted(names, key=str.lower) and heading.get_attribute("aria-sort") == "none"


def test_an_episode_is_stepped_through(opened):
    page = opened()
    stepper = page.locator("#suite-0 .stepper")
    now = stepper.locator(".now")
    assert now.text_content().startswith("Start, 60 mm from the target") and stepper.locator(".back").is_disabled()
    stepper.locator(".next").focus()
    page.keyboard.press("Enter")
    assert now.text_content() == "Step 1 of 2: left moderate; now about 0 mm from the target."
    page.keyboard.press("Enter")
    assert now.text_content() == "Step 2 of 2: aligned. Success, 0 mm from the target."
    assert stepper.locator(".next").is_disabled() and stepper.locator(".drawn .ghost").count() == 9
    stepper.locator("select.policy").select_option(label="h")
    stepper.locator("select.episode").select_option(index=1)
    assert now.text_content().startswith("Start") and stepper.locator("tr.chosen th").text_content() == "h"


def test_a_policy_is_hidden_in_the_figures(opened):
    page = opened()
    chip = page.locator("#suite-0 .chip").first
    lines = page.locator("#suite-0 .figures .p0 .line")
    assert lines.first.is_visible()
    chip.press("Enter")
    assert chip.get_attribute("aria-pressed") == "false" and not lines.first.is_visible()
    assert page.locator("#suite-0 tbody .p0").first.is_visible(), "the table keeps its row"


def test_all_suites_are_printed(opened, tmp_path):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("#suite-0").is_visible() and page.locator("#suite-1").is_visible()
    assert not page.get_by_role("tablist").is_visible() and not page.locator(".stepper").first.is_visible()
    page.screenshot(path=tmp_path / "print.png", full_page=True)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=tmp_path / "print.pdf", prefer_css_page_size=True)
    assert (tmp_path / "print.pdf").stat().st_size > 10_000


def test_without_a_script_everything_is_shown(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("#suite-0").is_visible() and page.locator("#suite-1").is_visible()
    assert not page.locator("[role=tablist]").is_visible() and not page.locator(".stepper").first.is_visible()
    context.close()
