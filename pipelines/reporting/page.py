"""The page around the data: one HTML file that loads nothing, or the shell of the live page.

Data is gzipped JSON in base64, whose alphabet has no `<`, so no text of a run can end a script element. The content
security policy names the hashes of the page's own script and style: nothing else can run, whatever a model wrote.
"""

import base64
import gzip
import hashlib
import html
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.reporting.view import RunView
from pipelines.storage import to_json

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("dom.js", "charts.js", "sections.js", "source.js", "browser.js", "group.js", "main.js")
GROUPS_A_CHUNK = 48
MAX_TEXT_BYTES = 48 * 2**20  # of groups in the file, compressed and encoded


def live_page(title: str) -> str:
    """The page that fetches its data from where it is served."""
    return _page(title, "'self'", "", [])


def report_page(view: RunView, max_text_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The whole run as one file. Every prompt is listed; of the texts it has as many as fit, evenly by iteration."""
    chunks: list[str] = []
    chunk_of: dict[tuple[int, str], int | str] = {}
    there = sorted({iteration for iteration, _ in view.parts()})
    for iteration in there:
        spent = 0
        parts = [part for t, part in view.parts() if t == iteration]
        details = (detail for part in parts for detail in view.details(iteration, part))
        for some in _batches(details, GROUPS_A_CHUNK):
            packed = pack(some)
            if spent + len(packed) > max_text_bytes // len(there):
                break
            spent += len(packed)
            chunk_of.update({(iteration, detail["prompt_id"]): len(chunks) for detail in some})
            chunks.append(packed)
    index = view.index(chunk_of)
    about = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"), "left_out": sum(c is None for c in index["chunk"])
    }
    summary = view.summary()
    head = "\n".join(_data(name, pack(value)) for name, value in
                     (("page", about), ("summary", summary), ("index", index)))
    data = [_data(f"chunk-{number}", chunk) for number, chunk in enumerate(chunks)]
    return _page(f"{summary['run']['name']} · Appellate", "'none'", head, data).encode()


def pack(value: Any) -> str:
    """JSON, gzipped, in base64; the same value gives the same text."""
    return base64.b64encode(gzip.compress(to_json(value), 6, mtime=0)).decode()


def _page(title: str, connect: str, head_data: str, chunk_data: list[str]) -> str:
    script = "\n".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS)
    style = (ASSETS / "page.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = (ASSETS / "page.html").read_text("utf-8")
    values = {"policy": policy, "title": html.escape(title), "style": style, "head_data": head_data, "script": script,
              "chunk_data": "\n".join(chunk_data)}
    first, *rest = page.split("{{ ")
    pieces = [first]
    for piece in rest:
        name, _, text = piece.partition(" }}")
        pieces += [values[name], text]
    return "".join(pieces)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(name: str, packed: str) -> str:
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
