"""Every strategy trains the same model: losses, gradient norms, weights and states are those of one worker alone."""

import math
import multiprocessing
import os
import random
import traceback
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from pipelines.training.batching import forward_passes
from pipelines.training.checkpoint import load_model
from pipelines.training.config import LoraConfig, TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.learner import Learner, with_reference
from pipelines.training.packing import pack_sequences
from pipelines.training.strategies import make_strategy
from tests.conftest import write_tiny_model
from tests.pipelines.training import jobs

pytestmark = pytest.mark.slow  # groups of processes
WORKERS = 2
DEADLINE_S = 120.0
STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
# Odd sizes, so that matrices and vectors do not divide evenly among workers.
SHAPE = {"vocab_size": 131, "hidden_size": 36, "intermediate_size": 53, "num_attention_heads": 6,
         "num_key_value_heads": 3, "initializer_range": 0.15}
MODELS = {
    "tied": {"num_hidden_layers": 3},
    "untied": {"num_hidden_layers": 2, "tie_word_embeddings": False},
}
CONFIG = TrainingConfig(
    loss="dpo + 0.2 nll", beta=0.5, learning_rate=2e-3, autocast="float32", weight_decay=0.1, max_grad_norm=10.0,
    tokens_per_forward=30, logprob_chunk=8,
)
BFLOAT16 = {"weights": "bfloat16", "autocast": "bfloat16"}
LORA = LoraConfig(rank=4, alpha=8)
# Steps of many, of few, and of fewer pairs than there are workers.
STEPS = [[0, 1, 2, 3, 4, 5], [6], [7, 8], [9, 10, 11, 0, 6], [1], [2, 5, 8, 11]]


