"""``carm-env doctor``: what works on this machine."""

from __future__ import annotations

import argparse


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    doctor = commands.add_parser("doctor", help="what works on this machine, and why the rest does not")
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--warm", action="store_true", help="compile now what the first pictures need, and keep it")


def _doctor(options: argparse.Namespace) -> int:
    from carm_env.doctor import examine, warm_up

    # First, so that its time is that of all compilation.
    warmed = [warm_up()] if options.warm else []
    findings = [*examine(), *warmed]
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = "!" if finding.is_problem else " "
        print(f"{mark} {finding.subject:<{width}}  {finding.found}")
    problems = sum(finding.is_problem for finding in findings)
    print(f"{problems} problem(s)." if problems else "The environment works on this machine.")
    return 1 if problems else 0
