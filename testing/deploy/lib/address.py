"""What one address promises, whatever proxy stands there: leaders are killed under load, and no client is failed."""

import asyncio
import os
import random
import signal
import time

import traffic
import trio
from case import Program, fail, ok, until

PER_SECOND = 100
# How often the leader is killed: all twenty of the promise where there is time for them.
KILLS = int(os.environ.get("CHRONOS_LEADER_KILLS") or (8 if os.environ.get("CI") == "true" else 20))
PROXY = (trio.hosts.OWN, 80)


def answered(path):
    try:
        return asyncio.run(traffic.ask(PROXY, "GET", path))
    except (OSError, ValueError, asyncio.TimeoutError):
        return None


def who_answers(times=12):
    """Ids of the processes behind the address."""
    return {answer.node for _ in range(times) if (answer := answered("/ping")) and answer.status == 200}


def follows_readiness(nodes):
    """A node that runs, and has nothing to show, gets no request."""
    victim = next(server for server in nodes.servers if server is not nodes.led())
    until("all three answer at the address", 60, lambda: len(who_answers()) == 3)
    victim.kill(signal.SIGTERM)
    nodes.network.cut([victim.host], nodes.store.own, "filters")
    victim.start()
    own = until("it runs", 60, lambda: id_of(victim))
    ready = trio.api.ask(victim.address, "GET", "/ready")
    assert (ready.status, ready.body["ready"]) == (503, False), ready.body
    until("the proxy has looked", 60, lambda: own not in who_answers())
    seen = who_answers(60)
    assert own not in seen and len(seen) == 2, (own, seen)
    nodes.network.heal()
    until("it is asked again", 60, lambda: own in who_answers())
    ok("a node that runs and cannot reach the store is not asked, and is again when it can")


def id_of(server):
    """Of the process that answers there; None if none does."""
    try:
        return trio.api.ask(server.address, "GET", "/ping", timeout=5).headers["X-Chronos-Node"]
    except OSError:
        return None


def kill_leaders(nodes, load):
    dice, silent = random.Random(7), []
    for number in range(KILLS):
        nodes.settled()
        time.sleep(dice.uniform(0.0, 0.5))
        leader = nodes.led()
        killed = time.monotonic()
        leader.kill(signal.SIGKILL)
        until("another leads", 60, nodes.leader)
        silent.append(time.monotonic() - killed)
        leader.start()
        if load.failed:
            fail(f"after {number + 1} kills: {len(load.failed)} requests failed:\n" + "\n".join(load.failed[:10]))
    nodes.settled()
    return silent


def audit(nodes, load):
    """What was answered is there, once."""
    leader = nodes.led()
    live = lambda: list(trio.api.pages(leader.address, "/v1/runs?outcome=live", "runs"))
    until("all runs have ended", 60, lambda: not live())
    there = {job["name"] for job in trio.api.ask(leader.address, "GET", "/v1/scheduler/jobs", timeout=30).body}
    lost = load.made - there
    assert not lost, f"{len(lost)} jobs were answered and are not there: {sorted(lost)[:5]}"
    for name, wanted in load.pressed.items():
        runs = [run for run in trio.api.pages(leader.address, f"/v1/runs?job={name}", "runs") if run["cause"] == "trigger"]
        assert len(runs) == wanted, f"{name} was run {len(runs)} times, and asked for {wanted} times"
    ok(f"{len(load.made)} jobs made and {sum(load.pressed.values())} runs asked for: each is there once")


def course(words):
    """`words` start the proxy."""
    nodes = trio.Trio()
    trio.name_hosts(nodes)
    proxy = Program("proxy", *words)
    until("the proxy answers", 60, lambda: (answer := answered("/ready")) and answer.status == 200)
    follows_readiness(nodes)
    load = traffic.Traffic(PROXY, PER_SECOND)
    load.prepare()
    load.start()
    silent = kill_leaders(nodes, load)
    load.end()
    if load.failed:
        fail(f"{len(load.failed)} requests failed:\n" + "\n".join(load.failed[:10]))
    ok(f"{KILLS} kills of the leader, {max(silent):.1f} s without one at most: none of {load.reads} reads failed "
       f"({traffic.spread(load.read_s)}; those for the leader {traffic.spread(load.leader_s)})")
    ok(f"none of {load.writes} writes failed that was sent twice at most; {load.again} were sent twice ({traffic.spread(load.write_s)})")
    assert proxy.poll() is None, "the proxy has ended"
    audit(nodes, load)
