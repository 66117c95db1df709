"""The run as a live page beside the judge: GET /run, and the data it asks for again while the run goes on."""

import asyncio
import gzip
import hashlib
import threading
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from pipelines.ledger import Ledger
from pipelines.reporting.page import live_page
from pipelines.reporting.view import RunView
from pipelines.storage import to_json
from serve.models import ErrorReply

PERIOD_S = 2.0  # looks are at least so far apart,
REST = 5.0  # and so many times as far as the last one took: a large run must not keep the judge from answering

router = APIRouter(tags=["run"])
_SAFE = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store"}


class LiveRun:
    """A run folder that is looked at when somebody asks, at most every PERIOD_S, by one thread at a time."""

    def __init__(self, folder: str):
        self._folder, self._lock = folder, threading.Lock()
        self._view: RunView | None = None
        self._next = 0.0
        self._made: dict[str, tuple[bytes, str]] = {}  # gzipped JSON and its hash

    def data(self, name: str) -> tuple[bytes, str]:
        """`summary` or `index`, gzipped, and the hash that tells whether it has changed."""
        with self._lock:
            if time.monotonic() >= self._next:
                begun = time.monotonic()
                view = self._open()
                view.refresh()
                self._made = {"summary": _packed(view.summary()), "index": _packed(view.index())}
                took = time.monotonic() - begun
                self._next = time.monotonic() + max(PERIOD_S, REST * took)
            return self._made[name]

    def groups(self, iteration: int, part: str) -> bytes | None:
        """The groups of a part, gzipped; None for a part that was not seen."""
        with self._lock:
            view = self._open()
            known = (iteration, part) in view.parts()
            return gzip.compress(to_json(list(view.details(iteration, part))), 5, mtime=0) if known else None

    def _open(self) -> RunView:
        if self._view is None:
            self._view = RunView(Ledger.open(self._folder))
        return self._view


def _packed(value: Any) -> tuple[bytes, str]:
    data = to_json(value)
    return gzip.compress(data, 5, mtime=0), f'"{hashlib.sha256(data).hexdigest()[:24]}"'


def _live_run(request: Request) -> LiveRun:
    return request.app.state.run


Run = Annotated[LiveRun, Depends(_live_run)]


@router.get("/run", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """The run in pictures, and its samples; it looks again by itself."""
    return HTMLResponse(live_page("Appellate"), headers=_SAFE)


@router.get("/run/data/summary")
async def summary(request: Request, run: Run) -> Response:
    """Every number of the page; 304 where `If-None-Match` names what there is."""
    return await _answer(request, run, "summary")


@router.get("/run/data/index")
async def index(request: Request, run: Run) -> Response:
    """The list of all prompts, as columns."""
    return await _answer(request, run, "index")


@router.get("/run/data/groups/{iteration}/{part}", responses={404: {"model": ErrorReply}})
async def groups(request: Request, run: Run, iteration: int, part: str) -> Response:
    """The groups of one part with everything that was said of them, as the index names it."""
    packed = await asyncio.to_thread(run.groups, iteration, part)
    if packed is None:
        error = ErrorReply(error="no such part; the index names those there are")
        return JSONResponse(error.model_dump(), status_code=404)
    return _json(request, packed, {})


async def _answer(request: Request, run: LiveRun, name: str) -> Response:
    packed, tag = await asyncio.to_thread(run.data, name)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**_SAFE, "ETag": tag})
    return _json(request, packed, {"ETag": tag})


def _json(request: Request, packed: bytes, headers: dict[str, str]) -> Response:
    if "gzip" in request.headers.get("accept-encoding", ""):
        encoding = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return Response(packed, media_type="application/json", headers={**_SAFE, **headers, **encoding})
    return Response(gzip.decompress(packed), media_type="application/json", headers={**_SAFE, **headers})


def page_app(folder: str) -> FastAPI:
    """The live page alone, without a judge beside it."""
    app = FastAPI(title="Appellate run", openapi_url=None)
    app.state.run = LiveRun(folder)
    app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/run")

    return app
