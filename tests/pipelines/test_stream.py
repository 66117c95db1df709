"""The role stages without Ray: what one call that cannot be asked costs. The model is scripted."""

import json
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.chat import ChatFormat, ChatFormatError
from actors.engine import Completion
from actors.speaker import PromptTooLong
from pipelines import prompts, stream
from pipelines.config import Sampling, resolve
from pipelines.recipes.base import Context, JudgeStep, MetaJudgeStep, SampleStep, Step
from pipelines.records import Group, Pair, groups_table, pairs_table, record_id, record_seed
from pipelines.steps.accounting import accounting
from pipelines.steps.make_prompts import given_sample
from pipelines.steps.parts import SPLITTERS
from tests.pipelines.planted import group, judged_group, run_recipe, sample

CONTEXT = Context(0, "meta_rewarding", 0)
SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=8)
JUDGE = JudgeStep("additive", SAMPLING, "judge_additive")
PAIRWISE = JudgeStep("pairwise", SAMPLING, "judge_pairwise")
JUDGE_PLAIN = JudgeStep("additive", SAMPLING, "other_points")
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


# ---- what a step asks


class Writer:
    """Notes every request, and answers with the number of the sample."""

    def __init__(self):
        self.asked: list[tuple[str, int, str]] = []

    async def reply(
        self, messages: list[Any], sampling: Sampling, seed: int, request_id: str, version: str
    ) -> list[Completion]:
        self.asked.append((messages[-1]["content"], seed, request_id))
        text = messages[-1]["content"]
        return [Completion(i, f"{text} -> {i}", [i, 2], "stop", seed + i, version) for i in range(sampling.n)]


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """`ask(group, step, ...)` puts a group through stages; `writer` and `roles` are what they asked."""
    for name in ("plain", "hint"):
        text = "{{ prompt }}" + (" ({{ hint }})" if name == "hint" else "")
        (tmp_path / f"{name}.jinja").write_text(text)
    (tmp_path / "points.jinja").write_text("{{ prompt }} {{ response }} {{ gold }} {{ meta.level }}")
    (tmp_path / "other_points.jinja").write_text("again {{ response }}")
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts.load.cache_clear()
    writer, roles = Writer(), []

    def connect(run: str, config: Any, sources: Any, role: str) -> Any:
        roles.append(role)
        return SimpleNamespace(model="m"), None, "v0", SimpleNamespace(models={"m": SimpleNamespace(max_model_len=9)})

    monkeypatch.setattr(stream, "_connect", connect)
    monkeypatch.setattr(stream, "Speaker", lambda *_: writer)

    async def put(made: Group, *steps: Step) -> Group:
        for step in steps:
            (made,) = (await stream.RoleStage("run", {}, {}, step, CONTEXT)(groups_table([made]))).to_pylist()
        return made

    asking = cast(Any, put)
    asking.writer, asking.roles = writer, roles
    yield asking
    prompts.load.cache_clear()


def hints(made: Group, context: Context) -> list[dict[str, Any]]:
    """One request for every given sample."""
    return [{"key": s["sample_id"], "hint": s["text"]} for s in made["samples"] if s["kind"] == "given"]


async def test_ids_and_seeds_of_plain_samples_and_first_judgements_are_those_of_older_runs(ask):
    made = await ask(group("p"), SampleStep(SAMPLING), JUDGE_PLAIN)
    place = (0, "meta_rewarding", 0, "p", "sample")
    assert [s["sample_id"] for s in made["samples"]] == [record_id(*place, i) for i in (0, 1)]
    (_, seed, request_id), judged, _ = ask.writer.asked
    assert (seed, request_id) == (record_seed(*place), record_id(*place))
    first = made["samples"][0]["sample_id"]
    assert judged[1:] == (record_seed(*place[:4], "judge", first, 0), record_id(*place[:4], "judge", first, 0))


async def test_every_kind_and_key_has_its_own_ids_and_indices_go_on(ask):
    given = [given_sample("p", 0, "given", "one"), given_sample("p", 1, "given", "two")]
    steps = [
        SampleStep(SAMPLING), SampleStep(SAMPLING, kind="hot"), SampleStep(SAMPLING, "hint", shown=hints),
        SampleStep(SAMPLING, "hint", kind="worse", role="generator", shown=hints),
    ]  # fmt: skip
    made = await ask(group("p", samples=given), *steps)
    assert [s["index"] for s in made["samples"]] == list(range(14))
    kinds = ["given"] * 2 + ["sample"] * 2 + ["hot"] * 2 + ["sample"] * 4 + ["worse"] * 4
    assert [s["kind"] for s in made["samples"]] == kinds
    assert len({s["sample_id"] for s in made["samples"]}) == 14
    assert len({asked[1:] for asked in ask.writer.asked}) == len(ask.writer.asked) == 6
    assert [text for text, *_ in ask.writer.asked[2:4]] == ["Question p? (one)", "Question p? (two)"]
    assert ask.roles == ["policy", "policy", "policy", "generator"]
    again = await ask(group("p", samples=given), *steps)
    assert again == made


async def test_nothing_shown_asks_nothing(ask):
    made = await ask(group("p"), SampleStep(SAMPLING, "hint", shown=hints))
    assert (made["samples"], made["dropped"], ask.writer.asked) == ([], None, [])


