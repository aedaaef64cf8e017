"""Three servers of Chronos, each on a host of its own, and what is known of them from outside."""

import collections
import glob
import os
import signal
import subprocess
import threading
import time

import api
from worker import Worker

PORT = 4400
NAMES = ["a", "b", "c"]
# How long servers that are left alone may take until all are there. Far more than they need; a busy machine takes its time.
WHOLE_S = 120


def boot_s():
    """The clock that all hosts share, and that nobody shifts: that of /proc/uptime."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def faketime():
    """The library that shifts the clock of one process, where Debian puts it."""
    return next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)


class Server:
    """The binary on one host; started as often as wanted."""

    def __init__(self, binary, host, flags):
        self.binary, self.host, self.flags = binary, host, flags
        self.name = host.name
        self.address = (host.ip, PORT)
        self.data = os.path.join(host.folder, "data")
        self.log_path = os.path.join(host.folder, "log")
        self.lines = os.path.join(host.folder, "lines")
        self.clock = os.path.join(host.folder, "clock")
        open(self.lines, "ab").close()
        self.process = None
        self.expected_to_run = False
        # How it ended after SIGTERM, where that was not well.
        self.complaints = []
        self.shift(0)

    def shift(self, seconds):
        """What this host takes for the time of day, from a second later on."""
        with open(self.clock + ".new", "w", encoding="ascii") as file:
            file.write(f"{seconds:+}\n")
        os.rename(self.clock + ".new", self.clock)

    def start(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHRONOS_")}
        library = faketime()
        if library:
            environment.update(LD_PRELOAD=library, FAKETIME_TIMESTAMP_FILE=self.clock, FAKETIME_CACHE_DURATION="1",
                               FAKETIME_DONT_FAKE_MONOTONIC="1")
        # Only the server shall have it, not what leads there.
        preload = [f"{key}={environment.pop(key)}" for key in ("LD_PRELOAD",) if key in environment]
        words = self.host.inside("env", *preload, self.binary, "server", "--http_address", "0.0.0.0", "--http_port", str(PORT),
                                 "--allow_unauthenticated", "--advertise_address", self.host.ip, "--data_dir", self.data,
                                 *self.flags)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                                            start_new_session=True)
        self.expected_to_run = True

    def send(self, number):
        self.process.send_signal(number)

    def kill(self, how=signal.SIGKILL):
        self.expected_to_run = False
        self.process.send_signal(how)
        code = self.process.wait(timeout=60)
        if how == signal.SIGTERM and code != 0:
            self.complaints.append(f"after SIGTERM the server of {self.name} ended with {code}")

    def supervisors(self):
        """Pids of what runs the tasks of this host; nobody else's processes are seen in here."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"supervise" in words and any(word.startswith(self.data.encode()) for word in words):
                yield int(pid)

    def logs(self):
        """Where the server and its supervisor say what happens to them."""
        return [path for path in (self.log_path, os.path.join(self.data, "engine", "supervisor.log")) if os.path.exists(path)]

    def has_left(self):
        """Whether it has ended without being told to."""
        return self.expected_to_run and self.process.poll() is not None

    def get(self, path, timeout=3.0):
        """The body of a 200, else None."""
        try:
            answer = api.ask(self.address, "GET", path, timeout=timeout)
        except OSError:
            return None
        return answer.body if answer.status == 200 else None

    def status(self):
        return self.get("/v1/status", timeout=2.0)


