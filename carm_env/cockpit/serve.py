"""Runs the server of the cockpit."""

from __future__ import annotations

import logging
import socket
import threading
import webbrowser

from carm_env.cockpit.access import TOKEN_PARAMETER, Access, new_token
from carm_env.cockpit.parsing import MAX_MESSAGE_BYTES
from carm_env.cockpit.server import EXTRA, make_app
from carm_env.cockpit.settings import CockpitSettings
from carm_env.system.extras import optional_imports

with optional_imports(EXTRA, "The cockpit"):
    import uvicorn

_OPEN_AFTER_S = 1.0


def serve(settings: CockpitSettings, open_browser: bool) -> None:
    """Serves the page until Ctrl-C.

    Args:
        settings: settings of the server.
        open_browser: open the page in the user's browser.

    Raises:
        OSError: the port is in use, or the address is none of this machine.
        ValueError: a policy of the settings has no valid form.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    access = Access(new_token() if settings.needs_token else None, settings.host)
    app = make_app(settings, access)
    listener = _listen(settings)
    port = listener.getsockname()[1]
    shown = settings.host if settings.host not in ("0.0.0.0", "::") else socket.gethostname()
    host = f"[{shown}]" if ":" in shown else shown
    address = f"http://{host}:{port}/"
    if access.token is not None:
        address += f"?{TOKEN_PARAMETER}={access.token}"
    print(f"The cockpit is at {address}\nResearch software, not a medical device. Ctrl-C ends it.", flush=True)
    if open_browser:
        threading.Timer(_OPEN_AFTER_S, webbrowser.open, [address]).start()
    # Addresses would tell the token and the sessions, and compression takes longer than the loopback device.
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", ws_max_size=MAX_MESSAGE_BYTES, ws_per_message_deflate=False,
        server_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: CockpitSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host.strip("[]"), settings.port))
        # A program that reads the address may connect before the server runs: it waits then.
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(
            f"{settings.host}, port {settings.port}, cannot be listened on ({error.strerror}): choose another --port, "
            "or end the program that uses it."
        ) from error
    return listener
