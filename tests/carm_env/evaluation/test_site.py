"""The leaderboard as a web page."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from carm_env.evaluation.board import board_of
from carm_env.evaluation.finished_results import read_board
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.evaluation.results import append_result
from carm_env.evaluation.site.body_map import make_body_map
from carm_env.evaluation.site.charts import spread
from carm_env.evaluation.site.figures import success_by
from carm_env.evaluation.site.page import leaderboard_site, write_site
from carm_env.evaluation.site.parts import PrintedRow, PrintedTable, SiteParts
from carm_env.evaluation.suite import load_suite
from carm_env.system.command_line import run_script

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$script ${x} \u202e\x1b"
SMOKE = load_suite("smoke")
PARTS = SiteParts(
    {"good": "---\nlicense: mit\n---\n\n# Card <b>\n", "absent": "# Absent"},
    "A paper <i>",
    (PrintedTable("Table 1", ("P@1",), (PrintedRow("DL", ("0.995",), True), PrintedRow("ours", ("0.99",), False))),),
)


class Page(HTMLParser):
    """Tags, texts of scripts, and the other texts of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.text, self._script = [], [], "", None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._script = dict(attributes) if tag == "script" else None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts.append((self._script.get("type", ""), data))
            self._script = None
        else:
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def results(finished):
    return [
        finished(policy=name, episode=number, success=name == "good" or number % 3 == 0)
        for name in ("good", "bad")
        for number in range(20)
    ]


def site_of(results, suites=(SMOKE,), parts=PARTS, **more):
    return leaderboard_site(board_of(results, suites, **more), parts)


def check_alone(page):
    """The page loads nothing, and only its own script can run."""
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "link")
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
        assert not re.match("[a-z]+:|//", attributes.get("href", "").strip(), re.IGNORECASE)
    assert [kind for kind, _ in page.scripts if kind != "application/json"] == [""]
    script = next(text for kind, text in page.scripts if not kind)
    policy = next(one["content"] for one in page.of("meta") if "http-equiv" in one)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_the_page_shows_scores_figures_and_what_they_mean(results):
    html = site_of(results)
    page = Page(html)
    check_alone(page)
    labels = [one.get("aria-label", "") for one in page.of("svg")]
    for title in (
        "Success against exposures",
        "Success against dose",
        "Success by patient",
        "Success by start distance",
    ):
        assert any(label.startswith(title) for label in labels), title
    assert any(label == "Trajectories of bad: 7 of 20 episodes end within the tolerance." for label in labels)
    assert "Research software, not a medical device" in page.text and "do not transfer to people" in page.text
    assert "35\xa0%" in page.text and "35\xa0% 7/20" in page.text and "smoke" in page.text and SMOKE.hash in page.text
    assert html == site_of(results), "equal results give equal pages"


