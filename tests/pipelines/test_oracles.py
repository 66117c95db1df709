"""What the method must do when the truth is known: judges and meta-judges that follow a planted rule, as text."""

from typing import Any

import pytest

from tests.pipelines.planted import (
    judged_group,
    mute_judge,
    noise,
    rule_judge,
    run_recipe,
    shown_score,
    with_meta_judge,
)


def test_e_rule_judge_recovers_planted_order_and_more_judgements_help() -> None:
    def accuracy(n: int) -> float:
        groups = []
        for p in range(150):
            texts = {
                f"{p}-y{i}": (f"response {i}", [rule_judge(2.5 + 0.4 * i, 2.5, p, i, j) for j in range(n)])
                for i in range(2)
            }
            groups.append(judged_group(texts, f"p{p}"))
        _, pairs = run_recipe("meta_rewarding", groups, rho=[0])
        return sum(p["chosen_text"] == "response 1" for p in pairs) / len(pairs)

    few, many = accuracy(1), accuracy(11)
    assert few < many and many > 0.75


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_e_a_mute_judge_does_not_bias_the_pairs(rate: float) -> None:
    groups = []
    for p in range(150):
        texts = {
            f"{p}-y{i}": (
                f"response {i}",
                [mute_judge(rate, rule_judge(1 + i, 1.0, p, i, j), p, i, j) for j in range(7)],
            )
            for i in range(4)
        }
        groups.append(judged_group(texts, f"p{p}"))
    _, pairs = run_recipe("meta_rewarding", groups, rho=[0])
    assert len(pairs) > 140
    assert sum((p["chosen_text"], p["rejected_text"]) == ("response 3", "response 0") for p in pairs) / len(pairs) > 0.8


def test_e_rule_meta_judge_puts_the_smaller_error_on_the_chosen_side() -> None:
    quality, groups = 3.0, []

    def closer_to_truth(first: Any, second: Any) -> str:
        if noise("bias", first["text"], second["text"]) < 0.2:
            return "Winner: A"
        errors = abs(shown_score(first) - quality), abs(shown_score(second) - quality)
        return "Winner: tie" if errors[0] == errors[1] else f"Winner: {'A' if errors[0] < errors[1] else 'B'}"

    for p in range(40):
        texts = {
            f"{p}-y{i}": (f"response {i}", [rule_judge(quality, 2.0, p, i, j) for j in range(6)]) for i in range(2)
        }
        groups.append(with_meta_judge(judged_group(texts, f"p{p}"), closer_to_truth))
    _, pairs = run_recipe("meta_rewarding", groups)
    judged = [p for p in pairs if p["kind"] == "judge"]
    errors = [
        (
            abs(float(p["chosen_text"].rsplit(" ", 1)[1]) - quality),
            abs(float(p["rejected_text"].rsplit(" ", 1)[1]) - quality),
        )
        for p in judged
    ]
    assert len(judged) > 30
    assert sum(c for c, _ in errors) < 0.5 * sum(r for _, r in errors)
    assert sum(c <= r for c, r in errors) / len(errors) > 0.95
