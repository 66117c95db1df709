"""Ids and seeds depend on content and position alone; records survive Arrow unchanged."""

import json
import subprocess
import sys
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import (
    GROUPS,
    PAIRS,
    Group,
    Judgement,
    Message,
    MetaJudgement,
    Pair,
    Sample,
    groups_table,
    new_group,
    pairs_table,
    prompt_identity,
    record_id,
    record_seed,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
INT32 = st.integers(0, 2**31 - 1)
SCORES = st.none() | st.floats(allow_nan=False)
LOG_PROBABILITIES = st.none() | st.lists(st.floats(max_value=0, width=32), max_size=3)
MAYBE = st.none() | TEXTS
SAMPLES = st.builds(
    Sample, sample_id=TEXTS, index=INT32, kind=TEXTS, text=TEXTS, thought=MAYBE, answer=MAYBE,
    token_ids=st.lists(INT32, max_size=3), finish_reason=TEXTS, n_chars=INT32, n_words=INT32, n_tokens=INT32,
    seed=st.integers(0, 2**63 - 1), weight_version=TEXTS, score=SCORES, votes=st.none() | INT32,
)
JUDGEMENTS = st.builds(
    Judgement, judgement_id=TEXTS, sample_ids=st.lists(TEXTS, max_size=2), order=INT32, index=INT32, text=TEXTS,
    token_ids=st.lists(INT32, max_size=3), value=SCORES, verdict=MAYBE, status=st.sampled_from(["ok", "truncated"]),
    seed=INT32, weight_version=TEXTS, prompt_hash=TEXTS, elo=SCORES,
)
META_JUDGEMENTS = st.builds(
    MetaJudgement, meta_id=TEXTS, judgement_a=TEXTS, judgement_b=TEXTS, order=INT32, text=TEXTS, winner=MAYBE,
    status=st.sampled_from(["ok", "missing"]), seed=INT32, weight_version=TEXTS, prompt_hash=TEXTS,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3)
GROUP = st.builds(
    Group, prompt_id=TEXTS, iteration=INT32, messages=MESSAGES, gold=MAYBE, meta=TEXTS,
    samples=st.lists(SAMPLES, max_size=2), judgements=st.lists(JUDGEMENTS, max_size=2),
    meta_judgements=st.lists(META_JUDGEMENTS, max_size=2), dropped=MAYBE,
)
PAIR = st.builds(
    Pair, pair_id=TEXTS, prompt_id=TEXTS, iteration=INT32, kind=TEXTS, messages=MESSAGES,
    prompt_ids=st.lists(INT32, max_size=3), chosen_ids=st.lists(INT32, max_size=3),
    rejected_ids=st.lists(INT32, max_size=3), chosen_text=TEXTS, rejected_text=TEXTS, chosen_from=TEXTS,
    rejected_from=TEXTS, weight=st.floats(allow_nan=False), chosen_score=SCORES, rejected_score=SCORES,
    ref_logp_chosen=SCORES, ref_logp_rejected=SCORES, ref_logps_chosen=LOG_PROBABILITIES,
    ref_logps_rejected=LOG_PROBABILITIES, ref_version=MAYBE, template_hash=MAYBE,
    student_messages=st.none() | MESSAGES, student_ids=st.none() | st.lists(INT32, max_size=3),
    digit_ids=st.none() | st.lists(INT32, max_size=3),
)
POSITION = (7, "irpo", 2, "abc", "sample", 3)


@settings(deadline=None, max_examples=50)
@given(st.lists(GROUP, max_size=3))
def test_groups_survive_parquet(groups):
    sink = pa.BufferOutputStream()
    pq.write_table(groups_table(groups), sink)
    table = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert table.schema.equals(GROUPS)
    assert table.to_pylist() == groups


@settings(deadline=None, max_examples=50)
@given(st.lists(PAIR, max_size=3))
def test_pairs_survive_arrow(pairs):
    table = pairs_table(pairs)
    assert table.schema.equals(PAIRS)
    assert table.to_pylist() == pairs


def test_the_schemas_name_every_field():
    for schema, record in ((GROUPS, Group), (PAIRS, Pair)):
        assert schema.names == list(record.__annotations__)
    for column, record in (("samples", Sample), ("judgements", Judgement), ("meta_judgements", MetaJudgement)):
        assert [field.name for field in GROUPS.field(column).type.value_type] == list(record.__annotations__)


def test_absent_optional_fields_become_null():
    group: dict[str, Any] = {**new_group([Message(role="user", content="x")])}
    group["samples"] = [{"sample_id": "s", "index": 0, "text": "t"}]
    sample = groups_table([cast(Group, group)]).to_pylist()[0]["samples"][0]
    assert (sample["sample_id"], sample["score"], sample["thought"]) == ("s", None, None)
    pair: Any = {"pair_id": "p", "ref_logp_chosen": -1.5}
    (row,) = pairs_table([pair]).to_pylist()
    assert (row["ref_logp_chosen"], row["ref_logps_chosen"], row["ref_logps_rejected"]) == (-1.5, None, None)


def test_ids_and_seeds_are_the_same_in_every_process():
    code = (
        "from pipelines.records import *\n"
        f"print(record_id(*{POSITION!r}), record_seed(*{POSITION!r}), "
        "prompt_identity([{'role': 'user', 'content': 'é'}]))"
    )
    expected = f"{record_id(*POSITION)} {record_seed(*POSITION)} {prompt_identity([{'role': 'user', 'content': 'é'}])}"
    for hash_seed in ("0", "1"):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                             env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ".", "PYTHONIOENCODING": "utf-8"})
        assert out.stdout.strip() == expected
    assert expected == "894d98ae930901d5ab3397c7 101750607 10b1d4d97b23f6c064a429c3"  # runs of earlier versions resume


@given(st.tuples(st.integers(0, 2**63), TEXTS, st.integers(0, 999), TEXTS, TEXTS, st.integers(0, 999) | TEXTS))
def test_seeds_are_in_range_and_follow_the_position(position):
    assert 0 <= record_seed(*position) < 2**31
    assert record_seed(*position) == record_seed(*position)
    assert len(record_id(*position)) == 24
    moved = (position[0] + 1, *position[1:])
    assert record_id(*moved) != record_id(*position)


def test_neighbouring_positions_never_share_an_id():
    positions = [(seed, "r", t, p, stage, *index) for seed in (0, 1) for t in (0, 1) for p in ("a", "b")
                 for stage in ("sample", "judge") for index in ((0,), (1,), (0, 1), ("0",), (1, 0))]
    assert len({record_id(*position) for position in positions}) == len(positions)
    assert len({record_seed(*position) for position in positions}) == len(positions)


def test_prompts_differ_by_role_content_split_and_occurrence():
    prompts = [
        [Message(role="user", content="ab")],
        [Message(role="system", content="ab")],
        [Message(role="user", content="a"), Message(role="user", content="b")],
    ]
    ids = {prompt_identity(messages, occurrence) for messages in prompts for occurrence in (0, 1)}
    assert len(ids) == 6


def test_meta_is_readable_json():
    group = new_group([{"role": "user", "content": "x"}], meta={"b": "é", "a": [1]})
    assert group["meta"] == '{"a": [1], "b": "é"}'
    assert json.loads(new_group([])["meta"]) == {}
