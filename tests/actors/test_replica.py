"""One replica's gate: no reply is of two versions, and half-loaded weights answer nobody. Engines are scripted."""

import asyncio

import pytest

from actors import replica as replica_module
from actors.engine import EngineError
from actors.weights import SyncError
from tests.actors.scripted import WAIT_S, fleets


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    with fleets(tmp_path, monkeypatch) as make:
        yield make


def test_requests_that_come_during_the_load_wait_for_the_new_version(fleet):
    one = fleet(1)
    one.engines[0].load_s = 0.2
    moving = one.start(asyncio.to_thread(one.sync, one.source("v1", 1.0)))
    one.until(lambda: one.engines[0].value == -1.0)
    asked = [one.ask(0, f"r{i}") for i in range(3)]
    scored = one.start(one.replicas[0].score([1], [[2]]))
    assert one.engines[0].generated == []
    moving.result(WAIT_S)
    assert [(reply.weight_version, reply.text) for call in asked for reply in call.result(WAIT_S)] == [("v1", "1")] * 3
    assert scored.result(WAIT_S) == ([[1.0, 1.0]], "v1")


def test_a_reply_that_ends_while_draining_is_of_the_old_version(fleet):
    one = fleet(1)
    one.engines[0].reply_steps = 20
    asked, scored = one.ask(0), one.start(one.replicas[0].score([1], [[2]]))
    one.until(lambda: one.engines[0].generated == ["r"])
    one.sync(one.source("v1", 1.0), drain_s=5.0)
    assert [(reply.weight_version, reply.text) for reply in asked.result(WAIT_S)] == [("v0", "0")]
    assert scored.result(WAIT_S) == ([[0.0, 0.0]], "v0")
    assert one.engines[0].generated == ["r"]


def test_a_reply_that_outlasts_the_drain_is_made_again_by_one_version(fleet):
    one = fleet(1)
    one.engines[0].reply_steps, one.engines[0].load_s = 10_000, 0.2
    asked = one.ask(0)
    one.until(lambda: one.engines[0].generated == ["r"])
    moving = one.start(asyncio.to_thread(one.sync, one.source("v1", 1.0), 10.0, 0.02))
    one.until(lambda: one.engines[0].value == -1.0)
    one.engines[0].reply_steps = 3
    moving.result(WAIT_S)
    assert [(r.weight_version, r.text, r.finish_reason) for r in asked.result(WAIT_S)] == [("v1", "1", "stop")]
    assert one.engines[0].generated == ["r", "r"]


def test_of_two_requests_with_one_id_the_second_is_made_again_too(fleet):
    """A retry beside its first try: the engine knows both by the same id."""
    one = fleet(1)
    first = one.ask(0, "same")
    one.engines[0].reply_steps = 10_000
    second = one.ask(0, "same")
    one.until(lambda: len(one.engines[0].generated) == 2)
    one.engines[0].reply_steps = 1
    first.cancel()
    one.until(lambda: len(one.replicas[0]._running) == 1)
    one.sync(one.source("v1", 1.0), drain_s=0.02)
    assert [(reply.weight_version, reply.text) for reply in second.result(WAIT_S)] == [("v1", "1")]


def test_a_replica_follows_a_version_that_was_committed_without_it(fleet):
    one = fleet(1)
    source = one.source("v1", 1.0)
    assert one.run(one.replicas[0].follow(source))["ok"]
    assert one.state() == [("v1", "1")]
    one.engines[0].fails_on = {"v2"}
    outcome = one.run(one.replicas[0].follow(one.source("v2", 2.0)))
    assert (outcome["ok"], outcome["version"]) == (False, "v1")
    assert one.state() == [("v1", "1")]


def test_a_load_that_outlived_its_sync_cannot_load_behind_an_open_gate(fleet, monkeypatch):
    """It was still draining when its sync was undone; the next sync prepares the same version again."""
    one = fleet(1)
    monkeypatch.setattr(replica_module, "ABORT_TIMEOUT_S", 0.3)
    engine, source = one.engines[0], one.source("v1", 1.0)
    engine.deaf, engine.reply_steps = True, 60
    asked = one.ask(0)
    one.until(lambda: engine.generated == ["r"])

    async def overlap() -> None:
        replica = one.replicas[0]
        await replica.prepare_weights(source)
        zombie = asyncio.create_task(replica.load_weights("v1", 0.02))
        await asyncio.sleep(0.05)
        undo = asyncio.create_task(replica.restore_weights())
        again = asyncio.create_task(replica.prepare_weights(source))
        await asyncio.gather(zombie, undo, again)

    one.run(overlap())
    assert asked.result(WAIT_S)[0].text == "0"
    engine.reply_steps = 1
    assert one.state() == [("v0", "0")]


def test_replies_that_cannot_be_aborted_are_named(fleet, monkeypatch):
    one = fleet(1)
    monkeypatch.setattr(replica_module, "ABORT_TIMEOUT_S", 0.05)
    one.engines[0].deaf, one.engines[0].reply_steps = True, 100
    asked = one.ask(0, "stubborn")
    one.until(lambda: one.engines[0].generated == ["stubborn"])
    with pytest.raises(SyncError, match=r"load_weights: .*still running 0 s after they were aborted: stubborn"):
        one.sync(one.source("v1", 1.0), drain_s=0.02)
    assert asked.result(WAIT_S)[0].weight_version == "v0"


def test_a_replica_that_cannot_go_back_asks_to_be_replaced(fleet):
    two = fleet(2)
    two.engines[1].fails_on = {"v0", "v1"}
    with pytest.raises(SyncError, match="load_weights"):
        two.sync(two.source("v1", 1.0))
    assert two.ask(0).result(WAIT_S)[0].text == "0"
    two.run(two.replicas[0].check_health())
    with pytest.raises(EngineError, match=r"cannot return to version v0: .*out of memory at embed"):
        two.run(two.replicas[1].check_health())
    with pytest.raises(TimeoutError):  # its gate stays closed: half-loaded weights answer nobody
        two.ask(1).result(0.1)


def test_health_is_the_engines(fleet):
    one = fleet(1)
    one.run(one.replicas[0].check_health())
    one.run(one.replicas[0].close())
    with pytest.raises(EngineError, match="shut down"):
        one.run(one.replicas[0].check_health())


def test_a_version_that_was_never_prepared_or_loaded_is_refused(fleet):
    one = fleet(1)
    (outcome,) = one.broadcast("load_weights", "v7", 0.1, timeout_s=WAIT_S)
    assert (outcome["ok"], outcome["error"], outcome["version"]) == (False, "version v7 was not prepared here", "v0")
    (outcome,) = one.broadcast("resume", "v7", timeout_s=WAIT_S)
    assert (outcome["ok"], outcome["error"]) == (False, "version v7 is not loaded here")
    one.engines[0].fails_on = {"v1"}
    one.broadcast("prepare_weights", one.source("v1", 1.0), timeout_s=WAIT_S)
    one.broadcast("load_weights", "v1", 0.1, timeout_s=WAIT_S)
    (outcome,) = one.broadcast("resume", "v1", timeout_s=WAIT_S)  # prepared, but its load failed
    assert (outcome["ok"], outcome["error"]) == (False, "version v1 is not loaded here")
