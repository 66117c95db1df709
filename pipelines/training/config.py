"""Settings of the trainer. Torch-free, so that a dry run answers at once."""

import difflib
import re
from typing import Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from pipelines.strict import Strict

LossName = Literal[
    "dpo", "robust_dpo", "ipo", "hinge", "ld_dpo", "length_dpo", "r_dpo", "dpop", "simpo", "orpo", "kto", "nll",
    "nll_prompted", "nll_pooled", "sft", "student_nll", "student_kl",
]
# These read a digit under two prompts, of which the student's shows less.
VIEWED: frozenset[str] = frozenset({"student_nll", "student_kl"})
# These compare the two sides of a pair; the others need the chosen side alone.
PAIRWISE = frozenset(get_args(LossName)) - {"nll", "nll_prompted", "nll_pooled", "sft"} - VIEWED
# These compare with the reference; a run without them needs no reference log-probabilities.
REFERENCED = PAIRWISE - {"simpo", "orpo"}


_TERM = re.compile(r"(?:(\d+(?:\.\d*)?|\.\d+)(?:[eE]([-+]?\d+))?\s*\*?\s*)?([a-z_]+)")


def parse_loss(text: str) -> dict[str, float]:
    """`dpo + 0.5 nll` as weights by name; raises ValueError that names the term and the nearest valid one."""
    names = get_args(LossName)
    terms: dict[str, float] = {}
    for part in re.split(r"(?<![\d.][eE])\+", text):
        match = _TERM.fullmatch(part.strip())
        if not match:
            raise ValueError(f"{part.strip()!r} is no term; write names with their weights, as in 'dpo + 0.5 nll'")
        name = match[3]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(names)}"
            raise ValueError(f"{name!r} is no loss, {hint}")
        weight = float(f"{match[1] or 1}e{match[2] or 0}")
        if name in terms or not 0 < weight < float("inf"):
            raise ValueError(f"{name}: " + ("named twice" if name in terms else "its weight must be above 0"))
        terms[name] = weight
    return terms


class LoraConfig(Strict):
    """Low-rank adapters instead of all weights (Hu et al. 2021, 2106.09685), through PEFT."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    target_modules: str | list[str] = Field("all-linear", description="module names, or all but the output head")


class TrainingConfig(Strict):
    """The trainer. Loss of a pair: its weight * the sum of weighted terms (pipelines/training/losses.py)."""

    loss: str = Field("dpo", description="terms and their weights, e.g. 'dpo + nll' or 'sft + 0.1 orpo'")
    beta: float = Field(0.1, gt=0, description="pull to the reference; simpo, length_dpo: per token, 2 to 10 is usual")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="dpo, robust_dpo: share of pairs in the wrong order")
    simpo_gamma: float = Field(0.5, ge=0, description="simpo: target margin in units of its reward, not over beta")
    dpop_lambda: float = Field(50.0, ge=0, description="dpop: times beta, what a chosen side below the reference costs")
    ld_alpha: float = Field(0.5, ge=0, le=1, description="ld_dpo: weight of the tokens by which one side is longer")
    length_penalty: float = Field(0.01, ge=0, description="r_dpo: what a response token costs in units of the reward")

    learning_rate: float = Field(1e-6, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    start_from: Literal["previous", "seed"] = Field("previous", description="weights an iteration begins with")
    epochs: PositiveInt = 1
    batch_pairs: PositiveInt = Field(32, description="pairs of one optimizer step, over all workers")
    batch_tokens: PositiveInt | None = Field(None, description="tokens of one optimizer step, at most batch_pairs")
    max_steps: PositiveInt | None = None
    pairs_together: PositiveInt = Field(4, description="pairs of one prompt kept in one step; 1 mixes all pairs")
    validation_pairs: int = Field(0, ge=0, description="pairs held out, by prompt, to choose the best weights")
    validate_steps: PositiveInt = Field(20, description="steps between validations")
    patience: PositiveInt | None = Field(None, description="validations without a better loss before training stops")

    shared_prompt: bool = Field(True, description="compute a prompt once for all its continuations")
    tokens_per_forward: PositiveInt = Field(2048, description="packs are filled up to this")
    max_pair_tokens: PositiveInt = Field(16_384, description="a longer pair is left out and reported")
    logprob_chunk: PositiveInt = Field(512, description="response tokens projected to the vocabulary at a time")
    weights: Literal["float32", "bfloat16"] = Field("float32", description="type of weights, gradients and moments")
    autocast: Literal["bfloat16", "float32"] = Field("bfloat16", description="what matrices are multiplied in")
    activation_checkpointing: bool = Field(False, description="less memory, about a third slower")
    lora: LoraConfig | None = None
    liger: bool = Field(False, description="GPU only: fused norm, rotary and MLP kernels of the package liger-kernel")

    strategy: Literal["ddp", "fsdp2", "zero1", "zero2", "zero3"] = "ddp"
    num_workers: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(1, description="or (min, max): elastic")
    resize_every_s: float = Field(60, ge=0, description="elastic only: seconds between looks for nodes")
    num_cpus: float = Field(1.0, ge=0, description="Ray CPUs a train worker reserves")
    num_gpus: float = Field(0.0, ge=0, description="GPUs a train worker reserves; 0 trains on CPU")
    threads: PositiveInt | None = Field(None, description="CPU only: threads of one train worker")
    save_every_s: float = Field(300, ge=0, description="seconds between states that a killed training resumes from")
    max_bad_steps: PositiveInt = Field(3, description="steps in a row that may be non-finite before training stops")
    max_failures: int = Field(2, ge=0, description="restarts of the training after a worker died")
    start_timeout_s: float = Field(600, gt=0, description="how long train workers may wait for their resources")
    timeout_s: float = Field(86_400, gt=0)

    @field_validator("loss")
    @classmethod
    def _known_terms(cls, text: str) -> str:
        parse_loss(text)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingConfig":
        if self.weights == "bfloat16" and self.autocast != "bfloat16":
            raise ValueError("weights=bfloat16 needs autocast=bfloat16")
        workers = self.worker_range
        if workers[0] > workers[1]:
            raise ValueError(f"num_workers: {workers[0]} is more than {workers[1]}")
        if self.patience and not self.validation_pairs:
            raise ValueError("patience: needs validation_pairs")
        if self.start_from == "seed" and self.needs_reference:
            raise ValueError(f"start_from=seed: loss={self.loss!r} compares with the iteration's model; start there")
        if self.label_smoothing == 0 and "robust_dpo" in self.losses:
            raise ValueError("loss=robust_dpo: needs label_smoothing, the share of pairs in the wrong order")
        if self.label_smoothing and not {"dpo", "robust_dpo"} & self.losses.keys():
            raise ValueError(f"label_smoothing: dpo and robust_dpo know it, loss={self.loss!r} does not")
        return self

    @property
    def losses(self) -> dict[str, float]:
        """Weight of each term of `loss`."""
        return parse_loss(self.loss)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most train workers."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)

    @property
    def needs_reference(self) -> bool:
        """Whether any term reads the reference's log-probabilities."""
        return not REFERENCED.isdisjoint(self.losses)

    @property
    def needs_pairs(self) -> bool:
        """Whether any term reads the rejected side."""
        return not PAIRWISE.isdisjoint(self.losses)

    @property
    def needs_views(self) -> bool:
        """Whether any term reads the student's view."""
        return not VIEWED.isdisjoint(self.losses)
