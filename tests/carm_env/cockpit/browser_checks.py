"""A server in a process of its own, and what is checked on pages in a browser."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
AXE = os.environ.get("AXE_SCRIPT")
"""Path of axe-core's ``axe.min.js``, for the check of accessibility."""
SHOTS = os.environ.get("COCKPIT_SCREENSHOTS")
"""Folder that keeps the screenshots."""


class Server:
    """The command in a process of its own, which can be killed and started again at the same port."""

    def __init__(self, folder, *arguments):
        self.folder, self.port, self.arguments = folder, 0, arguments
        self.start()

    def start(self):
        arguments = ["--no-browser", "--port", str(self.port), "--out", str(self.folder / "out"), *self.arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.log = (self.folder / "log.txt").open("a", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "carm_env.cli", "cockpit", *arguments],
            stdout=subprocess.PIPE, stderr=self.log, env=environment, text=True, encoding="utf-8", cwd=self.folder,
            # Ctrl-C interrupts it even if SIGINT is ignored here.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        line = self.process.stdout.readline()
        self.address = re.search(r"http://\S+", line)[0]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def check_fast(what, milliseconds, limit):
    """Prints a time, and checks it where nothing else keeps the CPUs busy."""
    print(f"{what}: {milliseconds:.0f} ms")
    if os.getloadavg()[0] < (os.cpu_count() or 1):
        assert milliseconds < limit


def shoot(page, name):
    """Keeps a screenshot, if a folder is named."""
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def overflow(page):
    """Returns by how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def check_accessibility(page):
    """Raises AssertionError for a serious finding of axe."""
    page.add_script_tag(path=AXE)
    violations = page.evaluate("axe.run().then(result => result.violations)")
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert not serious, [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in serious]
