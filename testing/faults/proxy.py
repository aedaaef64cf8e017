"""Stands between servers and a store, on the store's host, and loses or delays what the store answers.

    proxy.py LISTEN_PORT STORE_PORT SEED

Orders come on standard input, each answered by `ok`:

    pass                       everything goes through
    lose CHANCE [IP]           an answer is dropped with this chance, and its connection cut: what was asked for was done
    delay FROM TO [IP]         each answer comes so many seconds late
    mute [IP]                  nothing passes in either direction, and nobody is told so
"""

import asyncio
import random
import sys


class Mood:
    kind, numbers, only = "pass", (), None


def concerns(peer):
    return Mood.kind != "pass" and (Mood.only is None or Mood.only == peer)


async def unless_muted(peer):
    while Mood.kind == "mute" and concerns(peer):
        await asyncio.sleep(0.05)


async def requests(client, store, peer):
    while data := await client.read(65536):
        await unless_muted(peer)
        store.write(data)
        await store.drain()


async def answers(store, client, peer):
    while data := await store.read(65536):
        if concerns(peer):
            if Mood.kind == "lose" and random.random() < Mood.numbers[0]:
                return
            if Mood.kind == "delay":
                await asyncio.sleep(random.uniform(*Mood.numbers))
        await unless_muted(peer)
        client.write(data)
        await client.drain()


async def serve(reader, writer, store_port):
    peer = writer.get_extra_info("peername")[0]
    ends = [writer]
    try:
        await unless_muted(peer)
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", store_port)
        ends.append(store_writer)
        ways = [asyncio.create_task(requests(reader, store_writer, peer)), asyncio.create_task(answers(store_reader, writer, peer))]
        _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in rest:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    except OSError:
        pass
    finally:
        for end in ends:
            # What waits to be sent is not: a cut is a cut.
            end.transport.abort()


async def main():
    listen, store_port = map(int, sys.argv[1:3])
    random.seed(sys.argv[3])
    server = await asyncio.start_server(lambda r, w: serve(r, w, store_port), "0.0.0.0", listen)
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ok", flush=True)
    while line := await orders.readline():
        kind, *rest = line.decode().split()
        wanted = {"pass": 0, "lose": 1, "delay": 2, "mute": 0}[kind]
        Mood.kind, Mood.numbers = kind, tuple(map(float, rest[:wanted]))
        Mood.only = rest[wanted] if len(rest) > wanted else None
        print("ok", flush=True)
    server.close()


asyncio.run(main())
