import sys

import numpy as np
import pytest

from carm_env import Move
from carm_env.evaluation.function_policy import FunctionPolicy
from carm_env.evaluation.policy_loading import PolicyLoadingError, load_target, make_policy
from carm_env.evaluation.policy_specification import parse_policy
from carm_env.system.errors import MissingExtraError, UnknownNameError

MODULE = """
from carm_env.actions import ALIGNED
from carm_env.evaluation.policy import Decision, Policy

number = 3

class Fine(Policy):
    def reset(self, seed=None): ...
    def act(self, observation, info): return Decision(ALIGNED)

class NeedsArguments(Fine):
    def __init__(self, weights, device="cpu"): ...

class Abstract(Policy):
    def reset(self, seed=None): ...

class Other: ...
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module in the working directory, which is not in sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    name = f"mine_{tmp_path.name.replace('-', '_')}"

    def write(text=MODULE):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    yield write
    sys.modules.pop(name, None)


def test_a_class_of_the_working_directory_is_constructed(module, tmp_path):
    before = list(sys.path)
    assert type(make_policy(f"{module()}:Fine")).__name__ == "Fine"
    # Last, so that it hides nothing from later imports, in worker processes as well.
    assert sys.path == [*before, str(tmp_path)]
    make_policy(f"{module()}:Fine")
    assert sys.path == [*before, str(tmp_path)]


def test_the_working_directory_comes_before_installed_modules(module, tmp_path, monkeypatch):
    (tmp_path / "installed").mkdir()
    name = module()
    (tmp_path / "installed" / f"{name}.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "installed"), *sys.path, str(tmp_path)])
    assert load_target(f"{name}:Fine").__name__ == "Fine"
    assert sys.path[0] == str(tmp_path / "installed")


@pytest.mark.parametrize(
    ("class_name", "message"),
    [
        ("Fin", "unknown class of .* 'Fin'. Did you mean 'Fine'"),
        ("Other", "is <class '.*Other'>, expected a subclass of carm_env.Policy, or a function"),
        ("number", "is 3, expected a subclass"),
        ("Abstract", "is abstract: it must implement act"),
    ],
)
def test_a_class_that_is_not_a_usable_policy_is_refused(module, class_name, message):
    with pytest.raises((PolicyLoadingError, UnknownNameError), match=message):
        load_target(f"{module()}:{class_name}")


@pytest.mark.parametrize("name", ["orakel", "mine:", ":Policy", ""])
def test_an_unknown_name_names_the_form(name):
    with pytest.raises(UnknownNameError, match="module:Class"):
        load_target(name)


@pytest.mark.parametrize("name", ["mine.py", "folder/mine.py:"])
def test_a_file_without_a_class_asks_for_the_class(name):
    with pytest.raises(PolicyLoadingError, match=r"expected the name of the class as well: .*mine\.py:MyPolicy"):
        load_target(name)


def test_a_missing_module_is_named(module, tmp_path):
    with pytest.raises(PolicyLoadingError, match=f"there is no module 'absent_module' in {tmp_path}"):
        load_target("absent_module:Policy")
    with pytest.raises(PolicyLoadingError, match="there is no module 'absent.inner'"):
        load_target("absent.inner:Policy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import absent_dependency", "failed: No module named 'absent_dependency'"),
        ("x = 1\nraise RuntimeError('no GPU')", r"failed: RuntimeError: no GPU \(.*mine_.*py, line 2\)"),
        ("def f(:", r"failed: SyntaxError: .*mine_.*line 1\)\.$"),
    ],
)
def test_an_error_of_the_users_module_is_shown(module, text, message):
    with pytest.raises(PolicyLoadingError, match=message):
        load_target(f"{module(text)}:Policy")


def test_a_missing_extra_passes_through(module):
    text = "from carm_env.system.extras import require\nrequire('absent_package', 'train', 'This policy')"
    with pytest.raises(MissingExtraError, match=r"carm-env\[train\]"):
        load_target(f"{module(text)}:Policy")


FILE = """
from dataclasses import dataclass
from carm_env import Decision, Move, Policy
import sibling

@dataclass
class Setting:
    value: int = sibling.VALUE

class Greedy(Policy):
    def __init__(self, size=1, mode="fast", flag=False):
        if size > 3:
            raise RuntimeError("size is too large")
        self.arguments = (size, mode, flag)
    def reset(self, seed=None): ...
    def act(self, observation, info): return Decision(Move(0, 0))

class Open(Greedy):
    def __init__(self, **options): self.arguments = options

class Needy(Greedy):
    def __init__(self, weights): ...

def still(observation): return 24
def informed(observation, info): return Move(info["x"], 0)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Path of a policy file in a folder with a space, which is not the working directory."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "my policies"
    folder.mkdir()
    (folder / "sibling.py").write_text("VALUE = 3", encoding="utf-8")
    (folder / "mine.py").write_text(FILE, encoding="utf-8")
    yield folder / "mine.py"
    sys.modules.pop("sibling", None)
    for name in [name for name in sys.modules if name.startswith("policy_file_mine_")]:
        del sys.modules[name]


