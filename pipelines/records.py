"""The records that flow between actors: Arrow schemas, typed rows, deterministic ids and seeds.

One row is one prompt with everything made for it (a *group*). Groups are plain dictionaries so that they travel
unchanged through Ray Data and Parquet; the TypedDicts below name their fields for readers and the type checker.
"""

import hashlib
import json
from typing import Any, Literal, NotRequired, TypedDict

import pyarrow as pa

Status = Literal["ok", "missing", "ambiguous", "out_of_range", "truncated"]


class Message(TypedDict):
    role: str
    content: str


class Sample(TypedDict):
    """One response. `kind` says where it is from.

    "sample" (the policy), "hot" (sampled hotter), "given", "chosen" and "rejected" (of the prompt's row), "gold_chain"
    (a human solution), or a recipe's own. `index` is unique in the group; `thought` is a part of the text, with its
    markers, that stands before what is shown to others.
    """

    sample_id: str
    index: int
    kind: str
    text: str
    thought: NotRequired[str | None]
    answer: NotRequired[str | None]
    token_ids: list[int]  # as the engine made them, end-of-turn token included; empty where no engine made them
    finish_reason: str
    n_chars: int
    n_words: int
    n_tokens: int
    seed: int
    weight_version: str
    score: NotRequired[float | None]
    votes: NotRequired[int | None]


class Judgement(TypedDict):
    """One judge reply. Pointwise: one sample id. Pairwise: two, and `order` 1 means they were shown swapped."""

    judgement_id: str
    sample_ids: list[str]
    order: int
    index: int
    text: str
    token_ids: list[int]
    value: NotRequired[float | None]
    verdict: NotRequired[str | None]  # pairwise, about sample_ids as listed: "A", "B" or "tie"
    status: Status
    seed: int
    weight_version: str
    prompt_hash: str
    elo: NotRequired[float | None]


class MetaJudgement(TypedDict):
    """One meta-judge reply. `order` 0 shows judgement_a first, 1 shows judgement_b first."""

    meta_id: str
    judgement_a: str
    judgement_b: str
    order: int
    text: str
    winner: NotRequired[str | None]  # "A" (judgement_a), "B" (judgement_b) or "tie", whatever the order
    status: Status
    seed: int
    weight_version: str
    prompt_hash: str


class Group(TypedDict):
    prompt_id: str
    iteration: int
    messages: list[Message]
    gold: str | None
    meta: str  # JSON object
    samples: list[Sample]
    judgements: list[Judgement]
    meta_judgements: list[MetaJudgement]
    dropped: str | None  # why this prompt made no pair


class Pair(TypedDict):
    """Two continuations of one prompt. Token ids are the engine's own; the reference pass fills `prompt_ids`.

    `kind` is "actor" (responses), "judge" (judgements), or a recipe's own. A row without a rejected side has neither
    text nor ids there. A row whose chosen side is a digit may have a second view: `student_messages` ask the same with
    less in sight, and the reference pass fills their ids and the tokens of the ten digits.
    """

    pair_id: str
    prompt_id: str
    iteration: int
    kind: str
    messages: list[Message]
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_text: str
    rejected_text: str
    chosen_from: str
    rejected_from: str
    weight: float
    chosen_score: float | None
    rejected_score: float | None
    ref_logp_chosen: float | None
    ref_logp_rejected: float | None
    ref_logps_chosen: NotRequired[list[float] | None]  # of each response token
    ref_logps_rejected: NotRequired[list[float] | None]
    ref_version: str | None
    template_hash: str | None
    student_messages: NotRequired[list[Message] | None]
    student_ids: NotRequired[list[int] | None]
    digit_ids: NotRequired[list[int] | None]


