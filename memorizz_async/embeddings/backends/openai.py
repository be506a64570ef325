"""Any HTTP endpoint that speaks OpenAI's embeddings API: OpenAI, vLLM, TEI, Ollama, LiteLLM, …"""

from __future__ import annotations

import asyncio
import concurrent.futures
import email.utils
import importlib
import logging
import random
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from memorizz_async.config import setting
from memorizz_async.embeddings.backends.loop_thread import LoopThread
from memorizz_async.embeddings.prompts import check_prompts, choose_prompts
from memorizz_async.embeddings.protocol import (
    Batch,
    BatchTooLargeError,
    ModelInfo,
    WholeBatchError,
)
from memorizz_async.errors import ConfigurationError, EmbeddingError, MissingDependencyError
from memorizz_async.fork import ProcessBound, keep_in_child, reset_in_child
from memorizz_async.installing import how_to_install
from memorizz_async.validation import checked_count, checked_seconds, checked_text

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("memorizz_async.embeddings")

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 402, 403, 404, 405})
_TOO_LARGE = 413
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
# A service that asks for more patience than this gets an error now rather than a retry much later.
_LONGEST_RETRY_AFTER = 60.0


class OpenAIBackend(ProcessBound):
    """POSTs to `{base_url}/embeddings`.

    model_name: as the service knows it.
    base_url: left out, `OPENAI_BASE_URL` from the environment or `.env`, else OpenAI's own.
    api_key: left out, `OPENAI_API_KEY`. Sent as a bearer token; in no message, log or repr.
    dimensions: asked of the service, for models that can be cut short.
    timeout: seconds, of one request.
    max_retries: after a dropped connection, a timeout, 429 or 5xx, with growing random waits; where
        the service says Retry-After, that long (up to a minute).
    workers: requests at the same time.
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
        address = base_url or setting("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._host = _host_of(address)
        self._base_url, self._auth = _without_credentials(address.rstrip("/"))
        self._api_key = api_key or setting("OPENAI_API_KEY")
        if self._api_key and not re.fullmatch(r"[!-~]+", self._api_key):
            raise ConfigurationError(
                "The API key of the embedding service has a character that no header can carry",
                seen="a blank, a line break or a character beyond ASCII",
                fix="copy it again, without what is around it",
            )
        self._dimensions = dimensions
        self._timeout = timeout
        self._max_retries = max_retries
        self._prompts = choose_prompts(model_name, {}, query_prompt, document_prompt)
        self._thread = LoopThread("memorizz-embedding-http")
        self._client: httpx.AsyncClient | None = None
        self._requests = 0
        self._retries = 0
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """The connections are the parent's: the next request makes a client."""
        keep_in_child(self._client)
        self._client = None

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.model_name!r}, host={self._host!r})"

    def open(self) -> ModelInfo:
        """Make the client; nothing is sent before the first batch."""
        try:
            importlib.import_module("httpx")
        except ImportError as error:
            raise MissingDependencyError(
                "OpenAIBackend requires httpx",
                seen=str(error),
                fix=how_to_install("openai"),
            ) from error
        self._client = self._new_client()
        return ModelInfo(
            self.model_name, self._host, self._dimensions, self._prompts, source=self._host
        )

    def embed(self, batch: Batch) -> list[Any]:
        """One request, tried again where that can help."""
        body: dict[str, Any] = {
            "model": self.model_name,
            "input": [batch.prompt + text for text in batch.texts],
            "encoding_format": "float",
        }
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        try:
            return self._thread.run(self._post(body))
        except concurrent.futures.CancelledError as error:
            raise WholeBatchError from error

    def cancel(self) -> None:
        """End requests and waits at once."""
        self._thread.cancel()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._client is not None:
            self._thread.close(self._client.aclose())

    def counters(self) -> dict[str, int]:
        """`requests`: sent. `http_retries`: how many of them again."""
        return {"requests": self._requests, "http_retries": self._retries}

    async def _post(self, body: dict[str, Any]) -> list[Any]:
        import httpx  # noqa: PLC0415 - an extra; `open` has said so where it is missing

        if self._client is None:  # in a forked child
            self._client = self._new_client()
        failure = ""
        for attempt in range(self._max_retries + 1):
            self._requests += 1
            retry_after = None
            try:
                response = await self._client.post(f"{self._base_url}/embeddings", json=body)
            except httpx.TransportError as error:
                failure = type(error).__name__
            else:
                if response.status_code not in _RETRIED:
                    return self._read(response)
                failure = _describe(response)
                retry_after = _retry_after(response)
            wait = _backoff(attempt) if retry_after is None else retry_after
            if attempt == self._max_retries or wait > _LONGEST_RETRY_AFTER:
                break
            self._retries += 1
            logger.info("%s: %s; trying again in %.1f s.", self._host, failure, wait)
            await asyncio.sleep(wait)
        raise WholeBatchError from EmbeddingError(
            f"The embedding service at {self._host} did not answer with vectors",
            seen=f"{failure}, after {attempt + 1} tries",
            fix="check that it runs and that its rate limit is not used up",
        )

    def _new_client(self) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415 - an extra; `open` has said so where it is missing

        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        failure = ""
        try:
            return httpx.AsyncClient(headers=headers, auth=self._auth, timeout=self._timeout)
        except (httpx.InvalidURL, ValueError, OSError) as error:  # it quotes a proxy's address
            failure = type(error).__name__
        raise ConfigurationError(
            "The HTTP client of the embedding service cannot be made",
            seen=failure,
            fix="check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE",
        )

    def _read(self, response: httpx.Response) -> list[Any]:
        if response.status_code == _TOO_LARGE:
            raise BatchTooLargeError(_describe(response))
        if not response.is_success:
            error = EmbeddingError(
                f"The embedding service at {self._host} refused the request",
                seen=_describe(response),
                fix="check the model's name, the API key, and the length of the texts",
            )
            if response.status_code in _REFUSED:
                raise WholeBatchError from error
            raise error
        try:
            rows = sorted(response.json()["data"], key=lambda row: int(row["index"]))
            return [row["embedding"] for row in rows]
        except (ValueError, KeyError, TypeError) as error:  # it quotes the answer: no cause of ours
            failure = type(error).__name__
        raise EmbeddingError(
            f"The embedding service at {self._host} answered something else than vectors",
            seen=f"status {response.status_code}, {failure} while reading it",
            fix="check that base_url is that of an OpenAI-compatible API",
        )


