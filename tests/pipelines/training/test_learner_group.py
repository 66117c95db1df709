"""Workers that share a step report and learn what one worker alone does. The group is threads that meet at barriers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from pipelines.records import Pair
from pipelines.training import metrics
from pipelines.training.errors import TrainingError
from pipelines.training.learner import LN2, Learner
from pipelines.training.strategies import ddp
from tests.pipelines.training.tiny import make_learner, parameters_of, scored, tiny_lm, tiny_pairs

WAIT_S = 60  # a worker that the others wait for in vain


class Group:
    """What torch.distributed does for the learner, between the threads of one process."""

    def __init__(self, size: int):
        self.size, self.here = size, threading.local()
        self._slots: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=WAIT_S)

    def gather(self, value: Any) -> list[Any]:
        self._slots[self.here.rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values

    def all_reduce(self, tensors: list[torch.Tensor]) -> None:
        for own, parts in zip(tensors, zip(*self.gather([t.clone() for t in tensors]), strict=True), strict=True):
            own.copy_(torch.stack(parts).sum(0))

    def run(self, work: Callable[[Learner], Any], **changes: Any) -> list[Any]:
        """What `work` gives on each worker's learner; an error of any worker is raised."""

        def start(rank: int) -> Any:
            self.here.rank = rank
            learner = make_learner(**changes)
            learner.strategy.rank, learner.strategy.world = rank, self.size
            try:
                return work(learner)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(start, range(self.size)))


@pytest.fixture(params=[2, 3, 7])
def group(request, monkeypatch) -> Group:
    """Of two and three workers, and of more workers than there are pairs."""
    made = Group(request.param)
    monkeypatch.setattr(metrics, "_gather", made.gather)
    monkeypatch.setattr(ddp, "_all_reduce", made.all_reduce)
    return made


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return scored(tiny_pairs(), tiny_lm(), noise=0.3)


def train(learner: Learner, pairs: list[Pair]) -> Any:
    taken = [learner.step(pairs[start:], 1e-3) for start in (0, 2, 5, 0)] + [learner.evaluate(pairs)]
    for step in taken:
        step.pop("seconds", None)
    return taken, parameters_of(learner.strategy.model)


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("loss", ["dpo + nll", "kto"])
def test_a_group_trains_as_one_worker_alone(group, pairs, loss, lockstep):
    """Its workers have different numbers of passes, some none: with `lockstep` those take part with nothing."""
    options: dict[str, Any] = {"loss": loss, "tokens_per_forward": 60}
    passes: list[list[int]] = [[] for _ in range(group.size)]

    def work(learner: Learner) -> Any:
        own = passes[learner.strategy.rank]
        learner.strategy.lockstep = lockstep
        learner.strategy.model.register_forward_pre_hook(lambda *_: own.append(1))
        return train(learner, pairs)

    found = group.run(work, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_gather", lambda value: [value])
        expected, weights = train(make_learner(**options), pairs)
    for steps, trained in found:
        for step, other in zip(steps, expected, strict=True):
            ours = {k: v for k, v in step.items() if k != "computed_tokens"}  # packs of fewer pairs share less
            assert ours == pytest.approx({k: v for k, v in other.items() if k in ours}, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(trained, weights, atol=1e-5, rtol=1e-4)
        assert steps == found[0][0]
    assert (len({len(own) for own in passes}) == 1) == lockstep


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_group_makes_and_checks_its_reference_together(group, loss):
    def work(learner: Learner) -> tuple[list[Pair], float]:
        made = learner.reference(tiny_pairs(), "v0")
        return made, learner.check_reference(made)

    expected = scored(tiny_pairs(), tiny_lm())
    for made, checked in group.run(work, loss=loss, tokens_per_forward=60):
        assert checked == pytest.approx(LN2, abs=1e-5)
        assert [pair["pair_id"] for pair in made] == [pair["pair_id"] for pair in expected]
        for pair, other in zip(made, expected, strict=True):
            assert pair["ref_logps_chosen"] == pytest.approx(other["ref_logps_chosen"], abs=1e-5)


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_bad_pair_of_one_worker_is_named_by_all_and_nobody_steps(group, pairs, lockstep):
    bad: list[Pair] = [*pairs[:4], {**pairs[4], "weight": float("nan")}, pairs[5]]

    def work(learner: Learner) -> tuple[Any, bool]:
        learner.strategy.lockstep = lockstep
        before = parameters_of(learner.strategy.model)
        metrics = learner.step(bad, 1e-2)
        return (metrics["skipped"], metrics["bad_pair_ids"]), torch.equal(parameters_of(learner.strategy.model), before)

    assert group.run(work) == [((1.0, "pair-4"), True)] * group.size


def test_a_wrong_reference_of_one_worker_is_an_error_on_all(group, pairs):
    def work(learner: Learner) -> str:
        with pytest.raises(TrainingError) as error:
            learner.check_reference(pairs)
        return str(error.value)

    said = group.run(work)
    assert len(set(said)) == 1
    assert said[0].startswith("pair pair-")
