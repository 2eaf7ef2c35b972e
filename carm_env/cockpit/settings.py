"""Settings of the cockpit's server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from carm_env.system.errors import finite_number, shortened

DEFAULT_PORT = 8765
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class CockpitSettings:
    """Settings of the server.

    Attributes:
        host: address to listen on. Any other address than the loopback one needs a token.
        port: port to listen on; 0 for a free one.
        out: folder that receives the transcripts and the studies.
        policies: policies that the page offers besides the known ones, as `carm_env.evaluation.policy_loading` reads
            them. The page itself can name no others, because to load a policy is to run its code.
        suites: YAML files of suites that can be played as studies, besides those of the package.
        only_studies: serve the study page alone. The other pages can start the episodes of a suite and show the truth.
        annotations: folder of annotations; None for the default one (`carm_env.annotation.files.annotations_folder`).
        max_sessions: sessions that are kept at once, and pages of each other kind.
        session_minutes: a session without a connection ends after this time.
        max_upload_mb: largest archive of a CT, MB.
        moves_per_second: messages of a page that are answered in a second.

    Raises:
        ValueError: a number is out of range.
    """

    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    out: Path = Path("runs/cockpit")
    policies: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    only_studies: bool = False
    annotations: Path | None = None
    max_sessions: int = 16
    session_minutes: float = 30.0
    max_upload_mb: int = 2048
    moves_per_second: float = 25.0

    def __post_init__(self) -> None:
        for name, low, high in (("port", 0, 65535), ("max_sessions", 1, 1000), ("max_upload_mb", 1, 32768)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} is {shortened(value)}, expected an integer from {low} to {high}.")
        for name in ("session_minutes", "moves_per_second"):
            if not finite_number(name, getattr(self, name)) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number.")

    @property
    def transcripts(self) -> Path:
        """Folder of the transcripts."""
        return self.out / "transcripts"

    @property
    def studies(self) -> Path:
        """Folder of the studies."""
        return self.out / "studies"

    @property
    def needs_token(self) -> bool:
        """Whether other machines can reach the server, so that it asks for a token."""
        return not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Returns whether only programs of this machine reach a server that listens on `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
