import numpy as np
import pytest

from benchmarks import freeze
from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.recipes import PAPER_ROUTES, RECIPES, draw_suite, suite_on
from carm_env.evaluation.suite import SUITE_FOLDER, Suite, load_suite, suite_names
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.patient import Patient
from carm_env.patients.catalogue import load_patient
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume


def small_patient(*landmarks):
    """A block of water with these landmarks along its axis."""
    hu = np.full((40, 20, 60), -1000, np.int16)
    hu[4:36, 4:16] = 40
    points = {key: np.array([200.0, 100.0, 100.0 + 30.0 * key]) for key in landmarks}
    return Patient("imported:small", Volume.from_origin(hu, 10.0, (0, 0, 0)), points)


def test_the_suites_of_the_package_have_their_sizes():
    assert {"smoke", "uniform", "paper-routes"} <= set(suite_names())
    assert len(load_suite("smoke").episodes) == 20 and len(load_suite("smoke").patients) == 2
    assert len(load_suite("uniform").episodes) == 100


def test_paper_routes_are_the_four_routes_of_every_patient():
    suite = load_suite("paper-routes")
    for patient in suite.patients:
        routes = {(e.start, e.target) for e in suite.episodes if e.patient == patient}
        assert routes == set(PAPER_ROUTES) == {(4, 1), (1, 4), (5, 1), (1, 5)}


def test_smoke_starts_with_the_route_from_the_right_scapula_to_the_skull():
    first = load_suite("smoke").episodes[0]
    assert (first.patient, first.start, first.target) == ("virtual:3000", 4, 1)


def test_paper_routes_match_their_recipe():
    recipe = RECIPES["paper-routes"]
    suite, left_out = draw_suite("paper-routes", recipe, dict.fromkeys(recipe.patients, small_patient(1, 4, 5)))
    assert suite == load_suite("paper-routes") and len(suite.episodes) == 40 and left_out == []


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_suites_have_the_version_of_their_recipe_and_the_default_field_of_view(name):
    suite = load_suite(name)
    assert suite.version == RECIPES[name].version
    assert suite.environment == {} and suite.isocenter_depth_mm == DEFAULT_ISOCENTER_DEPTH_MM


def test_yaml_round_trips(tmp_path):
    suite = load_suite("smoke")
    path = tmp_path / "copy.yaml"
    path.write_text(suite.to_yaml(), encoding="utf-8")
    assert (
        path.read_text(encoding="utf-8") == (SUITE_FOLDER / "smoke.yaml").read_text(encoding="utf-8").partition("\n")[2]
    )
    assert load_suite(str(path)) == suite and load_suite(str(path)).hash == suite.hash


def test_the_hash_depends_on_the_environment():
    suite = load_suite("smoke")
    other = Suite.from_json({**suite.to_json(), "environment": {"tolerance_mm": 10}}, "test")
    assert other.hash != suite.hash


def test_an_unknown_suite_is_answered_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'smoke'"):
        load_suite("smok")
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        freeze.freeze("unifrom")
    assert set(RECIPES) == set(suite_names())


def test_drawing_a_suite_on_other_patients_is_deterministic():
    patients = {"imported:a": small_patient(1, 10, 11), "imported:b": small_patient(4)}
    suite, left_out = suite_on("uniform", patients)
    assert (suite.name, len(suite.episodes), left_out) == ("uniform-custom", 100, [])
    assert set(suite.patients) == set(patients)
    assert {episode.target for episode in suite.episodes} == {1, 10, 11, 4}
    assert suite_on("uniform", patients)[0] == suite
    assert suite.hash != load_suite("uniform").hash
    suite.check(patients)


@pytest.mark.parametrize(("target", "start"), [(10, 1), (1, 10), (1, (0.0, 9999.0))])
def test_an_episode_that_its_patient_does_not_allow_is_refused(target, start):
    suite = Suite("one", 1, "d", 5, (EpisodeSpec("imported:a", 1, 4), EpisodeSpec("imported:a", target, start)))
    with pytest.raises(ValueError, match="suite one, episode 1: "):
        suite.check({"imported:a": small_patient(1, 4)})


