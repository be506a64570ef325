"""Any HTTP endpoint with OpenAI's embeddings API: OpenAI, vLLM, TEI, Ollama, LiteLLM, …

The official `openai` client sends the requests and owns retries, Retry-After, timeouts, the
connection pool and proxies. This module turns a batch into a request, checks the answer, and
translates a failure into an error that shows neither a text nor the key.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import json
import re
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from memorizz_async.config import setting
from memorizz_async.embeddings.backends.prompts import check_prompts, choose_prompts
from memorizz_async.embeddings.protocol import (
    Batch,
    BatchTooLargeError,
    ModelInfo,
    WholeBatchError,
)
from memorizz_async.errors import ConfigurationError, EmbeddingError, MissingDependencyError
from memorizz_async.fork import ProcessBound, keep_in_child, reset_in_child
from memorizz_async.installing import how_to_install
from memorizz_async.threaded_loop import start_loop, stop_loop
from memorizz_async.validation import checked_count, checked_seconds, checked_text

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

_TOO_LARGE = 413
# No text of a batch is at fault for these; the client has retried those that can pass.
_REFUSED = frozenset({401, 402, 403, 404, 405})
_UNAVAILABLE = frozenset({408, 409, 425, 429})
_RETRY_COUNT = "x-stainless-retry-count"
"""The header in which the client counts the retries of a request, from 0."""


class OpenAIBackend(ProcessBound):
    """Embeds texts with `POST {base_url}/embeddings`, by the official `openai` client.

    Requires the extra `[openai]`. The client is imported and created at the first use.

    Args:
        model_name: The model, as the service names it.
        base_url: Address of the API. Default: `OPENAI_BASE_URL` from the environment or `.env`,
            else OpenAI's own.
        api_key: Sent as a bearer token; never part of a message, a log record or a `repr`.
            Default: `OPENAI_API_KEY`. Without either, no key is sent.
        dimensions: Length of the vectors to request, for models that can shorten them.
        timeout: Seconds that a request may wait for the connection, and for each part of the
            answer.
        max_retries: Retries of a request after a lost connection, a timeout, or status 408, 409,
            429 or 5xx. The wait grows with each; a Retry-After of up to two minutes replaces it,
            and a longer one is an error at once.
        workers: Requests at the same time.
        query_prompt: Prefix of each query. Default: by the model's name, see
            `memorizz_async.embeddings.backends.prompts`. `""` means none.
        document_prompt: Prefix of each document, likewise.

    Raises:
        ConfigurationError: An argument is invalid.

    Example::

        backend = OpenAIBackend("bge-m3", base_url="http://localhost:8080/v1")
        provider = AsyncEmbeddingProvider(backend=backend)
    """

    name = "openai"

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        timeout: float = 30.0,
        max_retries: int = 5,
        workers: int = 4,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        checked_text("model_name", model_name, error=ConfigurationError)
        for name, text in {"base_url": base_url, "api_key": api_key}.items():
            if text is not None:
                checked_text(name, text, error=ConfigurationError)
        if dimensions is not None:
            checked_count("dimensions", dimensions, error=ConfigurationError)
        checked_seconds("timeout", timeout, error=ConfigurationError)
        checked_count("max_retries", max_retries, least=0, error=ConfigurationError)
        checked_count("workers", workers, error=ConfigurationError)
        check_prompts(query_prompt, document_prompt)
        self.model_name = model_name
        self.workers = workers
        self._address = _read_address(
            base_url or setting("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        )
        self._host = _host_and_port(self._address)
        self._api_key = api_key or setting("OPENAI_API_KEY")
        if self._api_key and not re.fullmatch(r"[!-~]+", self._api_key):
            raise ConfigurationError(
                "The API key of the embedding service has a character that a header cannot hold",
                seen="a blank, a line break or a character beyond ASCII",
                fix="copy the key again, without the text around it",
            )
        self._dimensions = dimensions
        self._timeout = timeout
        self._max_retries = max_retries
        self._prompts = choose_prompts(model_name, {}, query_prompt, document_prompt)
        self._thread = _LoopThread("memorizz-embedding-http")
        self._client: AsyncOpenAI | None = None
        self._requests = 0
        self._retries = 0
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Drop the client: its connections belong to the parent process."""
        keep_in_child(self._client)
        self._client = None

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.model_name!r}, host={self._host!r})"

    def open(self) -> ModelInfo:
        """Create the client; sends nothing.

        Raises:
            MissingDependencyError: The extra `[openai]` is not installed.
        """
        try:
            importlib.import_module("openai")
        except ImportError as error:
            raise MissingDependencyError(
                "OpenAIBackend requires the package openai",
                seen=str(error),
                fix=how_to_install("openai"),
            ) from error
        self._client = self._new_client()
        return ModelInfo(
            self.model_name, self._host, self._dimensions, self._prompts, source=self._host
        )

    def embed(self, batch: Batch) -> list[Any]:
        """Send one request, with the client's retries.

        Returns:
            One vector for each text, in order.

        Raises:
            BatchTooLargeError: Status 413.
            WholeBatchError: The service is unavailable or refuses every request.
            EmbeddingError: Any other failure.
        """
        texts = [batch.prompt + text for text in batch.texts]
        try:
            return self._thread.run(self._request(texts))
        except concurrent.futures.CancelledError as error:
            raise WholeBatchError from error

    def cancel(self) -> None:
        """Cancel running requests and waits at once."""
        self._thread.cancel()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._client is not None:
            self._thread.close(self._client.close())

    def counters(self) -> dict[str, int]:
        """Return `requests`, all that were sent, and `http_retries`, how many of them again."""
        return {"requests": self._requests, "http_retries": self._retries}

    def _new_client(self) -> AsyncOpenAI:
        import openai  # noqa: PLC0415 - an extra; `open` reports where it is missing

        address = self._address
        # Credentials in the address go into a header: the client's HTTP library logs addresses.
        auth = (unquote(address.username or ""), unquote(address.password or ""))
        http_client, failure = None, ""
        try:
            http_client = openai.DefaultAsyncHttpxClient(
                auth=auth if any(auth) else None,
                event_hooks={"request": [self._count_request]},
                follow_redirects=False,  # another host must not receive the texts
            )
        except Exception as error:  # noqa: BLE001 - it quotes the address of a proxy: no cause
            failure = type(error).__name__
        if http_client is None:
            raise ConfigurationError(
                "The HTTP client of the embedding service cannot be created",
                seen=failure,
                fix="check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE",
            )
        return openai.AsyncOpenAI(
            base_url=address._replace(netloc=address.netloc.rpartition("@")[2]).geturl(),
            api_key=self._api_key or "none",  # else the client raises; `_request` sends none
            timeout=self._timeout,
            max_retries=self._max_retries,
            http_client=http_client,
        )

    async def _count_request(self, request: Any) -> None:
        self._requests += 1
        self._retries += request.headers.get(_RETRY_COUNT, "0") != "0"

    async def _request(self, texts: list[str]) -> list[Any]:
        import openai  # noqa: PLC0415 - an extra; `open` reports where it is missing

        if self._client is None:  # in a forked child
            self._client = self._new_client()
        try:
            # The raw answer: the client's typed one creates an object for each number.
            answer = await self._client.embeddings.with_raw_response.create(
                model=self.model_name,
                input=texts,
                encoding_format="float",
                dimensions=openai.omit if self._dimensions is None else self._dimensions,
                extra_headers=None if self._api_key else {"Authorization": openai.omit},
            )
        except openai.OpenAIError as error:
            failure = self._translate(error)
        else:
            return self._vectors_in_order(answer.content, len(texts))
        # Outside the handler: the client's error holds the request and the service's words, which
        # may repeat a text or the key, and must not be part of the chain.
        raise failure

    def _vectors_in_order(self, content: bytes, count: int) -> list[Any]:
        try:
            rows = sorted(json.loads(content)["data"], key=lambda row: int(row["index"]))
            vectors = [row["embedding"] for row in rows]
            complete = [int(row["index"]) for row in rows] == list(range(count))
        except (ValueError, KeyError, TypeError) as error:
            reason = type(error).__name__
        else:
            if complete:
                return vectors
            reason = f"{len(rows)} vectors for {count} texts, or an index twice"
        raise EmbeddingError(
            f"The embedding service at {self._host} answered something else than vectors",
            seen=reason,
            fix="check that base_url is that of an OpenAI-compatible API",
        )

    def _translate(self, error: Any) -> Exception:
        """Return the error to raise in place of one of the client's."""
        status: int | None = getattr(error, "status_code", None)
        seen = _describe(error, status)
        if status == _TOO_LARGE:
            return BatchTooLargeError(seen)
        if status is None or status in _UNAVAILABLE or status >= 500:
            request = getattr(error, "request", None)
            tries = 1 + int(request.headers.get(_RETRY_COUNT, 0)) if request else 1
            unavailable = EmbeddingError(
                f"The embedding service at {self._host} did not answer with vectors",
                seen=f"{seen}, after {tries} tries",
                fix="check that it runs and that its rate limit is not used up",
            )
            return _for_whole_batch(unavailable)
        refused = EmbeddingError(
            f"The embedding service at {self._host} refused the request",
            seen=seen,
            fix="check the model's name, the API key, and the length of the texts",
        )
        return _for_whole_batch(refused) if status in _REFUSED else refused


