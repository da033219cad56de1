"""The ASGI app of `serve`: routes, limits, and clients that go before their answer.

What bodies and answers mean is `shared/serving`; the engine runs in a thread of its own
(`shared/serving/engine_thread.py`), so that a step never holds up the loop.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.decoding.requests import Piece
from shared.serving import chat, completions
from shared.serving.answers import Answer, Form, event, json_bytes
from shared.serving.asked import Asked, Served, require_model
from shared.serving.engine_thread import EngineThread, Job
from shared.serving.fields import read_body
from shared.serving.refusals import Refused
from shared.serving.token_texts import TokenTexts

BODY_SECONDS = 60.0  # that a client may take to send its body
DRAINED = 8  # times the limit that is read of a body before its refusal
LOCAL = {"localhost", "127.0.0.1", "::1"}


def make_app(
    served: Served, thread: EngineThread, host: str, most_bytes: int
) -> ASGIApp:
    """The app; `thread` is started by who runs it.

    Args:
      host: that is listened on. On loopback only requests that name it are answered:
        a page in a browser may make any name of its own point here.
      most_bytes: of a body.
    """
    texts = TokenTexts(served.tokenizer)
    forms = [
        Route(
            form.path,
            Endpoint(form, served, thread, texts, most_bytes),
            methods=["POST"],
        )
        for form in (completions.FORM, chat.FORM)
    ]
    about = About(served, thread)
    return Starlette(
        routes=[
            *forms,
            Route("/v1/models", about.models),
            Route("/v1/models/{name:path}", about.model),
            Route("/health", about.health),
        ],
        middleware=[Middleware(KnownHosts, host=host)],
        exception_handlers={
            Refused: _refused,
            HTTPException: _http_refused,
            Exception: _failed,
        },
    )


def answer_json(
    value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A response of JSON."""
    return Response(json_bytes(value), status, headers, "application/json")


def refusal(error: Refused) -> Response:
    """The response that a refusal is."""
    return answer_json(error.body(), error.status, error.headers)


async def _refused(_: Request, error: Any) -> Response:
    return refusal(error)


async def _http_refused(request: Request, error: Any) -> Response:
    """No such path, or not with this method."""
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    return refusal(Refused(message, status=error.status_code, headers=headers))


async def _failed(_: Request, error: Exception) -> Response:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return refusal(Refused(f"the server failed: {type(error).__name__}", status=status))


@dataclass(frozen=True)
class Endpoint:
    """Answers the bodies of one form."""

    form: Form
    served: Served
    thread: EngineThread
    texts: TokenTexts
    most_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await body_of(Request(scope, receive), self.most_bytes)
        except ClientDisconnect:
            return
        # A long text takes the tokenizer a while, in which others are answered.
        asked = await asyncio.to_thread(
            lambda: self.form.read(read_body(body), self.served)
        )
        await unless_gone(receive, self._answer(asked, scope, receive, send))

    async def _answer(
        self, asked: Asked, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = Answer(self.form, asked, self.texts, self.served.names[0])
        async with self.thread.asking(asked.requests) as job:
            if asked.stream:
                await stream(answer, job, send)
                return
            gained = [answer.gained(*of) async for pieces in job for of in pieces]
        await answer_json(answer.complete(gained))(scope, receive, send)


async def stream(answer: Answer, job: Job, send: Send) -> None:
    """Sends pieces as they come; what is refused at once has its own status."""

    async def sent(body: bytes, more: bool = True) -> None:
        if body or not more:
            part = {"type": "http.response.body", "body": body, "more_body": more}
            await send(part)

    def told(pieces: list[tuple[int, Piece]]) -> bytes:
        return b"".join(answer.chunk(answer.gained(*piece)) for piece in pieces)

    first = await anext(job)
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        await sent(told(first))
        async for pieces in job:
            await sent(told(pieces))
        ending = answer.ending()
    except Refused as error:
        ending = event(error.body())
    await sent(ending, more=False)


async def body_of(request: Request, most: int) -> bytes:
    """The body, if it is JSON by its header and not too long.

    A page of another site can send forms and plain text here, JSON it cannot.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            f"the header Content-Type must be application/json, got {ascii(kind)[:60]}",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    too_long = Refused(
        f"a body must have at most {most} bytes",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or len(told) > 18 or int(told) > DRAINED * most:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= most:
                    parts.append(part)
                elif size > DRAINED * most:
                    break
    except TimeoutError:
        slow = f"a body must come within {BODY_SECONDS:.0f} s"
        raise Refused(slow, status=HTTPStatus.REQUEST_TIMEOUT) from None
    if size > most:
        raise too_long
    return b"".join(parts)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work, or ends it where the client goes first."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(done, Exception):
        raise done


@dataclass(frozen=True)
class About:
    """What is served, and whether it is."""

    served: Served
    thread: EngineThread
    since: int = field(default_factory=lambda: int(time.time()))

    def _described(self) -> dict[str, Any]:
        return {
            "id": self.served.names[0],
            "object": "model",
            "created": self.since,
            "owned_by": "wmtp",
            "max_model_len": self.served.max_length,
        }

    async def models(self, _: Request) -> Response:
        """The one model there is."""
        return answer_json({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        """The same by its name; 404 for others."""
        require_model(request.path_params["name"], self.served)
        return answer_json(self._described())

    async def health(self, _: Request) -> Response:
        """200 while requests are taken, and how many samples run or wait."""
        alive = self.thread.alive
        status = HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE
        told = {"status": "ok" if alive else "stopping", "samples": self.thread.held}
        return answer_json(told, status)


class KnownHosts:
    """Refuses requests to a name of this machine that it does not go by."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.known = LOCAL | {host} if is_loopback(host) else set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.known:
            named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if _host_in(named) not in self.known:
                shown = ascii(named)[:100]
                line = f"the header Host must be of loopback, got {shown}"
                response = refusal(Refused(line, status=HTTPStatus.FORBIDDEN))
                return await response(scope, receive, send)
        await self.app(scope, receive, send)


def _host_in(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address stands for this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