_IDS = pa.list_(pa.int32())
_TEXTS = pa.list_(pa.string())
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SAMPLE = pa.struct(
    [
        ("sample_id", pa.string()),
        ("index", pa.int32()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("thought", pa.string()),
        ("answer", pa.string()),
        ("token_ids", _IDS),
        ("finish_reason", pa.string()),
        ("n_chars", pa.int32()),
        ("n_words", pa.int32()),
        ("n_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("weight_version", pa.string()),
        ("score", pa.float64()),
        ("votes", pa.int32()),
    ]
)
JUDGEMENT = pa.struct(
    [
        ("judgement_id", pa.string()),
        ("sample_ids", _TEXTS),
        ("order", pa.int32()),
        ("index", pa.int32()),
        ("text", pa.string()),
        ("token_ids", _IDS),
        ("value", pa.float64()),
        ("verdict", pa.string()),
        ("status", pa.string()),
        ("seed", pa.int64()),
        ("weight_version", pa.string()),
        ("prompt_hash", pa.string()),
        ("elo", pa.float64()),
    ]
)
META_JUDGEMENT = pa.struct(
    [
        ("meta_id", pa.string()),
        ("judgement_a", pa.string()),
        ("judgement_b", pa.string()),
        ("order", pa.int32()),
        ("text", pa.string()),
        ("winner", pa.string()),
        ("status", pa.string()),
        ("seed", pa.int64()),
        ("weight_version", pa.string()),
        ("prompt_hash", pa.string()),
    ]
)
GROUPS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("iteration", pa.int32()),
        ("messages", MESSAGES),
        ("gold", pa.string()),
        ("meta", pa.string()),
        ("samples", pa.list_(SAMPLE)),
        ("judgements", pa.list_(JUDGEMENT)),
        ("meta_judgements", pa.list_(META_JUDGEMENT)),
        ("dropped", pa.string()),
    ]
)
PAIRS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        ("iteration", pa.int32()),
        ("kind", pa.string()),
        ("messages", MESSAGES),
        ("prompt_ids", _IDS),
        ("chosen_ids", _IDS),
        ("rejected_ids", _IDS),
        ("chosen_text", pa.string()),
        ("rejected_text", pa.string()),
        ("chosen_from", pa.string()),
        ("rejected_from", pa.string()),
        ("weight", pa.float64()),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("ref_logp_chosen", pa.float64()),
        ("ref_logp_rejected", pa.float64()),
        ("ref_logps_chosen", pa.list_(pa.float32())),
        ("ref_logps_rejected", pa.list_(pa.float32())),
        ("ref_version", pa.string()),
        ("template_hash", pa.string()),
        ("student_messages", MESSAGES),
        ("student_ids", _IDS),
        ("digit_ids", _IDS),
    ]
)


def digest(*parts: Any) -> str:
    """Hash of the parts' JSON form, 64 hex characters: equal parts give equal digests on every machine."""
    canonical = json.dumps(parts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def record_id(run_seed: int, recipe: str, iteration: int, prompt_id: str, stage: str, *index: int | str) -> str:
    """Id of a record from its position, so that a retried or resumed item gets the same id (24 hex characters)."""
    return digest(run_seed, recipe, iteration, prompt_id, stage, *index)[:24]


def record_seed(run_seed: int, recipe: str, iteration: int, prompt_id: str, stage: str, *index: int | str) -> int:
    """Sampling seed of a record, 0 <= seed < 2**31, derived like its id."""
    return int(digest("seed", run_seed, recipe, iteration, prompt_id, stage, *index)[:15], 16) % 2**31


def prompt_identity(messages: list[Message], occurrence: int = 0) -> str:
    """Id of a prompt from its content; `occurrence` tells repeated identical prompts apart."""
    return digest("prompt", [[m["role"], m["content"]] for m in messages], occurrence)[:24]


def new_group(messages: list[Message], *, gold: str | None = None, meta: dict | None = None, iteration: int = 0,
              occurrence: int = 0) -> Group:
    """An empty group for one prompt."""
    return Group(
        prompt_id=prompt_identity(messages, occurrence), iteration=iteration, messages=messages, gold=gold,
        meta=json.dumps(meta or {}, ensure_ascii=False, sort_keys=True), samples=[], judgements=[],
        meta_judgements=[], dropped=None,
    )


def groups_table(groups: list[Group]) -> pa.Table:
    """Arrow table of groups; absent optional fields become null."""
    return pa.Table.from_pylist(groups, schema=GROUPS)


def pairs_table(pairs: list[Pair]) -> pa.Table:
    """Arrow table of pairs."""
    return pa.Table.from_pylist(pairs, schema=PAIRS)