def _for_whole_batch(error: EmbeddingError) -> WholeBatchError:
    whole = WholeBatchError()
    whole.__cause__ = error
    return whole


def _describe(error: Any, status: int | None) -> str:
    """Return the status and the service's code for it, never its words."""
    if status is None:
        return type(error.__cause__ or error).__name__
    code = error.code or error.type
    known = isinstance(code, str) and re.fullmatch(r"[a-z][a-z_]{2,59}", code)
    return f"status {status} ({code})" if known else f"status {status}"


def _read_address(base_url: str) -> SplitResult:
    """Split the address.

    Raises:
        ConfigurationError: It cannot be read; no part of it is shown, as it may hold a password.
    """
    try:
        parts = urlsplit(base_url.rstrip("/"))
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:  # its message quotes the text in place of a port
        parts, host = urlsplit(""), ""
    readable = (
        parts.scheme in ("http", "https")
        and "@" not in parts.path
        and not parts.query
        and not parts.fragment
    )
    if not readable or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9a-f:.]+", host):
        raise ConfigurationError(
            "The address of the embedding service cannot be read",
            fix="give base_url as http://host:port/v1 or https://…, without ? and #",
        )
    return parts


def _host_and_port(address: SplitResult) -> str:
    """Return what errors show of an address, which may carry a user and a password."""
    return f"{address.hostname}:{address.port}" if address.port else str(address.hostname)


class _LoopThread(ProcessBound):
    """An event loop in its own thread, which runs coroutines for other threads.

    An async client is bound to one loop, while worker threads have none and the loops of callers
    come and go; and only a coroutine can be cancelled while it waits for the service.

    The thread starts at the first `run`. `cancel` may be called from any thread, any number of
    times; after it, `run` raises concurrent.futures.CancelledError.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._cancelled = False
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Forget the thread, which the child does not have: the next `run` starts another."""
        keep_in_child(self._loop)
        self._lock, self._running = threading.Lock(), set()
        self._loop = self._thread = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it in the calling thread."""
        with self._lock:
            if self._cancelled:
                coroutine.close()
                raise concurrent.futures.CancelledError
            if self._loop is None:
                self._loop, self._thread = start_loop(self, self._name)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._running.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._running.discard(future)

    def cancel(self) -> None:
        """Cancel running coroutines and refuse new ones."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Cancel, run one last coroutine (to close the client) and end the thread."""
        self.cancel()
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            last.close()
            return
        asyncio.run_coroutine_threadsafe(last, loop).result()
        stop_loop(loop)
        thread.join()
        self._loop = self._thread = None