class Witness(Worker):
    """Reads what tasks write as they write it: whether anything is launched, and where."""

    EVERY_S = 0.05
    # A sleep that takes so much longer is time in which this machine did other things.
    STALL_S = 0.2

    def __init__(self, files):
        super().__init__()
        self.files = files  # (name of the host, path)
        self.beats = []  # (boot clock in s, host)
        self.lasting = set()  # (job, host): where jobs have begun that last
        self.stalls = []  # (from, to) on the boot clock
        self.changed = threading.Condition()

    def work(self):
        files = [(name, open(path, encoding="ascii")) for name, path in self.files]
        rest = {name: "" for name, _ in files}
        while True:
            new, lasting = [], set()
            for name, file in files:
                *lines, rest[name] = (rest[name] + file.read()).split("\n")
                for line in lines:
                    words = line.split(" ")
                    if words[0] == "start" and words[2].startswith("beat-"):
                        new.append((float(words[-1]), name))
                    elif words[0] == "start" and words[2].startswith("lasting-"):
                        lasting.add((words[2], name))
            if new or lasting:
                with self.changed:
                    self.beats.extend(sorted(new))
                    self.lasting |= lasting
                    self.changed.notify_all()
            slept = boot_s()
            time.sleep(self.EVERY_S)
            late = boot_s() - slept - self.EVERY_S
            if late > self.STALL_S:
                self.stalls.append((boot_s() - late, boot_s()))

    def stalled(self, begin, end):
        """How much of this time even who only sleeps did not get to run."""
        return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in list(self.stalls))

    def times(self):
        """When anything was launched."""
        with self.changed:
            return [at for at, _ in self.beats]

    def wait_for_start(self, job, hosts, timeout):
        """Whether a task of a job that lasts has begun on one of these hosts, by then."""
        with self.changed:
            return self.changed.wait_for(lambda: any((job, host) in self.lasting for host in hosts), timeout)

    def wait_for_beat(self, after, timeout):
        """When the first beat after this moment was; None if there was none in time."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                later = [at for at, _ in self.beats[-2000:] if at > after]
                if later:
                    return min(later)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(left)

    def longest_silence(self, begin, end):
        """The longest time without a beat that touches this one."""
        with self.changed:
            times = sorted(at for at, _ in self.beats)
        before = max((at for at in times if at <= begin), default=begin)
        inside = [at for at in times if begin < at <= end]
        marks = [before, *inside, end] if not inside or inside[-1] < end else [before, *inside]
        return max((b - a for a, b in zip(marks, marks[1:])), default=0.0)


class Reader(Worker):
    """Reads the history as it grows, now from this node, now from that: what was shown once must stay, and a store may keep
    only the last outcomes of each job. It reads from the newest back to what it knows, of all jobs at once: with ZooKeeper
    each page is a look at the names of all that is there, whatever is asked for. Where it did not come to read for longer
    than what is kept lasts, it says so: what was not read then is not what was lost."""

    # Between two readings. Seconds.
    EVERY_S = 5.0
    ENDED = "succeeded,failed,killed,timedOut,lost,skipped,missed"
    # So many in a row that are known, and all before them are: what is recorded while a page is gathered may be in it before
    # what was recorded a moment earlier.
    KNOWN_AGAIN = 300
    # Where only the last ones are kept, the oldest go first: what is gone before so many that were known before it should be there.
    OLDER = 5

    def __init__(self, servers, lasts_s, dice):
        """`lasts_s`: for how long what is recorded is there; None for ever."""
        super().__init__()
        self.order, self.lasts_s, self.dice = list(servers), lasts_s, dice
        self.known = {}
        # When it was read last, and the longest time between two readings. Seconds.
        self.read_at, self.longest_s = None, 0.0
        self.complaints = []
        self.stopping = threading.Event()

    @staticmethod
    def identity(raw):
        return raw.get("key") or (raw["job"], raw["outcome"], raw["firstDue"], raw["lastDue"])

    def work(self):
        while not self.stopping.wait(self.EVERY_S):
            self.read()

    def read(self):
        """What is new, of the first node that tells all of that. One that does not answer is asked last from then on, as waiting
        for it takes seconds. Whether any did."""
        if self.dice.random() < 0.5:
            self.order[0], self.order[1] = self.order[1], self.order[0]
        for server in list(self.order):
            began = boot_s()
            try:
                news = self.news(server)
            except OSError:
                news = None
            if news is not None:
                self.note_gap(began)
                self.note_twice(news)
                # The oldest first.
                for raw in reversed(news):
                    self.take(raw)
                return True
            self.order.remove(server)
            self.order.append(server)
        return False

    def news(self, server):
        """Pages from the newest back to what is known already; None if there was one without an answer."""
        read, cursor = [], ""
        while cursor is not None:
            path = f"/v1/runs?outcome={self.ENDED}&limit={api.PAGE}" + (cursor and f"&cursor={cursor}")
            answer = api.ask(server.address, "GET", path, timeout=20)
            if answer.status != 200:
                return None
            read += answer.body["runs"]
            last = read[-self.KNOWN_AGAIN:]
            if len(last) == self.KNOWN_AGAIN and all(self.identity(raw) in self.known for raw in last):
                break
            cursor = answer.body.get("next")
        return read

    def note_gap(self, began):
        """Remembers for how long nobody looked."""
        if self.read_at is not None:
            gap = began - self.read_at
            self.longest_s = max(self.longest_s, gap)
            if self.lasts_s is not None and gap > self.lasts_s:
                self.complaints.append(f"the reader was too slow, not the servers: it did not read for {gap:.0f} s, and what is kept lasts {self.lasts_s:.0f} s")
        self.read_at = began

    def note_twice(self, listed):
        times = collections.Counter(map(self.identity, listed))
        self.complaints += [f"history has the same twice: {identity}" for identity, count in times.items() if count > 1][:1]

    def compare(self, there):
        """What is known and not there any more, and what of that cannot have gone by itself."""
        now = set(map(self.identity, there))
        older, gone, vanished = collections.Counter(), [], []
        for identity, (_, raw) in self.known.items():
            if identity in now:
                older[raw["job"]] += 1
                continue
            gone.append(raw)
            if self.lasts_s is None or older[raw["job"]] > self.OLDER:
                vanished.append(raw)
        return gone, vanished

    def take(self, raw):
        said = (raw["outcome"], raw.get("ended"), raw.get("due"), raw.get("count"), len(raw.get("attempts") or []))
        before = self.known.setdefault(self.identity(raw), (said, raw))
        if before[0] != said:
            self.complaints.append(f"history has changed: {before[0]} became {said}: {raw.get('job')} {raw.get('key')}")


class Cluster:
    def __init__(self, binary, network, store, engine, folder):
        self.network, self.store, self.engine, self.folder = network, store, engine, folder
        flags = store.flags() + engine.flags()
        self.servers = [Server(binary, network.hosts[name], flags) for name in NAMES]
        self.witness = Witness([(server.name, server.lines) for server in self.servers] + self.lines_elsewhere())

    def start(self):
        for server in self.servers:
            server.start()
        wrong = self.wait_settled(WHOLE_S)
        if wrong:
            raise RuntimeError(f"the cluster did not come up within {WHOLE_S} s: {wrong}; see the logs in {self.folder}")
        self.witness.start()

    def lines_elsewhere(self):
        """What tasks write that run on none of the servers."""
        return [(name, os.path.join(folder, "lines")) for name, folder in self.engine.places.items()]

    def leader(self, among=None):
        """The server that leads in the latest term, as they say themselves; of all, or of those that are asked."""
        best = (0, None)
        for server in among or self.servers:
            if server.process is None or server.process.poll() is not None:
                continue
            status = server.status()
            if status and status.get("role") == "leading" and status.get("epoch"):
                best = max(best, (status["epoch"], server), key=lambda pair: pair[0])
        return best[1]

    def hosts(self):
        return [server.host for server in self.servers]

    def others(self, server):
        return [other for other in self.servers if other is not server]

    def wait_leader(self, timeout=60, among=None):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            leader = self.leader(among)
            if leader:
                return leader
            time.sleep(0.1)
        return None

    def told(self, server, timeout=60):
        """What a server says of itself, however long it takes on a busy machine."""
        deadline = time.monotonic() + timeout
        while True:
            status = server.status()
            if status:
                return status
            if time.monotonic() > deadline:
                raise RuntimeError(f"{server.name} does not say how it is")
            time.sleep(0.1)

    def wait_settled(self, timeout):
        """Until one leads, the others are ready to stand in and none has a complaint; None, or what is still wrong."""
        deadline = time.monotonic() + timeout
        while True:
            wrong, roles = [], []
            for server in self.servers:
                if server.process.poll() is not None:
                    wrong.append(f"{server.name} is not running")
                    continue
                ready = server.get("/ready", timeout=2.0)
                roles.append((ready or {}).get("role"))
                if ready is None or not ready["ready"]:
                    wrong.append(f"{server.name} is not ready")
                elif ready["reasons"]:
                    wrong.append(f"{server.name} still says: {'; '.join(ready['reasons'])}")
            if not wrong and roles.count("leading") == 1:
                return None
            if time.monotonic() > deadline:
                return ", ".join(wrong) or f"roles are {roles}"
            time.sleep(0.1)

    def left(self):
        return [server.name for server in self.servers if server.has_left()]

    def stop(self):
        for server in self.servers:
            if server.process and server.process.poll() is None:
                try:
                    server.send(signal.SIGCONT)
                    server.kill(signal.SIGTERM)
                except (OSError, subprocess.TimeoutExpired) as error:
                    server.complaints.append(f"the server of {server.name} was not to be ended: {error}")
                    server.process.kill()
