"""Losses of preference pairs as pure functions of summed log-probabilities, one per term of `TrainingConfig.loss`.

Written with w the chosen and l the rejected response: lp and ref are the policy's and the reference's summed
log-probabilities, len counts response tokens, D_w = lp(w) - ref(w), D_l = lp(l) - ref(l). A margin h of which a loss is
-log sigmoid(h) is written down alone. Only `dpo` and `robust_dpo` read label_smoothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.training.config import TrainingConfig


@dataclass(frozen=True)
class Views:
    """Rows whose chosen side is a digit, under two prompts: the pair's own, the teacher's, and the student's.

    `chosen` [pairs] is lp(w) under the student's prompt; `teacher` and `student` [pairs, 10] are the log-probabilities
    of every digit, 0 first, as what comes first.
    """

    chosen: Tensor
    teacher: Tensor
    student: Tensor


@dataclass(frozen=True)
class PairBatch:
    """What a loss may read of some pairs.

    Tensors are float32 of shape [pairs]; log-probabilities are natural and summed over response tokens. Rows without a
    rejected side hold 0 in its fields; only `sft` and the `nll` terms are meant for them.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    prompt_tokens: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    # Sums over the first min(chosen_tokens, rejected_tokens) tokens only (LD-DPO).
    chosen_head: Tensor
    rejected_head: Tensor
    ref_chosen_head: Tensor
    ref_rejected_head: Tensor
    weight: Tensor
    # Of the whole optimizer step, over all packs and workers, so that no loss depends on how it was cut.
    batch_pairs: float
    batch_chosen_tokens: float
    # Means of D_w and D_l, without gradient and at least 0; 0 when no term asks (KTO).
    kl_chosen: float
    kl_rejected: float
    views: Views | None = None  # None when no term asks


Loss = Callable[[PairBatch, TrainingConfig], Tensor]


def dpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """h = beta (D_w - D_l). Rafailov et al. 2023 (2305.18290), eq. 7.

    With label_smoothing e: -(1 - e) log sigmoid(h) - e log sigmoid(-h), conservative DPO (Mitchell 2023).
    """
    h, noise = settings.beta * _gap(pairs), settings.label_smoothing
    return -(1 - noise) * F.logsigmoid(h) - noise * F.logsigmoid(-h)


def robust_dpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """(-(1 - e) log sigmoid(h) + e log sigmoid(-h)) / (1 - 2e), h as in DPO, e = label_smoothing.

    Chowdhury et al. 2024 (2403.00409): if each pair was swapped with probability e, its mean is DPO's loss on the pairs
    as they were. Falls without bound for h to infinity.
    """
    h, noise = settings.beta * _gap(pairs), settings.label_smoothing
    return (noise * F.logsigmoid(-h) - (1 - noise) * F.logsigmoid(h)) / (1 - 2 * noise)


def ipo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """(D_w - D_l - 1 / (2 beta))^2. Azar et al. 2023 (2310.12036), eq. 17, where beta is called tau.

    On sums, as the equation is written, so that 1 / (2 beta) nats is the margin of whole responses. Where token means
    are used instead, the margin is per token: for equal lengths their beta is this one times the length, and their loss
    this one divided by the length squared.
    """
    return (_gap(pairs) - 1 / (2 * settings.beta)) ** 2


