import subprocess
import sys

import pytest

from carm_env.cli import main
from carm_env.evaluation.results import read_results

# The path of a console script does not contain the working directory.
CONSOLE_SCRIPT = "import sys; sys.path.remove(''); from carm_env.cli import main; sys.exit(main())"
PLAIN_POLICY = """
from carm_env.actions import ALIGNED
from carm_env.evaluation.policy import Decision, Policy as Base
import helper

class Policy(Base):
    def reset(self, seed=None):
        pass

    def act(self, observation, info):
        import helper_imported_late
        return Decision(ALIGNED)
"""


@pytest.fixture
def suite_file(small_patients, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 20, environment: {image_size: 16}, episodes: ["
        "{patient: 'imported:one', target: 1, start: 4}, {patient: 'imported:two', target: 14, start: 5}]}",
        encoding="utf-8",
    )
    return path


def test_a_users_policy_runs_in_worker_processes_beside_folders_named_like_ours(suite_file, tmp_path):
    folder = tmp_path / "project"
    for name in ("policies", "training", "benchmarks"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(
            "raise RuntimeError('carm_env imported a package of the user')", encoding="utf-8"
        )
    (folder / "mine.py").write_text(PLAIN_POLICY, encoding="utf-8")
    for name in ("helper", "helper_imported_late"):
        (folder / f"{name}.py").write_text("", encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        CONSOLE_SCRIPT,
        "evaluate",
        "--policy",
        "mine:Policy",
        "oracle",
        "--suite",
        str(suite_file),
    ]
    done = subprocess.run(
        [*command, "--workers", "2", "--out", "o"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    results, _ = read_results(folder / "o" / "episodes.jsonl")
    outcomes = {(result.policy, result.outcome) for result in results}
    assert outcomes == {("mine:Policy", "misaligned"), ("oracle", "success")}, results[0].error


def test_reference_policies_run_by_default(suite_file, tmp_path):
    words = ["--suite", str(suite_file), "--workers", "1", "--out", str(tmp_path / "o"), "--no-figures"]
    assert main(["evaluate", *words]) == 0
    assert {result.policy for result in read_results(tmp_path / "o" / "episodes.jsonl")[0]} == {"oracle", "random"}


def test_a_policy_of_the_repository_alone_is_unknown(capsys):
    assert main(["evaluate", "--policy", "cnn"]) == 2
    assert "unknown policy 'cnn'" in capsys.readouterr().err
