"""The HTTP interface: /think, /health, /metrics, and OpenAI's chat API with the same policy."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from so8t_engine.serving import schemas
from so8t_engine.serving.guard import Guard, RateLimit
from so8t_engine.serving.service import Answer, Ask, RequestFailed, Service

Frame = Callable[[str | Answer | RequestFailed], str]

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": text}
    for status, text in {
        400: "not understood",
        401: "no bearer token",
        408: "the request came too slowly",
        413: "the request is too large",
        422: "a field is wrong, or the question too long for the model",
        429: "too many requests",
        499: "the caller left",
        500: "the model failed",
        503: "the queue is full, or the audit log cannot be written",
        504: "the time limit passed",
    }.items()
}


def _responses(stream: str) -> dict[int | str, dict[str, Any]]:
    events = {"text/event-stream": {"schema": {"description": stream}}}
    return {200: {"content": events}, **_ERRORS}


def make_app(service: Service, token: str) -> FastAPI:
    """The application; `token` is what every caller but those of /health must bring."""
    settings = service.settings
    app = FastAPI(title="SO8T", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json")

    def rejected(path: str, code: str, count: int) -> None:
        known = path if path in {"/think", "/v1/chat/completions", "/v1/models", "/metrics"} else "other"
        service.reject(known, code, count)

    app.add_middleware(
        Guard,
        token=token,
        limit=RateLimit(settings.requests_per_minute),
        max_bytes=settings.request_kib * 1024,
        rejected=rejected,
    )
    _error_handlers(app, rejected)
    _plain_routes(app, service)
    _think_route(app, service)
    _chat_routes(app, service)
    _secure(app)
    return app


def _error(status: int, code: str, message: str, mend: str = "", retry_s: int = 0) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    headers = {"retry-after": str(retry_s)} if retry_s else None
    content = {"error": {"message": message, "type": kind, "code": code, "mend": mend}}
    return JSONResponse(content, status, headers)


def _error_handlers(app: FastAPI, rejected: Callable[[str, str, int], None]) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        rejected(request.url.path, "invalid", 1)
        # Where and why, never the value.
        told = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:5]
        )
        return _error(422, "invalid", told[:1000], "Mend the field named.")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        answer = _error(error.status_code, "http", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestFailed)
    async def failed(request: Request, error: RequestFailed) -> JSONResponse:
        return _error(error.status, error.code, error.message, error.mend, error.retry_s)


def _plain_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=schemas.Health, responses={503: {"model": schemas.Health}})
    async def health() -> Response:
        """Whether the model's thread and the audit log work."""
        well = service.worker.alive
        return JSONResponse({"status": "ok" if well else "failing"}, 200 if well else 503)

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={401: _ERRORS[401], 429: _ERRORS[429]},
    )
    async def metrics() -> Response:
        """Prometheus metrics."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain")

    @app.get("/v1/models", response_model=schemas.Models, responses={401: _ERRORS[401], 429: _ERRORS[429]})
    async def models() -> schemas.Models:
        """The one model that is served."""
        return schemas.Models(data=[schemas.Model(id=service.run, created=service.created)])


def _think_route(app: FastAPI, service: Service) -> None:
    @app.post(
        "/think",
        response_model=schemas.ThinkAnswer,
        responses=_responses("events text, result or error"),
    )
    async def think(body: schemas.ThinkRequest, request: Request) -> Response:
        """Ask; the answer is what the model wrote in `<final>`, or a fixed sentence."""
        ask = Ask(
            "/think", [("user", body.query)], body.max_new_tokens, body.temperature, body.top_p, body.seed
        )
        if not body.stream:
            answer = await service.answer(ask, request.is_disconnected)
            return JSONResponse(_think_answer(answer, service))

        def frame(item: str | Answer | RequestFailed) -> str:
            if isinstance(item, str):
                return _event({"type": "text", "text": item})
            if isinstance(item, Answer):
                return _event({"type": "result", **_think_answer(item, service)})
            return _event({"type": "error", "error": {"code": item.code, "message": item.message}})

        return await _streaming(service, ask, request, frame)


def _think_answer(answer: Answer, service: Service) -> dict[str, Any]:
    return schemas.ThinkAnswer(
        final=answer.final,
        decision=answer.decision,
        reason=answer.reason,
        escalated=answer.escalated,
        withdrawn=answer.withdrawn,
        cut=answer.cut,
        heads=answer.heads,
        latency_ms=answer.latency_ms,
        audit_id=answer.audit_id,
        model=service.run,
    ).model_dump()


def _chat_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=schemas.ChatAnswer,
        responses=_responses("chunks as OpenAI's API sends them"),
    )
    async def chat(body: schemas.ChatRequest, request: Request) -> Response:
        """OpenAI's chat completions, under the same policy as /think."""
        ask = _chat_ask(body, service)
        identity = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": service.created,
            "model": service.run,
        }
        if not body.stream:
            answer = await service.answer(ask, request.is_disconnected)
            return JSONResponse(_chat_answer(answer, identity))
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await _streaming(service, ask, request, _ChatFrames(identity, usage))


