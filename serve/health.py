"""Which model is live, and whether it answers."""

from fastapi import APIRouter

from serve.live import LiveModel
from serve.models import ErrorReply, Health, ModelCard, ModelList

router = APIRouter()


@router.get("/v1/models")
async def models(live: LiveModel) -> ModelList:
    """The live model and its weight version."""
    return ModelList(data=[ModelCard(id=live.run, weight_version=await live.version())])


@router.get("/healthz")
async def healthz() -> Health:
    """The HTTP process is alive."""
    return Health()


@router.get("/readyz", responses={503: {"model": ErrorReply}})
async def readyz(live: LiveModel) -> Health:
    """The model answers."""
    return Health(weight_version=await live.version())
