"""Where a record comes from and what used it: the records behind it, the rule, the training steps. Pure."""

import inspect
from importlib import import_module
from typing import Any

import pyarrow as pa

from pipelines.recipes import RECIPES
from pipelines.records import Group
from pipelines.training.batching import step_plan
from pipelines.training.config import TrainingConfig
from pipelines.training.pairs import PairSet

PAIR_COLUMNS = (
    "pair_id", "prompt_id", "iteration", "kind", "chosen_from", "rejected_from", "weight", "chosen_score",
    "rejected_score", "ref_logp_chosen", "ref_logp_rejected", "ref_version", "template_hash",
)
TEXT_COLUMNS = ("chosen_text", "rejected_text")
SIDES = ("prompt", "chosen", "rejected")


def rule(recipe: str | None) -> str:
    """What the method says of itself: how its pairs are made."""
    if recipe not in RECIPES:
        return "The pairs were given." if recipe is None else ""
    return inspect.getdoc(import_module(f"pipelines.recipes.{recipe}")) or ""


def pair_rows(pairs: pa.Table, steps: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Pairs without token ids and messages: PAIR_COLUMNS, tokens of each side, and the steps that trained on each.

    A side that no record of a group holds (pairs of other origin, copies that a recipe made) keeps its text.
    """
    table, lengths = pairs.select([*PAIR_COLUMNS, *TEXT_COLUMNS]), PairSet(pairs) if pairs.num_rows else None
    rows: list[dict[str, Any]] = table.to_pylist()
    for side in SIDES:
        for row, count in zip(rows, lengths.lengths(side).tolist() if lengths else [], strict=True):
            row[f"{side}_tokens"] = count
    return [{**row, "steps": steps.get(row["pair_id"], [])} for row in rows]


def steps_of_pairs(pairs: pa.Table, config: TrainingConfig, seed: int) -> dict[str, list[int]]:
    """The optimizer steps that take each pair, by pair id; they follow from the pairs and the seed (training/fit.py).

    Pairs that are too long are left out as the trainer leaves them out; those held out for validation have no step.
    """
    if not pairs.num_rows:
        return {}
    everything = PairSet(pairs)
    usable = everything.keep([i for i, size in enumerate(everything.sizes()) if size <= config.max_pair_tokens])
    if not len(usable):
        return {}
    plan, _ = step_plan(usable.keys(), usable.sizes(), config, seed)
    ids = usable.ids()
    found: dict[str, list[int]] = {}
    for number, step in enumerate(plan):
        for i in step:
            found.setdefault(ids[i], []).append(number)
    return found


def group_detail(group: Group, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything about a group but its token ids, which become counts, and its pairs, as the page reads them."""
    known = {r["sample_id"]: r["text"] for r in group["samples"]}
    known |= {r["judgement_id"]: r["text"] for r in group["judgements"]}
    return {
        "prompt_id": group["prompt_id"],
        "iteration": group["iteration"],
        "messages": group["messages"],
        "gold": group["gold"],
        "meta": group["meta"],
        "dropped": group["dropped"],
        "samples": [_record(s) for s in group["samples"]],
        "judgements": [_record(j) for j in group["judgements"]],
        "meta_judgements": [_record(m) for m in group["meta_judgements"]],
        "pairs": [_without_known_texts(pair, known) for pair in pairs],
    }


def _record(record: Any) -> dict[str, Any]:
    """Without token ids and empty fields."""
    tokens = {"n_tokens": len(record["token_ids"])} if record.get("token_ids") and "n_tokens" not in record else {}
    return {key: value for key, value in record.items() if key != "token_ids" and value is not None} | tokens


def _without_known_texts(pair: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """The pair, with the text of a side only where it differs from its source's."""
    same = [side for side in ("chosen", "rejected") if known.get(pair[f"{side}_from"]) == pair[f"{side}_text"]]
    left_out = {f"{side}_text" for side in same}
    return {key: value for key, value in pair.items() if key not in left_out and value is not None}


class UnknownRecord(ValueError):
    """No record of the run has this id; the message says what ids look like."""


def find_in_group(record_id: str, detail: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The sort and the record of a group's detail whose id is, or begins with, `record_id`."""
    if detail["prompt_id"].startswith(record_id):
        return "prompt", {"prompt_id": detail["prompt_id"]}
    for sort, records, key in (
        ("pair", "pairs", "pair_id"), ("sample", "samples", "sample_id"), ("judgement", "judgements", "judgement_id"),
        ("meta_judgement", "meta_judgements", "meta_id"),
    ):
        for record in detail[records]:
            if record[key].startswith(record_id):
                return sort, record
    return None


def trace(sort: str, record: dict[str, Any], detail: dict[str, Any]) -> dict[str, Any]:
    """A record with what it was made from and what was made from it.

    `sources` are the records behind it, as `side` does it: of a pair chosen and rejected, of a judgement its samples,
    of a meta-judgement its two judgements. `candidates` are all that a pair was chosen from, `used_in` the pairs.
    """
    if sort == "pair":
        names = [record["chosen_from"], *([record["rejected_from"]] if record["rejected_from"] else [])]
        labels = ["chosen", "rejected"]
    elif sort == "judgement":
        names, labels = record["sample_ids"], ["first", "second"] if len(record["sample_ids"]) > 1 else ["judged"]
    elif sort == "meta_judgement":
        names, labels = [record["judgement_a"], record["judgement_b"]], ["A", "B"]
    elif sort == "sample":
        names, labels = [record["sample_id"]], ["sample"]
    else:
        names, labels = [s["sample_id"] for s in detail["samples"]], [f"sample {s['index']}" for s in detail["samples"]]
    own = {record.get(key) for key in ("sample_id", "judgement_id")} - {None}
    used = [p for p in detail["pairs"] if own & {p["chosen_from"], p["rejected_from"]}]
    return {
        "sort": sort,
        "record": record,
        "sources": {label: side(name, detail) for label, name in zip(labels, names, strict=False)},
        "candidates": candidates(record, detail) if sort == "pair" else [],
        "used_in": detail["pairs"] if sort == "prompt" else used,
    }


def side(record_id: str, detail: dict[str, Any]) -> dict[str, Any]:
    """A sample or a judgement by id, the judgements about the sample, and the meta-judgements of any of these."""
    records = (*detail["samples"], *detail["judgements"])
    found = [r for r in records if record_id in (r.get("sample_id"), r.get("judgement_id"))]
    judgements = [j for j in detail["judgements"] if record_id in j["sample_ids"]]
    about = {j["judgement_id"] for j in judgements} | {record_id}
    return {
        "record": found[0] if found else {"id": record_id},
        "judgements": judgements,
        "meta_judgements": [m for m in detail["meta_judgements"] if {m["judgement_a"], m["judgement_b"]} & about],
    }


def candidates(pair: dict[str, Any], detail: dict[str, Any]) -> list[dict[str, Any]]:
    """What the pair was chosen from, best first: samples, or judgements, of which those with an Elo where any has one.

    Each has id, score (a judgement's Elo, else its value), characters, and whether it became a side.
    """
    roles = {pair["chosen_from"]: "chosen", pair["rejected_from"]: "rejected"}
    judged = any(j["judgement_id"] in roles for j in detail["judgements"])
    met = [j for j in detail["judgements"] if j.get("elo") is not None]
    rows = []
    for r in (met or detail["judgements"]) if judged else detail["samples"]:
        name = r["judgement_id"] if judged else r["sample_id"]
        score = r.get("elo", r.get("value")) if judged else r.get("score")
        rows.append({
            "id": name, "score": score, "chars": len(r["text"]), "side": roles.get(name),
            **({"status": r["status"], "value": r.get("value"), "verdict": r.get("verdict")} if judged
               else {"kind": r["kind"], "votes": r.get("votes"), "answer": r.get("answer")}),
        })
    return sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["id"]))