def hinge(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """max(0, 1 - h), h as in DPO: SLiC's loss (Zhao et al. 2023, 2305.10425) on log-ratios.

    RSO's "hinge-norm" (Liu et al. 2023, 2309.06657).
    """
    return F.relu(1 - settings.beta * _gap(pairs))


def length_dpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """h = beta (D_w / len(w) - D_l / len(l)), length-normalised DPO. Tulu 3 (2411.15124), section 5.

    Margins are per token: beta is larger than DPO's, 5 in the paper.
    """
    chosen = (pairs.chosen - pairs.ref_chosen) / pairs.chosen_tokens
    rejected = (pairs.rejected - pairs.ref_rejected) / pairs.rejected_tokens
    return -F.logsigmoid(settings.beta * (chosen - rejected))


def ld_dpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """DPO on head + ld_alpha * rest, for policy and reference. Liu et al. 2024 (2409.06411).

    The head is the first min(len(w), len(l)) tokens of a side. ld_alpha 1 is DPO, 0 ignores what one side is longer by.
    """
    head = (pairs.chosen_head - pairs.ref_chosen_head) - (pairs.rejected_head - pairs.ref_rejected_head)
    gap = settings.ld_alpha * _gap(pairs) + (1 - settings.ld_alpha) * head
    return -F.logsigmoid(settings.beta * gap)


def r_dpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """h = beta (D_w - D_l) + length_penalty (len(w) - len(l)). Park et al. 2024 (2403.19159).

    The policy that maximises reward - length_penalty * len - beta KL has reward = beta D + length_penalty * len, up to
    a term of the prompt alone, and h is the difference of both sides' rewards. So a longer chosen side needs a smaller
    margin of log-ratios, as its length explains part of the preference, and pairs with a shorter one pull harder.
    """
    longer = pairs.chosen_tokens - pairs.rejected_tokens
    return -F.logsigmoid(settings.beta * _gap(pairs) + settings.length_penalty * longer)


def dpop(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """h = beta (D_w - D_l - dpop_lambda * max(0, -D_w)), DPO-positive. Pal et al. 2024 (2402.13228).

    The penalty stands inside the sigmoid and so is scaled by beta.
    """
    fallen = F.relu(pairs.ref_chosen - pairs.chosen)
    return -F.logsigmoid(settings.beta * (_gap(pairs) - settings.dpop_lambda * fallen))


def simpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """h = beta (lp(w) / len(w) - lp(l) / len(l)) - simpo_gamma. Meng et al. 2024 (2405.14734), eq. 6.

    simpo_gamma is not multiplied by beta; a published ratio gamma / beta is multiplied by beta first. The paper's beta
    is 2 to 10, far above DPO's.
    """
    margin = pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens
    return -F.logsigmoid(settings.beta * margin - settings.simpo_gamma)


def orpo(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """h = log odds(w) - log odds(l), odds = p / (1 - p), log p = lp / len. Hong et al. 2024 (2403.07691), eq. 4 and 7.

    The odds-ratio term alone and without beta: the paper's loss, eq. 6, is `sft + 0.1 orpo`.
    """
    chosen = _log_odds(pairs.chosen / pairs.chosen_tokens)
    return -F.logsigmoid(chosen - _log_odds(pairs.rejected / pairs.rejected_tokens))


def kto(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """Mean over both sides of 1 - sigmoid(beta (D_w - z_w)) and 1 - sigmoid(beta (z_l - D_l)).

    Ethayarajh et al. 2024 (2402.01306), eq. 7, with both lambdas 1. The paper estimates one KL for both sides from
    responses to other prompts. Here, as its authors first did for paired data, each side takes the other's mean
    log-ratio over the optimizer step: z_w = kl_rejected, z_l = kl_chosen. Both are numbers, so they pass no gradient.
    """
    chosen = settings.beta * (pairs.chosen - pairs.ref_chosen - pairs.kl_rejected)
    rejected = settings.beta * (pairs.kl_chosen - (pairs.rejected - pairs.ref_rejected))
    return (torch.sigmoid(-chosen) + torch.sigmoid(-rejected)) / 2


def nll(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """-lp(w) / len(w): every response counts the same. The term of IRPO (2404.19733, section 2) and ScPO (2411.04109).

    Both are `dpo + nll`, ScPO with the vote margin as the pair's weight.
    """
    return -pairs.chosen / pairs.chosen_tokens


def nll_prompted(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """-lp(w) / (len(x) + len(w)) with x the prompt: the longer a judge's instructions, the less its verdict weighs.

    The supervised term of SFR-Judge's `dpo + nll_prompted` (2409.14664, section 3).
    """
    return -pairs.chosen / (pairs.prompt_tokens + pairs.chosen_tokens)


def nll_pooled(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """-lp(w) * batch pairs / batch chosen tokens: every token counts the same, long responses more than in `nll`.

    Its mean over the pairs of an optimizer step is the step's total NLL by its chosen tokens: the cross-entropy per
    token of supervised fine-tuning, so `sft` is this function too, and the NLL of fairseq2's DPO.
    """
    return -pairs.chosen * (pairs.batch_pairs / pairs.batch_chosen_tokens)


def student_nll(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """-lp(w) / len(w) under the student's prompt: the label without what the teacher sees. Self-J (2409.00935).

    The method's loss is `nll + 0.3 student_nll + 2 student_kl`, its first term being the teacher's own.
    """
    return -_views(pairs).chosen / pairs.chosen_tokens


def student_kl(pairs: PairBatch, settings: TrainingConfig) -> Tensor:
    """KL(p_teacher || p_student), no gradient to the teacher: self-distillation. Self-J (2409.00935).

    p is over eleven outcomes, the ten digits and all other tokens as one, renormalised. So nothing of the size of the
    vocabulary is kept, and merging outcomes can only make a divergence smaller.
    """
    teacher, student = _with_rest(_views(pairs).teacher.detach()), _with_rest(_views(pairs).student)
    return (teacher.exp() * (teacher - student)).sum(-1)


LOSSES: dict[str, Loss] = {
    "dpo": dpo,
    "robust_dpo": robust_dpo,
    "ipo": ipo,
    "hinge": hinge,
    "ld_dpo": ld_dpo,
    "length_dpo": length_dpo,
    "r_dpo": r_dpo,
    "dpop": dpop,
    "simpo": simpo,
    "orpo": orpo,
    "kto": kto,
    "nll": nll,
    "nll_prompted": nll_prompted,
    "nll_pooled": nll_pooled,
    "sft": nll_pooled,
    "student_nll": student_nll,
    "student_kl": student_kl,
}


def combined(pairs: PairBatch, settings: TrainingConfig) -> dict[str, Tensor]:
    """`loss` = pair weight * sum of weight * term over `settings.losses`, and what a step reports; all [pairs].

    Without gradient and without any weight: `loss_<name>` of each term; `dpo_loss`, plain DPO whatever the terms, ln 2
    where policy and reference agree; `reward_chosen` and `reward_rejected`, beta D_w and beta D_l.
    """
    total = torch.zeros_like(pairs.chosen)
    parts: dict[str, Tensor] = {}
    for name, weight in settings.losses.items():
        term = LOSSES[name](pairs, settings)
        total = total + weight * term
        parts[f"loss_{name}"] = term.detach()
    reward_chosen = settings.beta * (pairs.chosen - pairs.ref_chosen).detach()
    reward_rejected = settings.beta * (pairs.rejected - pairs.ref_rejected).detach()
    parts["dpo_loss"] = -F.logsigmoid(reward_chosen - reward_rejected)
    rewards = {"reward_chosen": reward_chosen, "reward_rejected": reward_rejected}
    return {"loss": pairs.weight * total} | parts | rewards


def _gap(pairs: PairBatch) -> Tensor:
    """D_w - D_l. Each side on its own first: the differences are small, the sums large."""
    return (pairs.chosen - pairs.ref_chosen) - (pairs.rejected - pairs.ref_rejected)


def _views(pairs: PairBatch) -> Views:
    if pairs.views is None:
        raise ValueError("the loss compares two views of a row, and these rows have one")
    return pairs.views


def _with_rest(logps: Tensor) -> Tensor:
    """Log-probabilities [pairs, 10] and that of anything else, as a distribution [pairs, 11].

    What is left for the rest is at least 1e-6, so that its logarithm stays finite.
    """
    digits = torch.logsumexp(logps, -1, keepdim=True).clamp(max=0)
    rest = torch.log((-torch.expm1(digits)).clamp(min=1e-6))
    return torch.cat([logps, rest], -1).log_softmax(-1)


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)), for 1 - p below 1e-6 as if it were 1e-6.

    Both clamps act on 1 - p alone, so that a response the policy is sure of keeps a gradient, and a finite one.
    """
    return logp - torch.log((-torch.expm1(logp.clamp(max=0))).clamp(min=1e-6))
