"""When each stage of a run ran, how long, and what it made: from the run's events. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

ENDS = ("stage_done", "failed")


def stages(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every attempt at a stage in order: iteration, stage, started, seconds, state, and what it said it made.

    state is done, failed, killed (another start came first; it ran at least until the event before that), or running,
    whose seconds are None. `made` holds the numbers of its end: groups, pairs, tokens of a stage of groups or pairs.
    """
    found: list[dict[str, Any]] = []
    previous: dict[str, Any] | None = None
    for event in events:
        running = bool(found) and found[-1]["state"] == "running"
        if event["kind"] in ("stage_started", "models_ready") and running and previous:
            _end(found[-1], previous["time"], "killed")
        if event["kind"] == "stage_started":
            found.append({
                "iteration": event["iteration"], "stage": event["stage"], "started": event["time"], "seconds": None,
                "state": "running", "made": {},
            })
        elif event["kind"] in ENDS and running:
            done = event["kind"] == "stage_done"
            _end(found[-1], event["time"], "done" if done else "failed")
            if done:
                found[-1]["made"] = _made(event)
        previous = event
    return found


def _end(stage: dict[str, Any], time: str, state: str) -> None:
    stage.update(state=state, seconds=max(0.0, seconds_between(stage["started"], time)))


def _made(event: dict[str, Any]) -> dict[str, Any]:
    """Counts of a stage's end; groups that were there already are not this attempt's."""
    made = {name: event[name] for name in ("groups", "pairs", "tokens", "steps") if isinstance(event.get(name), int)}
    if "groups" in made:
        made["groups"] -= event.get("already_there", 0)
    if event["stage"] == "train" and event.get("seconds") and event.get("tokens_per_s"):
        made["tokens"] = round(event["seconds"] * event["tokens_per_s"])
    return made


def costs(attempts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By stage, over all attempts: seconds, their share, tokens, and tokens a second where any are known."""
    total = sum(a["seconds"] or 0.0 for a in attempts)
    rows = []
    for name in dict.fromkeys(a["stage"] for a in attempts):
        those = [a for a in attempts if a["stage"] == name]
        seconds = sum(a["seconds"] or 0.0 for a in those)
        timed = [a for a in those if a["made"].get("tokens") and a["seconds"]]
        tokens = sum(a["made"]["tokens"] for a in timed)
        rows.append({
            "stage": name, "attempts": len(those), "seconds": seconds, "share": seconds / total if total else None,
            "tokens": tokens or None,
            "tokens_per_s": tokens / sum(a["seconds"] for a in timed) if timed else None,
        })
    return rows


def updates(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Weight updates by model: iteration, version, model, replicas, prepare_s (served on), load_s (requests wait)."""
    return [
        {"iteration": event["iteration"], "version": event.get("version"), "model": model, **report}
        for event in events if event["kind"] == "stage_done" and event["stage"] == "sync"
        for model, report in (event.get("models") or {}).items()
    ]


def state(events: Sequence[dict[str, Any]], finished: bool, driven: bool) -> str:
    """finished, running, failed or stopped."""
    if finished:
        return "finished"
    if driven:
        return "running"
    return "failed" if events and events[-1]["kind"] == "failed" else "stopped"


def seconds_between(start: str, end: str) -> float:
    """Of two times as events have them."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
