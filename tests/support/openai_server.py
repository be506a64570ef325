"""A server that speaks OpenAI's HTTP, answers by a script, and remembers what it was shown.

    with ScriptedOpenAI(quote(r"Lisbon")) as server:
        client = openai.OpenAI(base_url=server.url, api_key="any")
        ...
    assert "Lisbon" in server.asked[-1].shown

It listens on loopback and is asked over real HTTP, also by other processes. A script sees a request
as `Asked` and gives what the model says: a text, one `Call` of a tool, or several at once. Nothing
is known here but what stands in the request, so an answer proves what reached the prompt.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL = "scripted-1"
UNKNOWN = "I do not know."
_END_OF_CONTEXT = "</memorizz:context>"
"""memorizz puts what it recalled for a turn into the user's message, before the user's words."""


@dataclass(frozen=True)
class Call:
    """A call of a tool that the model asks for."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Reply = str | Call | Sequence[Call]


@dataclass(frozen=True)
class Asked:
    """A request as it came: the path, and the JSON of its body."""

    path: str
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the model is shown it. `/responses` calls it `input`."""
        given = self.body.get("messages", self.body.get("input", []))
        shown = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        instructions = self.body.get("instructions")
        return [{"role": "system", "content": instructions}, *shown] if instructions else shown

    @property
    def shown(self) -> str:
        """Every word of the prompt."""
        return "\n".join(map(_text_of, self.messages))

    @property
    def question(self) -> str:
        """What the user said last, without what the agent put before it."""
        said = [_text_of(m) for m in self.messages if m.get("role") == "user"]
        return said[-1].rpartition(_END_OF_CONTEXT)[2].strip() if said else ""

    @property
    def remembered(self) -> str:
        """The prompt without what the user said last: what the agent knew by itself."""
        before, _, after = self.shown.rpartition(self.question)
        return before + after

    @property
    def results(self) -> list[str]:
        """What the tools answered since the user spoke last, the oldest first."""
        found: list[str] = []
        for message in reversed(self.messages):
            if message.get("role") == "user":
                break
            if message.get("role") == "tool":
                found.insert(0, _text_of(message))
        return found

    @property
    def tools(self) -> list[str]:
        """The names of the tools that the model may call."""
        return [tool["function"]["name"] for tool in self.body.get("tools") or []]


Script = Callable[[Asked], Reply]


def quote(pattern: str) -> Script:
    """Answers with the first match of the pattern in what is remembered; else with UNKNOWN."""

    def script(asked: Asked) -> str:
        found = re.search(pattern, asked.remembered)
        return found[0] if found else UNKNOWN

    return script


class ScriptedOpenAI:
    """The server, listening as long as the `with` block runs.

    asked: every request, in order. script: may be replaced at any time. A script that raises is an
    error 500 to the client, and raised again where the block ends.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.failures: list[Exception] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What a client takes as `base_url`."""
        assert self._server is not None, "the server is not running"
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def chats(self) -> list[Asked]:
        """The requests in which an agent talked, in order."""
        return [asked for asked in self.asked if asked.path.endswith("/chat/completions")]

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self.failures and kind is None:
            raise self.failures[0]

    def reply(self, path: str, body: dict[str, Any]) -> Reply:
        """What the script says to a request, which is remembered."""
        asked = Asked(path, body)
        self.asked.append(asked)
        return self.script(asked)


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedOpenAI
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        try:
            reply = self.owner.reply(self.path, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shall see it
            self.owner.failures.append(error)
            self._send(500, {"error": {"message": str(error), "type": "server_error"}})
            return
        if self.path.endswith("/responses"):
            self._send(200, _response(reply))
        elif body.get("stream"):
            self._stream(_chunks(reply, asked=body))
        else:
            self._send(200, _completion(reply))

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _stream(self, chunks: Iterator[Mapping[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing: a test reads `asked`."""


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _calls(reply: Reply) -> list[dict[str, Any]]:
    if isinstance(reply, str):
        return []
    calls = [reply] if isinstance(reply, Call) else list(reply)
    return [
        {
            "id": f"call_{position}_{call.name}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for position, call in enumerate(calls)
    ]


_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_HEAD = {"id": "chatcmpl-scripted", "created": 0, "model": MODEL}


def _completion(reply: Reply) -> dict[str, Any]:
    calls = _calls(reply)
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else reply}
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if calls else "stop",
    }
    return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}


def _chunks(reply: Reply, *, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same answer in pieces, as OpenAI streams it: the role, the pieces, the reason to stop."""

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    calls = _calls(reply)
    if isinstance(reply, str):
        for piece in re.findall(r"\S+\s*", reply):
            yield chunk({"content": piece})
    for index, call in enumerate(calls):
        yield chunk({"tool_calls": [{"index": index, **call}]})
    yield chunk({}, "tool_calls" if calls else "stop")
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}


def _response(reply: Reply) -> dict[str, Any]:
    """The same answer in the shape of `/responses`, which memorizz asks for plain texts."""
    if not isinstance(reply, str):
        raise TypeError("a script answers /responses with a text")
    content = [{"type": "output_text", "text": reply, "annotations": []}]
    return {
        "id": "resp-scripted",
        "object": "response",
        "created_at": 0,
        "model": MODEL,
        "status": "completed",
        "output": [
            {
                "id": "msg-scripted",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
        ],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "usage": {
            "input_tokens": 1,
            "output_tokens": 1,
            "total_tokens": 2,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
