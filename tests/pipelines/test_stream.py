"""The role stages without Ray: what one call that cannot be asked costs. The model is scripted."""

import json
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest

from actors.chat import ChatFormat, ChatFormatError
from actors.engine import Completion
from actors.speaker import PromptTooLong
from pipelines import stream
from pipelines.config import Sampling, resolve
from pipelines.recipes.base import Context, JudgeStep, MetaJudgeStep, SampleStep, Step
from pipelines.records import Group, Pair, groups_table, pairs_table
from pipelines.steps.accounting import accounting
from tests.pipelines.planted import group, judged_group, run_recipe, sample

CONTEXT = Context(0, "meta_rewarding", 0)
SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=8)
JUDGE = JudgeStep("additive", SAMPLING, "judge_additive")
PAIRWISE = JudgeStep("pairwise", SAMPLING, "judge_pairwise")
META = MetaJudgeStep(SAMPLING, "meta_judge")
ERRORS = pytest.mark.parametrize("error", [PromptTooLong, ChatFormatError])


class ScriptedSpeaker:
    """Says the same to everybody, and refuses conversations in which `unaskable` stands before `then`."""

    def __init__(self, error: type[Exception], unaskable: str, then: str):
        self.error, self.unaskable, self.then = error, unaskable, then

    async def reply(self, messages: list[Any], sampling: Sampling, *_rest: Any) -> list[Completion]:
        _, found, after = json.dumps(messages).partition(self.unaskable)
        if found and self.then in after:
            raise self.error("it cannot be asked")
        return [Completion(i, f"{i}\nScore: {i + 1}\nWinner: A", [i + 1], "stop", i, "v0") for i in range(sampling.n)]


@pytest.fixture
def work(monkeypatch):
    async def run(planted: Group, step: Step, error: type[Exception], unaskable: str, then: str = "") -> Group:
        settings = SimpleNamespace(models={"actor": SimpleNamespace(max_model_len=99)})
        client = SimpleNamespace(model="actor")
        monkeypatch.setattr(stream, "_connect", lambda *_: (client, None, "v0", settings))
        monkeypatch.setattr(stream, "Speaker", lambda *_: ScriptedSpeaker(error, unaskable, then))
        stage = stream.RoleStage("run", {}, {}, step, CONTEXT)
        (made,) = (await stage(groups_table([planted]))).to_pylist()
        return made

    return run


def three() -> Group:
    return group(samples=[sample(name, f"the {name} text", i) for i, name in enumerate("abc")])


@ERRORS
async def test_a_response_that_no_judge_can_read_leaves_the_others_judged(work, error):
    made = await work(three(), JUDGE, error, "the b text")
    assert made["dropped"] is None
    assert [j["sample_ids"] for j in made["judgements"]] == [["a"], ["a"], ["c"], ["c"]]
    assert accounting(*run_recipe("meta_rewarding", [made]))["unjudged_samples"] == 1


@ERRORS
async def test_a_comparison_may_lack_one_order(work, error):
    made = await work(three(), PAIRWISE, error, "the b text", then="the a text")
    asked = {(*j["sample_ids"], j["order"]) for j in made["judgements"]}
    assert asked == {("a", "b", 0), ("a", "c", 0), ("a", "c", 1), ("b", "c", 0), ("b", "c", 1)}
    assert made["dropped"] is None


@ERRORS
async def test_judgements_that_cannot_be_compared_leave_the_other_comparisons(work, error):
    texts = {"y": ("one", ["first\nScore: 0", "second\nScore: 3", "third\nScore: 5"]), "z": ("two", ["Score: 1"])}
    (read,), _ = run_recipe("meta_rewarding", [judged_group(texts)])
    made = await work(read, META, error, "third", then="first")
    asked = {(m["judgement_a"], m["judgement_b"], m["order"]) for m in made["meta_judgements"]}
    assert asked == {("y-j0", "y-j1", 0), ("y-j0", "y-j1", 1), ("y-j0", "y-j2", 0), ("y-j1", "y-j2", 0),
                     ("y-j1", "y-j2", 1)}  # fmt: skip
    assert made["dropped"] is None
    (_,), pairs = run_recipe("meta_rewarding", [made])
    assert "actor" in {p["kind"] for p in pairs}