def _chat_ask(body: schemas.ChatRequest, service: Service) -> Ask:
    roles = {"developer": "system"}
    messages = [(roles.get(one.role, one.role), one.text) for one in body.messages]
    if messages[-1][0] != "user" or not messages[-1][1]:
        raise RequestFailed(400, "messages", "The last message must be the user's and not empty.")
    return Ask(
        "/v1/chat/completions",
        messages,
        body.max_completion_tokens or body.max_tokens or service.settings.max_new_tokens,
        0.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        body.seed,
    )


def _finish_reason(answer: Answer) -> str:
    if answer.decision in {"REFUSE", "DENY"} or answer.withdrawn:
        return "content_filter"
    return "length" if answer.cut else "stop"


def _usage(answer: Answer) -> dict[str, int]:
    total = answer.prompt_tokens + answer.tokens
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.tokens, "total_tokens": total}


def _so8t(answer: Answer) -> dict[str, Any]:
    names = ("decision", "reason", "escalated", "withdrawn", "heads", "latency_ms", "audit_id")
    return {name: getattr(answer, name) for name in names}


def _chat_answer(answer: Answer, identity: dict[str, Any]) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.final, "refusal": None},
        "logprobs": None,
        "finish_reason": _finish_reason(answer),
    }
    return {
        **identity,
        "object": "chat.completion",
        "choices": [choice],
        "usage": _usage(answer),
        "so8t": _so8t(answer),
    }


class _ChatFrames:
    """Chunks of a chat completion; the role comes with the first text, so that nothing comes before it."""

    def __init__(self, identity: dict[str, Any], usage: bool) -> None:
        self._identity, self._usage, self._first = identity, usage, True

    def _chunk(self, delta: dict[str, Any], reason: str | None, **more: Any) -> str:  # noqa: ANN401
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return _event({**self._identity, "object": "chat.completion.chunk", "choices": choices, **more})

    def __call__(self, item: str | Answer | RequestFailed) -> str:
        if isinstance(item, str):
            delta = {"role": "assistant", "content": item} if self._first else {"content": item}
            self._first = False
            return self._chunk(delta, None)
        if isinstance(item, RequestFailed):
            kind = "server_error" if item.status >= 500 else "invalid_request_error"
            return _event({"error": {"message": item.message, "type": kind, "code": item.code}})
        text = self._chunk({}, _finish_reason(item), so8t=_so8t(item))
        if self._usage:
            chunk = {
                **self._identity,
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": _usage(item),
            }
            text += _event(chunk)
        return text + "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _streaming(service: Service, ask: Ask, request: Request, frame: Frame) -> Response:
    """Not even a header before the first text or a failure."""
    flow = service.stream(ask, request.is_disconnected)
    first = await anext(flow)

    async def events() -> AsyncIterator[bytes]:
        try:
            yield frame(first).encode()
            async for item in flow:
                yield frame(item).encode()
        except RequestFailed as error:
            yield frame(error).encode()
        finally:
            await flow.aclose()

    return StreamingResponse(
        events(),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


def _secure(app: FastAPI) -> None:
    """Say in the OpenAPI document that a bearer token is needed."""
    made = app.openapi()
    made.setdefault("components", {})["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"bearer": []}]
    made["paths"]["/health"]["get"]["security"] = []
    for path in ("/think", "/v1/chat/completions"):
        # FastAPI's own schema of 422 is not what this service sends.
        made["paths"][path]["post"]["responses"]["422"]["content"] = {
            "application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}
        }
    app.openapi_schema = made