def test_every_plot_and_table_has_a_text_and_every_button_a_name(results):
    page = Page(site_of(results))
    for attributes in page.of("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes["role"] == "img"
        assert (
            attributes.get("aria-hidden") == "true" or attributes.get("aria-label") or attributes.get("aria-labelledby")
        )
    assert len(page.of("table")) == len(page.of("caption"))
    headings = [one for one in page.of("th") if "aria-sort" in one]
    assert {one["aria-sort"] for one in headings} == {"none", "descending"}
    assert all(one["scope"] in ("col", "row") for one in page.of("th"))
    scrolling = [one for one in page.of("div") if one.get("class") == "scroll"]
    assert scrolling and all(one["tabindex"] == "0" and one["aria-label"] for one in scrolling)


def test_a_suite_has_a_tab(results, finished):
    others = [finished(policy="good", episode=number, suite="uniform") for number in range(5)]
    page = Page(site_of([*results, *others], (SMOKE, load_suite("uniform"))))
    tabs = [one for one in page.of("button") if one.get("role") == "tab"]
    panels = {one["id"] for one in page.of("section") if one.get("class") == "panel"}
    assert [tab["aria-controls"] for tab in tabs] == ["suite-0", "suite-1"] and panels == {"suite-0", "suite-1"}
    assert [tab["aria-selected"] for tab in tabs] == ["true", "false"]


def test_intervals_of_few_patients_are_not_shown(results):
    few = site_of(results)
    assert len({one.patient for one in results}) < 5 and not re.search(r"<span>\d+–\d+</span>", few)
    assert not re.search(r"<small>[+−]?\d+ to", few)
    many = [dataclasses.replace(one, patient=f"virtual:{one.episode % 6}") for one in results]
    assert re.search(r"<span>\d+–100</span>", site_of(many)) and re.search(r"<small>[+−]\d+ to", site_of(many))


def test_tie_groups_and_corrected_p_values_are_shown_for_enough_patients(results):
    few = site_of(results)
    assert "tie group" not in few and ">p = 0" not in few
    many = [dataclasses.replace(one, patient=f"virtual:{one.episode % 6}") for one in results]
    board = board_of(many, (SMOKE,))
    (pair,) = board.pairs
    html = leaderboard_site(board, PARTS)
    letters = [cell for cell in re.findall(r"<td[^>]*>([^<]*)</td>", html) if re.fullmatch("[ab]+", cell)]
    assert "tie group" in html and letters == (["a", "b"] if pair["better"] else ["a", "a"])
    assert f"p = {pair['p_holm']:.3f}" in html or (pair["p_holm"] < 0.001 and "p &lt; 0.001" in html)


def test_names_are_escaped_everywhere(results):
    run = {"date": EVIL, "git": EVIL, "packages": {EVIL: EVIL}, "processor": EVIL}
    fields = {"policy": EVIL, "patient": EVIL, "settings": {EVIL: EVIL}, "prompts": EVIL, "run": run}
    evil = [dataclasses.replace(one, **fields) if one.policy == "bad" else one for one in results]
    html = site_of(evil, skipped=(EVIL,), notes=(EVIL,), parts=SiteParts({EVIL: EVIL}, EVIL, PARTS.printed))
    page = Page(html)
    check_alone(page)
    assert "\u202e" not in html and "\x1b" not in html
    assert not [tag for tag, _ in page.tags if tag in ("img", "i") and "onerror" in _]
    data = next(text for kind, text in page.scripts if kind and '"episodes"' in text)
    assert json.loads(data)["names"]["1"].startswith("</script><script>alert(1)")


def test_scores_without_episodes_give_tables_and_say_so(results, tmp_path):
    board = board_of(results, [SMOKE])
    html = leaderboard_site(dataclasses.replace(board, results=()), PARTS)
    page = Page(html)
    check_alone(page)
    assert "Success and exposures" in html and "Made from scores without episodes" in page.text
    assert "Trajectories" not in page.text and "Paired differences" in page.text


def test_lines_that_do_not_count_and_incomplete_runs_stand_at_the_top(results):
    page = Page(
        site_of(results[:30], skipped=["a.jsonl, line 3: not a result"], notes=["bad: lacks 10 of 20 episodes"])
    )
    assert "a.jsonl, line 3: not a result" in page.text and "bad: lacks 10 of 20" in page.text
    assert "10 of 20" in page.text and page.text.index("Left out of every score") < page.text.index("Leaderboard on")


def test_cards_and_printed_figures_are_marked(results):
    page = Page(site_of(results))
    assert "Model card: good" in page.text and "Card <b>" in page.text and "license: mit" not in page.text
    assert "Absent" not in page.text, "a policy without results has no card here"
    printed = page.text[page.text.index("Printed figures, not measured here") :]
    assert re.search("DL0.995printed", printed) and "ours0.99this software" in printed
    assert "Printed figures" not in Page(site_of(results, parts=SiteParts())).text


def test_provenance_names_files_and_runs(finished, tmp_path):
    path = tmp_path / "mine" / "episodes.jsonl"
    append_result(path, finished())
    board = read_board([str(path)])
    text = Page(leaderboard_site(board, SiteParts())).text
    assert "mine/episodes.jsonl" in text and board.sources[0].sha256 in text and "2026-01-02 03:04" in text
    assert str(tmp_path) not in text, "a page names no folder of the machine"


def test_a_page_of_someone_else_is_not_replaced(results, tmp_path):
    (tmp_path / "index.html").write_text("<p>mine</p>", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a page of this command"):
        write_site(tmp_path, board_of(results, [SMOKE]), PARTS)
    for _ in range(2):
        write_site(tmp_path / "new", board_of(results, [SMOKE]), PARTS)


def test_targets_are_placed_where_their_distances_meet(finished):
    spec = SMOKE.episodes[0]
    target = (110.0, 1330.0)

    def ending(policy, x, z):
        away = ((x - target[0]) ** 2 + (z - target[1]) ** 2) ** 0.5
        start = ((target[0] - 0.0) ** 2 + (1400.0 - target[1]) ** 2) ** 0.5
        path = [[0.0, 0.0, 1400.0], [x, 5.0, z], [x, 5.0, z]]
        return finished(policy, trajectory_lps_mm=path, initial_distance_mm=start, final_distance_mm=away)

    results = [ending("a", 100.0, 1320.0), ending("b", 160.0, 1330.0), ending("c", 120.0, 1380.0)]
    found = make_body_map(results)
    start, end, _ = found.path(results[1])
    at = found.target(results[1])
    assert (end[0] - start[0], end[1] - start[1]) == (160, 70), "y grows towards the feet"
    assert abs(end[0] - at[0] - 50) <= 2 and abs(end[1] - at[1]) <= 2 and spec.target == results[0].target


def test_curves_count_failures():
    assert success_by([2.0, 2.0, 5.0, 3.0], [True, False, True, False]) == [(2.0, 0.25), (5.0, 0.5)]
    assert success_by([2.0], [False]) == []


@pytest.mark.parametrize("wanted", [[0.0] * 6, [95.0, 96.0, 97.0], [50.0, 10.0, 90.0], [1.0, 2.0, 30.0, 31.0, 99.0]])
def test_labels_do_not_overlap(wanted):
    placed = spread(wanted, 13.0, 0.0, 100.0)
    ordered = sorted(placed)
    assert all(b - a >= 13.0 - 1e-9 for a, b in zip(ordered, ordered[1:], strict=False))
    assert min(placed) >= 0 and max(placed) <= 100


def test_a_run_writes_the_page_with_its_transcripts(small_patients, tmp_path, capsys):
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 20, environment: {image_size: 16}, episodes: ["
        "{patient: 'imported:one', target: 1, start: 4}]}",
        encoding="utf-8",
    )
    words = ["--policies", "oracle", "--suite", suite, "--workers", 1, "--no-figures", "--out", tmp_path / "o"]
    words += ["--transcripts", tmp_path / "t", "--html", tmp_path / "site"]
    assert run_script(evaluate, EvaluationArguments, given=[str(word) for word in words]) == 0
    assert f"web page: {tmp_path / 'site' / 'index.html'}" in capsys.readouterr().out
    check_page_with_transcript(tmp_path / "site")
    words = ["--from", tmp_path / "o", "--suite", suite, "--out", tmp_path / "p"]
    words += ["--transcripts", tmp_path / "t", "--html", tmp_path / "again"]
    assert run_script(evaluate, EvaluationArguments, given=[str(word) for word in words]) == 0
    check_page_with_transcript(tmp_path / "again")


def check_page_with_transcript(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    check_alone(page)
    data = json.loads(next(text for kind, text in page.scripts if kind and '"episodes"' in text))
    *_, address, said = data["episodes"][0]["runs"][0]
    assert "Step 1" in (folder / address).read_text(encoding="utf-8")
    assert isinstance(said, list) and "do not transfer to people" not in page.text
