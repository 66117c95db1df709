"""Preference losses as pure functions of log-probabilities."""

import torch.nn.functional as F
from torch import Tensor


def dpo(
    logp_chosen: Tensor, logp_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-log sigmoid(h), h = beta [(lp_theta(w) - lp_ref(w)) - (lp_theta(l) - lp_ref(l))].

    Rafailov et al. 2023 (2305.18290), eq. 7. Inputs are sums over response tokens, shape [pairs]; returns the loss and
    the implicit rewards beta (lp_theta - lp_ref) of both sides, each [pairs].
    """
    reward_chosen = beta * (logp_chosen - ref_chosen)
    reward_rejected = beta * (logp_rejected - ref_rejected)
    return -F.logsigmoid(reward_chosen - reward_rejected), reward_chosen.detach(), reward_rejected.detach()


def nll_per_example(logp_chosen: Tensor, chosen_tokens: Tensor) -> Tensor:
    """-lp_theta(w) / len(w), the per-example mean form of IRPO (2404.19733, eq. 2) and ScPO; shape [pairs]."""
    return -logp_chosen / chosen_tokens


def weighted_pair_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_tokens: Tensor,
    weight: Tensor,
    beta: float,
    nll_alpha: float,
) -> dict[str, Tensor]:
    """weight * (L_DPO + nll_alpha * NLL / len(chosen)) per pair, and its parts; all shapes [pairs].

    With nll_alpha 1 this is IRPO's loss, with a vote margin as weight ScPO's (2411.04109, eq. 2).
    """
    loss, reward_chosen, reward_rejected = dpo(logp_chosen, logp_rejected, ref_chosen, ref_rejected, beta)
    nll = nll_per_example(logp_chosen, chosen_tokens)
    return {
        "loss": weight * (loss + nll_alpha * nll),
        "dpo_loss": loss.detach(),
        "nll": nll.detach(),
        "reward_chosen": reward_chosen,
        "reward_rejected": reward_rejected,
    }
