"""A TCP proxy that speaks MongoDB's wire protocol, with faults on demand.

It passes every message through byte for byte, except replies to `hello` (they name the server's
address, and drivers would follow it past the proxy) and what `intercept` answers or rewrites.
It knows nothing of Atlas: use it alone to make a server slow, deaf or gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from .hosting import Hosted, at_home
from .messages import OP_MSG, OP_QUERY, Document, Frame, read_frame, reply_to, with_body

HELLO = frozenset({"hello", "ismaster"})


@dataclass(frozen=True)
class Command:
    """A request as the client sent it; it is decoded only if somebody looks inside."""

    frame: Frame

    @cached_property
    def name(self) -> str:
        return self.frame.first_key

    @property
    def body(self) -> Document:
        return self.frame.body

    @property
    def db(self) -> str:
        return str(self.body.get("$db", ""))

    def mentions(self, *words: bytes) -> bool:
        """Whether the bytes contain one of the words: a cheap first look."""
        return any(word in self.frame.raw for word in words)


@dataclass(frozen=True)
class Answer:
    """From `intercept`: reply with this document; the server hears nothing."""

    body: Mapping[str, Any]


@dataclass(frozen=True)
class Forward:
    """From `intercept`: send the server this command instead; its reply goes back unchanged."""

    body: Mapping[str, Any]


Intercept = Callable[[Command], Awaitable[Answer | Forward | None]]


@dataclass(eq=False)
class _Link:
    """One client connection and the server connection that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    # What each unanswered request was, by its id: replies only carry the id.
    asked: dict[int, Command] = field(default_factory=dict)

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass
class _Cut:
    commands: frozenset[str]
    when: Literal["before", "after"]


