"""Many clients: so many requests a second, whatever becomes of those before. Reads are asked once; a write that was not
done is sent once more, at once, under the key that it had."""

import asyncio
import json
import threading
import time
import uuid

from case import fail

# Longer than any answer may take: a node waits 15 s for a leader.
ANSWER_S = 40
FAR = "R/2035-01-01T00:00:00Z/P1D"
# Jobs that are run by hand, each by its share of requests.
PRESSED = [f"pressed-{number}" for number in range(8)]


class Answer:
    def __init__(self, raw):
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        self.node = headers.get("x-chronos-node", "")
        if "chunked" in headers.get("transfer-encoding", ""):
            if not body.endswith(b"0\r\n\r\n"):
                raise OSError("the answer was cut off")
        elif "content-length" in headers and len(body) != int(headers["content-length"]):
            raise OSError("the answer was cut off")
        self.body = body

    def __str__(self):
        return f"{self.status} {self.body[:200].decode(errors='replace')}"


async def ask(address, method, path, body=None, key=None):
    """One request on a connection of its own."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), ANSWER_S)
    try:
        data = json.dumps(body).encode() if body is not None else b""
        head = [f"{method} {path} HTTP/1.1", "Host: chronos.example.org", "Connection: close"]
        if body is not None:
            head.append("Content-Type: application/json")
        if method != "GET":
            head.append(f"Content-Length: {len(data)}")
        if key:
            head.append(f"Idempotency-Key: {key}")
        writer.write("\r\n".join([*head, "", ""]).encode() + data)
        raw = await asyncio.wait_for(reader.read(), ANSWER_S)
        if not raw:
            raise OSError("no answer")
        return Answer(raw)
    finally:
        writer.close()


class Traffic(threading.Thread):
    """From `start` until `end`; then what became of it all is in its fields."""

    def __init__(self, address, per_second, reads_of_ten=8):
        super().__init__(daemon=True)
        self.address, self.per_second, self.reads_of_ten = address, per_second, reads_of_ten
        self.stopping = threading.Event()
        self.reads = self.writes = self.again = 0
        self.failed = []  # what, and why
        # Reads that any node answers, those that only the leader can, writes.
        self.read_s, self.leader_s, self.write_s = [], [], []
        self.pressed = dict.fromkeys(PRESSED, 0)
        self.made = set()
        self.numbers = iter(range(10**9))

    def prepare(self):
        """The jobs that the others are about."""
        async def put():
            for name in PRESSED:
                job = {"name": name, "schedule": FAR, "command": "true", "concurrent": True}
                answer = await ask(self.address, "POST", "/v1/scheduler/iso8601", job, str(uuid.uuid4()))
                if answer.status >= 300:
                    fail(f"{name} was not taken before anything was killed: {answer}")
        asyncio.run(put())

    def run(self):
        asyncio.run(self.offer())

    async def offer(self):
        begun, under_way = time.monotonic(), set()
        while not self.stopping.is_set():
            number = next(self.numbers)
            await asyncio.sleep(max(0.0, begun + number / self.per_second - time.monotonic()))
            task = asyncio.ensure_future(self.read(number) if number % 10 < self.reads_of_ten else self.write(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    def end(self):
        self.stopping.set()
        self.join(ANSWER_S * 3)
        if self.is_alive():
            fail("requests are still under way long after the last was sent")

    async def read(self, number):
        name = PRESSED[number // 10 % len(PRESSED)]
        path = ["/v1/jobs?limit=20", f"/v1/scheduler/job/{name}", "/v1/runs?limit=10", f"/v1/jobs/{name}", f"/v1/jobs/{name}/why",
                "/v1/scheduler/jobs/search?name=pressed", "/", f"/v1/jobs/{name}/next"][number % 8]
        begun = time.monotonic()
        try:
            answer = await ask(self.address, "GET", path)
            wrong = None if answer.status == 200 else str(answer)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            wrong = repr(error)
        self.reads += 1
        (self.leader_s if path.endswith("/why") else self.read_s).append(time.monotonic() - begun)
        if wrong:
            self.failed.append(f"GET {path} after {time.monotonic() - begun:.1f} s: {wrong}")

    async def write(self, number):
        key, begun, said = str(uuid.uuid4()), time.monotonic(), []
        if number % 2:
            name = PRESSED[number // 10 % len(PRESSED)]
            request = ("PUT", f"/v1/scheduler/job/{name}", None)
        else:
            name = f"made-{number}"
            request = ("POST", "/v1/scheduler/iso8601", {"name": name, "schedule": FAR, "command": "true"})
        for _ in range(2):
            try:
                answer = await ask(self.address, *request, key)
                if answer.status < 300:
                    break
                said.append(str(answer))
            except (OSError, ValueError, asyncio.TimeoutError) as error:
                said.append(repr(error))
        self.writes += 1
        self.again += bool(said)
        self.write_s.append(time.monotonic() - begun)
        if len(said) == 2:
            self.failed.append(f"{request[0]} {request[1]} ({name}) after {time.monotonic() - begun:.1f} s: {said[0]}; again: {said[1]}")
        elif number % 2:
            self.pressed[name] += 1
        else:
            self.made.add(name)


def spread(seconds):
    """How long it took, in words."""
    ordered = sorted(seconds) or [0.0]
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
    return f"p50 {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, longest {ordered[-1]:.1f} s"
