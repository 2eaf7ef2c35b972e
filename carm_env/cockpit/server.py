"""The server of the cockpit: FastAPI, the pages, and one WebSocket per page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from carm_env.annotation.files import annotations_folder
from carm_env.cockpit import annotation_messages, annotation_reports, study_messages
from carm_env.cockpit.access import SECURITY_HEADERS, Access
from carm_env.cockpit.annotation_desk import AnnotationDesk
from carm_env.cockpit.connection import Connection, DisconnectedError
from carm_env.cockpit.desks import Desks
from carm_env.cockpit.drive_socket import DriveSocket
from carm_env.cockpit.offers import Offers
from carm_env.cockpit.refusals import RefusedError, refusal_of
from carm_env.cockpit.settings import CockpitSettings
from carm_env.cockpit.store import SessionStore
from carm_env.cockpit.study_desk import StudyDesk, study_suites
from carm_env.cockpit.uploads import ARCHIVE_TYPE, check_name, import_upload, receive, upload_folder
from carm_env.system.extras import optional_imports
from carm_env.system.threads import usable_cpus

EXTRA = "cockpit"
with optional_imports(EXTRA, "The cockpit"):
    from fastapi import FastAPI, Request, WebSocket
    from fastapi.responses import JSONResponse, RedirectResponse, Response
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.types import Message as ASGIMessage

log = logging.getLogger("carm_env.cockpit")
PAGES = {
    "/": "index.html", "/annotate": "annotate.html", "/agreement": "agreement.html", "/study": "study.html",
}  # fmt: skip
"""Addresses of the pages."""
STUDY_PAGES = {"/": "study.html", "/study": "study.html"}
"""Addresses of the pages of a server for participants of studies."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
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


Run = Callable[..., Awaitable[Any]]


def make_app(settings: CockpitSettings, access: Access | None = None) -> FastAPI:
    """Returns the application.

    Args:
        settings: settings of the server.
        access: who may talk to it; by default anybody on this machine.

    Raises:
        ValueError: a policy or a suite of the settings is not valid.
        FileNotFoundError: the file of a suite does not exist.
    """
    access = access or Access()
    pool = ThreadPoolExecutor(max(2, usable_cpus()), thread_name_prefix="cockpit")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown(wait=False, cancel_futures=True)

    async def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*arguments))

    # Its documentation pages would load scripts of other sites.
    app = FastAPI(title="carm-env cockpit", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(_Guard, access=access)
    _add_pages(app, access, STUDY_PAGES if settings.only_studies else PAGES)
    if not settings.only_studies:
        _add_driving(app, settings, pool, run)
        _add_annotation(app, settings, pool, run)
    _add_studies(app, settings, pool)
    return app


def _add_pages(app: FastAPI, access: Access, pages: Mapping[str, str]) -> None:
    files = page_files()

    async def page(request: Request) -> Response:
        if access.brings_token(request.url.query):
            # The token leaves the address, and so the history of the browser.
            answer = RedirectResponse(request.url.path, 303)
            answer.set_cookie(access.cookie, access.token or "", httponly=True, samesite="strict")
            return answer
        return Response(files[pages[request.url.path]], media_type="text/html")

    for path in pages:
        app.get(path)(page)

    @app.get("/page/{name}")
    async def asset(name: str) -> Response:
        if name not in files:
            return JSONResponse({"text": "There is no such file."}, 404)
        return Response(files[name], media_type=_TYPES[name[name.rfind(".") :]])


def _add_driving(app: FastAPI, settings: CockpitSettings, pool: Executor, run: Run) -> None:
    offers = Offers(settings.policies)
    store = SessionStore(settings, offers, pool)
    uploading = asyncio.Lock()
    app.state.sessions = store

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
            return _refused("upload", error)
        log.info("an uploaded CT was imported")
        return JSONResponse(imported)

    @app.get("/api/sessions/{name}/transcripts.zip")
    async def transcripts(name: str) -> Response:
        try:
            packed = await run(store.find(name).export)
        except RefusedError as error:
            return JSONResponse({"text": str(error)}, 404)
        return _download("carm-env-transcripts.zip", packed, ARCHIVE_TYPE)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(DisconnectedError, asyncio.TimeoutError):
            await DriveSocket(Connection(websocket, settings.moves_per_second), store).serve()


def _add_annotation(app: FastAPI, settings: CockpitSettings, pool: Executor, run: Run) -> None:
    def folder() -> Path:
        return settings.annotations or annotations_folder()

    desks = Desks(
        "annotation", settings.max_sessions, pool, annotation_messages.KINDS,
        lambda opening: AnnotationDesk(opening, folder()),
        "Loading. A virtual patient that is used for the first time takes a minute.",
    )  # fmt: skip

    @app.get("/api/annotations/progress")
    async def progress(annotator: str = "", cohort: str = "") -> Response:
        try:
            return JSONResponse(await run(annotation_reports.progress, folder(), annotator, cohort))
        except Exception as error:
            return _refused("progress of an annotation", error)

    @app.get("/api/annotations/agreement")
    async def agreement(first: str, second: str) -> Response:
        try:
            return JSONResponse(await run(annotation_reports.agreement, folder(), first, second))
        except Exception as error:
            return _refused("agreement of annotations", error)

    @app.get("/api/annotations/file")
    async def file(patient: str, annotator: str, form: str) -> Response:
        try:
            name, data = await run(annotation_reports.exported, folder(), patient, annotator, form)
        except Exception as error:
            return _refused("export of an annotation", error)
        return _download(name, data, "text/csv" if name.endswith(".csv") else "application/json")

    @app.websocket("/annotate/socket")
    async def socket(websocket: WebSocket) -> None:
        await _serve_desk(websocket, settings, desks)


def _add_studies(app: FastAPI, settings: CockpitSettings, pool: Executor) -> None:
    suites = study_suites(settings.suites)
    desks = Desks(
        "study", settings.max_sessions, pool, study_messages.KINDS,
        lambda opening: StudyDesk(opening, suites, settings.studies),
        "Loading. A virtual patient that is used for the first time takes a minute.",
    )  # fmt: skip

    @app.get("/api/studies")
    async def offered() -> Response:
        listed = [
            {"name": suite.name, "episodes": len(suite.episodes), "description": suite.description}
            for suite in suites.values()
        ]
        return JSONResponse({"suites": listed, "only_studies": settings.only_studies})

    @app.websocket("/study/socket")
    async def socket(websocket: WebSocket) -> None:
        await _serve_desk(websocket, settings, desks)


async def _serve_desk(websocket: WebSocket, settings: CockpitSettings, desks: Desks) -> None:
    await websocket.accept()
    with contextlib.suppress(DisconnectedError):
        await desks.serve(Connection(websocket, settings.moves_per_second))


def _refused(what: str, error: Exception) -> Response:
    refusal = refusal_of(error)
    log.warning("%s refused: %s", what, refusal.reason)
    return JSONResponse({"text": str(refusal)}, 422)


def _download(name: str, data: bytes, kind: str) -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