def _host_of(base_url: str) -> str:
    """What errors show of an address, which may carry a user and a password.

    Raises:
        ConfigurationError: It cannot be read; no part of it is shown.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:  # its words quote what stands in place of a port
        parts, port = urlsplit(""), None
    host = parts.hostname or ""
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
    return f"{host}:{port}" if port else host


def _without_credentials(base_url: str) -> tuple[str, tuple[str, str] | None]:
    """The address without its user and password, and those: httpx logs the address of each request.

    base_url: one that `_host_of` takes.
    """
    parts = urlsplit(base_url)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    if not at:
        return base_url, None
    user, _, password = userinfo.partition(":")
    bare = urlunsplit(parts._replace(netloc=hosts))
    return bare, (unquote(user), unquote(password))


def _describe(response: httpx.Response) -> str:
    """The status, and the service's code for it; not its words, which may repeat a text or key."""
    said = f"status {response.status_code}"
    try:
        error = response.json()["error"]
        code = error.get("code") or error.get("type")
    except (ValueError, KeyError, TypeError, AttributeError):
        return said
    known = isinstance(code, str) and re.fullmatch(r"[a-z][a-z_]{2,59}", code)
    return f"{said} ({code})" if known else said


def _backoff(attempt: int) -> float:
    """Seconds, growing and random, so that many clients do not come back at one moment."""
    most = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
    return random.uniform(most / 2, most)  # noqa: S311 - not a secret


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, from a number or a date; None where the service names neither."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
