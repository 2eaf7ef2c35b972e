import pickle
import sys
from importlib import metadata

import pytest

from carm_env.system import extras
from carm_env.system.errors import OutdatedPackageError
from carm_env.system.extras import require_versions


@pytest.fixture
def installed(monkeypatch):
    """Sets the version of a package that seems to be installed; None if it is not."""

    def set_version(version):
        monkeypatch.setattr(extras, "package_version", lambda package: version)

    return set_version


@pytest.mark.parametrize("version", ["1.16", "1.16.0", "1.16.1+cpu", "1.17.0.dev0", "2.0rc1", None])
def test_new_and_absent_packages_pass(installed, version):
    installed(version)
    require_versions("grpo", "This training", trl="1.16")


@pytest.mark.parametrize("version", ["1.15.9", "1.9.0", "0.29.1+cpu"])
def test_an_old_package_is_named_with_the_extra(installed, version):
    installed(version)
    with pytest.raises(OutdatedPackageError) as caught:
        require_versions("grpo", "This training", trl="1.16")
    message = str(caught.value)
    assert f"trl 1.16 or later, but trl {version} is installed" in message
    assert "pip install --upgrade 'carm-env[grpo]'" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


@pytest.mark.parametrize(("python", "is_named"), [((3, 10, 14), True), ((3, 11, 0), False), ((3, 13, 1), False)])
def test_an_old_python_is_named(installed, monkeypatch, python, is_named):
    installed("0.29.1")
    monkeypatch.setattr(sys, "version_info", python)
    with pytest.raises(OutdatedPackageError) as caught:
        require_versions("grpo", "This training", trl="1.16")
    assert ("Python 3.11 or later" in str(caught.value)) == is_named


def test_the_extra_needs_the_versions_that_are_checked():
    """pip skips requirements of another Python, so the check is all that an old one meets."""
    needs = [item for item in metadata.requires("carm-env") or [] if "extra == 'grpo'" in item.replace('"', "'")]
    for package in ("trl>=1.16", "transformers>=5.24"):
        assert any(item.startswith(package) and "3.11" in item for item in needs), needs
