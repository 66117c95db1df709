"""Who is asked: a checkpoint, the newest weights of a run, or a live judge at a URL."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from actors.speaker import Speaker
from pipelines.config import PROFILES, ConfigError, ModelConfig, known_profile
from pipelines.evaluation.judges.live import LiveJudge, is_url, live_judge


@dataclass(frozen=True)
class Judging:
    """Somebody who answers messages. `name` and `weight_version` go into every result.

    A live judge gives judgements and answers no messages: its `speaker` raises ConfigError when it is used.
    """

    name: str
    weight_version: str
    speaker: Speaker
    live: LiveJudge | None = None


class NoSpeaker:
    """In the place of a speaker where there is only an endpoint."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise ConfigError(f"{self._name} gives judgements and answers nothing else; name a checkpoint or a run")


def model_of(judge: str) -> tuple[str, str]:
    """Folder and weight version behind `--judge`: a run's newest checkpoint, or a checkpoint folder, name or alias.

    Raises ConfigError, CheckpointError.
    """
    from actors.checkpoints import resolve_model
    from pipelines.ledger import Ledger

    if (Path(judge) / "manifest.json").is_file() and (Path(judge) / "iterations").is_dir():
        ledger = Ledger.open(judge)
        trained = [i for i in ledger.iterations() if not (ledger.done(i, "train") or {"skipped": True}).get("skipped")]
        if not trained:
            raise ConfigError(f"--judge {judge}: this run has trained no weights yet; name a checkpoint")
        return ledger.checkpoint_dir(trained[-1]), f"v{trained[-1] + 1}"
    return resolve_model(judge), "v0"


@asynccontextmanager
async def open_judge(judge: str, profile: str | None = None) -> AsyncGenerator[Judging]:
    """Load what `--judge` names into this process, or reach the judge at its URL.

    Raises ConfigError, CheckpointError, ChatFormatError, JudgeUnavailable.
    """
    from actors.local import local_speaker

    if is_url(judge):
        async with live_judge(judge) as live:
            yield Judging(live.name, await live.version(), cast(Speaker, NoSpeaker(live.name)), live)
        return
    folder, version = model_of(judge)
    config = ModelConfig.model_validate(PROFILES[known_profile(profile)]["models"]["actor"])
    async with local_speaker(folder, config, version) as speaker:
        yield Judging(judge, version, speaker)
