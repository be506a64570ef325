"""The HTTP backend against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import Iterator
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import openai
import pytest
from support.errors import everything_shown
from unit.embeddings.embedding_fakes import until, vector_of

from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.embeddings.backends.openai import OpenAIBackend
from memorizz_async.errors import (
    ClosedError,
    ConfigurationError,
    EmbeddingError,
    MissingDependencyError,
)

KEY = "sk-very-secret"


class Service:
    """Answers with `script` first, (status, headers, body) or "drop" or "hang", and then well."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.refused = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.hanging = threading.Event()
        self.let_go = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service.handle(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            # A thread that hangs must not keep the test from ending.
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.requests.append(body)
            self.headers.append(handler.headers)
            step = self.script.pop(0) if self.script else None
            if self.refused in body["input"]:
                step = (400, {}, {})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if step == "drop":
                handler.close_connection = True
                handler.connection.close()
                return
            if step == "hang":
                self.hanging.set()
                self.let_go.wait(20)
                handler.close_connection = True
                return
            status, headers, answer = step or (200, {}, self.good(body))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        finally:
            with self.lock:
                self.at_once -= 1

    @staticmethod
    def good(body: dict[str, Any]) -> dict[str, Any]:
        rows = [
            {"index": i, "embedding": vector_of(text, body.get("dimensions", 4)).tolist()}
            for i, text in enumerate(body["input"])
        ]
        return {"data": rows[::-1]}  # in any order: the index counts


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    # Only to save time: the client waits half a second before its first retry.
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)
    service = Service()
    thread = threading.Thread(target=service.server.serve_forever, args=(0.01,))
    thread.start()
    yield service
    service.let_go.set()
    service.server.shutdown()
    thread.join()
    service.server.server_close()


def provider_of(service: Service, **options: Any) -> AsyncEmbeddingProvider:
    backend = OpenAIBackend("text-embed", base_url=service.url, api_key=KEY, **options)
    return AsyncEmbeddingProvider(backend=backend)


async def test_many_texts_are_one_request(service: Service) -> None:
    """In the order of the texts, for any order of the answer; the key is a bearer token."""
    async with provider_of(service) as provider:
        assert provider.get_dimensions() == 4
        matrix = await provider.encode_documents_async(list("abc"))
        np.testing.assert_allclose(matrix, [vector_of(t) for t in "abc"], rtol=1e-6)
        assert [len(r["input"]) for r in service.requests] == [1, 3]  # one to learn the dimensions
        assert service.requests[1]["model"] == "text-embed"
        assert service.headers[1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "trouble", [(503, {}, b"busy"), (429, {"Retry-After": "0"}, {}), (500, {}, {}), "drop"]
)
async def test_transient_failures_are_retried(service: Service, trouble: Any) -> None:
    """The caller gets its vector; stats() counts the retries."""
    service.script = [trouble, trouble]
    async with provider_of(service, dimensions=4) as provider:
        np.testing.assert_allclose(
            await provider.encode_query_async("a"), vector_of("a"), rtol=1e-6
        )
        assert provider.stats().backend_counters == {"requests": 3, "http_retries": 2}


@pytest.mark.parametrize("value", ["0.15", "date"])
async def test_retry_after_is_honoured(service: Service, value: str) -> None:
    """As seconds or as a date, instead of our own wait."""
    if value == "date":
        value = formatdate(time.time() + 2, usegmt=True)
        at_least = 0.5
    else:
        at_least = 0.14
    service.script = [(429, {"Retry-After": value}, {})]
    async with provider_of(service, dimensions=4) as provider:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await provider.encode_query_async("a")
        assert loop.time() - started >= at_least


async def test_a_retry_after_of_an_hour_is_an_error_at_once(service: Service) -> None:
    """A chat turn does not wait that long."""
    service.script = [(429, {"Retry-After": "3600"}, {"error": {"code": "rate_limit"}})]
    async with provider_of(service, dimensions=4) as provider:
        with pytest.raises(EmbeddingError, match=r"status 429 \(rate_limit\), after 1 tries"):
            await provider.encode_query_async("a")


async def test_an_unavailable_service_gets_a_bounded_number_of_requests(
    service: Service,
) -> None:
    """And not text by text after that."""
    service.script = [(503, {}, {})] * 50
    async with provider_of(service, dimensions=4, max_retries=2) as provider:
        with pytest.raises(EmbeddingError, match="after 3 tries"):
            await provider.encode_documents_async(list("abcdef"))
        assert len(service.requests) == 3


