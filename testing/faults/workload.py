"""What the cluster is given to do: jobs whose commands write down what they are, and clients that change jobs meanwhile."""

import threading
import time
import uuid

import api
from worker import Worker

# Clients that change jobs.
WRITERS = 3
# How long every job that tries again waits for that.
RETRY_DELAY_S = 1
# Codes of answers that say that nothing was done.
NOTHING_DONE = {"not_leading", "leader_unreachable", "behind", "busy", "wrong_node"}


def now_ms():
    return time.time_ns() // 1_000_000


def iso(ms):
    seconds, rest = divmod(int(ms), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03}Z"


class Job:
    """A job as this suite means it."""

    def __init__(self, name, folder, period_s=None, anchor_ms=None, parents=(), sleep=0.0, fails=0, description="", **fields):
        self.name, self.parents, self.fails, self.fields = name, list(parents), fails, fields
        self.period_ms = period_s * 1000 if period_s else None
        self.anchor_ms, self.sleep, self.description = anchor_ms, sleep, description
        self.created_ms = None  # (before the request, after its answer); (before, None) if nobody knows
        self.deleted_ms = None  # the same
        # /proc/uptime is the clock that all hosts share. One printf of a short line is one write to a file opened for
        # appending: lines never mix.
        line = '"$1 $CHRONOS_TASK_ID $CHRONOS_JOB_NAME $CHRONOS_JOB_RUN_TIME $CHRONOS_JOB_CYCLE $CHRONOS_JOB_RUN_ATTEMPT $HOST $up"'
        steps = [f"exec 3>>'{folder}'/\"$HOST\"/lines",
                 f"w() {{ read -r up _ </proc/uptime; printf '%s\\n' {line} >&3; }}",
                 "trap 'w ended; exit 143' TERM", "w start"]
        if sleep:
            steps.append(f"sleep {sleep}")
        steps.append("w finish")
        if fails:
            steps.append(f'[ "$CHRONOS_JOB_RUN_ATTEMPT" -ge {fails} ]')
        self.command = "; ".join(steps)

    @property
    def overlaps(self):
        """Whether two runs of it may be alive at once."""
        return bool(self.fields.get("concurrent"))

    @property
    def overlap(self):
        """Its rule, where runs of it may not overlap."""
        return self.fields.get("overlap", "queue")

    def definition(self):
        job = {"name": self.name, "command": self.command, "retries": 0, "description": self.description, **self.fields}
        if self.parents:
            job["parents"] = self.parents
        else:
            job["schedule"] = f"R/{iso(self.anchor_ms)}/PT{self.period_ms // 1000}S"
        return job

    def due_ms(self, index):
        """The instant of slot `index`: nothing but anchor plus k periods."""
        return self.anchor_ms + index * self.period_ms

    def last_index(self, at_ms):
        return (at_ms - self.anchor_ms) // self.period_ms if at_ms >= self.anchor_ms else -1