class WireProxy(Hosted):
    """The proxy. Open it with `async with proxy:` or `with proxy.in_thread():`; then `proxy.uri`.

    `delay_s` holds back the replies to `delay_commands` (all of them if that is empty); both may be
    set at any time. `seen` keeps the last requests, `counts` how often each command came.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        *,
        intercept: Intercept | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        delay_s: float = 0.0,
        delay_commands: Collection[str] = ("aggregate", "find"),
        remember: int = 200,
    ) -> None:
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self.host = host
        self.port = port
        self.delay_s = delay_s
        self.delay_commands = delay_commands
        self.seen: deque[Command] = deque(maxlen=remember)
        self.counts: Counter[str] = Counter()
        self.failures: list[Exception] = []
        self._intercept = intercept
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._news = asyncio.Event()
        self._refusing = False
        self._cuts: list[_Cut] = []

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def uri(self) -> str:
        """For a client that stays with this one server."""
        return f"mongodb://{self.address}/?directConnection=true"

    @property
    def replica_set_uri(self) -> str:
        """For a client that discovers the replica set: it finds the proxy as its only member."""
        return f"mongodb://{self.address}/"

    def sent(self, name: str) -> list[Document]:
        """The bodies of the remembered commands of one name, oldest first."""
        return [command.body for command in self.seen if command.name == name]

    @at_home
    async def arrived(self, name: str, times: int = 1) -> None:
        """Waits until so many commands of that name have come, since the proxy was opened."""
        while self.counts[name] < times:
            self._news.clear()
            await self._news.wait()

    # Faults -----------------------------------------------------------------------------------

    @at_home
    async def cut(self, *, refuse: bool = False) -> None:
        """Resets every connection; with `refuse`, new ones too until `accept()`."""
        self._refusing = refuse
        for link in list(self._links):
            link.abort()

    @at_home
    async def cut_next(
        self, *commands: str, when: Literal["before", "after"] = "before", times: int = 1
    ) -> None:
        """Resets the connection on which the next such command comes.

        `before`: the server never sees it. `after`: the server has done it, the reply is lost.
        """
        self._cuts += [_Cut(frozenset(commands), when) for _ in range(times)]

    @at_home
    async def accept(self) -> None:
        """Takes connections again, after `cut(refuse=True)`."""
        self._refusing = False

    @at_home
    async def freeze(self) -> None:
        """Connections stay open and take bytes, nothing gets through, until `thaw()`."""
        self._passing.clear()

    @at_home
    async def thaw(self) -> None:
        self._passing.set()

    # Life -------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._accepted, self.host, self.port, limit=2**20, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for link in list(self._links):
            link.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the connection at once: a task cancelled before its first step closes nothing."""
        if self._server is None:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            writer.transport.abort()
            self._tasks.discard(done)
            # A connection that is cut is ordinary here; anything else is our own mistake.
            error = None if done.cancelled() else done.exception()
            if isinstance(error, Exception) and not isinstance(error, OSError | EOFError):
                self.failures.append(error)

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        if self._refusing:
            return
        server_reader, server_writer = await asyncio.open_connection(
            self.upstream_host, self.upstream_port, limit=2**20
        )
        link = _Link(writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._requests(reader, link)),
            asyncio.create_task(self._replies(server_reader, link)),
        ]
        try:
            # Either side hanging up ends both.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            server_writer.transport.abort()
            ends = await asyncio.gather(*pumps, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    # The two directions -----------------------------------------------------------------------

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while (frame := await read_frame(reader)) is not None:
            await self._passing.wait()
            command = Command(frame)
            readable = frame.op_code in (OP_MSG, OP_QUERY)
            if readable:
                self._note(command)
                if self._cut_due(command, "before"):
                    link.abort()
                    return
                outcome = await self._ask_intercept(command)
            else:
                # OP_COMPRESSED and whatever else: passed on unread. Drivers do not compress here,
                # because our hello replies offer no compressor.
                outcome = None
            if isinstance(outcome, Answer):
                if not frame.more_to_come:
                    await self._hold_back(command)
                    if self._cut_due(command, "after"):
                        link.abort()
                        return
                    link.client.write(reply_to(frame, outcome.body).raw)
                    await link.client.drain()
                continue
            if isinstance(outcome, Forward):
                frame = with_body(frame, outcome.body)
            if readable and not frame.more_to_come:
                link.asked[frame.request_id] = command
            link.server.write(frame.raw)
            await link.server.drain()

    async def _replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while (frame := await read_frame(reader)) is not None:
            command = link.asked.pop(frame.response_to, None)
            if command is not None:
                if frame.more_to_come:
                    # An exhaust stream: the next reply answers this reply's id.
                    link.asked[frame.request_id] = command
                if command.name.lower() in HELLO:
                    frame = with_body(frame, self._readdressed(frame.body))
                await self._hold_back(command)
                if self._cut_due(command, "after"):
                    link.abort()
                    return
            await self._passing.wait()
            link.client.write(frame.raw)
            await link.client.drain()

    def _note(self, command: Command) -> None:
        self.counts[command.name] += 1
        self._news.set()
        if command.name.lower() not in HELLO:
            self.seen.append(command)

    async def _ask_intercept(self, command: Command) -> Answer | Forward | None:
        if self._intercept is None:
            return None
        try:
            return await self._intercept(command)
        except Exception as error:  # noqa: BLE001 - a bug in a test's own code must reach the test
            self.failures.append(error)
            text = f"the proxy's intercept failed: {type(error).__name__}: {error}"
            return Answer({"ok": 0.0, "errmsg": text, "code": 1, "codeName": "InternalError"})

    async def _hold_back(self, command: Command) -> None:
        if self.delay_s > 0 and (not self.delay_commands or command.name in self.delay_commands):
            await asyncio.sleep(self.delay_s)

    def _cut_due(self, command: Command, when: Literal["before", "after"]) -> bool:
        for cut in self._cuts:
            if cut.when == when and command.name in cut.commands:
                self._cuts.remove(cut)
                return True
        return False

    def _readdressed(self, body: Document) -> Document:
        """A hello reply in which this proxy is the whole replica set, and offers no compression."""
        told = dict(body)
        told.pop("compression", None)
        is_primary = "primary" in body and body["primary"] == body.get("me")
        if "primary" in body and not is_primary:
            del told["primary"]  # another member, which no client of ours can reach
        elif is_primary:
            told["primary"] = self.address
        if "me" in told:
            told["me"] = self.address
        if "hosts" in told:
            told["hosts"] = [self.address]
        for others in ("passives", "arbiters"):
            told.pop(others, None)
        return told