@pytest.mark.parametrize(("error", "reason"), [(PromptTooLong, "prompt_too_long"), (ChatFormatError, "unusable_text")])
async def test_a_prompt_that_the_policy_cannot_read_drops_the_group_for_good(work, error, reason):
    made = await work(group(), SampleStep(SAMPLING), error, "Question")
    assert (made["samples"], made["dropped"]) == ([], reason)
    assert (await work(made, JUDGE, error, "Question"))["dropped"] == reason
    (read,), pairs = run_recipe("meta_rewarding", [made])
    assert (read["dropped"], pairs) == (reason, [])


async def test_what_can_be_asked_is_all_recorded(work):
    made = await work(group(), SampleStep(SAMPLING), PromptTooLong, "nothing of this kind")
    assert [s["text"] for s in made["samples"]] == ["0\nScore: 1\nWinner: A", "1\nScore: 2\nWinner: A"]
    made = await work(made, JUDGE, PromptTooLong, "nothing of this kind")
    made = await work(made, META, PromptTooLong, "nothing of this kind")
    assert (len(made["judgements"]), len(made["meta_judgements"])) == (4, 4)
    report = accounting(*run_recipe("meta_rewarding", [made]))
    assert (report["unjudged_samples"], report["judgements"]["rates"]["ok"]) == (0, 1.0)


# ---- pairs through the reference


def some_pairs(count: int, prompts: int) -> list[Pair]:
    (found,) = run_recipe("meta_rewarding", [judged_group({"y": ("one", ["Score: 1"]), "z": ("two", ["Score: 4"])})])[1]
    return [
        {**found, "pair_id": f"{(7 * i) % count}", "messages": [{"role": "user", "content": f"question {i % prompts}"}]}
        for i in range(count)
    ]


async def test_a_block_of_pairs_is_scored_by_the_reference_as_the_policy_reads_it(monkeypatch):
    """A frozen reference may have a chat template of its own; what is trained on is the policy's."""
    asked = []

    async def score(prompt_ids: list[int], responses: list[list[int]], version: str) -> Any:
        asked.append((prompt_ids, version))
        return [[-0.5] * len(response) for response in responses], version

    def connect(run: str, config: Any, sources: Any, role: str) -> Any:
        return SimpleNamespace(score=score), "own", sources[role][0], SimpleNamespace(roles={"policy": "actor"})

    def load(folder: str) -> Any:
        return SimpleNamespace(render=lambda messages: [len(folder), len(messages)], template_hash=f"of {folder}")

    monkeypatch.setattr(stream, "_connect", connect)
    monkeypatch.setattr(ChatFormat, "load", load)
    stage = stream.ReferenceStage("run", {}, {"reference": ("frozen", "/ref"), "actor": ("v4", "/policy")})
    made = (await stage(pairs_table(some_pairs(3, 1)))).to_pylist()
    assert asked == [([7, 1], "frozen")]
    assert [(row["ref_version"], row["template_hash"]) for row in made] == [("frozen", "of /policy")] * 3
    assert all(row["ref_logps_chosen"] == [-0.5] * len(row["chosen_ids"]) for row in made)


@pytest.mark.parametrize(("count", "prompts", "sizes"), [(5, 5, [1] * 5), (20, 2, [8, 2, 8, 2]), (9, 3, [3] * 3)])
def test_pairs_of_a_prompt_travel_together_and_come_back_in_order(monkeypatch, count, prompts, sizes):
    """A block is what the reference computes at once; blocks come back in any order."""
    pairs, told, blocks = some_pairs(count, prompts), [], []

    class Scored:
        def __init__(self, tables: list[Any], stage: Any, arguments: dict[str, Any], in_flight: int):
            assert (stage, arguments["sources"]) == (stream.ReferenceStage, {"reference": ("v4", "/folder")})
            self.tables = tables

        def iter_batches(self, **_: Any) -> Any:
            blocks.extend(table.to_pylist() for table in self.tables)
            return iter(self.tables[::-1])

    monkeypatch.setattr(stream, "_dataset", lambda tables: tables)
    monkeypatch.setattr(stream, "_stage", Scored)
    config = resolve("irpo", ["prompts=p.jsonl"], "cpu")
    made = stream.stream_pairs("run", config, {"reference": ("v4", "/folder")}, pairs, told.append)
    assert [pair["pair_id"] for pair in made] == [pair["pair_id"] for pair in pairs]
    assert [len(block) for block in blocks] == sizes
    assert all(len({pair["messages"][0]["content"] for pair in block}) == 1 for block in blocks)
    assert told == list(accumulate(sizes[::-1]))
