"""`appellate serve`: one checkpoint behind the judge's endpoint, without a run."""

import time
import uuid

from pydantic import ValidationError
from rich.console import Console

from pipelines.config import PROFILES, ConfigError, ModelConfig, ServeConfig, SyncConfig, explain, known_profile


def settings(host: str, port: int | None, profile: str | None) -> tuple[dict[str, ModelConfig], ServeConfig]:
    """The model and its endpoint; raises ConfigError."""
    model = ModelConfig.model_validate(PROFILES[known_profile(profile)]["models"]["actor"])
    try:
        return {"actor": model}, ServeConfig(host=host, port=port)
    except ValidationError as error:
        raise ConfigError(explain(error, [])) from None


def serve_model(
    folder: str, models: dict[str, ModelConfig], http: ServeConfig, address: str | None, console: Console
) -> None:
    """Serve until interrupted; raises what starting raises."""
    from cluster.session import open_session

    run = f"serve-{uuid.uuid4().hex[:6]}"
    with open_session(run, models, SyncConfig(), http, address) as session:
        console.print(f"loading {folder}", highlight=False, soft_wrap=True)
        session.start_models({"actor": ("v0", folder)}, lambda waiting: None)
        url = session.start_judge("actor", folder)
        where = url or f"this cluster's HTTP address and {session.route}"
        text = f"judge at {where}/v1/judgements, documentation at {where}/docs, stop with Ctrl-C"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        while True:
            time.sleep(3600)
