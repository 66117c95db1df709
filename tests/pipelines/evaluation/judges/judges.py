"""Judges for tests of evaluations: oracles behind the product's own speaker, and files of labelled pairs."""

import json
import random
from pathlib import Path
from typing import Any

from actors.speaker import Speaker
from pipelines.evaluation.judges.comparisons import Comparison, read_comparisons
from pipelines.evaluation.judges.judged import JudgeSettings, as_group
from pipelines.evaluation.sources import Judging
from tests.oracles import CHAT, VERSION, Cast, Opinion, Truth
from tests.playing import ROOM, Direct, engine_of


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def labelled_rows(count: int, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Pairs of a good and a bad response in random places; lengths say nothing about the label."""
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        texts = [f"{kind} reply {i}" + " word" * chance.randint(0, 20) for kind in ("good", "poor")]
        label = chance.choice("AB")
        a, b = texts if label == "A" else texts[::-1]
        row = {"prompt": f"Question {i}?", "response_a": a, "response_b": b, "label": label}
        rows.append({**row, "subset": "one" if i % 2 else "two", **more})
    return rows


def quality(text: str) -> float:
    return 4.5 if text.startswith("good") else 0.5


def oracle(data: str, opinion: Opinion, settings: JudgeSettings, room: int = ROOM, **cast: Any) -> Judging:
    """Somebody who knows which response is good and says what `opinion` makes of it."""
    comparisons = read_comparisons(data, settings.limit, settings.seed)
    return judging_of(comparisons, opinion, settings, room, **cast)


def judging_of(
    comparisons: list[Comparison], opinion: Opinion, settings: JudgeSettings, room: int = ROOM, **cast: Any
) -> Judging:
    step = settings.step()
    groups = [as_group(made, step.template, number)[0] for number, made in enumerate(comparisons)]
    truth = Truth(groups)
    for group, made in zip(groups, comparisons, strict=True):
        for text in (made.response_a, made.response_b):
            truth.note(truth.answers, group, text, quality(text))
    client: Any = Direct(engine_of(step, truth, Cast(judge=opinion, **cast)))
    return Judging("oracle", VERSION, Speaker(client, CHAT, room))
