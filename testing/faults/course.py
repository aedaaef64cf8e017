"""The course of events: start, work, faults, settling, audit, verdict."""

import json
import os
import random
import time

import amount
import api
import report
import service
from checker import Checker
from cluster import NAMES, Cluster, Reader, boot_s
from engines import ENGINES
from evidence import Entry, Evidence, millis, read_files
from hosts import Network, sh
from nemesis import CALM_S, Nemesis, plan
from prove import prove, prove_service
from stores import STORES, ZooKeeper
from workload import NOTHING_DONE, WRITERS, Client, Operator, Writer, make_jobs, now_ms

PROFILES = {
    # rounds: how often each fault comes; cycles, where given, instead. CI has two rounds of the short faults.
    "short": {"rounds": 1, "cycles": None, "jobs": 82},
    "ci": {"rounds": 2, "cycles": None, "jobs": 202},
    "long": {"rounds": 9, "cycles": None, "jobs": 202},
    # What Mesos starts is slower, and takes the machine more.
    "mesos": {"rounds": 2, "cycles": 30, "jobs": 12},
    "mesos-ci": {"rounds": 1, "cycles": 10, "jobs": 12},
    "soak": {"rounds": None, "cycles": 1000, "jobs": 202},
}
# The shortest that Chronos takes. A shorter one makes more cycles of the same minutes.
LEASE_S = 4
# With ZooKeeper the audit has its last 10,000 entries: so many cycles make a fifth of them.
AUDIT_CYCLES = 200
# How long all may take to settle at the end: on Mesos what nobody has heard of is asked for every half minute. Seconds.
SETTLE_S = 300
# How long the first jobs may take to be there, and to be launched. Seconds.
BEGIN_S = 120


