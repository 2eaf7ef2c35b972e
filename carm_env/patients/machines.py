"""Patients on the machines of a cluster: each machine builds or loads them by name, into its own store.

A virtual patient is built by the first call that needs it and stays in the cache of the machine. An imported patient
and a CT file cannot be built: every machine needs them. Fingerprints tell whether it is the same patient everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial

from carm_env.patients.catalogue import load_patient
from carm_env.patients.reference import PatientRef
from carm_env.system.cluster import Cluster, machine_name
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import CACHE_VARIABLE, DATA_VARIABLE
from carm_env.system.versions import package_versions


class MachineError(CArmEnvError, RuntimeError):
    """A machine of the cluster lacks a patient, or has another one of its name, or other packages."""


@cache
def check_patient(name: str, fingerprint: str) -> None:
    """Loads a patient on this machine, building it if necessary, and compares it with that of the main process.

    Args:
        name: the patient's name.
        fingerprint: `carm_env.patient.Patient.fingerprint` in the main process.

    Raises:
        MachineError: the patient is missing or damaged here, or is another one.
    """
    remedy = (
        f"build it with the same packages everywhere, or let {CACHE_VARIABLE} name a folder that all machines share."
        if name.startswith("virtual:")
        else f"import or install it there, too, or let {DATA_VARIABLE} name a folder that all machines share."
    )
    try:
        found = load_patient(name).fingerprint
    except (CArmEnvError, OSError, ValueError) as error:
        raise MachineError(f"{machine_name()} cannot load the patient {name} ({error}): {remedy}") from error
    if found != fingerprint:
        raise MachineError(
            f"{machine_name()} has another patient {name} (fingerprint {found}, expected {fingerprint}): {remedy}"
        )


def check_machines(cluster: Cluster, packages: Iterable[str], fingerprints: Mapping[str, str]) -> None:
    """Compares packages and imported patients of every machine with those of this process.

    Virtual patients are not built: `check_patient` compares them when they are needed.

    Args:
        cluster: the machines.
        packages: distributions that results depend on.
        fingerprints: from the names of patients to their fingerprints; virtual ones are passed over.

    Raises:
        MachineError: machines differ; the message lists every difference.
    """
    imported = {name: value for name, value in fingerprints.items() if PatientRef.parse(name).kind != "virtual"}
    check = partial(_differences, package_versions(packages), imported)
    found = [line for lines in cluster.on_every_machine(check) for line in lines]
    if found:
        raise MachineError("the machines of the cluster differ:\n" + "\n".join(f"- {line}" for line in found))


def _differences(versions: Mapping[str, str | None], fingerprints: Mapping[str, str]) -> list[str]:
    found = [
        f"{machine_name()} has {package} {here or 'not installed'}, expected {versions[package] or 'none'}: install "
        "the same version."
        for package, here in package_versions(versions).items()
        if here != versions[package]
    ]
    for name, fingerprint in fingerprints.items():
        try:
            check_patient(name, fingerprint)
        except MachineError as error:
            found.append(str(error))
    return found