def test_routes_with_missing_landmarks_are_left_out_and_named():
    patients = {"imported:a": small_patient(1, 5, 11), "imported:b": small_patient(10)}
    suite, left_out = suite_on("paper-routes", patients)
    assert [(episode.start, episode.target) for episode in suite.episodes] == [(5, 1), (1, 5)]
    first = "imported:a: Right scapular inferior angle to Skull (the patient lacks Right scapular inferior angle)"
    assert left_out[0] == first
    assert left_out[-1].startswith("imported:b: Skull to Left") and len(left_out) == 6


@pytest.mark.parametrize("name", ["smoke", "uniform", "paper-routes"])
def test_patients_without_landmarks_give_no_suite(name):
    with pytest.raises(ValueError, match="has no episode on imported:a"):
        suite_on(name, {"imported:a": small_patient()})


def test_an_unknown_suite_has_no_recipe():
    with pytest.raises(UnknownNameError, match="Did you mean 'smoke'"):
        suite_on("smok", {"imported:a": small_patient(1)})


HEAD = "{name: x, version: 1, description: d, max_steps: 5, episodes: [{patient: 'virtual:0', target: 1, start: 4}], "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("episodes: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("name: x", "lacks version"),
        ("{name: x, version: 1, description: d, max_steps: 5, episodes: []}", "episodes is empty"),
        ("{name: ../x, version: 1, description: d, max_steps: 5, episodes: []}", "name is '../x'"),
        ("{name: x, version: abc, description: d, max_steps: 5, episodes: []}", "version is 'abc'"),
        ("{name: x, version: 1, description: d, max_steps: 0, episodes: []}", "max_steps is 0"),
        (HEAD + "environment: [1]}", "environment is"),
        (HEAD + "environment: {image_sise: 16}}", "Did you mean 'image_size'"),
        (HEAD + "environment: {alpha_deg: .nan}}", "not valid YAML.*'nan', expected a finite"),
        (HEAD + "environment: {patients: 5}}", "unknown environment argument .*'patients'"),
        (HEAD + "environment: {render_mode: human}}", "unknown environment argument .*'render_mode'"),
        (HEAD + "environment: {extents_mm: {a: 1}}}", "environment: "),
        (HEAD + "environment: {geometry: [1]}}", "environment: "),
        ("{name: [x], version: 1, description: d, max_steps: 5, episodes: []}", "name is .'x'., expected text"),
        ("{name: x, version: 1, description: {a: b}, max_steps: 5, episodes: []}", "description is .*expected text"),
        (f"{{name: {'x' * 101}, version: 1, description: d, max_steps: 5, episodes: []}}", "expected at most 100 lett"),
        ("{name: x, version: 1, description: d, max_steps: 1000000000, episodes: []}", "max_steps is 1000000000"),
        ("{name: x, version: true, description: d, max_steps: 5, episodes: []}", "version is True"),
        ("{name: x, version: 1, description: d, max_steps: 5, episodes: [5]}", "episode 0.*episode is 5"),
        (HEAD.replace("'virtual:0'", "[a]") + "}", "episode 0.*patient is .'a'."),
        (HEAD.replace("4}", "[[1], 2]}") + "}", "episode 0.*start is"),
        ("a: &a [x]\nb: *a", "anchor or an alias"),
        ("{name: x, version: 1, description: d, max_steps: 5, episodes: [], envrionment: {}}", "'environment'"),
        ("{name: x, version: 1, description: d, max_steps: 5, episodes: [{target: 1}]}", "episode 0.*lacks patient"),
    ],
)
def test_bad_suite_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_suite(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_frozen_episodes_are_valid_and_match_their_recipe(name):
    suite = load_suite(name)
    suite.check({patient: load_patient(patient) for patient in suite.patients})
    assert freeze.freeze(name) == suite


def test_a_suite_with_shared_values_is_written_without_aliases(tmp_path):
    start, empty = (12.5, -40.0), {}
    episodes = tuple(EpisodeSpec("virtual:0", target, start) for target in (1, 2))
    suite = Suite("s", 1, "d", 5, episodes, {"geometry": empty, "reward_options": empty})
    path = tmp_path / "s.yaml"
    path.write_text(suite.to_yaml(), encoding="utf-8")
    assert load_suite(str(path)) == suite
