"""The recipe of docs/fastapi.md as it stands there: under uvicorn, over HTTP, on a real mongod."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from memorizz_async.memory_provider.mongodb.local_server import LocalServer

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


def recipe() -> str:
    """The one block of Python in the documentation."""
    text = (ROOT / "docs" / "fastapi.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(block)


class Server:
    """uvicorn in a process of its own, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def says(self, words: str) -> str:
        """Wait until a line of its log holds the words; that line."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            while line := (await self.process.stderr.readline()).decode():
                self.said += line
                if words in line:
                    return line
        raise AssertionError(f"it ended without saying {words!r}:\n{self.said}")

    async def ended(self) -> int:
        """Wait for its end; the exit status."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            self.said += (await self.process.stderr.read()).decode()
            return await self.process.wait()


@asynccontextmanager
async def serving(folder: Path, uri: str) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    (folder / "app.py").write_text(recipe(), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "app:app", "--port", "0", "--no-access-log",
        cwd=folder,
        env={
            **os.environ,
            "MONGODB_URI": uri,
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    server = Server(process)
    try:
        running = await server.says("Uvicorn running on")
        address = re.search(r"http://[\d.:]+", running)
        assert address is not None
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=address[0], timeout=60, limits=limits) as client:
            yield server, client
    finally:
        if process.returncode is None:
            process.kill()
        await server.ended()


def users_of(folder: Path) -> Any:
    return LocalServer(folder).status()


async def test_many_users_at_once_and_a_graceful_end(tmp_path: Path) -> None:
    """Each gets what is theirs; a request that runs at SIGTERM is answered; then all is closed."""
    folder = tmp_path / "data"
    async with serving(tmp_path, f"local://{folder}") as (server, client):
        users = [f"user{number}" for number in range(10)]
        stored = await asyncio.gather(
            *(
                client.post(f"/users/{user}/memories", json={"content": f"{user} likes {fruit}."})
                for user in users
                for fruit in ("plums", "figs", "pears")
            )
        )
        assert [answer.status_code for answer in stored] == [201] * 30
        assert len({answer.json()["id"] for answer in stored}) == 30
        questions = await asyncio.gather(
            *(
                client.get(f"/users/{user}/{what}", params={"q": "Which fruit?"})
                for user in users
                for what in ("memories", "context")
            )
        )
        for number, answer in enumerate(questions):
            assert answer.status_code == 200, answer.text
            user = users[number // 2]
            assert f"{user} likes" in answer.text
            assert not any(f"{other} likes" in answer.text for other in users if other != user)
        assert questions[1].json()["tokens"] > 10
        assert questions[1].json()["not_searched"] == []

        # The database stands still, so that a request surely runs while the server shuts down.
        mongod = LocalServer(folder).status().pid
        assert mongod is not None
        os.kill(mongod, signal.SIGSTOP)
        try:
            late = asyncio.create_task(
                client.post("/users/late/memories", json={"content": "late likes dates."})
            )
            # Both were sent before the signal: the second is answered without a database.
            assert (await client.get("/users/late/memories", params={"q": " "})).status_code == 422
            server.process.terminate()
            await server.says("Waiting for connections to close")
        finally:
            os.kill(mongod, signal.SIGCONT)
        assert (await late).status_code == 201
        assert await server.ended() in (0, -signal.SIGTERM)
        assert "Application shutdown complete." in server.said
        assert "Traceback" not in server.said
    assert not LocalServer(folder).status().running


@pytest.fixture
def own_mongod(tmp_path: Path) -> Any:
    """A server that the test may stop and kill: its address and its process."""
    server = LocalServer(tmp_path / "own")
    uri = server.acquire()
    pid = server.status().pid
    try:
        yield uri, pid
    finally:
        server.release()


async def test_a_database_that_fails_is_an_error_that_says_so(
    own_mongod: Any, tmp_path: Path
) -> None:
    """504 where it does not answer in time, 503 where it is gone, 422 for the client's mistakes."""
    uri, pid = own_mongod
    async with serving(tmp_path, uri) as (_, client):
        recall, body = "/users/ada/memories", {"content": "Ada likes plums."}
        assert (await client.post(recall, json=body)).status_code == 201
        wrong = await client.get(recall, params={"q": " "})
        assert wrong.status_code == 422
        assert wrong.json() == {
            "error": "InvalidQueryError",
            "what": "The query is empty",
            "fix": "pass the text to recall memories for",
        }
        os.kill(pid, signal.SIGSTOP)
        try:
            slow = await client.post(recall, json=body)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (slow.status_code, slow.json()["error"]) == (504, "OperationTimeoutError")
        os.kill(pid, signal.SIGKILL)
        # The first may still meet a connection that it believes in, and look until its deadline.
        await client.get(recall, params={"q": "fruit?"})
        gone, built = await asyncio.gather(
            client.get(recall, params={"q": "fruit?"}),
            client.get("/users/ada/context", params={"q": "fruit?"}),
        )
        for answer in (gone, built):
            assert answer.status_code == 503, answer.text
            assert answer.headers["Retry-After"] == "5"
            assert answer.json()["error"] == "ServerUnavailableError"
            assert "127.0.0.1" not in answer.text
