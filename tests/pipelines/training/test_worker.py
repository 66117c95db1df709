"""One train worker on a tiny model: order of pairs, the check of the reference, bad pairs, and what is saved."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.config import TrainingConfig
from pipelines.ledger import Ledger
from pipelines.training import worker
from pipelines.training.logprobs import response_logprobs
from pipelines.training.trainer import training_summary
from pipelines.training.worker import (
    LN2,
    MAX_BAD_STEPS,
    PairTrainer,
    TrainingError,
    batches,
    epoch_order,
    save_checkpoint,
)

# A first step that is skipped makes torch suspect the order of optimizer and schedule.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
NAN = math.nan
CONFIG = TrainingConfig(autocast="float32", learning_rate=1e-3, schedule="constant", beta=0.5, max_grad_norm=1e6)


@pytest.fixture(scope="module")
def fresh_model(make_tiny_model) -> Any:
    """A function that gives the same tiny model in float32, untouched."""
    folder = make_tiny_model(0, vocab_size=128)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return lambda: copy.deepcopy(model)


@pytest.fixture(scope="module")
def pairs(fresh_model) -> list[dict[str, Any]]:
    """Four pairs with the tiny model's own log-probabilities as reference."""
    model, made = fresh_model(), []
    for i in range(4):
        prompt, chosen, rejected = [1, 10 + i, 20], [30 + i, 31, 2], [40, 41 + i, 42, 43, 2][i:]
        with torch.no_grad():
            logps = response_logprobs(model, prompt, [chosen, rejected])
        made.append(
            {
                "pair_id": f"pair-{i}", "prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected,
                "weight": 1.0, "ref_logp_chosen": float(logps[0].sum()), "ref_logp_rejected": float(logps[1].sum()),
                "ref_version": "v0",
            }
        )
    return made


def trainer(model: Any, **changes: Any) -> PairTrainer:
    return PairTrainer(model, CONFIG.model_copy(update=changes), total_steps=10)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradients(learner: PairTrainer) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])


# ---- order