async def test_a_judge_reads_the_kinds_of_its_step_and_the_row(ask):
    samples = [sample("a", "one", 0), sample("b", "two", 1, kind="hot"), sample("c", "three", 2, kind="given"),
               sample("d", "four", 3, kind="given_unsplit")]  # fmt: skip
    made = group("p", gold="7", meta='{"level": 3}', samples=samples)
    judged = await ask(made, JudgeStep("additive", SAMPLING, "points", kinds=("given", "sample")))
    assert [text for text, *_ in ask.writer.asked] == ["Question p? one 7 3", "Question p? three 7 3"]
    assert [j["sample_ids"] for j in judged["judgements"]] == [["a"], ["a"], ["c"], ["c"]]


async def test_a_step_judges_only_the_groups_it_is_for(ask):
    step = JudgeStep("additive", SAMPLING, "other_points", only=lambda made: made["gold"] == "7")
    for gold, judged in (("7", 2), (None, 0)):
        made = await ask(group("p", gold=gold, samples=[sample("a", "one")]), step)
        assert len(made["judgements"]) == judged


async def test_judgements_of_a_second_step_come_beside_those_of_the_first(ask):
    made = await ask(
        group("p", meta='{"level": 3}', samples=[sample("a", "one")]), JudgeStep("additive", SAMPLING, "points"),
        JudgeStep("additive", SAMPLING, "other_points"),
    )  # fmt: skip
    assert [j["text"] for j in made["judgements"]] == [
        "Question p? one None 3 -> 0", "Question p? one None 3 -> 1", "again one -> 0", "again one -> 1"
    ]  # fmt: skip
    assert len({j["judgement_id"] for j in made["judgements"]}) == 4
    assert len({asked[1:] for asked in ask.writer.asked}) == 2


async def test_what_is_hidden_is_shown_to_no_judge(ask, monkeypatch):
    monkeypatch.setitem(SPLITTERS, "arrow", lambda text: text[:-1].split("->")[0] and (text[:-1], text[-1]))
    monkeypatch.setitem(SPLITTERS, "never", lambda text: None)
    judge = JudgeStep("additive", SAMPLING, "other_points")
    made = await ask(group("p"), SampleStep(SAMPLING, split="arrow"), judge)
    assert [(s["thought"], s["n_chars"], s["n_words"]) for s in made["samples"]] == [("Question p? -> ", 1, 1)] * 2
    assert [text for text, *_ in ask.writer.asked[1:]] == ["again 0", "again 1"]
    made = await ask(group("p"), SampleStep(SAMPLING, split="never"), judge)
    assert [(s["kind"], s["thought"]) for s in made["samples"]] == [("sample_unsplit", None)] * 2
    assert made["judgements"] == []
    assert accounting([made], [])["samples"] == {"total": 2, "kinds": {"sample_unsplit": 2}, "truncated": 0}


@ERRORS
async def test_a_further_request_that_cannot_be_asked_leaves_the_others(work, error, monkeypatch):
    given = [given_sample("p", 0, "given", "too long"), given_sample("p", 1, "given", "short")]
    step = SampleStep(SAMPLING, "irpo_question", kind="hinted", shown=lambda g, c: [
        {"key": s["sample_id"], "hint": s["text"]} for s in g["samples"]])  # fmt: skip
    monkeypatch.setattr("actors.policy.prompt_messages", lambda *_, **shown: [{"content": shown["hint"]}])
    made = await work(group("p", samples=given), step, error, "too long")
    assert [s["kind"] for s in made["samples"]] == ["given", "given", "hinted", "hinted"]
    assert made["dropped"] is None


# ---- pairs through the reference


def some_pairs(count: int, prompts: int) -> list[Pair]:
    (found,) = run_recipe("meta_rewarding", [judged_group({"y": ("one", ["Score: 1"]), "z": ("two", ["Score: 4"])})])[1]
    return [
        {**found, "pair_id": f"{(7 * i) % count}", "messages": [{"role": "user", "content": f"question {i % prompts}"}]}
        for i in range(count)
    ]


@pytest.mark.parametrize("needed", [True, False])
async def test_a_block_of_pairs_is_scored_by_the_reference_as_the_policy_reads_it(monkeypatch, needed):
    """A frozen reference may have a chat template of its own; what is trained on is the policy's."""
    asked = []

    async def score(prompt_ids: list[int], responses: list[list[int]], version: str) -> Any:
        asked.append((prompt_ids, version))
        return [[-0.5] * len(response) for response in responses], version

    def connect(run: str, config: Any, sources: Any, role: str) -> Any:
        training = SimpleNamespace(needs_reference=needed)
        settings = SimpleNamespace(roles={"policy": "actor"}, training=training)
        return SimpleNamespace(score=score), "own", sources[role][0], settings

    def load(folder: str) -> Any:
        return SimpleNamespace(render=lambda messages: [len(folder), len(messages)], template_hash=f"of {folder}")

    monkeypatch.setattr(stream, "_connect", connect)
    monkeypatch.setattr(ChatFormat, "load", load)
    stage = stream.ReferenceStage("run", {}, {"reference": ("frozen", "/ref"), "actor": ("v4", "/policy")})
    made = (await stage(pairs_table(some_pairs(3, 1)))).to_pylist()
    assert asked == ([([7, 1], "frozen")] if needed else [])
    version = "frozen" if needed else None
    assert [(row["ref_version"], row["template_hash"]) for row in made] == [(version, "of /policy")] * 3
    assert all(row["prompt_ids"] == [7, 1] for row in made)
    assert all(row["ref_logps_chosen"] == ([-0.5] * len(row["chosen_ids"]) if needed else None) for row in made)


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
