import pytest

from carm_env.evaluation.pairing import MismatchError, match_episodes
from carm_env.evaluation.results_files import ResultsFile, read_files
from carm_env.system.errors import UnknownNameError


@pytest.fixture
def files(tmp_path):
    """Makes results files of lists of results."""
    return lambda **results: [ResultsFile(name, tmp_path, tuple(items), ()) for name, items in results.items()]


@pytest.fixture
def episodes(make_result):
    """Makes n results of a policy."""
    return lambda policy, n=6, **changes: [make_result(policy, i, **changes) for i in range(n)]


def test_policies_of_one_file_are_matched_in_the_order_of_the_episodes(files, episodes):
    (suite,), notes = match_episodes(files(f=[*reversed(episodes("a")), *episodes("b")]))
    assert list(suite.results) == ["a", "b"]
    assert [result.episode for result in suite.results["a"]] == list(range(6))
    assert suite.patients == [f"virtual:{i}" for i in range(6)] and notes == []


def test_a_policy_of_several_files_is_labelled_with_the_file(files, episodes):
    (suite,), _ = match_episodes(files(before=episodes("a"), after=episodes("a") + episodes("b")))
    assert list(suite.results) == ["a (before)", "a (after)", "b"]
    (suite,), _ = match_episodes(
        files(before=episodes("a"), after=episodes("a") + episodes("b")), policies=["b", "a (after)"]
    )
    assert list(suite.results) == ["a (after)", "b"]


def test_missing_episodes_are_named_and_refused_unless_told(files, episodes):
    given = files(f=episodes("a"), g=episodes("b", 4))
    with pytest.raises(MismatchError, match="4 of 6 episodes .a: 6, b: 4.*episode 4 with seed 4.*--common-only"):
        match_episodes(given)
    (suite,), notes = match_episodes(given, common_only=True)
    assert len(suite.patients) == 4 and "4 of 6 episodes" in notes[0] and "--common-only" in notes[0]


def test_versions_of_a_suite_are_not_mixed(files, episodes):
    other = episodes("a", suite_hash="other") + episodes("b", suite_hash="other")
    given = files(f=episodes("a") + episodes("b") + episodes("c"), g=episodes("d", suite_hash="older"), h=other)
    with pytest.raises(MismatchError, match="different versions.*abcdef0123456789: .*other: "):
        match_episodes(given)
    suites, notes = match_episodes(given, common_only=True)
    assert [(suite.suite_hash, list(suite.results)) for suite in suites] == [
        ("abcdef0123456789", ["a (f)", "b (f)", "c"]), ("other", ["a (h)", "b (h)"])
    ]  # fmt: skip
    assert any("only d ran it" in note for note in notes)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 99}, {"patient_fingerprint": "rebuilt"}, {"patient": "virtual:99"}, {"suite": "t"}, {"suite_hash": "x"}],
)
def test_results_without_a_common_episode_are_refused(files, episodes, changes):
    with pytest.raises(MismatchError, match="no episode was run by two policies"):
        match_episodes(files(f=episodes("a"), g=episodes("b", **changes)), common_only=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": 2}, {"start_lps_mm": [5.0, 0, 0]}, {"initial_distance_mm": 1.0}, {"start_lps_mm": [0.0]},
        {"start_lps_mm": ["x", None, 10**400]}, {"initial_distance_mm": float("nan")},
    ],
)  # fmt: skip
def test_equal_episodes_that_began_differently_are_always_refused(files, episodes, changes):
    given = files(
        f=episodes("a", start_lps_mm=[0.0, 0.0, 0.0]), g=episodes("b", **{"start_lps_mm": [0.0] * 3, **changes})
    )
    with pytest.raises(MismatchError, match="environments differ"):
        match_episodes(given, common_only=True, allow_version_differences=True)


def test_other_package_versions_are_refused_unless_told(files, episodes, make_result):
    run = make_result().run
    newer = {**run, "packages": {**run["packages"], "numba": "0.7"}}
    given = files(f=episodes("a"), g=episodes("b", run=newer))
    with pytest.raises(MismatchError, match=r"numba \(0.6: a; 0.7: b\).*--allow-version-differences"):
        match_episodes(given)
    _, notes = match_episodes(given, allow_version_differences=True)
    assert "numba (0.6: a; 0.7: b)" in notes[0]


