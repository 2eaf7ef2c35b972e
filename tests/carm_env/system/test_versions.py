import sys
import types

from carm_env.evaluation.provenance import PACKAGES, provenance
from carm_env.system.versions import used_packages


def test_versions_of_results_include_the_optional_packages_that_were_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", types.ModuleType("trl"))
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "trl" in used_packages() and "peft" not in used_packages()
    versions = provenance()["packages"]
    assert {*PACKAGES, "trl"} <= set(versions) and "peft" not in versions and versions["numpy"]
    assert list(provenance(packages=("trl", "torch"))["packages"])[:2] == ["trl", "torch"]
