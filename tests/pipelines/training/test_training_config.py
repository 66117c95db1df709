"""Settings of the trainer: how a loss is written, what does not fit together, and what people are told."""

import subprocess
import sys
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.config import ConfigError, dump, load_dump, resolve
from pipelines.training.config import PAIRWISE, REFERENCED, VIEWED, LossName, TrainingConfig, parse_loss

NAMES = get_args(LossName)


def problem(*words: str) -> str:
    """What the command line says to these settings."""
    with pytest.raises(ConfigError) as caught:
        resolve("irpo", ["prompts=p.jsonl", *words], "cpu")
    return str(caught.value)


# ---- losses


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("dpo", {"dpo": 1.0}),
        ("dpo + nll", {"dpo": 1.0, "nll": 1.0}),
        ("dpo+nll", {"dpo": 1.0, "nll": 1.0}),
        ("hinge+nll", {"hinge": 1.0, "nll": 1.0}),  # no exponent
        ("  dpo  +  0.5   nll ", {"dpo": 1.0, "nll": 0.5}),
        ("0.5*dpo + 2 * nll", {"dpo": 0.5, "nll": 2.0}),
        ("sft + .1orpo", {"sft": 1.0, "orpo": 0.1}),
        ("3. dpo", {"dpo": 3.0}),
        ("1e-3 nll + dpo", {"nll": 0.001, "dpo": 1.0}),
        ("1e+3 nll+2E2dpo", {"nll": 1000.0, "dpo": 200.0}),
        ("nll_pooled + ld_dpo + r_dpo", {"nll_pooled": 1.0, "ld_dpo": 1.0, "r_dpo": 1.0}),
    ],
)
def test_a_loss_is_a_sum_of_weighted_terms(text, terms):
    assert parse_loss(text) == terms
    assert TrainingConfig(loss=text, label_smoothing=0).losses == terms


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(1e-6, 1e6), min_size=1), st.sampled_from(["", " ", "  "]))
def test_what_is_written_is_read(terms, space):
    text = f"{space}+{space}".join(f"{weight!r}{space}{name}" for name, weight in terms.items())
    assert parse_loss(text) == pytest.approx(terms)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dpp", "'dpp' is no loss, did you mean dpop?"),
        ("dpo + nl", "'nl' is no loss, did you mean nll?"),
        ("qqq", "'qqq' is no loss, valid are dpo, robust_dpo, ipo, "),
        ("", "'' is no term; write names with their weights, as in 'dpo + 0.5 nll'"),
        ("dpo +", "'' is no term"),
        ("dpo + + nll", "'' is no term"),
        ("dpo nll", "'dpo nll' is no term"),
        ("dpo, nll", "'dpo, nll' is no term"),
        ("dpo - nll", "'dpo - nll' is no term"),
        ("-1 dpo", "'-1 dpo' is no term"),
        ("1 2 dpo", "'1 2 dpo' is no term"),
        ("0.5", "'0.5' is no term"),
        ("DPO", "'DPO' is no term"),
        ("0 dpo", "dpo: its weight must be above 0"),
        ("0.0 nll + dpo", "nll: its weight must be above 0"),
        ("1e999 dpo", "dpo: its weight must be above 0"),
        ("dpo + 2 dpo", "dpo: named twice"),
    ],
)
def test_a_loss_that_cannot_be_read_names_the_term_and_the_nearest(text, says):
    with pytest.raises(ValueError) as caught:
        parse_loss(text)
    assert str(caught.value).startswith(says)
    if text:
        told = problem(f"training.loss={text}")
        assert told.startswith("training.loss: ")
        assert says in told
        assert "\n" not in told


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_says_what_it_needs(name):
    config = TrainingConfig(loss=f"0.1 {name}", label_smoothing=0.1 if name == "robust_dpo" else 0.0)
    assert (config.needs_pairs, config.needs_reference) == (name in PAIRWISE, name in REFERENCED)
    assert config.needs_views == (name in VIEWED)