def test_packages_of_one_policy_are_not_a_difference(files, episodes, make_result):
    run = make_result().run
    with_torch = {**run, "packages": {**run["packages"], "torch": "2.8"}}
    assert match_episodes(files(f=episodes("a"), g=episodes("b", run=with_torch)))[1] == []


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"run": {}}, "No versions are recorded for b"),
        ({"run": {"packages": [1]}}, "No versions are recorded for b"),
        ({"outcome": "crash", "success": False}, "b crashed in 6 of 6 episodes"),
        ({"privileged_info": ["displacement_mm"]}, "b reads the true state (displacement_mm)"),
    ],
)
def test_notes_say_how_the_results_differ(files, episodes, changes, note):
    _, notes = match_episodes(files(f=episodes("a"), g=episodes("b", **changes)))
    assert note in notes[0]


def test_mixed_settings_of_a_policy_are_noted(files, episodes, make_result):
    mixed = [*episodes("b", 5, settings={"temperature": 0.2}), make_result("b", 5, settings={"temperature": 0.7})]
    _, notes = match_episodes(files(f=episodes("a"), g=mixed))
    assert notes == ["b was run with 2 different prompts or settings on s."]


def test_other_commits_and_processors_are_noted(files, episodes, make_result):
    other = {**make_result().run, "git": "h", "processor": "q"}
    _, notes = match_episodes(files(f=episodes("a"), g=episodes("b", run=other)))
    assert "commits: g: a; h: b" in notes[0] and "latency is not comparable" in notes[1]


def test_one_policy_is_refused(files, episodes):
    with pytest.raises(MismatchError, match="only a to compare, expected at least two policies"):
        match_episodes(files(f=episodes("a")))


def test_a_suite_that_one_policy_ran_is_noted(files, episodes):
    suites, notes = match_episodes(files(f=episodes("a") + episodes("b"), g=episodes("c", suite="t")))
    assert len(suites) == 1 and "only c ran it" in notes[0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"policies": ["aa"]}, "unknown policy 'aa'. Did you mean 'a'"), ({"suites": ["ss"]}, "unknown suite 'ss'")],
)
def test_unknown_names_are_refused(files, episodes, choice, message):
    with pytest.raises(UnknownNameError, match=message):
        match_episodes(files(f=episodes("a") + episodes("b")), **choice)


def test_files_are_named_after_their_folder_unless_named(write_results, episodes, tmp_path):
    first, second = write_results("one", episodes("a")), write_results("two", episodes("a"))
    other = tmp_path / "copy.jsonl"
    other.write_bytes(first.read_bytes())
    given = [str(first), str(second.parent), f"mine={first}", str(other), str(first)]
    assert [file.name for file in read_files(given)] == ["one", "two", "mine", "copy", "one #2"]
    assert [file.path for file in read_files(given[:2])] == [first, second]


def test_folders_of_one_name_are_named_by_their_paths(write_results, episodes, tmp_path):
    (tmp_path / "x").mkdir()
    paths = [write_results("run", episodes("a")), write_results("x/run", episodes("a"))]
    assert [file.name for file in read_files([str(path) for path in paths])] == [str(path) for path in paths]


def test_damaged_lines_are_reported(write_results, episodes):
    path = write_results("one", episodes("a"))
    path.write_text(path.read_text(encoding="utf-8") + '{"policy": ', encoding="utf-8")
    (file,) = read_files([str(path)])
    assert len(file.results) == 6 and "line 7" in file.complaints[0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "no results are given"),
        (["absent.jsonl"], FileNotFoundError, "there is no file or folder absent.jsonl"),
        (["."], FileNotFoundError, "has no episodes.jsonl"),
        (["empty.jsonl"], ValueError, "empty.jsonl has no results. Expected"),
        (["text.jsonl"], ValueError, "text.jsonl has no results: .*line 1: not a result"),
        (["x=empty.jsonl", "x=text.jsonl"], ValueError, "the name 'x' is given to two files"),
    ],
)
def test_files_without_results_are_refused(tmp_path, monkeypatch, given, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "text.jsonl").write_text("hello\n", encoding="utf-8")
    with pytest.raises(error, match=message):
        read_files(given)


def test_policies_are_never_merged_under_one_label(files, episodes):
    given = files(x=episodes("a") + episodes("a (y)"), y=episodes("a"))
    with pytest.raises(MismatchError, match="two policies are called 'a .y.'"):
        match_episodes(given)


def test_control_characters_of_names_are_not_shown(files, episodes):
    (suite,), notes = match_episodes(files(f=episodes("a\n\x1b[31m") + episodes("b"), g=episodes("c\ud800", run={})))
    assert list(suite.results) == ["a  [31m", "b", "c "]
    assert all(note.isprintable() for note in notes)
