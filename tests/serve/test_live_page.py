"""The run's live page over HTTP: what it holds, that it looks again, and that nothing else of the folder can be had."""

from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi.testclient import TestClient

from pipelines.ledger import Ledger
from pipelines.reporting import watch as watching
from serve import watch
from serve.app import build_api
from serve.watch import page_app
from tests.pipelines.planted import run_recipe
from tests.pipelines.reporting.planted_runs import Clock, commit, plant, start_run


@pytest.fixture
def ledger(tmp_path, monkeypatch) -> Ledger:
    monkeypatch.setattr(watch, "PERIOD_S", 0.0)
    monkeypatch.setattr(watch, "REST", 0.0)
    ledger = start_run(tmp_path, "meta_rewarding")
    groups, pairs = run_recipe("meta_rewarding", [plant(n, 0) for n in range(4)])
    commit(ledger, 0, groups, pairs)
    Clock(ledger).stage(0, "pairs", 1, pairs=len(pairs))
    return ledger


@pytest.fixture
def client(ledger) -> TestClient:
    return TestClient(page_app(ledger.path))


def test_the_page_and_its_data(client: TestClient, ledger: Ledger) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.url.path == "/run"
    assert "connect-src 'self'" in page.text
    assert (page.headers["x-frame-options"], page.headers["cache-control"]) == ("DENY", "no-store")
    index = client.get("/run/data/index").json()
    assert len(index["id"]) == 4
    assert client.get("/run/data/summary").json()["iterations"][0]["groups"] == 4
    groups = client.get(f"/run/data/groups/0/{index['chunk'][0]}").json()
    assert {g["prompt_id"] for g in groups} == set(index["id"])
    assert all(g["samples"][0]["text"] for g in groups)


def test_what_has_not_changed_is_not_sent_again_and_what_has_is(client: TestClient, ledger: Ledger) -> None:
    first = client.get("/run/data/summary")
    same = client.get("/run/data/summary", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    ledger.commit_groups(0, [plant(9, 0)])
    fresh = client.get("/run/data/summary", headers={"If-None-Match": first.headers["etag"]})
    assert fresh.json()["iterations"][0]["groups"] == 5


def test_data_comes_plain_to_who_cannot_unpack_it(client: TestClient) -> None:
    packed = client.get("/run/data/index", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/run/data/index", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()


@pytest.mark.parametrize(
    "path", ["0/no-such-part", "7/part-all.parquet", "0/..%2f..%2f..%2fconfig.yaml", "0/..", "0/%00", "-1/x"]
)
def test_nothing_but_parts_can_be_had(client: TestClient, path: str) -> None:
    reply = client.get(f"/run/data/groups/{path}")
    assert reply.status_code == 404
    assert "recipe" not in reply.text


def test_a_judge_shows_its_run_and_one_without_a_run_does_not(ledger: Ledger) -> None:
    live = cast(Any, SimpleNamespace(run="r"))
    assert TestClient(build_api(live, run_folder=ledger.path)).get("/run/data/summary").status_code == 200
    assert TestClient(build_api(live)).get("/run").status_code == 404


def test_an_address_is_watched_through_its_page(client: TestClient, monkeypatch) -> None:
    def get(url: str, **_: Any) -> Any:
        return client.get(url.removeprefix("http://judge:8000"))

    monkeypatch.setattr(httpx, "get", get)
    for address in ("http://judge:8000", "http://judge:8000/", "http://judge:8000/run"):
        assert watching.look_at(address)()["iterations"][0]["groups"] == 4
    monkeypatch.setattr(httpx, "get", lambda *_, **__: (_ for _ in ()).throw(httpx.ConnectError("refused")))
    with pytest.raises(watching.WatchError, match="no run can be seen at http://judge:8000/run: refused"):
        watching.look_at("http://judge:8000")()


def test_an_address_may_be_silent_for_a_while(client: TestClient, monkeypatch) -> None:
    answers = iter([True, False, False])

    def get(url: str, **_: Any) -> Any:
        if next(answers):
            return client.get(url.removeprefix("http://judge"))
        raise httpx.ReadTimeout("slow")

    monkeypatch.setattr(httpx, "get", get)
    look = watching.look_at("http://judge")
    assert look() == look()
    monkeypatch.setattr(watching, "PATIENCE_S", 0.0)
    with pytest.raises(watching.WatchError, match="slow"):
        look()