def test_what_needs_no_rejected_side_and_no_reference():
    assert set(NAMES) - PAIRWISE == {"nll", "nll_prompted", "nll_pooled", "sft", "student_nll", "student_kl"}
    assert {"student_nll", "student_kl"} == VIEWED
    assert {"simpo", "orpo"} == PAIRWISE - REFERENCED
    assert not TrainingConfig(loss="sft + 0.1 orpo").needs_reference


# ---- what fits together


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["weights=bfloat16", "autocast=float32"], "weights=bfloat16 needs autocast=bfloat16"),
        (["num_workers=[4, 2]"], "num_workers: 4 is more than 2"),
        (["patience=3"], "patience: needs validation_pairs"),
        (["start_from=seed", "loss=dpo + nll"], "start_from=seed: loss='dpo + nll' compares with the iteration"),
        (["loss=robust_dpo"], "loss=robust_dpo: needs label_smoothing"),
        (["loss=ipo + nll", "label_smoothing=0.1"], "label_smoothing: dpo and robust_dpo know it, loss='ipo + nll'"),
    ],
)
def test_settings_that_contradict_each_other(words, says):
    settings = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in words)}
    with pytest.raises(ValidationError, match=r"Value error") as caught:
        TrainingConfig(**settings)
    assert says in str(caught.value)
    told = problem(*(f"training.{word}" for word in words), "models.reference.dtype=float32")
    assert says in told


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("training.label_smoothing=0.5", "training.label_smoothing: Input should be less than 0.5 (got 0.5)"),
        ("training.num_workers=0", "training.num_workers"),
        ("training.num_workers=[0, 2]", "training.num_workers"),
        ("training.num_workers=[1, 2, 3]", "training.num_workers"),
        ("training.strategy=fsdp", "training.strategy: Input should be 'ddp', 'fsdp2', 'zero1', 'zero2' or 'zero3'"),
        ("training.nll_alpha=1", "training.nll_alpha: unknown key"),
        ("training.warmup_ratio=1", "training.warmup_ratio: Input should be less than 1 (got 1)"),
        ("training.lora.rnk=8", "training.lora.rnk: unknown key, did you mean training.lora.rank?"),
        ("training.tokens_per_forward=0", "training.tokens_per_forward: Input should be greater than 0 (got 0)"),
        ("training.validation_pairs=-1", "training.validation_pairs: Input should be greater than or equal to 0"),
    ],
)
def test_settings_out_of_range_are_told(word, says):
    assert says in problem(word)


def test_workers_are_a_number_or_a_range():
    assert TrainingConfig(num_workers=3).worker_range == (3, 3)
    assert TrainingConfig(num_workers=(2, 8)).worker_range == (2, 8)
    run = resolve("irpo", ["prompts=p", "training.num_workers=[2, 8]", "training.lora.rank=4"], "cpu")
    assert (run.training.num_workers, run.training.lora and run.training.lora.rank) == ((2, 8), 4)
    assert load_dump(yaml.safe_load(yaml.safe_dump(dump(run)))) == run


def test_settings_reach_the_trainer_as_plain_data():
    """A train worker makes them again from what Ray carries."""
    config = TrainingConfig(loss="dpo + 0.5 nll", num_workers=(1, 2), lora={"rank": 2}, max_steps=3)
    plain: dict[str, Any] = config.model_dump()
    assert TrainingConfig.model_validate(plain) == config
    assert TrainingConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_settings_the_plan_and_the_layout_of_packs_load_no_framework():
    code = (
        "import sys, pipelines.config, pipelines.training.config, pipelines.training.errors\n"
        "import pipelines.training.packing, pipelines.training.batching, pipelines.training.trainer\n"
        "print([m for m in ('torch', 'vllm', 'ray', 'transformers', 'deepspeed', 'peft') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
