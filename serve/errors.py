"""Every error as one JSON form with its status; no stack trace, no path, no text of a request.

Where OpenAI's wire format is spoken, `error` is an object, whose message is what OpenAI's client shows.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from actors.chat import ChatFormatError
from actors.engine import UnsupportedRequest
from actors.pool import ModelUnavailable
from actors.speaker import PromptTooLong
from serve.chat_models import WireError, WireErrorBody
from serve.models import ErrorReply

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorReply} for code in (422, 503, 504)}
WIRE_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": WireError} for code in (404, 422, 503, 504)}


def error_reply(request: Request, status: int, message: str) -> JSONResponse:
    """An error as the client of this route reads it."""
    if request.url.path.endswith("/completions"):
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = WireError(error=WireErrorBody(message=message, type=kind))
        return JSONResponse(error.model_dump(), status_code=status)
    return JSONResponse(ErrorReply(error=message).model_dump(), status_code=status)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    problems = [f"{'.'.join(str(p) for p in e['loc'] if p != 'body') or 'body'}: {e['msg']}" for e in error.errors()]
    return error_reply(request, 422, "; ".join(problems)[:2000])


async def _unusable(request: Request, error: Exception) -> JSONResponse:
    return error_reply(request, 422, str(error))


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return error_reply(request, 503, "the judge's model is not available")


async def _late(request: Request, error: Exception) -> JSONResponse:
    return error_reply(request, 504, f"no judgement within {request.app.state.timeout_s:.0f} s")


def add_error_handlers(api: FastAPI) -> None:
    """Answer the errors of routes and of what they call."""
    api.add_exception_handler(RequestValidationError, _invalid)
    for unusable in (PromptTooLong, UnsupportedRequest, ChatFormatError):
        api.add_exception_handler(unusable, _unusable)
    api.add_exception_handler(ModelUnavailable, _unavailable)
    api.add_exception_handler(TimeoutError, _late)
