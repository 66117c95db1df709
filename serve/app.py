"""The judge over HTTP: a Ray Serve ingress beside the model pool, answering with the run's live weights."""

from fastapi import FastAPI
from ray import serve

from actors.chat import ChatFormat
from actors.judge import Judge
from actors.pool import PoolClient
from actors.registry import application_name
from actors.speaker import Speaker
from pipelines.plan import STAGE_CPUS
from serve import chat, health, judgements, watch
from serve.errors import add_error_handlers
from serve.live import Live

REQUEST_TIMEOUT_S = 600.0
UNAVAILABLE_TIMEOUT_S = 60.0


def build_api(live: Live, timeout_s: float = REQUEST_TIMEOUT_S, run_folder: str | None = None) -> FastAPI:
    """The HTTP application of one live model; a request ends within `timeout_s`. A run's folder is shown at /run."""
    api = FastAPI(
        title="Appellate judge",
        description="Judgements by the model that is being trained, each stamped with the weights that made it.",
        version="1",
    )
    api.state.live, api.state.timeout_s = live, timeout_s
    add_error_handlers(api)
    for module in (judgements, chat, health):
        api.include_router(module.router)
    if run_folder:
        api.state.run = watch.LiveRun(run_folder)
        api.include_router(watch.router)
    return api


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress()
class JudgeApp:
    """One HTTP replica."""

    def __init__(self, run: str, model: str, folder: str, max_model_len: int, run_folder: str | None = None):
        client = PoolClient(run, model, REQUEST_TIMEOUT_S, UNAVAILABLE_TIMEOUT_S)
        speaker = Speaker(client, ChatFormat.load(folder), max_model_len)
        self._live = Live(run, client, speaker, Judge(speaker))
        self._run_folder = run_folder

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._live, run_folder=self._run_folder)


def deploy_judge(
    run: str, model: str, folder: str, max_model_len: int, route: str, run_folder: str | None = None
) -> None:
    """Start the HTTP application of `run` below the path `route`; returns at once."""
    replica = JudgeApp.options(ray_actor_options={"num_cpus": STAGE_CPUS})
    application = replica.bind(run, model, folder, max_model_len, run_folder)
    target = serve.RunTarget(application, name=application_name(run, "http"), route_prefix=route)
    serve.run_many([target], wait_for_applications_running=False)
