"""`appellate serve`: one checkpoint behind the judge's endpoint, without a run."""

import time
import uuid

from rich.console import Console

from pipelines.config import PROFILES, ModelConfig, ServeConfig, SyncConfig, detect_profile


def serve_model(
    folder: str, host: str, port: int | None, profile: str | None, address: str | None, console: Console
) -> None:
    """Serve until interrupted; raises what starting raises."""
    from cluster.session import open_session

    run = f"serve-{uuid.uuid4().hex[:6]}"
    models = {"actor": ModelConfig.model_validate(PROFILES[profile or detect_profile()]["models"]["actor"])}
    http = ServeConfig(host=host, port=port)
    with open_session(run, models, SyncConfig(), http, address) as session:
        console.print(f"loading {folder}", highlight=False, soft_wrap=True)
        session.start_models({"actor": ("v0", folder)}, lambda waiting: None)
        url = session.start_judge("actor", folder, http)
        console.print(f"judge at {url}/v1/judgements, documentation at {url}/docs, stop with Ctrl-C", highlight=False)
        while True:
            time.sleep(3600)
