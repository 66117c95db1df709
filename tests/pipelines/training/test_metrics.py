"""What a step reports is divided once, after the sums of all workers; speed is counted in operations of the model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training import metrics
from pipelines.training.metrics import Throughput, add_up, gather, gather_lists, peak_flops, peak_memory_bytes, summary
from tests.pipelines.training.tiny import tiny_lm

NAMES = ("loss", "kl", "entropy", "pairs", "prompt_tokens", "computed_tokens", "chosen_tokens", "rejected_tokens")
some_sums = st.fixed_dictionaries({name: st.integers(1, 50).map(float) for name in NAMES})


def test_means_and_totals_by_hand():
    sums = {
        "loss": 6.0, "accuracy": 3.0, "entropy": 10.0, "kl": 5.0, "pairs": 4.0, "prompt_tokens": 40.0,
        "computed_tokens": 50.0, "chosen_tokens": 12.0, "rejected_tokens": 8.0,
    }
    assert summary(sums) == {
        "loss": 1.5, "accuracy": 0.75, "entropy": 0.5, "kl": 0.25, "pairs": 4.0, "prompt_tokens": 40.0,
        "computed_tokens": 50.0, "chosen_tokens": 3.0, "rejected_tokens": 2.0, "tokens": 60.0,
    }


def test_a_step_of_nothing_divides_by_nothing():
    assert summary({}) == {"tokens": 0.0}


@given(st.lists(some_sums, min_size=1, max_size=6), st.integers(0, 6))
def test_it_does_not_matter_who_added_what(parts, cut):
    whole: dict[str, float] = {}
    for part in parts:
        add_up(whole, part)
    left: dict[str, float] = {}
    right: dict[str, float] = {}
    for i, part in enumerate(parts):
        add_up(left if i < cut else right, part)
    add_up(left, right)
    assert left == whole
    assert whole["loss"] == sum(part["loss"] for part in parts)
    assert summary(whole)["loss"] * whole["pairs"] == pytest.approx(whole["loss"])


def test_the_sums_of_workers_are_added_and_their_lists_joined(monkeypatch):
    """A worker without a pair has nothing to add."""
    monkeypatch.setattr(metrics.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics.dist, "get_world_size", lambda: 3)
    others: list[Any] = []

    def all_gather(out: list[Any], value: Any) -> None:
        out[:] = [others[0], value, others[1]]

    monkeypatch.setattr(metrics.dist, "all_gather_object", all_gather)
    others[:] = [{"loss": 1.0, "pairs": 2.0}, {}]
    assert gather({"loss": 0.5, "pairs": 1.0}) == {"loss": 1.5, "pairs": 3.0}
    others[:] = [["a"], ["c", "d"]]
    assert gather_lists(["b"]) == ["a", "b", "c", "d"]


def test_one_worker_alone_gathers_its_own():
    assert gather({"loss": 1.0}) == {"loss": 1.0}
    assert gather_lists([3, 1]) == [3, 1]


# ---- throughput


@pytest.mark.parametrize("tied", [True, False])
def test_operations_are_those_of_the_weights_that_tokens_go_through(monkeypatch, tied):
    """Per layer q 32x32, k and v 16x32, o 32x32 and three matrices of 32x64; the embedding costs nothing."""
    monkeypatch.setattr(metrics, "peak_flops", lambda device: 1e9)
    throughput = Throughput(tiny_lm(tie_word_embeddings=tied), "cpu")
    step = {"computed_tokens": 50.0, "chosen_tokens": 3.0, "rejected_tokens": 2.0, "pairs": 4.0, "tokens": 60.0}
    found = throughput.of({**step, "seconds": 0.5})
    body, head = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64), 32 * 128
    assert found["tokens_per_s"] == 120.0
    assert found["mfu"] == pytest.approx(6 * (body * 50 + head * 20) / 0.5 / 1e9)
    assert found["peak_memory_gib"] == pytest.approx(peak_memory_bytes("cpu") / 2**30, rel=0.2)


def test_a_group_shares_the_work(monkeypatch):
    monkeypatch.setattr(metrics, "peak_flops", lambda device: 1e9)
    throughput = Throughput(tiny_lm(), "cpu")
    step = {"computed_tokens": 50.0, "tokens": 60.0, "seconds": 0.5}
    alone = throughput.of(step)["mfu"]
    monkeypatch.setattr(metrics, "dist", SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: 4))
    assert throughput.of(step)["mfu"] == pytest.approx(alone / 4)


def test_the_memory_of_the_process_is_in_bytes():
    assert 50 * 2**20 < peak_memory_bytes("cpu") < 2**40


@pytest.mark.parametrize(("name", "rate"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12)])
def test_the_rate_of_a_known_gpu_is_its_makers(monkeypatch, name, rate):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_flops("cuda:0") == rate


@pytest.mark.parametrize("name", ["NVIDIA L40S", "NVIDIA L4", "NVIDIA A10", "NVIDIA H200"])
def test_no_gpu_is_taken_for_another(monkeypatch, name):
    """Names are found in names: L40S is no L4, A100 no A10."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_flops("cuda") == metrics._PUBLISHED[name.split()[1]]


def test_another_device_is_measured(monkeypatch):
    """2 * 1024^3 operations in the fastest of five products."""
    times = iter([0.0, 4.0, 4.0, 5.0, 5.0, 5.5, 6.0, 9.0, 9.0, 11.0])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(times))
    assert peak_flops("cpu") == 2 * 1024**3 / 0.5