def run(args, folder):
    begun = time.monotonic()
    store_name = args.store
    profile = PROFILES[args.profile]
    dice = random.Random(args.seed)
    folder = os.path.join(folder, store_name)
    os.makedirs(folder, exist_ok=True)
    # The clock of one process is shifted by a library that keeps notes there, by pid.
    sh("mount", "-t", "tmpfs", "none", "/dev/shm")
    network = Network(folder, NAMES + STORES[store_name].own_hosts + ENGINES[args.engine].own_hosts)
    store = STORES[store_name](network, LEASE_S, args.seed)
    engine = ENGINES[args.engine](network)
    cluster = Cluster(os.path.abspath(args.binary), network, store, engine, folder)
    cluster.start()
    jobs = make_jobs(random.Random(args.seed), folder, args.jobs or profile["jobs"])
    client = Client()
    begin_by = time.monotonic() + BEGIN_S
    for number, job in enumerate(jobs):
        put(client, cluster.servers[number % 3], job, begin_by)
    nemesis = Nemesis(cluster, network, store, engine, dice, Operator(client, cluster.servers), os.path.join(folder, "faults.log"),
                      args.upgrade and os.path.abspath(args.upgrade))
    faults = [f for f in nemesis.faults if not args.only or f.name in args.only.split(",")]
    if not faults:
        raise SystemExit(f"no fault is called {args.only}; there are {', '.join(f.name for f in nemesis.faults)}")
    rounds = (profile["rounds"] or 0)
    cycles = args.cycles or profile["cycles"] or sum(rounds // 3 if fault.is_long else rounds for fault in faults)
    print(f"{len(jobs)} jobs, {cycles} cycles of {len(faults)} faults, lease {LEASE_S} s, seed {args.seed}", flush=True)
    manual = {job.name: job for job in jobs}
    writers = [Writer(n, client, cluster.servers, folder, random.Random(f"{args.seed} {n}"), manual[f"manual-{n}"]) for n in range(WRITERS)]
    reader = Reader(cluster.servers, store.history_lasts_s, random.Random(args.seed + 1))
    for thread in [*writers, reader]:
        thread.start()
    if cluster.witness.wait_for_beat(boot_s(), BEGIN_S) is None:
        raise RuntimeError(f"nothing was launched within {BEGIN_S} s; see the logs in {folder}")
    order, audit = plan(faults, cycles, dice), {}
    for number, fault in enumerate(order, 1):
        if args.minutes and time.monotonic() - begun > args.minutes * 60:
            break
        nemesis.run(fault)
        cycle = nemesis.cycles[-1] if nemesis.cycles else None
        if cycle:
            print(f"  {number:4} {fault.name:16} {'+'.join(cycle.victims):6} silence {cycle.silence:5.1f} s of {cycle.bound:4.1f}, "
                  f"launched {cycle.back - cycle.healed:4.1f} s after the heal  {cycle.note}", flush=True)
        if number % AUDIT_CYCLES == 0:
            leader = cluster.wait_leader()
            try:
                if leader:
                    read_audit(leader, audit)
            except (OSError, RuntimeError):
                # Nobody answers just now: the next time is soon enough.
                pass
        time.sleep(dice.uniform(0.1, 0.5))
    faults_s = time.monotonic() - begun
    time.sleep(CALM_S)
    workers = [*writers, reader, cluster.witness]
    troubles = [f"{worker.__class__.__name__.lower()} has ended: {worker.died_of}" for worker in workers if not worker.is_alive()]
    until = boot_s()
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(timeout=30)
    evidence = settle(cluster, nemesis, client, jobs, writers, reader, audit, until)
    troubles += nemesis.troubles + client.complaints + reader.complaints[:20]
    troubles += [f"after the last fault: the server of {name} ended by itself" for name in cluster.left()]
    cluster.stop()
    troubles += [complaint for server in cluster.servers for complaint in server.complaints] + panics(cluster)
    quiet_max = LEASE_S + store.tick_s + 2 + engine.extra_s + engine.recovers_s + service.SLACK_S
    troubles += service.slow(nemesis.cycles, nemesis.gaps.others(), cluster.witness.stalled, quiet_max)
    if args.minutes is None or faults_s < args.minutes * 60:
        troubles += amount.of_faults(nemesis.cycles, order)
    times = f"{faults_s:.0f} s, {time.monotonic() - begun:.0f} s in all"
    return verdict(args, nemesis, evidence, reader, troubles, folder, times, lambda: prove_service(nemesis, cluster.witness, until, engine, quiet_max))


def put(client, server, job, until):
    """Before the first fault every write has to be taken, if not by a leader that a busy machine kept from its lease."""
    while True:
        write, _ = client.send(server, "child" if job.parents else "create", job)
        if write.result == "done":
            job.created_ms = (write.began_ms, write.ended_ms)
            return
        if write.result == "unknown" or time.monotonic() > until:
            raise RuntimeError(f"{job.name} was not taken before the first fault: {write.text}")
        time.sleep(0.2)


def read_audit(leader, known):
    """The entries that are there now, and before them what was there earlier; all are known from here on."""
    there = list(api.pages(leader.address, "/v1/audit", "entries"))
    told = {json.dumps(entry, sort_keys=True): entry for entry in there}
    gone = [entry for text, entry in known.items() if text not in told]
    known.update(told)
    return gone + there


def settle(cluster, nemesis, client, jobs, writers, reader, audit, until):
    """Waits until all that is due by now is over, and gathers what is known."""
    end_ms = now_ms() + 1000
    deadline = time.monotonic() + SETTLE_S
    while True:
        leader = cluster.wait_leader()
        if leader is None:
            raise RuntimeError("nobody leads after the last heal")
        try:
            live = [run for run in api.pages(leader.address, "/v1/runs?outcome=live", "runs") if millis(run["due"]) <= end_ms]
        except (OSError, RuntimeError):
            live = [None]
        if not live and now_ms() > end_ms + 1000:
            break
        if time.monotonic() > deadline:
            nemesis.troubles.append(f"after {SETTLE_S} s of quiet {len(live)} runs are not over that were due, the first: {live[0] if live else None}")
            break
        time.sleep(0.5)
    reader.stopping.set()
    reader.join()
    # Then all of it once more: what is there twice counts twice.
    if not reader.read():
        raise RuntimeError("nobody tells the history after the last heal")
    read = list(api.pages(leader.address, "/v1/runs", "runs"))
    ended = [raw for raw in read if raw.get("outcome")]
    for raw in reversed(ended):
        reader.take(raw)
    gone, vanished = reader.compare(ended)
    if vanished:
        nemesis.troubles.append(f"{len(vanished)} outcomes were shown once and are not there any more, the first: {vanished[0]}")
    ended += gone
    # A run that ends while pages are read is in both parts; its end counts.
    over = {raw.get("key") for raw in ended}
    entries = [Entry(raw) for raw in ended] + [Entry(raw) for raw in read if not raw.get("outcome") and raw.get("key") not in over]
    seq = str(cluster.told(leader)["seq"])
    shown, hosts = {}, {}
    for server in cluster.servers:
        shown[server.name] = {job["name"]: job for job in listed(server, seq)}
        hosts[cluster.told(server)["node"]] = server.name
    audit = read_audit(leader, audit)
    tasks, wrong = read_files([(server.name, server.lines) for server in cluster.servers] + cluster.lines_elsewhere())
    nemesis.troubles += wrong[:20]
    states = {name: may_be for writer in writers for name, may_be in writer.states.items()}
    states.update({job.name: {None} for job in nemesis.jobs if job not in nemesis.lasting})
    all_jobs = jobs + nemesis.jobs + [job for writer in writers for job in writer.jobs if states.get(job.name) != {None} or job.created_ms]
    nemesis.gaps = service.Gaps(cluster.witness.times(), nemesis.cycles, cluster.engine.quiet_s, until)
    for cycle in nemesis.cycles:
        cycle.silence = max(cycle.silence, nemesis.gaps.silence(cycle))
    outages = [(c.began - 0.5, c.settled) for c in nemesis.cycles if c.fault.name != "calm"] + nemesis.gaps.others()
    return Evidence(
        all_jobs, entries, tasks, outages, nemesis.cuts, nemesis.shifts, cluster.engine, time.time() - boot_s(), end_ms,
        lambda node: hosts.get(node) or cluster.engine.place(node), states, client.writes, audit, shown, client.triggers)


def listed(server, seq):
    """The jobs of a node that has seen this batch, which it says of itself if it has not yet."""
    deadline = time.monotonic() + BEGIN_S
    while True:
        answer = api.ask(server.address, "GET", "/v1/scheduler/jobs", headers={"X-Chronos-Seq": seq}, timeout=30)
        if answer.status == 200:
            return answer.body
        if answer.code not in NOTHING_DONE or time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} does not list its jobs after the last heal: {answer.status} {answer.body}")
        time.sleep(0.2)