@given(st.integers(1, 50), st.integers(0, 99), st.integers(1, 12), st.integers(1, 4))
def test_every_epoch_takes_every_pair_once_in_an_order_of_its_own(count, seed, size, epochs):
    config = TrainingConfig(batch_pairs=size, epochs=epochs)
    plan = batches(count, config, seed)
    assert plan == batches(count, config, seed)
    per_epoch = math.ceil(count / size)
    assert len(plan) == per_epoch * epochs
    for epoch in range(epochs):
        steps = plan[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert [i for step in steps for i in step] == epoch_order(count, seed, epoch)
        assert sorted(i for step in steps for i in step) == list(range(count))
        assert [len(step) for step in steps[:-1]] == [size] * (per_epoch - 1)
    assert batches(count, config.model_copy(update={"max_steps": 2}), seed) == plan[:2]


def test_the_order_is_pinned():
    """A resumed run of the same version must see the batches of the first start, on every machine."""
    assert epoch_order(8, 7, 0) == [7, 1, 4, 3, 0, 6, 2, 5]
    assert epoch_order(8, 7, 1) != epoch_order(8, 7, 0) != epoch_order(8, 8, 0)


# ---- reference


def test_a_reference_that_is_this_model_passes_with_ln_2(fresh_model, pairs):
    assert trainer(fresh_model()).check_reference(pairs) == pytest.approx(LN2, abs=1e-6)
    bfloat16 = trainer(fresh_model(), autocast="bfloat16")
    with torch.no_grad(), bfloat16.autocast():
        own = [response_logprobs(bfloat16.model, p["prompt_ids"], [p["chosen_ids"], p["rejected_ids"]]) for p in pairs]
    scored = [
        {**p, "ref_logp_chosen": float(c.sum()), "ref_logp_rejected": float(r.sum())}
        for p, (c, r) in zip(pairs, own, strict=True)
    ]
    assert bfloat16.check_reference(scored) == pytest.approx(LN2, abs=1e-6)


@pytest.mark.parametrize("change", [0.01, -0.01, NAN, math.inf])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_reference_that_is_another_model_is_named_by_its_pair(fresh_model, pairs, change, place):
    wrong = [{**p, "ref_logp_chosen": p["ref_logp_chosen"] + change * (i == place)} for i, p in enumerate(pairs)]
    if not math.isfinite(change):
        wrong = [{**p, "ref_logp_chosen": change if i == place else p["ref_logp_chosen"]} for i, p in enumerate(pairs)]
    with pytest.raises(TrainingError, match=rf"^pair pair-{place}: DPO loss .* instead of ln 2 .*\(version v0\)"):
        trainer(fresh_model()).check_reference(wrong)


def test_the_worst_pair_is_the_one_named(fresh_model, pairs):
    wrong = [{**p, "ref_logp_chosen": p["ref_logp_chosen"] + 0.1 * i} for i, p in enumerate(pairs)]
    with pytest.raises(TrainingError, match=r"^pair pair-3"):
        trainer(fresh_model()).check_reference(wrong)


# ---- steps


def test_the_loss_of_a_pair_is_the_formula_on_its_log_probabilities(fresh_model, pairs):
    pair: dict[str, Any] = {**pairs[1], "ref_logp_chosen": -20.0, "ref_logp_rejected": -30.0, "weight": 0.5}
    parts = trainer(fresh_model(), nll_alpha=2.0).pair_loss(pair)
    w, lo = float(parts["logp_chosen"]), float(parts["logp_rejected"])
    h = 0.5 * ((w + 20) - (lo + 30))
    expected = 0.5 * (math.log1p(math.exp(-h)) + 2.0 * -w / len(pair["chosen_ids"]))
    assert float(parts["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert w == pytest.approx(pairs[1]["ref_logp_chosen"], abs=1e-4)


def test_training_on_one_pair_raises_its_margin(fresh_model, pairs):
    learner = trainer(fresh_model())
    steps = [learner.step(pairs[:1], 1) for _ in range(5)]
    margins = [step["reward_chosen"] - step["reward_rejected"] for step in steps]
    assert margins[0] == pytest.approx(0.0, abs=1e-5)
    assert margins == sorted(margins)
    assert margins[-1] > 0.5
    losses = [step["dpo_loss"] for step in steps]
    assert losses[0] == pytest.approx(LN2, abs=1e-5)
    assert losses == sorted(losses, reverse=True)
    assert (steps[-1]["accuracy"], steps[-1]["skipped"], steps[-1]["pairs"]) == (1.0, 0.0, 1)
    assert steps[0]["tokens"] == sum(len(pairs[0][key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids"))


def test_metrics_are_means_over_the_batch_and_name_the_rate_that_was_used(fresh_model, pairs):
    learner = PairTrainer(fresh_model(), CONFIG.model_copy(update={"schedule": "linear"}), total_steps=4)
    nlls = [float(learner.pair_loss(pair)["nll"]) for pair in pairs]
    rates = [learner.step(pairs, 4) for _ in range(4)]
    assert rates[0]["nll"] == pytest.approx(sum(nlls) / 4, rel=1e-5)
    assert [step["learning_rate"] for step in rates] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_shares_of_two_workers_add_up_to_the_batch(fresh_model, pairs):
    """Gradients are summed over workers, each pair divided by the size of the whole batch."""

    def gradient(shares: list[list[dict[str, Any]]]) -> torch.Tensor:
        total = None
        for share in shares:
            learner = trainer(fresh_model())
            for pair in share:
                (learner.pair_loss(pair)["loss"] / len(pairs)).backward()
            found = gradients(learner)
            total = found if total is None else total + found
        assert total is not None
        return total

    whole = gradient([pairs])
    torch.testing.assert_close(gradient([pairs[0::2], pairs[1::2]]), whole, atol=1e-6, rtol=1e-5)
    assert float(whole.abs().max()) > 0.01
    stepped = trainer(fresh_model())
    assert stepped.step(pairs, len(pairs))["grad_norm"] == pytest.approx(float(whole.norm()), rel=1e-5)


def test_gradients_are_clipped_to_the_limit(fresh_model, pairs):
    learner = trainer(fresh_model(), max_grad_norm=0.5)
    norm = learner.step(pairs, len(pairs))["grad_norm"]
    left = gradients(learner).norm()
    assert norm > 1
    assert float(left) == pytest.approx(0.5, rel=1e-4)


def test_only_matrices_decay(fresh_model):
    learner = trainer(fresh_model(), weight_decay=0.1)
    decay, plain = learner.optimizer.param_groups
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in plain["params"]} == {1}
    assert len(decay["params"]) + len(plain["params"]) == len(list(learner.model.parameters()))


# ---- bad pairs


@pytest.mark.parametrize("field", ["ref_logp_chosen", "ref_logp_rejected", "weight"])
@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_step_with_a_bad_pair_is_skipped_and_the_pair_named(fresh_model, pairs, field, value):
    learner = trainer(fresh_model())
    before = weights(learner.model)
    metrics = learner.step([pairs[0], {**pairs[1], field: value}, pairs[2]], 3)
    if (field, value) == ("ref_logp_rejected", math.inf):  # h = +inf is a loss of 0: nothing to learn, nothing wrong
        assert metrics["skipped"] == 0.0
        return
    assert torch.equal(weights(learner.model), before)
    assert (metrics["skipped"], metrics["bad_pair_ids"]) == (1.0, "pair-1")
    assert metrics["dpo_loss"] == pytest.approx(LN2, abs=1e-5)  # of the two good pairs
    good = learner.step(pairs[:1], 1)
    assert (good["skipped"], learner.bad_steps) == (0.0, 0)
    assert not torch.equal(weights(learner.model), before)


def test_the_third_bad_step_in_a_row_ends_the_training(fresh_model, pairs):
    learner = trainer(fresh_model())
    bad = [{**pairs[3], "ref_logp_chosen": NAN}]
    for _ in range(2):
        for _ in range(MAX_BAD_STEPS - 1):
            assert learner.step(bad, 1)["skipped"] == 1.0
        learner.step(pairs[:1], 1)  # a good one in between starts the count again
    for _ in range(MAX_BAD_STEPS - 1):
        learner.step(bad, 1)
    before = weights(learner.model)
    with pytest.raises(TrainingError, match=r"^3 steps in a row were not finite; pairs: pair-3$"):
        learner.step(bad, 1)
    assert torch.equal(weights(learner.model), before)


def test_a_gradient_that_is_not_finite_is_never_stepped(fresh_model, pairs):
    learner = trainer(fresh_model())
    before = weights(learner.model)
    hook = learner.model.get_parameter("model.norm.weight").register_hook(lambda gradient: gradient * NAN)
    metrics = learner.step(pairs[:2], 2)
    assert (metrics["skipped"], metrics["bad_pair_ids"]) == (1.0, "pair-0, pair-1")
    assert torch.equal(weights(learner.model), before)
    hook.remove()
    assert learner.step(pairs[:2], 2)["skipped"] == 0.0


def test_a_bad_pair_of_another_worker_is_named_here_too(fresh_model, pairs, monkeypatch):
    """Rank 0 writes the metrics: it must not name its own innocent pairs."""

    def gather(out: list[Any], value: Any) -> None:
        out[0] = value
        out[1] = ["pair-9"] if isinstance(value, list) else {**value, "pairs": 1, "bad_pairs": 1}

    monkeypatch.setattr(worker.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(worker.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(worker.dist, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(worker.dist, "all_gather_object", gather)
    learner = trainer(fresh_model())
    before = weights(learner.model)
    metrics = learner.step(pairs[:1], 2)
    assert (metrics["skipped"], metrics["bad_pair_ids"]) == (1.0, "pair-9")
    assert torch.equal(weights(learner.model), before)


def test_a_worker_without_a_pair_takes_part_with_zeros(fresh_model):
    learner = trainer(fresh_model())
    metrics = learner.step([], 1)
    assert (metrics["grad_norm"], metrics["pairs"], metrics["skipped"]) == (0.0, 0, 0.0)


def test_a_summary_is_of_the_steps_that_were_taken(tmp_path):
    """A step of bad pairs alone has no loss to report."""
    ledger = Ledger.create(str(tmp_path), "r", {}, {})
    assert training_summary(ledger, 0) == {"steps": 0, "skipped_steps": 0}
    skipped = {"step": 0, "skipped": 1.0, "seconds": 1.0, "tokens": 9, "bad_pair_ids": "pair-0"}
    numbers = {"dpo_loss": 0.5, "accuracy": 1.0, "reward_chosen": 0.25, "reward_rejected": -0.5}
    taken = {**skipped, **numbers, "step": 1, "skipped": 0.0}
    old = {**taken, "dpo_loss": 9.0}
    for record in ({"event": "start", "steps": 1}, old, {"event": "start", "steps": 3}, skipped, taken, skipped):
        ledger.append_metrics(0, record)
    assert training_summary(ledger, 0) == {
        "steps": 1, "first_dpo_loss": 0.5, "last_dpo_loss": 0.5, "last_accuracy": 1.0, "last_margin": 0.75,
        "skipped_steps": 2, "seconds": 3.0,
    }


# ---- checkpoints


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_model) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_checkpoint_loads_again_in_bfloat16_with_tied_tensors_stored_once(fresh_model, tiny_tokenizer, tmp_path):
    model = fresh_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.125)
    expected = model.get_input_embeddings().weight.detach().to(torch.bfloat16)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "left-over.txt").write_text("of an earlier attempt")
    save_checkpoint(model, tiny_tokenizer, str(folder))

    stored = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert torch.equal(stored["model.embed_tokens.weight"], expected)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, expected)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]
    assert not (folder / "left-over.txt").exists()


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved(fresh_model, tiny_tokenizer, tmp_path, value):
    model = fresh_model()
    folder = tmp_path / "checkpoint"
    save_checkpoint(fresh_model(), tiny_tokenizer, str(folder))
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    with pytest.raises(TrainingError, match=r"non-finite weights: model\.layers\.1\.mlp\.up_proj\.weight$"):
        save_checkpoint(model, tiny_tokenizer, str(folder))
    assert (folder / "model.safetensors").read_bytes() == before
    assert Path(tmp_path / "checkpoint.partial").exists() is False
