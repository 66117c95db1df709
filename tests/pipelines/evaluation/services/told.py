"""A judge whose replies a function writes: the product's own asking and reading, with an oracle for an engine."""

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from actors.engine import Completion, Request
from actors.local import LocalModel
from actors.speaker import Speaker
from pipelines.evaluation import get_evaluation
from pipelines.evaluation.base import Result, read_settings
from pipelines.evaluation.sources import Judging
from tests.oracles import CHAT, VERSION

ROOM = 10**6  # characters it can read
CUT = "\x04"  # ends a reply that the limit cut off


class Told:
    """An engine that answers what `reply(prompt text, sample number)` says, and keeps what it was asked."""

    def __init__(self, reply: Callable[[str, int], str]):
        self.reply = reply
        self.asked: list[str] = []
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> list[Completion]:
        text = CHAT.decode(request.prompt_ids)
        self.asked.append(text)
        self.requests.append(request)
        made = [self.reply(text, i) for i in range(request.n)]
        return [_completion(i, text, request.seed) for i, text in enumerate(made)]


def _completion(index: int, text: str, seed: int | None) -> Completion:
    said = text.removesuffix(CUT)
    return Completion(index, said, CHAT.turn(said), "stop" if said == text else "length", seed, VERSION)


def judging(reply: Callable[[str, int], str], room: int = ROOM) -> tuple[Judging, Told]:
    """Somebody to ask, and the engine behind it."""
    engine = Told(reply)
    return Judging("oracle", VERSION, Speaker(cast(Any, LocalModel(cast(Any, engine), VERSION)), CHAT, room)), engine


def evaluate(name: str, data: str | Path, judge: Judging | None = None, **settings: Any) -> Result:
    """Run an evaluation with settings as words, as the command does."""
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    evaluation = get_evaluation(name)
    return asyncio.run(evaluation().run(str(data), judge, read_settings(evaluation, words)))


def rows_file(folder: Path, rows: Iterable[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    """A JSONL file of the rows."""
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tag(text: str, name: str) -> str:
    """What stands in a tag of a prompt, the last of that name."""
    return text.rpartition(f"<{name}>\n")[2].partition(f"\n</{name}>")[0]