def make_jobs(dice, folder, count):
    """Schedules of one to ten seconds; of ten jobs, two are links of a chain and one is a join of two parents."""
    jobs, now = [], now_ms()

    def root(name, periods=(3, 4, 5, 6, 8, 10), **fields):
        # Half begin in the past: of those only the latest past slot exists.
        job = Job(name, folder, dice.choice(periods), now + dice.randrange(-60_000, 20_000), **fields)
        jobs.append(job)
        return job

    # What shows whether anybody launches: nothing holds them up.
    for number in range(2):
        jobs.append(Job(f"beat-{number}", folder, 1, now - now % 1000 + 500 * number, concurrent=True))
    for group in range(max(1, (count - len(jobs)) // 10)):
        tag = f"g{group:02}"
        root(f"{tag}-quick", periods=(1, 2, 3, 5, 8))
        root(f"{tag}-all", periods=(5, 8, 10), sleep=0.1, catchUp={"all": {"count": 100, "age": "1h"}})
        root(f"{tag}-long", sleep=round(dice.uniform(1, 5), 1), overlap="skip")
        root(f"{tag}-swap", sleep=round(dice.uniform(1, 5), 1), overlap="replace")
        root(f"{tag}-busy", sleep=round(dice.uniform(1, 3), 1), concurrent=True)
        root(f"{tag}-retried", periods=(6, 8, 10), fails=1, retries=2, retryDelay=f"PT{RETRY_DELAY_S}S")
        base = root(f"{tag}-root", periods=(4, 6, 8, 10), sleep=0.1)
        left = Job(f"{tag}-left", folder, parents=[base.name], sleep=round(dice.uniform(0.1, 1), 1))
        right = Job(f"{tag}-right", folder, parents=[base.name], sleep=round(dice.uniform(0.1, 1), 1))
        jobs += [left, right, Job(f"{tag}-join", folder, parents=[left.name, right.name])]
    # What is due when somebody asks for it, and not before.
    for number in range(WRITERS):
        jobs.append(Job(f"manual-{number}", folder, 3600, now + 30 * 86_400_000, sleep=0.1, concurrent=True))
    return jobs


class Write:
    """One request that changes something, and what came of it: `done`, `nothing` or `unknown`."""

    def __init__(self, kind, name, result, began_ms, request, text):
        self.kind, self.name, self.result, self.began_ms, self.ended_ms = kind, name, result, began_ms, now_ms()
        self.request, self.text = request, text


class Trigger:
    """A run that was asked for under one key, once or more often: its key is the argument of the run as well. What came of it
    is `done`, `unknown` or `nothing`."""

    def __init__(self, job):
        self.job, self.key, self.began_ms = job, f"faults-{uuid.uuid4()}", now_ms()
        self.result, self.asked = "nothing", 0
        # Which runs it was said to be.
        self.runs = frozenset()


class Client:
    """Puts, deletes and triggers jobs, and remembers what it was told."""

    def __init__(self):
        self.writes = []
        self.triggers = []
        self.complaints = []
        self.lock = threading.Lock()

    def send(self, server, kind, job, absent_is_well=False):
        """`absent_is_well`: where what is deleted may be gone already."""
        method, path, body = {
            "create": ("POST", "/v1/scheduler/iso8601", job.definition),
            "change": ("POST", "/v1/scheduler/iso8601", job.definition),
            "child": ("POST", "/v1/scheduler/dependency", job.definition),
            "delete": ("DELETE", f"/v1/scheduler/job/{job.name}", lambda: None),
        }[kind]
        request, began, seq = f"faults-{uuid.uuid4()}", now_ms(), None
        try:
            answer = api.ask(server.address, method, path, body(), {"X-Request-Id": request}, timeout=12)
            text = f"{answer.status} {answer.code} by {answer.headers.get('X-Chronos-Node')}"
            if answer.status in (200, 204):
                result, seq = "done", answer.headers.get("X-Chronos-Seq")
            elif answer.code in NOTHING_DONE:
                result = "nothing"
            elif answer.status >= 500:
                result = "unknown"
            elif answer.status == 404 and absent_is_well:
                result = "nothing"
            else:
                result = "nothing"
                self.complain(f"{kind} of {job.name} through {server.name} was refused: {answer.status} {answer.body}")
        except api.NotSent as error:
            result, text = "nothing", f"not sent: {error}"
        except OSError as error:
            result, text = "unknown", str(error)
        write = Write(kind, job.name, result, began, request, text)
        with self.lock:
            self.writes.append(write)
        return write, seq

    def trigger(self, server, trigger):
        """Asks for it, again or for the first time."""
        trigger.asked += 1
        path = f"/v1/scheduler/job/{trigger.job.name}?arguments={trigger.key}"
        try:
            answer = api.ask(server.address, "PUT", path, None, {"Idempotency-Key": trigger.key}, timeout=12)
        except api.NotSent:
            return
        except OSError:
            answer = None
        if answer is not None and answer.status in (200, 204):
            trigger.result = "done"
            trigger.runs |= {answer.headers.get("X-Chronos-Run")}
        elif answer is None or (answer.status >= 500 and answer.code not in NOTHING_DONE):
            trigger.result = "done" if trigger.result == "done" else "unknown"
        elif answer.code not in NOTHING_DONE:
            self.complain(f"a trigger of {trigger.job.name} through {server.name} was refused: {answer.status} {answer.body}")

    def complain(self, text):
        with self.lock:
            self.complaints.append(text)


class Operator:
    """Makes jobs and removes them, however long that takes."""

    PATIENCE_S = 60

    def __init__(self, client, servers):
        self.client, self.servers = client, servers

    def until_done(self, kind, job):
        """(before the first request, after the answer that says that it is done), or None if none has."""
        began, deadline = now_ms(), time.monotonic() + self.PATIENCE_S
        while True:
            for server in self.servers:
                write, _ = self.client.send(server, kind, job, absent_is_well=True)
                if write.result == "done" or write.text.startswith("404"):
                    return began, write.ended_ms
            if time.monotonic() > deadline:
                return None
            time.sleep(0.2)

    def make(self, job):
        job.created_ms = self.until_done("create", job) or (now_ms(), None)
        return job.created_ms[1] is not None

    def remove(self, job):
        job.deleted_ms = self.until_done("delete", job) or (now_ms(), None)
        return job.deleted_ms[1] is not None


class Writer(Worker):
    """Creates, changes, deletes and triggers jobs of its own through random nodes, until it is told to stop."""

    # How often it triggers a job, of all that it does; and how often it asks again under the same key where it need not.
    TRIGGERS, AGAIN = 0.25, 0.4

    def __init__(self, number, client, servers, folder, dice, manual):
        """`manual` is a job that nobody else triggers."""
        super().__init__()
        self.number, self.client, self.servers, self.folder, self.dice, self.manual = number, client, servers, folder, dice, manual
        self.stopping = threading.Event()
        self.jobs = []
        # Jobs about which nobody knows what was done last: (job, what it may be: descriptions, None for absent).
        self.states = {}

    def work(self):
        live = []
        while not self.stopping.wait(self.dice.uniform(0.3, 1.2)):
            server = self.dice.choice(self.servers)
            if self.dice.random() < self.TRIGGERS:
                self.trigger(server)
            # Few live at once, so that what they launch is no load.
            elif not live or (len(live) < 6 and self.dice.random() < 0.5):
                self.create(server, live)
            elif self.dice.random() < 0.6:
                self.change(server, live)
            else:
                self.delete(server, live)

    def trigger(self, server):
        """Who does not know whether it was done asks again, of anybody; and now and then who knows."""
        trigger = Trigger(self.manual)
        with self.client.lock:
            self.client.triggers.append(trigger)
        self.client.trigger(server, trigger)
        while (trigger.result == "unknown" or self.dice.random() < self.AGAIN) and not self.stopping.wait(self.dice.uniform(0, 0.5)):
            self.client.trigger(self.dice.choice(self.servers), trigger)

    def create(self, server, live):
        name = f"w{self.number}-{len(self.jobs):04}"
        fields = {"concurrent": True} if self.dice.random() < 0.3 else {}
        anchor = now_ms() + self.dice.randrange(-20_000, 5_000)
        job = Job(name, self.folder, self.dice.choice((3, 5, 10)), anchor, sleep=0.2, description="1", **fields)
        self.jobs.append(job)
        write, seq = self.client.send(server, "create", job)
        if write.result == "done":
            job.created_ms = (write.began_ms, write.ended_ms)
            self.states[name] = {"1"}
            live.append(job)
            self.look(job, seq)
        elif write.result == "unknown":
            job.created_ms = (write.began_ms, None)
            self.states[name] = {"1", None}
        else:
            self.states[name] = {None}

    def change(self, server, live):
        job = self.dice.choice(live)
        before, job.description = job.description, str(int(job.description) + 1)
        write, seq = self.client.send(server, "change", job)
        if write.result == "done":
            self.states[job.name] = {job.description}
            self.look(job, seq)
        elif write.result == "unknown":
            self.states[job.name] = {before, job.description}
            live.remove(job)
        else:
            job.description = before

    def delete(self, server, live):
        job = self.dice.choice(live)
        write, _ = self.client.send(server, "delete", job)
        if write.result == "done":
            job.deleted_ms = (write.began_ms, write.ended_ms)
            self.states[job.name] = {None}
            live.remove(job)
        elif write.result == "unknown":
            job.deleted_ms = (write.began_ms, None)
            self.states[job.name] = {job.description, None}
            live.remove(job)

    def look(self, job, seq):
        """Who asks another node, and says what it has seen, sees it there too, or is told that it cannot."""
        server = self.dice.choice(self.servers)
        try:
            answer = api.ask(server.address, "GET", f"/v1/jobs/{job.name}", headers={"X-Chronos-Seq": seq or "0"}, timeout=5)
        except OSError:
            return
        shown = (answer.body.get("definition") or {}).get("description") if answer.status == 200 else None
        if answer.status in (200, 404) and shown != job.description:
            self.client.complain(f"{server.name} showed {job.name} as {answer.status} {shown!r} after change {seq} to {job.description!r}")
