#!/usr/bin/env python3
"""Every call that the client chronos-python offers, unmodified, against a server: both of its dialects.

Usage: chronos_python.py HOST:PORT. Prints a line for each call; ends with 1 at the first that is not as it was with
Chronos.
"""

import inspect
import sys
import time

import chronos

FAR = "R/2099-01-01T00:00:00Z/P1D"
# What each test below calls; compared with what the client has, so that a new release cannot add one unnoticed.
CALLED = set()


def call(client, method, /, *args, **kwargs):
    CALLED.add(method)
    answer = getattr(client, method)(*args, **kwargs)
    print(f"{client.scheduler_api_version} {method}: {str(answer)[:60]}")
    return answer


def job(name, **fields):
    return {"name": name, "command": "true", "owner": "ops@example.org", "disabled": False, **fields}


def named(jobs):
    return {job["name"]: job for job in jobs}


def until(what, holds):
    """Waits until a state holds: only state is waited for, never time."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within 30 s: {what}")


def refused(client, name, *args):
    CALLED.add(name)
    try:
        getattr(client, name)(*args)
    except chronos.ChronosAPIError:
        return
    raise AssertionError(f"{name}{args} was not refused")


def drive(server, version):
    client = chronos.connect(server, scheduler_api_version=version)
    # The dialect of Chronos 2 wants `async`, and updates by PUT.
    old = {"async": False, "epsilon": "PT15M"} if version is None else {}
    suffix = version or "old"
    root, child, slow = (f"{kind}-{suffix}" for kind in ("root", "child", "slow"))

    assert call(client, "add", job(root, schedule=FAR, **old)) is None, "204 has no body"
    assert call(client, "add", job(child, parents=[root], **old)) is None
    assert call(client, "add", job(slow, schedule=FAR, **{**old, "command": "sleep 600"})) is None
    jobs = named(call(client, "list"))
    assert jobs[root]["schedule"] == FAR and jobs[child]["parents"] == [root], jobs
    assert jobs[root]["retries"] == 2 and jobs[root]["cpus"] == 0.1, jobs[root]

    jobs[root]["description"] = "changed"
    assert call(client, "update", {**jobs[root], **old}) is None, "what was read can be sent back"
    found = call(client, "search", name=root.upper())
    assert [job["description"] for job in found] == ["changed"], found
    assert root in named(call(client, "search", command="tru"))
    assert call(client, "search", name=f"none-{suffix}") == []

    assert call(client, "run", root) is None
    until("the child has run", lambda: named(client.list())[child]["successCount"] == 1)
    assert named(client.list())[root]["successCount"] == 1
    stat = call(client, "job_stat", root)
    assert stat["histogram"]["count"] == 1 and stat["taskStatHistory"][0]["status"] == "Success", stat
    for name in [name for name, _ in inspect.getmembers(client) if name.startswith("scheduler_stat_")]:
        rows = call(client, name)
        assert root in {row["jobNameLabel"] for row in rows} and all(row["time"] >= 0 for row in rows), rows
    graph = call(client, "scheduler_graph").splitlines()
    assert f"link,{root},{child}" in graph and f"node,{root},success,idle" in graph, graph
    metrics = call(client, "metrics")
    assert metrics["counters"][f"jobs.run.success.{root}"] == {"count": 1}, metrics
    assert metrics["histograms"][f"jobs.run.time.{root}"]["count"] == 1, metrics

    assert call(client, "run", slow) is None
    until("the slow job runs", lambda: f"node,{slow},fresh,1 running" in client.scheduler_graph())
    assert call(client, "delete_tasks", slow) is None
    until("it has been killed", lambda: f"node,{slow},fresh,idle" in client.scheduler_graph())
    for name in (child, root, slow):
        assert call(client, "delete", name) is None
    assert not {root, child, slow} & set(named(client.list()))

    for name in ("delete", "delete_tasks", "run", "job_stat"):
        refused(client, name, f"none-{suffix}")
    refused(client, "add", job(f"bad-{suffix}", schedule="R//P1X", **old))
    refused(client, "add", job(f"bad-{suffix}", parents=[f"none-{suffix}"], **old))


def main():
    server = sys.argv[1]
    for version in ("v1", None):
        drive(server, version)
    offered = {name for name, _ in inspect.getmembers(chronos.ChronosClient, inspect.isfunction)}
    missing = {name for name in offered if not name.startswith("_")} - CALLED
    assert not missing, f"the client offers calls that are not driven: {missing}"
    print(f"{len(CALLED)} calls of {chronos.__name__}, all as they were")


if __name__ == "__main__":
    main()
