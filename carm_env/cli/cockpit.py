"""``carm-env cockpit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``carm-env cockpit``.

    Attributes:
        host: address to listen on; for any other than the loopback one, the printed address holds a token.
        port: port to listen on; 0 for a free one.
        browser: open the page in a browser.
        out: folder that receives the transcripts and the studies.
        policies: policies that the page offers besides the known ones: module:Class, FILE.py:Class,
            chat:http://HOST:PORT/v1#MODEL, MODEL.zip, or a YAML file.
        suites: YAML files of suites that can be played as studies, besides those of the package.
        only_studies: serve the study page alone, for participants, who must not see the truth on the other pages.
        annotations: folder of annotations; by default in the data folder.
        max_sessions: pages that are kept at once.
        session_minutes: a session without a connection ends after this time.
        max_upload_mb: largest zip archive of a CT that the page takes, MB.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    browser: bool = True
    out: Path = Path("runs/cockpit")
    policies: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--policy",))] = ()
    suites: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--suite",))] = ()
    only_studies: bool = False
    annotations: Path | None = None
    max_sessions: int = 16
    session_minutes: float = 30.0
    max_upload_mb: int = 2048


def cockpit(arguments: Arguments) -> int:
    """Drive the C-arm on a web page, watch policies, talk to them, annotate CTs, run studies (extra: cockpit).

        carm-env cockpit

        carm-env cockpit --port 9000 --no-browser --policies mine.py:MyPolicy

    The page shows X-rays of virtual and imported patients. /annotate places landmarks on CTs; /study plays a frozen
    suite, blinded to the truth, for the leaderboard. Ctrl-C ends the server; moves and words are kept as transcripts in
    the folder of --out, which carm-env replay shows.
    """
    from carm_env.cockpit.serve import serve
    from carm_env.cockpit.settings import CockpitSettings

    given = {name: value for name, value in vars(arguments).items() if name != "browser"}
    serve(CockpitSettings(**given), arguments.browser)
    return 0
