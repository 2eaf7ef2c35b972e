"""Who may talk to the server: checks of host, origin and token, before any request is read.

- The ``Host`` of a request must be an address, ``localhost`` or the name of this machine. Otherwise a page of somebody
  else could let its own name point here (DNS rebinding).
- A request with an ``Origin``, which browsers send with every WebSocket and every request that changes something, must
  come from the page of this server (cross-site request forgery).
- Where other machines reach the server, a random token is needed: once in the address, from then on in a cookie.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

TOKEN_PARAMETER = "token"
_MAX_QUERY = 4096
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The checks of one server.

    Attributes:
        token: the token; None if only this machine reaches the server.
        host: name under which the server was started.
        cookie: name of the cookie with the token.
    """

    token: str | None = None
    host: str = "localhost"
    cookie: str = field(default_factory=lambda: f"carm_cockpit_{secrets.token_hex(4)}")

    def fault(self, headers: Mapping[str, str], query: str) -> str:
        """Returns why a request is refused; empty if it is not.

        Args:
            headers: the headers, by names in lower case.
            query: the query of the address, without the question mark.
        """
        host = headers.get("host", "")
        if not self._is_own_name(host):
            return "The host of the request is not this server: open the address that the server printed."
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "The request comes from another page than the cockpit."
        if self.token is not None and not self._has_token(headers, query):
            return "The token is missing or wrong: open the address that the server printed, with its token."
        return ""

    def brings_token(self, query: str) -> bool:
        """Returns whether the address holds the right token."""
        try:
            given = parse_qs(query[:_MAX_QUERY], max_num_fields=100).get(TOKEN_PARAMETER, [""])[0]
        except ValueError:
            return False
        return self.token is not None and _equal(given, self.token)

    def _has_token(self, headers: Mapping[str, str], query: str) -> bool:
        if self.brings_token(query):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return morsel is not None and self.token is not None and _equal(morsel.value, self.token)

    def _is_own_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in ("localhost", self.host.lower(), socket.gethostname().lower())
        return True


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def new_token() -> str:
    """Returns a random token of 256 bits."""
    return secrets.token_urlsafe(32)
