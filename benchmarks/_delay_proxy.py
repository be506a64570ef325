"""A TCP proxy that makes a server as far away as it is told: it delays, and limits no bandwidth.

    python benchmarks/_delay_proxy.py 127.0.0.1:27017 --round-trip-ms 5

It prints its own port. What arrives is passed on half a round trip later, in either direction;
whatever comes meanwhile is under way at the same time, as on a long line.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Everything from here to there, in order, each piece when it was under way long enough."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                return
            writer.write(data)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(arrive())
        data = b"?"
        while data:
            try:
                data = await reader.read(1 << 18)
            except ConnectionError:
                data = b""
            under_way.put_nowait((loop.time() + delay_s, data))
    if not writer.is_closing():
        writer.write_eof()  # the other direction may have something to say yet


async def serve(host: str, port: int, delay_s: float) -> None:
    """Accept connections, until the process ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pump(reader, back, delay_s))
            tasks.create_task(pump(there, writer, delay_s))
        back.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def delayed(host: str, port: int, round_trip_ms: float) -> Iterator[int]:
    """The port of a proxy, in a process of its own: its work is not that of who is measured."""
    process = subprocess.Popen(
        [
            *(sys.executable, str(Path(__file__)), f"{host}:{port}"),
            *("--round-trip-ms", str(round_trip_ms)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop by select, which waits as long as it is asked to: epoll waits whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("--round-trip-ms", type=float, default=5.0)
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(host, int(port), options.round_trip_ms / 2000))


if __name__ == "__main__":
    main()