async def test_a_refused_key_is_reported_without_the_key(service: Service) -> None:
    """One request, no retry; the service's message, which repeats the key, is left out."""
    answer = {"error": {"message": f"Incorrect API key {KEY}", "code": "invalid_api_key"}}
    service.script = [(401, {}, answer)]
    async with provider_of(service, dimensions=4) as provider:
        with pytest.raises(EmbeddingError, match=r"status 401 \(invalid_api_key\)") as caught:
            await provider.encode_documents_async(["a", "b"])
        assert KEY not in str(caught.value) + repr(provider) + repr(provider._backend)
        assert len(service.requests) == 1


@pytest.mark.parametrize("trouble", [400, 401, 413, 429, 500, 307, "drop", "hang", b"<", b"[]"])
async def test_no_error_and_no_log_shows_a_text_or_a_secret(
    service: Service, trouble: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the chain of causes nor in the client's own log records, at any level."""
    text, password = "her PIN is 4711", "pass-word"
    repeated = {"error": {"message": f"{KEY} {text}", "code": f"{KEY} {text}", "param": text}}
    if isinstance(trouble, int):
        trouble = (trouble, {"Location": f"{service.url}/x"}, repeated)
    elif isinstance(trouble, bytes):
        trouble = (200, {}, trouble + f"{KEY} {text}".encode())
    service.script = [trouble] * 8
    caplog.set_level(logging.DEBUG)
    address = service.url.replace("http://", f"http://user:{password}@")
    backend = OpenAIBackend(
        "m", base_url=address, api_key=KEY, dimensions=4, timeout=0.2, max_retries=1
    )
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        with pytest.raises(EmbeddingError) as caught:
            await provider.encode_query_async(text)
    assert service.requests
    shown = [*everything_shown(caught.value), *(r.getMessage() for r in caplog.records)]
    assert not [words for words in shown for secret in (KEY, text, password) if secret in words]


async def test_credentials_in_the_address_are_sent_as_basic_authentication(
    service: Service,
) -> None:
    """They win over the key, as the address is the more specific of the two."""
    address = service.url.replace("http://", "http://user:p%40ss@")
    backend = OpenAIBackend("m", base_url=address, api_key=KEY, dimensions=4)
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        await provider.encode_query_async("a")
    expected = "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert service.headers[0]["Authorization"] == expected


async def test_without_a_key_no_key_is_sent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most local services need none."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = OpenAIBackend("m", base_url=service.url, dimensions=4)
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        await provider.encode_query_async("a")
    assert "Authorization" not in service.headers[0]


async def test_a_redirect_is_not_followed(service: Service) -> None:
    """Texts go to the configured host only."""
    service.script = [(307, {"Location": f"{service.url}/elsewhere"}, {})]
    async with provider_of(service, dimensions=4) as provider:
        with pytest.raises(EmbeddingError, match="status 307"):
            await provider.encode_query_async("a")
        assert len(service.requests) == 1


async def test_a_request_that_is_too_large_is_halved(service: Service) -> None:
    """413 is to HTTP what out of memory is to a GPU."""
    service.script = [(413, {}, {})]
    async with provider_of(service, dimensions=4) as provider:
        matrix = await provider.encode_documents_async(list("abcd"))
        np.testing.assert_allclose(matrix, [vector_of(t) for t in "abcd"], rtol=1e-6)
        assert [len(r["input"]) for r in service.requests] == [4, 2, 2]


async def test_a_refused_text_fails_alone(service: Service) -> None:
    """400 may be one text's fault."""
    service.refused = "bad"
    async with provider_of(service, dimensions=4) as provider:
        results = await asyncio.gather(
            *(provider.encode_query_async(text) for text in ("a", "bad", "b")),
            return_exceptions=True,
        )
        assert [isinstance(result, EmbeddingError) for result in results] == [False, True, False]


ROW = {"index": 0, "embedding": [1.0] * 4}


@pytest.mark.parametrize(
    "answer",
    [b"<html>", [], {"data": 3}, {"data": [{}]}, {"data": []}, {"data": [ROW, ROW]},
     {"data": [{**ROW, "index": 1}]}],
)  # fmt: skip
async def test_an_answer_without_one_vector_for_each_text_is_an_error(
    service: Service, answer: Any
) -> None:
    """Never an empty result."""
    service.script = [(200, {}, answer)]
    async with provider_of(service, dimensions=4) as provider:
        with pytest.raises(EmbeddingError):
            await provider.encode_query_async("a")


async def test_requests_run_at_the_same_time(service: Service) -> None:
    """Up to the number of workers."""
    service.script = ["hang", "hang"]
    provider = provider_of(service, dimensions=4, workers=3, max_retries=0)
    first = [asyncio.create_task(provider.encode_query_async("a"))]
    assert await asyncio.to_thread(service.hanging.wait, 10)
    second = asyncio.create_task(provider.encode_query_async("b"))
    await until(lambda: len(service.requests) == 2)
    np.testing.assert_allclose(await provider.encode_query_async("c"), vector_of("c"), rtol=1e-6)
    await provider.close_async()
    for task in (*first, second):
        with pytest.raises(ClosedError):
            await task


async def test_closing_ends_a_hanging_request_at_once(service: Service) -> None:
    """No thread waits for the service's answer."""
    service.script = ["hang"]
    provider = provider_of(service, dimensions=4)
    task = asyncio.create_task(provider.encode_query_async("a"))
    assert await asyncio.to_thread(service.hanging.wait, 10)
    async with asyncio.timeout(3):
        await provider.close_async()
    with pytest.raises(ClosedError):
        await task
    assert provider.stats().workers == 0


async def test_a_timeout_is_retried_and_then_an_error(service: Service) -> None:
    """The kind of failure is named."""
    service.script = ["hang", "hang"]
    async with provider_of(service, dimensions=4, timeout=0.05, max_retries=1) as provider:
        with pytest.raises(EmbeddingError, match="ReadTimeout, after 2 tries"):
            await provider.encode_query_async("a")


async def test_dimensions_are_requested_from_the_service(service: Service) -> None:
    """The first answer confirms them."""
    async with provider_of(service, dimensions=2) as provider:
        assert (await provider.encode_query_async("a")).shape == (2,)
        assert service.requests[0]["dimensions"] == 2


def test_a_service_is_used_from_two_loops(service: Service) -> None:
    """Its connections belong to a loop of their own."""
    provider = provider_of(service, dimensions=4)
    for text in "ab":
        asyncio.run(provider.encode_query_async(text))
    provider.shutdown()


def test_an_unreadable_address_is_an_error_that_does_not_show_it() -> None:
    """It may hold a password."""
    with pytest.raises(ConfigurationError) as caught:
        OpenAIBackend("m", base_url="user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["http://h/v1?key=secret", "http://h/v1#secret"])
def test_an_address_that_no_path_can_follow_is_refused(base_url: str) -> None:
    """`/embeddings` would become a part of the query."""
    with pytest.raises(ConfigurationError) as caught:
        OpenAIBackend("m", base_url=base_url)
    assert "secret" not in str(caught.value)


async def test_the_credentials_of_the_address_are_sent_and_not_logged(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """The client logs the address of every request."""
    url = service.url.replace("http://", "http://ada:s%40cret@")
    backend = OpenAIBackend("text-embed", base_url=url, api_key=KEY, dimensions=4)
    with caplog.at_level(logging.DEBUG):
        async with AsyncEmbeddingProvider(backend=backend) as provider:
            await provider.encode_query_async("a")
    [headers] = service.headers
    basic = {name.lower(): value for name, value in headers.items()}["authorization"]
    assert base64.b64decode(basic.removeprefix("Basic ")) == b"ada:s@cret"
    assert "HTTP Request" in caplog.text
    assert "cret" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [{"index": "a text of Ada", "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": ["a text of Ada"]}]},
        b"a text of Ada",
    ],
)
async def test_an_answer_that_repeats_a_text_is_not_shown(service: Service, answer: Any) -> None:
    """Nor is the error of reading it the cause of ours."""
    service.script = [(200, {}, answer)]
    async with provider_of(service, dimensions=4) as provider:
        with pytest.raises(EmbeddingError) as caught:
            await provider.encode_query_async("a")
    shown = everything_shown(caught.value)
    assert not any("Ada" in said for said in shown)


async def test_an_environment_that_no_client_can_be_made_from_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the address of the proxy, which may hold a password."""
    monkeypatch.setenv("HTTP_PROXY", "http://ada:Zq1x@h:Zq1x")
    backend = OpenAIBackend("m", base_url="http://h.invalid/v1")
    provider = AsyncEmbeddingProvider(backend=backend)
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as caught:
        await provider.encode_query_async("a")
    await provider.close_async()
    assert not any("Zq1x" in said for said in everything_shown(caught.value))


async def test_without_the_client_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first use."""
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    provider = AsyncEmbeddingProvider(backend=OpenAIBackend("m", base_url="http://localhost:1"))
    with pytest.raises(MissingDependencyError, match=r"pip install .*\.\[openai\]"):
        await provider.load_async()
    provider.shutdown()
