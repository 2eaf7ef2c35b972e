import os
import subprocess
import sys
import types

import pytest

from carm_env.system import telemetry


def test_telemetry_is_off_unless_the_user_wants_it(monkeypatch):
    for name in telemetry._SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    loaded = {name: types.SimpleNamespace() for name, _ in telemetry._READ}
    for name, module in loaded.items():
        monkeypatch.setitem(sys.modules, name, module)
    telemetry.disable_telemetry()
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1" and os.environ["DO_NOT_TRACK"] == "0"
    assert loaded["huggingface_hub.constants"].HF_HUB_DISABLE_TELEMETRY is True
    assert loaded["datasets.config"].HF_UPDATE_DOWNLOAD_COUNTS is False


@pytest.mark.parametrize("package", ["policies", "training"])
def test_a_policy_and_a_training_are_imported_without_telemetry(package):
    names = ("HF_HUB_DISABLE_TELEMETRY", "HF_UPDATE_DOWNLOAD_COUNTS")
    script = f"import os, {package}; print(*(os.environ[name] for name in {names!r}))"
    environment = {name: value for name, value in os.environ.items() if name not in telemetry._SETTINGS}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert found.stdout.split() == ["1", "0"]