def panics(cluster):
    """No input and no trouble makes a defect of the process's own."""
    found = []
    for server in cluster.servers:
        for path in server.logs():
            with open(path, encoding="utf-8", errors="replace") as log:
                found += [f"{path}: {line.strip()[:200]}" for line in log if "panicked at" in line or "ended with a defect" in line]
    return found[:10]


def verdict(args, nemesis, evidence, reader, troubles, folder, times, prove_silence):
    checker = Checker(evidence)
    violations = checker.run()
    troubles += amount.of_evidence(checker, len(nemesis.cycles))
    unproved, absent = ([], []) if violations or troubles else prove(evidence, reader)
    if not violations and not troubles:
        unproved += prove_silence()
    # Near a shifted clock nothing is without excuse: who wants nothing but that has nothing to spoil.
    if len(nemesis.cycles) >= amount.ALL_FROM and not args.only:
        unproved += absent
    lines, broken = report.figures(checker)
    quiet = nemesis.gaps.others()
    within = sum(1 for c in nemesis.cycles if c.silence <= c.bound)
    with_slack = sum(1 for c in nemesis.cycles if c.silence <= c.bound + service.SLACK_S + c.stalled)
    text = [f"store {args.store}: {len(nemesis.cycles)} cycles in {times}; seed {args.seed}", ""]
    text += report.table(nemesis.cycles)
    text += ["", *lines, f"back in service within the bound: {within} of {len(nemesis.cycles)} cycles; "
             f"with {service.SLACK_S:.0f} s for a busy machine: {with_slack}",
             f"times without a launch that nothing was done for: {len(quiet)}, "
             f"the longest {max((b - a for a, b in quiet), default=0.0):.1f} s",
             f"the history was read while it grew, again within {reader.longest_s:.0f} s", ""]
    text += [f"  {count:7} {reason}" for reason, count in checker.reasons.most_common()]
    text += [f"not proved, as there was nothing to spoil: {name}" for name in absent]
    problems = [*violations[:30], *troubles]
    problems += [f"the checker does not notice {name}" for name in unproved]
    if len(violations) > 30:
        problems.append(f"and {len(violations) - 30} more")
    well = not problems and not broken
    text += [""] + [f"VIOLATION {problem}" for problem in problems]
    text += [f"{args.store}: lost {checker.counts['lost']}, doubled {checker.counts['doubled']}; "
             + ("all promises were kept" if well else f"RED; logs and data are in {folder}")]
    print("\n".join(text), flush=True)
    if args.report:
        with open(args.report, "a", encoding="utf-8") as file:
            file.write("\n".join(text) + "\n")
    return 0 if well else 1
