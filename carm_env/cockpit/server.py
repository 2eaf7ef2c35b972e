"""The server of the cockpit: FastAPI, one WebSocket per page, and the page itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from carm_env.cockpit.access import SECURITY_HEADERS, Access
from carm_env.cockpit.messages import Hello, parse_message
from carm_env.cockpit.offers import Offers
from carm_env.cockpit.rate import MAX_REFUSED, RateLimit
from carm_env.cockpit.refusals import EXPIRED, MESSAGE, RATE, TAKEN, RefusedError, refusal_of
from carm_env.cockpit.session import Session
from carm_env.cockpit.settings import CockpitSettings
from carm_env.cockpit.store import SessionStore
from carm_env.cockpit.uploads import ARCHIVE_TYPE, check_name, import_upload, receive, upload_folder
from carm_env.system.extras import optional_imports
from carm_env.system.threads import usable_cpus

EXTRA = "cockpit"
with optional_imports(EXTRA, "The cockpit"):
    from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
    from fastapi.responses import JSONResponse, RedirectResponse, Response
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.types import Message as ASGIMessage

log = logging.getLogger("carm_env.cockpit")
PAGE = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HELLO_S = 10.0
_MAX_PENDING = 64
_POLICY_VIOLATION = 1008


def page_files() -> dict[str, bytes]:
    """Returns the files of the page, by name; nothing else can be asked for."""
    folder = resources.files("carm_env.cockpit") / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.name.endswith(tuple(_TYPES))}


class _Guard:
    """Middleware: checks every request before it is read, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        fault = self._access.fault(Headers(scope=scope), scope.get("query_string", b"").decode("latin-1"))
        if fault:
            log.warning("request refused: %s", fault)
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": fault[:120]})
            else:
                await JSONResponse({"text": fault}, 403, SECURITY_HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)


def make_app(settings: CockpitSettings, access: Access | None = None) -> FastAPI:
    """Returns the application.

    Args:
        settings: settings of the server.
        access: who may talk to it; by default anybody on this machine.

    Raises:
        ValueError: a policy of the settings has no valid form.
    """
    access = access or Access()
    pool = ThreadPoolExecutor(max(2, usable_cpus()), thread_name_prefix="cockpit")
    offers = Offers(settings.policies)
    store = SessionStore(settings, offers, pool)
    files = page_files()
    uploading = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown(wait=False, cancel_futures=True)

    # Its documentation pages would load scripts of other sites.
    app = FastAPI(title="carm-env cockpit", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(_Guard, access=access)
    app.state.sessions = store

    async def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*arguments))

    @app.get("/")
    async def index(request: Request) -> Response:
        if access.brings_token(request.url.query):
            # The token leaves the address, and so the history of the browser.
            answer = RedirectResponse("/", 303)
            answer.set_cookie(access.cookie, access.token or "", httponly=True, samesite="strict")
            return answer
        return Response(files[PAGE], media_type="text/html")

    @app.get("/page/{name}")
    async def asset(name: str) -> Response:
        if name not in files:
            return JSONResponse({"text": "There is no such file."}, 404)
        return Response(files[name], media_type=_TYPES[name[name.rfind(".") :]])

    @app.get("/api/offers")
    async def offered() -> Response:
        return JSONResponse(await run(offers.listed))

    @app.post("/api/patients/{name}")
    async def upload(name: str, request: Request) -> Response:
        if request.headers.get("content-type", "") != ARCHIVE_TYPE:
            return JSONResponse({"text": f"Send the archive with the content type {ARCHIVE_TYPE}."}, 415)
        if uploading.locked():
            return JSONResponse({"text": "Another CT is being imported: wait until it is finished."}, 429)
        try:
            async with uploading:
                with upload_folder() as folder:
                    await run(check_name, name)
                    path = await receive(request.stream(), Path(folder), settings.max_upload_mb)
                    imported = await run(import_upload, path, name)
        except Exception as error:
            refusal = refusal_of(error)
            log.warning("upload refused: %s", refusal.reason)
            return JSONResponse({"text": str(refusal)}, 422)
        log.info("an uploaded CT was imported")
        return JSONResponse(imported)

    @app.get("/api/sessions/{name}/transcripts.zip")
    async def transcripts(name: str) -> Response:
        try:
            packed = await run(store.find(name).export)
        except RefusedError as error:
            return JSONResponse({"text": str(error)}, 404)
        disposition = {"Content-Disposition": 'attachment; filename="carm-env-transcripts.zip"'}
        return Response(packed, media_type=ARCHIVE_TYPE, headers=disposition)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect, asyncio.TimeoutError):
            await _Connection(websocket, store, settings).serve()

    return app


