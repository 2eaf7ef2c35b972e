"""The command ``carm-env``."""

from __future__ import annotations

from collections.abc import Sequence

from carm_env.system.command_line import Command, run_command

COMMANDS = {
    "annotations compare": Command(
        "carm_env.cli.annotations:compare", "Compare the landmarks of two annotators, in mm."
    ),
    "annotations export": Command("carm_env.cli.annotations:export", "Write an annotation for 3D Slicer or as a CSV."),
    "annotations progress": Command("carm_env.cli.annotations:progress", "Show how far people are in annotating CTs."),
    "cockpit": Command("carm_env.cli.cockpit:cockpit", "Drive, watch, talk and annotate on a web page."),
    "compare": Command("carm_env.cli.compare:compare", "Compare policies on the same episodes, for a paper."),
    "doctor": Command("carm_env.cli.doctor:doctor", "Report what works on this machine, and why the rest does not."),
    "evaluate": Command("carm_env.cli.evaluate:evaluate", "Evaluate policies in closed loop on frozen episodes."),
    "import": Command("carm_env.cli.import_ct:import_ct", "Import a CT: DICOM, NIfTI, NRRD or MetaImage (extra: ct)."),
    "localize": Command("carm_env.cli.localize:localize", "Name and mark the landmarks in X-ray images of your own."),
    "patients": Command("carm_env.cli.patients:list_installed"),
    "patients list": Command("carm_env.cli.patients:list_installed", "List cohorts and installed patients."),
    "patients build": Command("carm_env.cli.patients:build", "Build the virtual patients of a cohort."),
    "patients verify": Command("carm_env.cli.patients:verify", "Compare the patients of a cohort with its manifest."),
    "patients available": Command("carm_env.cli.patients:available", "List real CTs that can be installed by name."),
    "patients install": Command("carm_env.cli.patients:install", "Install a real CT by name."),
    "patients show": Command("carm_env.cli.patients:show", "Draw an overview of one patient."),
    "patients card": Command("carm_env.cli.patients:card", "Print the data card of a patient or a cohort."),
    "patients remove": Command("carm_env.cli.patients:remove", "Remove an imported patient."),
    "play": Command("carm_env.cli.play:play", "Drive the C-arm in a window, or play a suite for the leaderboard."),
    "render": Command("carm_env.cli.render:render", "Take an X-ray and save it."),
    "render-dataset": Command("carm_env.cli.render_dataset:render_dataset", "Render a dataset of labelled views."),
    "replay": Command("carm_env.cli.replay:replay", "Show transcripts of episodes as HTML pages and GIFs."),
    "route": Command("carm_env.cli.route:route", "Find the model for images from its card, or nobody."),
}
"""The commands, in the order of the help."""


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, 1 for a negative answer, 2 for an error, 130 for Ctrl-C."""
    return run_command("carm-env", COMMANDS, given)
