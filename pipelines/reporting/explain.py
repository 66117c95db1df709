"""`appellate explain`: one pair, sample, judgement or prompt traced to its sources and to the steps that used it."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.ledger import Ledger
from pipelines.records import Group, new_group
from pipelines.reporting.lineage import (
    UnknownRecord,
    find_in_group,
    group_detail,
    pair_rows,
    rule,
    steps_of_pairs,
    trace,
)
from pipelines.reporting.terminal import plain
from pipelines.reporting.view import training_of
from pipelines.training.trainer import current_steps

SHORTEST = 6  # characters of an id's beginning that are enough


def explain(ledger: Ledger, record_id: str) -> dict[str, Any]:
    """Everything known about the record with this id, or the first whose id begins with it. Plain JSON.

    Raises UnknownRecord where the run has none.
    """
    if len(record_id) < SHORTEST:
        raise UnknownRecord(f"{record_id!r}: an id has 24 characters, give at least the first {SHORTEST}")
    for iteration in ledger.iterations():
        table = ledger.read_pairs(iteration)
        config, seed = training_of(ledger.read_config(), iteration)
        rows = pair_rows(table, steps_of_pairs(table, config, seed) if config else {})
        by_prompt: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_prompt.setdefault(row["prompt_id"], []).append(row)
        named = [row["prompt_id"] for row in rows if row["pair_id"].startswith(record_id)]
        if named:
            group = ledger.find_group(iteration, named[0])
            if group is None:  # the pairs were given
                place = table["prompt_id"].to_pylist().index(named[0])
                messages = table["messages"][place].as_py()
                group = Group(**{**new_group(messages, iteration=iteration), "prompt_id": named[0]})
            found = [group]
        else:
            found = ledger.iter_groups(iteration)
        for group in found:
            detail = group_detail(group, by_prompt.get(group["prompt_id"], []))
            match = find_in_group(record_id, detail)
            if match:
                return _explained(ledger, iteration, detail, *match)
    raise UnknownRecord(f"{ledger.path}: no prompt, pair, sample, judgement or meta-judgement has an id {record_id}...")


def _explained(
    ledger: Ledger, iteration: int, detail: dict[str, Any], sort: str, record: dict[str, Any]
) -> dict[str, Any]:
    config, templates = ledger.read_config(), ledger.read_manifest().get("templates", {})
    traced = trace(sort, record, detail)
    pairs = [record] if sort == "pair" else traced["used_in"]
    taken = {step for pair in pairs for step in pair["steps"]}
    records = [r for s in traced["sources"].values() for r in (s["record"], *s["judgements"], *s["meta_judgements"])]
    records += [record]
    hashes = {r["prompt_hash"] for r in records if r.get("prompt_hash")}
    names = {hashed: name for name, hashed in templates.items()}
    done = ledger.done(iteration, "train")
    return {
        "run": ledger.path,
        "iteration": iteration,
        "prompt": {key: detail[key] for key in ("prompt_id", "messages", "gold", "meta", "dropped")},
        **traced,
        "rule": rule(config.get("recipe")),
        "method": config.get("method"),
        "weights": sorted({r["weight_version"] for r in records if r.get("weight_version")}),
        "prompts": {hashed: names.get(hashed) for hashed in sorted(hashes)},
        "steps": [
            {key: step.get(key) for key in ("step", "loss", "accuracy", "margin", "skipped")}
            for step in current_steps(ledger.read_metrics(iteration)) if step["step"] in taken
        ],
        "made": {"version": f"v{iteration + 1}", "checkpoint": ledger.checkpoint_dir(iteration)}
        if done and not done.get("skipped") else None,
    }


def print_explained(console: Console, found: dict[str, Any]) -> None:
    """What `explain` found, for reading: texts in full, each with where it comes from."""
    record, sort = found["record"], found["sort"]
    _line(console, f"{sort.replace('_', '-')} of iteration {found['iteration']} in {found['run']}", "bold")
    _line(console, f"prompt {found['prompt']['prompt_id']}", "bold")
    for message in found["prompt"]["messages"]:
        _text(console, message["role"], message["content"])
    if found["prompt"]["gold"]:
        _text(console, "gold", found["prompt"]["gold"])
    if found["prompt"]["dropped"]:
        _line(console, f"no pair: {found['prompt']['dropped']}")
    if sort == "pair":
        _print_pair(console, record, found)
    elif "text" in record:
        _text(console, _about(record), record["text"])
    for label, source in found["sources"].items():
        if source["record"] is not record:
            own = source["record"].get("text", record.get(f"{label}_text", ""))
            _text(console, f"{label}: {_about(source['record'])}", own)
        for said in (*source["judgements"], *source["meta_judgements"]):
            _text(console, _about(said), said["text"], indent=4)
    for pair in found["used_in"]:
        steps = ", ".join(map(str, pair["steps"])) or "none"
        _line(console, f"used in {pair['kind']} pair {pair['pair_id']}, trained on in steps: {steps}")
    _print_ends(console, found)


def _print_pair(console: Console, pair: dict[str, Any], found: dict[str, Any]) -> None:
    margin = ""
    if pair.get("chosen_score") is not None and pair.get("rejected_score") is not None:
        margin = f": {pair['chosen_score']:.4g} against {pair['rejected_score']:.4g}, weight {pair['weight']:g}"
    _line(console, f"{pair['kind']} pair {pair['pair_id']}{margin}", "bold")
    _line(console, f"rule: {' '.join(found['rule'].split())}")
    table = Table("candidate", "score", "characters", "", box=None, pad_edge=False)
    for row in found["candidates"]:
        score = "-" if row["score"] is None else f"{row['score']:.4g}"
        table.add_row(Text(plain(row["id"])), score, str(row["chars"]), row["side"] or "")
    console.print(table)
    reference = [pair.get(f"ref_logp_{side}") for side in ("chosen", "rejected")]
    if reference[0] is not None:
        numbers = ", ".join("-" if value is None else f"{value:.4f}" for value in reference)
        _line(console, f"reference {pair.get('ref_version')}: log-probabilities {numbers}")


def _print_ends(console: Console, found: dict[str, Any]) -> None:
    prompts = ", ".join(f"{name or 'unknown template'} {hashed}" for hashed, name in found["prompts"].items())
    asked = f"; judges were asked with {prompts}" if prompts else ""
    _line(console, f"made by weights {', '.join(found['weights']) or '-'}{asked}")
    for step in found["steps"]:
        loss = "not finite" if step["loss"] is None else f"loss {step['loss']:.4f}"
        _line(console, f"step {step['step']}: {loss}" + (", not taken" if step["skipped"] else ""))
    if found["made"]:
        _line(console, f"the iteration made {found['made']['version']}: {found['made']['checkpoint']}")


def _about(record: dict[str, Any]) -> str:
    """Id and facts of a record in one line."""
    name = next((record[key] for key in ("sample_id", "judgement_id", "meta_id", "id") if record.get(key)), "given")
    facts = {
        key: record[key]
        for key in ("kind", "status", "score", "value", "verdict", "winner", "elo", "order", "votes", "answer",
                    "weight_version", "seed")
        if record.get(key) is not None
    }
    shown = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items())
    sort = next((s for s, key in (("sample", "sample_id"), ("judgement", "judgement_id"), ("meta-judgement", "meta_id"))
                 if key in record), "text")
    return f"{sort} {name} · {' · '.join(shown)}"


def _text(console: Console, title: str, text: str, indent: int = 2) -> None:
    _line(console, f"{' ' * (indent - 2)}{title}", "dim")
    for line in plain(text).splitlines() or [""]:
        _line(console, f"{' ' * indent}{line}")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(plain(text), style), soft_wrap=True)