class _Connection:
    """One page that is connected."""

    def __init__(self, websocket: WebSocket, store: SessionStore, settings: CockpitSettings) -> None:
        self._websocket, self._store = websocket, store
        self._rate = RateLimit(settings.moves_per_second)
        self._sending = asyncio.Lock()
        self._pending: set[asyncio.Task[None]] = set()

    async def send(self, message: dict[str, Any] | bytes) -> None:
        async with self._sending:
            if isinstance(message, bytes):
                await self._websocket.send_bytes(message)
            else:
                await self._websocket.send_json(message)

    async def serve(self) -> None:
        """Answers the messages of the page until it disconnects."""
        session = await self._greet()
        if session is None:
            await self._websocket.close(_POLICY_VIOLATION)
            return
        send = self.send
        await session.attach(send)
        try:
            while await self._is_open(session, send):
                text = await self._receive()
                if text is None or not session.owns(send):
                    continue
                await self._dispatch(session, text)
        finally:
            session.detach(send)

    async def _greet(self) -> Session | None:
        """Opens or finds the session of the page; None if it is refused."""
        text = await asyncio.wait_for(self._websocket.receive_text(), _HELLO_S)
        try:
            message = parse_message(text)
            if not isinstance(message, Hello):
                raise RefusedError(MESSAGE, "The first message has to be hello.")
            if not message.session:
                return self._store.open()
            try:
                return self._store.find(message.session)
            except RefusedError as error:
                log.warning("session refused: %s", EXPIRED)
                await self._refuse(error)
                return self._store.open()
        except RefusedError as error:
            log.warning("page refused: %s", error.reason)
            await self._refuse(error)
            return None

    async def _is_open(self, session: Session, send: Callable[[Any], Awaitable[None]]) -> bool:
        if session.owns(send):
            return True
        # Another tab took the session; this one waits, and can take it back by connecting again.
        await self._refuse(RefusedError(TAKEN, "This session was opened in another tab or window."))
        await self._websocket.close()
        return False

    async def _receive(self) -> str | None:
        """Returns the next message; None for one that is refused."""
        received = await self._websocket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1000))
        if not self._rate.allows():
            await self._slow_down()
            return None
        text = received.get("text")
        if text is None:
            log.warning("message refused: %s", MESSAGE)
            await self._refuse(RefusedError(MESSAGE, "A message is binary, expected text."))
            return None
        return str(text)

    async def _slow_down(self) -> None:
        if self._rate.is_notice_due():
            log.warning("message refused: %s", RATE)
            await self._refuse(
                RefusedError(RATE, "Too many messages in a second: this one and the next ones are left out. Slow down.")
            )
        if self._rate.refused > MAX_REFUSED:
            log.warning("page disconnected: %s", RATE)
            await self._websocket.close(_POLICY_VIOLATION, RATE)
            raise WebSocketDisconnect(_POLICY_VIOLATION)

    async def _dispatch(self, session: Session, text: str) -> None:
        try:
            message = parse_message(text)
            if isinstance(message, Hello):
                raise RefusedError(MESSAGE, "hello is only the first message.")
            if len(self._pending) >= _MAX_PENDING:
                raise RefusedError(RATE, f"{_MAX_PENDING} messages wait for an answer: this one is left out.")
        except RefusedError as error:
            log.warning("session %s: message refused: %s", session.label, error.reason)
            await self._refuse(error)
            return
        # Not awaited: a person can take over while a policy decides.
        task = asyncio.create_task(session.answer(message))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _refuse(self, error: RefusedError) -> None:
        await self.send({"type": "refused", "reason": error.reason, "text": str(error)})
