"""Rows to imitate, and whose texts a policy may learn from."""

from typing import Any

import pytest

from pipelines.recipes.base import Context
from pipelines.records import Group, Pair, pairs_table
from pipelines.steps.pairs import make_pair, make_row, policys_own
from pipelines.steps.render import judge_messages, prompt_messages
from tests.pipelines.planted import group, judgement, sample

CONTEXT = Context(0, "sfr_judge", 2)


def planted(**versions: str) -> Group:
    """Two samples and two judgements of the first; `versions` by id, v2 where none is given."""
    samples = [sample(i, f"text {i}", n, weight_version=versions.get(i, "v2")) for n, i in enumerate("ab")]
    judged = [judgement(i, "a", f"said {i}", weight_version=versions.get(i, "v2")) for i in ("j", "k")]
    return group(iteration=2, samples=samples, judgements=judged)


def pairs_of(made: Group) -> list[Pair]:
    (a, b), (j, k) = made["samples"], made["judgements"]
    asked = judge_messages("judge_additive", made, a)
    return [
        make_pair(CONTEXT, made, "actor", prompt_messages(made), a, b, (2.0, 1.0)),
        make_pair(CONTEXT, made, "verdict", asked, j, k, (1.0, 0.0), 0.5),
        make_row(CONTEXT, made, "sft", asked, k, None),
    ]


def test_a_row_is_a_pair_without_a_rejected_side():
    made = planted()
    row = make_row(CONTEXT, made, "sft", prompt_messages(made), made["samples"][0], 4.0, weight=0.5)
    assert (row["kind"], row["chosen_text"], row["chosen_ids"]) == ("sft", "text a", [6, 7])
    assert (row["rejected_text"], row["rejected_ids"], row["rejected_from"]) == ("", [], "")
    assert (row["chosen_score"], row["rejected_score"], row["weight"], row["iteration"]) == (4.0, None, 0.5, 2)
    assert pairs_table([row]).to_pylist()[0]["pair_id"] == row["pair_id"]
    other = make_row(CONTEXT, made, "eft", prompt_messages(made), made["samples"][0], 4.0)
    assert other["pair_id"] != row["pair_id"]


@pytest.mark.parametrize(("text", "weight"), [("", 1.0), ("text", 0.0)])
def test_a_row_of_nothing_is_refused(text, weight):
    with pytest.raises(ValueError, match="nothing to learn from a"):
        make_row(CONTEXT, planted(), "sft", [], sample("a", text), 1.0, weight)


@pytest.mark.parametrize("teaches", [False, True])
def test_what_the_policy_made_is_its_own(teaches):
    made = planted()
    assert policys_own(pairs_of(made), [made], "v2", teaches) == pairs_of(made)


@pytest.mark.parametrize(
    ("version", "teaches", "kept"),
    [("frozen", False, ["actor"]), ("frozen", True, ["actor", "verdict", "sft"]), ("v1", False, ["actor"])],
)
def test_judgements_of_another_model_are_only_a_teachers_to_give(version, teaches, kept):
    made = planted(j=version, k=version)
    own: Any = policys_own(pairs_of(made), [made], "v2", teaches)
    assert [pair["kind"] for pair in own] == kept
    for pair in own[1:]:
        assert (pair["chosen_ids"], pair["rejected_ids"], pair["chosen_text"][:4]) == ([], [], "said")
    assert own[0] == pairs_of(made)[0]


def test_without_a_version_only_frozen_models_are_others():
    made = planted(a="v7", b="frozen", j="frozen", k="")
    own = policys_own(pairs_of(made), [made], None, True)
    ids = [(bool(pair["chosen_ids"]), bool(pair["rejected_ids"])) for pair in own]
    assert ids == [(True, False), (False, True), (True, False)]


def test_one_side_may_be_of_another_model():
    made = planted(b="frozen")
    actor, *rest = policys_own(pairs_of(made), [made], "v2", False)
    assert (actor["chosen_ids"], actor["rejected_ids"]) == ([6, 7], [])
    assert rest == pairs_of(made)[1:]
