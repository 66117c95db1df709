"""The report in a real browser: ten thousand groups, search, an opened group; and hostile texts that stay text."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
import uvicorn

from pipelines.ledger import Ledger
from pipelines.reporting.page import report_page
from pipelines.reporting.view import RunView
from serve import watch
from tests.pipelines.planted import judged_group, run_recipe
from tests.pipelines.reporting.browsers import dom
from tests.pipelines.reporting.planted_runs import Clock, commit, plant, start_run

pytestmark = pytest.mark.slow
GROUPS = 10_000
NEEDLE = "the word xylophone stands in one response alone"


def written(ledger: Ledger, file: Path) -> str:
    view = RunView(ledger)
    view.refresh()
    file.write_bytes(report_page(view))
    return file.as_uri()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """Address of a report of 10,000 groups; one has a text of its own."""
    folder = tmp_path_factory.mktemp("large")
    ledger = start_run(folder, "meta_rewarding")
    raw = [plant(n, 0, samples=2, votes=2) for n in range(GROUPS)]
    raw[7321]["samples"][1]["text"] += NEEDLE
    groups, pairs = run_recipe("meta_rewarding", raw)
    commit(ledger, 0, groups, pairs, part=250)
    Clock(ledger).stage(0, "pairs", 1, pairs=len(pairs))
    return written(ledger, folder / "report.html")


def rows_of(page: str) -> list[str]:
    return re.findall(r'<button class="row[^>]*>.*?</button>', page, re.S)


def test_ten_thousand_groups_open_as_a_list_of_which_only_a_screen_exists(large: str) -> None:
    page = dom(large)
    assert 'data-ready="yes"' in page
    assert f"{GROUPS:,} of {GROUPS:,} prompts" in page
    assert 5 < len(rows_of(page)) < 60
    assert f"height: {GROUPS * 74}px" in page


def test_a_search_finds_prompts_and_an_opened_group_shows_its_texts(large: str) -> None:
    page = dom(f"{large}#query={quote('(7321)')}&open={quote('0/p0-007321')}")
    assert f"1 of {GROUPS:,} prompts" in page
    (row,) = rows_of(page)
    assert "<mark>(7321)</mark>" in row
    detail = page[page.index('class="detail"') :]
    assert NEEDLE in detail
    assert "p0-007321" in detail
    assert re.search(r"Chosen [\d.]+ against [\d.]+: a margin of", detail)


def test_a_search_of_all_texts_finds_a_response(large: str) -> None:
    page = dom(f"{large}#query=xylophone&deep=1", wait_ms=60_000)
    assert f"1 of {GROUPS:,} prompts · {GROUPS:,} searched" in page
    (row,) = rows_of(page)
    assert "(7321)" in row


ATTACKS = [
    "</script><script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=document.title='owned'>", "<!--", "]]>", "\u202e\u2028\x1b[2J", "<style>*{display:none}</style>",
]


@pytest.mark.parametrize("where", ["open", "search"])
def test_hostile_texts_stay_text(tmp_path: Path, where: str) -> None:
    ledger = start_run(tmp_path, "meta_rewarding")
    attack = " ".join(ATTACKS)
    said = {"a": (f"{attack} a", [f"{attack}\nScore: 4"]), "b": (f"{attack} b", [f"{attack}\nScore: 1"])}
    raw = judged_group(said, "prompt-1", gold=attack, messages=[{"role": "user", "content": attack}])
    groups, pairs = run_recipe("meta_rewarding", [raw])
    commit(ledger, 0, groups, pairs)
    ledger.event("failed", error=attack, traceback="")
    Clock(ledger).stage(0, "pairs", 1, pairs=len(pairs))
    address = written(ledger, tmp_path / "report.html")
    page = dom(f"{address}#open={quote('0/prompt-1')}" + ("" if where == "open" else "&deep=1&query=%3C%21--"))
    assert 'data-ready="yes"' in page
    assert "<title>meta_rewarding-run · Appellate</title>" in page
    elements = Elements()
    elements.feed(page)
    tags = [tag for tag, _ in elements.found]
    assert not {"img", "iframe", "object", "embed", "base", "form"} & set(tags)
    assert tags.count("style") == 1
    assert tags.count("script") == 5  # page, summary, index, the page's own, one chunk
    assert [name for _, names in elements.found for name in names if name.startswith("on")] == []
    texts = "".join(elements.texts)
    assert texts.count(ATTACKS[0]) >= 4  # in the list, prompt, gold, responses
    assert ("mark" in tags) == (where == "search")


class Elements(HTMLParser):
    """Every element of a document with the names of its attributes, and every text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_live_page_shows_a_run_and_what_comes_new(tmp_path: Path, monkeypatch) -> None:
    ledger = start_run(tmp_path, "meta_rewarding")
    ledger.commit_groups(0, [plant(n, 0) for n in range(3)])
    monkeypatch.setattr(watch, "PERIOD_S", 0.0)
    monkeypatch.setattr(watch, "REST", 0.0)
    sent, data = [], watch.LiveRun.data

    def then_more(run: watch.LiveRun, name: str) -> tuple[bytes, str]:
        """Commits two groups when the first list has been sent."""
        made = data(run, name)
        sent.append(name)
        if sent.count("index") == 1 and name == "index":
            ledger.commit_groups(0, [plant(n, 0) for n in (7, 8)])
        return made

    monkeypatch.setattr(watch.LiveRun, "data", then_more)
    with served(ledger.path) as address, ledger.lock():
        ledger.event("stage_started", iteration=0, stage="groups")
        page = dom(f"{address}/run#open={quote('0/p0-000002')}", wait_ms=30_000)
    assert sent[:4] == ["summary", "index", "summary", "index"]
    assert "5 of 5 prompts" in page
    assert "running, iteration 0" in page
    assert "p0-000002" in page[page.index('class="detail"') :]  # what was open stays open


@contextlib.contextmanager
def served(folder: str) -> Generator[str]:
    """The live page of a folder on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(watch.page_app(folder), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive(), "the page was not served within 60 s"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=20)