def make_pairs() -> Any:
    """A dozen pairs of varying lengths; some share their prompt."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(3, 131) for _ in range(count)]

    prompts = [ids(length) for length in (3, 20, 7, 12, 30, 5, 9)]
    pairs = []
    for i in range(12):
        pairs.append(
            {
                "pair_id": f"pair-{i}", "prompt_ids": prompts[i % 7], "chosen_ids": ids(rng.randrange(1, 12)),
                "rejected_ids": ids(rng.randrange(1, 12)), "weight": 0.5 + 0.1 * i, "ref_version": None,
                "ref_logp_chosen": None, "ref_logp_rejected": None,
            }
        )
    return pairs


class Worker:
    """A model under one strategy; the same code runs here alone and in every process of the group."""

    def __init__(self, folder: str, **changes: Any):
        self.config = CONFIG.model_copy(update=changes)
        self.strategy = make_strategy(load_model(folder, self.config), self.config, "cpu")
        self.learner = Learner(self.strategy, self.config)
        scored: Any = self.learner.reference(make_pairs(), "v0")
        # A reference that is not quite this model: no margin is 0, where rounding would decide about accuracy.
        self.pairs: Any = [
            with_reference(
                pair, [[0.9 * v for v in pair["ref_logps_chosen"]], [1.1 * v for v in pair["ref_logps_rejected"]]], "v0"
            )
            for pair in scored
        ]

    def train(self, steps: list[list[int]]) -> list[dict[str, Any]]:
        return [self.learner.step([self.pairs[i] for i in step], self.config.learning_rate) for step in steps]

    def weights(self) -> dict[str, np.ndarray]:
        return as_arrays(self.strategy.weights())

    def state(self) -> dict[str, np.ndarray]:
        return as_arrays(self.strategy.state())


def as_arrays(tensors: dict[str, torch.Tensor] | None) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy().copy() for name, tensor in (tensors or {}).items()}


def run(folder: str, steps: list[list[int]], load: str = "", save: str = "", **changes: Any) -> dict[str, Any]:
    """Train, from a saved state where one is given; what every worker reports and rank 0 holds in the end."""
    worker = Worker(folder, **changes)
    if load:
        worker.strategy.load_state(load_file(load))
    metrics = worker.train(steps)
    state = worker.strategy.state()
    if save and state is not None:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, save)
    return {"metrics": metrics, "weights": worker.weights(), "state": worker.state()}


def go_back(folder: str, **changes: Any) -> list[float]:
    """Loss on all pairs at the start, after some steps, and with the state of the start again."""
    worker = Worker(folder, **changes)
    losses = [worker.learner.evaluate(worker.pairs)["loss"]]
    start = [{name: tensor.clone() for name, tensor in (worker.strategy.state() or {}).items()}]
    if worker.strategy.world > 1:
        dist.broadcast_object_list(start, 0)
    worker.train(STEPS[:3])
    losses.append(worker.learner.evaluate(worker.pairs)["loss"])
    worker.strategy.load_state(start[0])
    return [*losses, worker.learner.evaluate(worker.pairs)["loss"]]


def skip_and_go_on(folder: str, **changes: Any) -> dict[str, Any]:
    """A good step, four that must not be taken, and a good one; the last is not taken for no reason in the numbers."""
    worker = Worker(folder, max_bad_steps=9, **changes)
    metrics = worker.train(STEPS[:1])
    before = worker.state()
    for weight in (math.nan, math.inf, 1e38):  # the loss of the last is finite, its gradients are not
        pairs = [worker.pairs[i] for i in (0, 1, 2, 3)]
        pairs[2] = {**pairs[2], "weight": weight}
        metrics.append(worker.learner.step(pairs, 1e-2))
    with torch.enable_grad():
        for last in (False, True):
            logps, _ = worker.strategy.model(pack_sequences([([5, 6], [7, 8]), ([5, 6], [9, 10, 11])]))
            worker.strategy.backward(logps.mean(), last)
    norm = worker.strategy.gradient_norm()
    worker.strategy.discard()
    after = worker.state()
    metrics += worker.train(STEPS[1:2])
    return {"metrics": metrics, "before": before, "after": after, "norm": norm, "weights": worker.weights()}


def _serve(rank: int, folder: str, connection: Any) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS, timeout=timedelta(seconds=60)
    )
    while True:
        function, arguments, options = connection.recv()
        try:
            connection.send((function(*arguments, **options), None))
        except Exception:  # the test fails with it
            connection.send((None, traceback.format_exc()))


class Group:
    """Worker processes that stay for all tests of this module."""

    def __init__(self, folder: Path):
        context = multiprocessing.get_context("spawn")
        self._connections, self._processes = [], []
        for rank in range(WORKERS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, str(folder), theirs), daemon=True)
            process.start()
            self._connections.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        """Run it on every worker; what each returns. Fails the test when one raises or does not answer in time."""
        for connection in self._connections:
            connection.send((function, arguments, options))
        answers = []
        for rank, connection in enumerate(self._connections):
            if not connection.poll(DEADLINE_S):
                self.close()
                pytest.fail(f"worker {rank} did not answer within {DEADLINE_S:.0f} s")
            answers.append(connection.recv())
        for rank, (_, problem) in enumerate(answers):
            if problem:
                pytest.fail(f"worker {rank}: {problem}")
        return [answer for answer, _ in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(10)


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Generator[Group]:
    found = Group(tmp_path_factory.mktemp("group"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    return {
        name: write_tiny_model(tmp_path_factory.mktemp(name), 1, **SHAPE, **changes) for name, changes in MODELS.items()
    }


@pytest.fixture(scope="module")
def alone(folders) -> Callable[..., Any]:
    """The same run on one worker under ddp; each is made once."""
    made: dict[str, Any] = {}

    def get(model: str, **changes: Any) -> dict[str, Any]:
        key = f"{model} {changes}"
        if key not in made:
            made[key] = run(folders[model], STEPS, **changes)
        return made[key]

    return get


def assert_same_curve(found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), f"{name} of step {number}"


def assert_same_arrays(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("kind", ["tied", "untied", "lora"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_as_one_worker_alone_does(strategy, kind, group, folders, alone):
    model, changes = ("tied", {"lora": LORA}) if kind == "lora" else (kind, {})
    expected = alone(model, **changes)
    first, second = group(run, folders[model], STEPS, strategy=strategy, **changes)
    assert_same_curve(first["metrics"], expected["metrics"])
    assert_same_curve(second["metrics"], expected["metrics"])
    assert_same_arrays(first["weights"], expected["weights"], 1e-5)
    assert_same_arrays(first["state"], expected["state"], 1e-5)
    assert second["weights"] == second["state"] == {}


def test_the_steps_are_such_that_workers_differ(alone):
    pairs = make_pairs()
    passes = [[len(own) for own in forward_passes([pairs[i] for i in step], CONFIG, WORKERS)] for step in STEPS]
    assert (passes[0], passes[1], passes[4]) == ([2, 3], [1, 0], [1, 0])
    norms = [metrics["grad_norm"] for metrics in alone("tied")["metrics"]]
    assert min(norms) < CONFIG.max_grad_norm < max(norms)  # some steps are clipped


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True}, {"activation_checkpointing": True, "lora": LORA}, {"loss": "kto"},
        {"lora": LORA, **BFLOAT16}, BFLOAT16,
    ],
    ids=["checkpointing", "checkpointing-lora", "kto", "lora-on-bfloat16", "bfloat16"],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_options_do_the_same_under_every_strategy(strategy, changes, group, folders, alone):
    expected = alone("untied", **changes)
    first, second = group(run, folders["untied"], STEPS, strategy=strategy, **changes)
    if "autocast" in changes:  # a difference in the last bit of float32 becomes one of bfloat16
        for found, right in zip(first["metrics"], expected["metrics"], strict=True):
            assert found["loss"] == pytest.approx(right["loss"], rel=1e-2 if "lora" in changes else 5e-2)
            assert found["grad_norm"] == pytest.approx(right["grad_norm"], rel=0.1)
        return
    assert_same_curve(first["metrics"], expected["metrics"])
    assert_same_curve(second["metrics"], expected["metrics"])
    assert_same_arrays(first["weights"], expected["weights"], 1e-5)


@pytest.mark.parametrize(
    ("first", "then", "changes"),
    [
        ("alone", "fsdp2", {}), ("fsdp2", "zero3", {}), ("zero3", "zero1", {}), ("zero1", "alone", {}),
        ("zero2", "ddp", {}), ("ddp", "zero2", {}), ("alone", "zero3", {"lora": LORA}),
        ("zero3", "fsdp2", {"lora": LORA}),
    ],
)
def test_a_state_goes_on_under_another_strategy_and_worker_count(first, then, changes, group, folders, alone, tmp_path):
    expected, file, folder = alone("tied", **changes), str(tmp_path / "state.safetensors"), folders["tied"]

    def part(strategy: str, steps: list[list[int]], **paths: str) -> dict[str, Any]:
        if strategy == "alone":
            return run(folder, steps, **paths, **changes)
        return group(run, folder, steps, strategy=strategy, **paths, **changes)[0]

    begun = part(first, STEPS[:3], save=file)
    ended = part(then, STEPS[3:], load=file)
    assert_same_curve(begun["metrics"] + ended["metrics"], expected["metrics"])
    assert_same_arrays(ended["state"], expected["state"], 1e-5)
    assert {tuple(tensor.shape) for name, tensor in load_file(file).items() if name.endswith(".step")} == {()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_state_takes_the_place_of_what_was_used_before(strategy, group, folders):
    """Also of weights that a pass without gradients left gathered."""
    for start, trained, again in group(go_back, folders["tied"], strategy=strategy):
        assert again == pytest.approx(start, rel=1e-6)
        assert abs(trained - start) > 0.1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_that_is_not_finite_is_taken_by_no_worker(strategy, group, folders):
    first, second = group(skip_and_go_on, folders["untied"], strategy=strategy)
    for found in (first, second):
        assert [metrics["skipped"] for metrics in found["metrics"]] == [0.0, 1.0, 1.0, 1.0, 0.0]
        named = [metrics.get("bad_pair_ids") for metrics in found["metrics"]]
        assert named == [None, "pair-2", "pair-2", "pair-0, pair-1, pair-2, pair-3", None]
        assert not math.isfinite(found["metrics"][3]["grad_norm"])
        assert 0 < found["norm"] < math.inf
    assert first["before"].keys() == first["after"].keys()
    for name, before in first["before"].items():
        assert np.array_equal(before, first["after"][name]), name
    undisturbed = run(folders["untied"], STEPS[:2])
    assert first["metrics"][-1]["loss"] == pytest.approx(undisturbed["metrics"][-1]["loss"], rel=1e-5)
    assert_same_arrays(first["weights"], undisturbed["weights"], 1e-5)


@pytest.mark.parametrize("changes", [{"validation_pairs": 3, "validate_steps": 2}, {"lora": {"rank": 2}}], ids=str)
def test_a_whole_training_goes_on_under_another_strategy(changes, group, make_job, scored_pairs):
    """From pairs in a ledger to a checkpoint: killed under FSDP, and finished under ZeRO 3."""
    alone, killed = make_job(scored_pairs, **changes), make_job(scored_pairs, **changes, strategy="fsdp2")
    expected = jobs.run(alone)
    group(jobs.run, killed, 4)
    finished = replace(killed, config=killed.config.model_copy(update={"strategy": "zero3"}))
    (reported, _) = group(jobs.run, finished)
    starts = jobs.records(killed, "start")
    assert [(start["first_step"], start["workers"]) for start in starts] == [(0, WORKERS), (4, WORKERS)]
    assert [step["loss"] for step in reported] == pytest.approx([step["loss"] for step in expected[4:]], rel=1e-4)
    assert reported[-1]["mfu"] > 0
    weights, right = jobs.checkpoint(finished), jobs.checkpoint(alone)
    assert weights.keys() == right.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, right[name], atol=1e-4, rtol=2**-7)  # a rounding of bfloat16 apart


def test_a_missing_package_is_named(monkeypatch, folders):
    config = CONFIG.model_copy(update={"strategy": "zero2"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="strategy=zero2 needs the package deepspeed: pip install"):
        make_strategy(None, config, "cpu")
