import pytest

from benchmarks.freeze import PAPER_ROUTES, RECIPES, freeze, suite_yaml
from benchmarks.suite import Suite, load_suite, suite_names
from carm_env.catalogue import load_patient
from carm_env.errors import UnknownNameError


def test_the_suites_that_ship_are_there_with_their_sizes():
    assert {"smoke", "uniform", "paper-routes"} <= set(suite_names())
    assert len(load_suite("smoke").episodes) == 20 and len(load_suite("smoke").patients) == 2
    assert len(load_suite("uniform").episodes) == 100


def test_paper_routes_are_the_four_trips_for_every_patient():
    suite = load_suite("paper-routes")
    for patient in suite.patients:
        trips = {(e.start, e.target) for e in suite.episodes if e.patient == patient}
        assert trips == set(PAPER_ROUTES) == {(4, 1), (1, 4), (5, 1), (1, 5)}


def test_the_demo_starts_from_the_right_scapula_to_the_skull():
    first = load_suite("smoke").episodes[0]
    assert (first.patient, first.start, first.target) == ("virtual:0", 4, 1)


def test_paper_routes_are_frozen_as_their_recipe_draws_them():
    assert freeze("paper-routes") == load_suite("paper-routes")


def test_yaml_round_trips(tmp_path):
    suite = load_suite("smoke")
    path = tmp_path / "copy.yaml"
    path.write_text(suite_yaml(suite))
    assert load_suite(str(path)) == suite and load_suite(str(path)).hash == suite.hash


def test_the_hash_follows_what_is_run():
    suite = load_suite("smoke")
    other = Suite.from_json({**suite.to_json(), "environment": {"tolerance_mm": 10}}, "test")
    assert other.hash != suite.hash


def test_an_unknown_suite_gets_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'smoke'"):
        load_suite("smok")
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        freeze("unifrom")
    assert set(RECIPES) == set(suite_names())


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
        (HEAD + "environment: {alpha_deg: .nan}}", "alpha_deg is nan"),
        ("{name: x, version: 1, description: d, max_steps: 5, episodes: [], envrionment: {}}", "'environment'"),
        ("{name: x, version: 1, description: d, max_steps: 5, episodes: [{target: 1}]}", "episode 0.*lacks patient"),
    ],
)
def test_bad_suite_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_suite(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_frozen_episode_can_be_played_and_is_what_its_recipe_draws(name):
    suite = load_suite(name)
    suite.check({patient: load_patient(patient) for patient in suite.patients})
    assert freeze(name) == suite