def test_class_of_a_file_is_constructed_with_arguments(file):
    assert make_policy(f"{file}:Greedy").arguments == (1, "fast", False)
    assert make_policy(f"{file}:Greedy?size=2&mode=1e400&flag=true").arguments == (2, "1e400", True)
    assert make_policy(f"{file}:Open?a=0.5&b=&c=null").arguments == {"a": 0.5, "b": "", "c": None}
    assert sys.path[-1] == str(file.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{file}:Greedy?sise=2", "unknown argument of Greedy 'sise'. Did you mean 'size'"),
        ("{file}:Greedy?size=4", r"constructing Greedy failed: RuntimeError: size is too large \(.*mine.py, line"),
        ("{file}:Greedy?size", "expected arguments of the form"),
        ("{file}:Greedy?size=1&size=2", "size is given more than once"),
        ("{file}:Needy", "Needy cannot be constructed with these arguments .*'weights'"),
        ("{file}:Gredy", "Did you mean 'Greedy'"),
        ("{file}:still?a=1", "a function takes no arguments"),
        ("{folder}/absent.py:Greedy", "there is no file .*absent.py"),
        ("oracle:checkpoint", "oracle has no checkpoint"),
        ("random?a=1", "unknown argument of RandomPolicy"),
    ],
)
def test_policy_that_cannot_be_constructed_is_named(file, text, message):
    with pytest.raises((PolicyLoadingError, UnknownNameError, ValueError), match=message):
        make_policy(text.format(file=file, folder=file.parent))


def test_error_of_a_file_is_shown(file):
    file.write_text("x = (", encoding="utf-8")
    with pytest.raises(PolicyLoadingError, match="failed: SyntaxError: .*mine.py"):
        make_policy(f"{file}:Greedy")
    file.write_text(FILE, encoding="utf-8")
    assert make_policy(f"{file}:Greedy")


def test_function_is_a_policy(file):
    assert make_policy(f"{file}:still").act({}, {}).move.is_aligned
    assert make_policy(f"{file}:informed").act({}, {"x": 2}).move == Move(2, 0)


def test_function_of_other_arguments_is_refused(file):
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\ndef many(a, b, c): return 24\n\ndef none(): return 24\n")
    for name in ("many", "none"):
        with pytest.raises(PolicyLoadingError, match=rf"{name}\(.*\), expected a function of the observation, or"):
            make_policy(f"{file}:{name}")


@pytest.mark.parametrize("action", [None, 1.5, "LEFT", {"move": 1}, [1, 2], True])
def test_other_actions_of_a_function_are_refused(action):
    with pytest.raises(TypeError, match="expected an action of Discrete"):
        FunctionPolicy(lambda observation: action).act({}, {})
    with pytest.raises(ValueError, match="from 0 to 48"):
        FunctionPolicy(lambda observation: np.array([49])).act({}, {})


def test_yaml_file_names_policy_and_arguments(file, tmp_path):
    path = tmp_path / "my_policy.yaml"
    path.write_text(
        "policy: my policies/mine.py:Greedy\narguments: {size: 2}\nname: Mine\ncard: {author: me}", encoding="utf-8"
    )
    assert make_policy(str(path)).arguments == (2, "fast", False)
    assert make_policy(f"{path}?size=3").arguments == (3, "fast", False)
    found = parse_policy(str(path), ())
    assert (found.name, found.card) == ("Mine", {"author": "me"})
    path.write_text("policy: random", encoding="utf-8")
    assert parse_policy(str(path), ("random",)).name == "my_policy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polcy: random", "Did you mean 'policy'"),
        ("name: a", "exactly one of the keys policy and model"),
        ("{policy: random, model: m}", "exactly one of the keys policy and model"),
        ("{policy: [a]}", "policy is .*, expected NAME"),
        ("policy: other.yaml", "policy is .*, expected NAME"),
        ("{policy: random, arguments: 3}", "arguments is 3, expected a mapping"),
        ("{policy: random, name: ''}", "name is '', expected a text"),
        ("model: 3", "model is 3, expected a name or a mapping"),
        ("[1]", "holds list, expected a mapping"),
        ("{a: &x 1, b: *x}", "anchor or an alias"),
    ],
)
def test_invalid_yaml_file_is_refused(tmp_path, text, message):
    path = tmp_path / "p.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        make_policy(str(path))


def test_names_of_policies_hold_no_folders(file):
    assert parse_policy(f"{file}:Greedy?size=2", ()).name == "mine.py:Greedy?size=2"
    assert parse_policy("/home/me/agent.zip?trust_pickle=true", ()).name == "agent.zip"
    assert parse_policy("mine:Greedy", ()).name == "mine:Greedy"
