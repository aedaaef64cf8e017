"""What is done to the cluster. Each fault is put in, lasts, and is healed; then somebody has to launch again."""

import os
import signal
import time

import service
from cluster import PORT, WHOLE_S, boot_s
from evidence import Cut
from workload import RETRY_DELAY_S, Job, now_ms

# Shifts of one clock. The first is within what a leader may be off; with the second it must not lead.
SOME_SECONDS, SOME_MINUTES = 3, 180
# After so long a process has seen that its clock was shifted. Seconds.
LOOKS_S = 1.2
# What runs where a node is cut off for long goes on for much longer than that, and is due again much sooner. Seconds.
LASTING_S, LASTING_PERIOD_S = 150, 10
# How long until it has begun, and until others have taken its place. Seconds.
BEGUN_S, REPLACED_S = 20, 25
# For how long nothing is done, to see that nothing happens then. Seconds.
CALM_S = 10


class Fault:
    def __init__(self, name, text, inject, counts_from, takes="takeover", extra_s=0.0, is_long=False):
        self.name, self.text, self.inject = name, text, inject
        # From when the bound counts: `fault` where others can take over at once, `heal` where nobody can.
        self.counts_from = counts_from
        # What has to follow: `takeover`, `handover` or `nothing`, see service.py.
        self.takes = takes
        self.extra_s = extra_s
        # One that takes minutes comes seldom, and not in CI.
        self.is_long = is_long


class Cycle:
    """One fault and what became of it. Times are those of the boot clock, in seconds."""

    def __init__(self, fault, began):
        self.fault, self.began = fault, began
        self.counts_from, self.takes, self.extra_s = fault.counts_from, fault.takes, fault.extra_s
        self.victims, self.note = [], ""
        # When all was set right, when something was launched again, and when the cluster was whole.
        self.healed = self.back = self.settled = None
        self.silence = None
        # How long of it the machine did other things.
        self.stalled = 0.0
        self.bound = None


class Nemesis:
    def __init__(self, cluster, network, store, engine, dice, operator, log_path, upgrade=None):
        self.cluster, self.network, self.store, self.engine, self.dice = cluster, network, store, engine, dice
        self.operator = operator
        # Another version of the program, if there is one.
        self.upgrade_to = upgrade
        self.log = open(log_path, "a", encoding="utf-8")
        self.lease = store.lease_s
        self.cycles = []
        self.troubles = []
        # Jobs that were made for a fault, those of them that are still there, and where they ran.
        self.jobs, self.lasting, self.cuts = [], [], []
        self.down_store = self.frozen_store = False
        self.paused, self.shifted = [], []
        # Orders that set the cluster of Mesos right again.
        self.mesos_orders = []
        # (from, to, host, seconds) on the boot clock.
        self.shifts = []
        self.faults = self.all_faults()

    # How long a cluster of two versions is left to work.
    MIXED_S = 4.0

    def all_faults(self):
        here = [
            Fault("calm", "nothing, for some ten seconds", self.calm, "fault", takes="nothing"),
            Fault("kill-leader", "kill -9 of the leader, started again at once or after the lease", self.kill_leader, "fault"),
            Fault("kill-other", "kill -9 of another node", self.kill_other, "fault", takes="nothing"),
            Fault("kill-two", "kill -9 of the leader and another at once", self.kill_two, "fault"),
            Fault("kill-next", "kill -9 of the leader, and of the next one as soon as that leads", self.kill_next, "fault"),
            Fault("pause-leader", "SIGSTOP of the leader beyond its lease, then SIGCONT", self.pause_leader, "fault"),
            Fault("cut-leader", "the leader is cut off from all others and the store", self.cut_leader, "fault"),
            Fault("cut-long", "the same for 80 s: its tasks are ended there, and called lost here", self.cut_long, "fault", is_long=True),
            Fault("halves", "two nodes on one side, one on the other, the store on either", self.halves, "fault"),
            Fault("one-way", "packets pass between the leader and the store (or the other hosts, where the store is on them) in one direction only", self.one_way, "fault"),
            Fault("cut-store", "the leader is cut off from the store alone", self.cut_store, "fault"),
            Fault("cut-nodes", "no node reaches another, and each the store; in half of the cycles the leader has to hand over meanwhile", self.cut_nodes, "fault", takes="nothing"),
            Fault("lost-answers", "the store does what it is asked, and one in five answers is lost", self.lost_answers, "heal"),
            Fault("late-answers", "answers of the store come up to 1.5 s late to the leader", self.late_answers, "heal"),
            Fault("rolling-restart", "SIGTERM of one after the other", self.rolling_restart, "fault", takes="handover"),
            Fault("clock-seconds", f"the leader's clock is shifted by {SOME_SECONDS} s, either way", self.clock_seconds,
                  "heal", extra_s=SOME_SECONDS),
            Fault("clock-minutes", f"the leader's clock is shifted by {SOME_MINUTES} s, either way", self.clock_minutes, "fault"),
        ]
        if self.upgrade_to:
            here += [Fault("upgrade", "one after the other, the leader last, starts again as another version; and back the next time",
                           self.upgrade, "fault", takes="handover")]
        return here + self.store_faults() + (self.mesos_faults() if self.engine.name == "mesos" else [])

    def mesos_faults(self):
        away, back = self.engine.UNREACHABLE_S, self.engine.BACK_S
        return [
            Fault("mesos-leader", "kill -9 of the leading master of Mesos, started again at once", self.mesos_leader, "heal", extra_s=back),
            Fault("mesos-masters", "kill -9 of all masters of Mesos for some seconds", self.mesos_masters, "heal", extra_s=back),
            Fault("agent-killed", "kill -9 of an agent, started again at once: its tasks live on", self.agent_killed, "fault", extra_s=back),
            Fault("agent-silent", "SIGSTOP of an agent until it counts as unreachable, then SIGCONT", self.agent_silent, "fault", extra_s=away),
        ]

    def store_faults(self):
        ensemble = [
            Fault("zookeeper-leader", "kill -9 of the ZooKeeper server that leads", self.zookeeper_leader, "fault"),
            Fault("quorum-lost", "kill -9 of two of three ZooKeeper servers, for longer than the session", self.quorum_lost, "heal"),
        ] if self.store.name == "zookeeper" else []
        return ensemble + [
            Fault("store-restart", "the store is stopped at once and started again", self.store_restart, "heal"),
            Fault("store-away", "the store is stopped for longer than the lease", self.store_away, "heal"),
            Fault("store-frozen", "every process of the store is stopped (SIGSTOP) for longer than the lease", self.store_frozen, "heal"),
        ]

    # --- one cycle -----------------------------------------------------------------------------------------------

    def say(self, text):
        at = time.time()
        self.log.write(f"{time.strftime('%H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03} boot {boot_s():.2f} {text}\n")
        self.log.flush()

    def run(self, fault):
        self.store.settle()
        leader = self.cluster.wait_leader()
        if leader is None:
            self.troubles.append(f"before {fault.name}: nobody leads, for a minute")
            return
        cycle = Cycle(fault, boot_s())
        self.cycles.append(cycle)
        self.say(f"cycle {len(self.cycles)}: {fault.name}; {leader.name} leads")
        self.present = cycle
        try:
            fault.inject(leader)
        finally:
            self.heal()
            cycle.healed = boot_s()
        self.say(f"healed: {fault.name} of {','.join(map(str, cycle.victims))} {cycle.note}")
        cycle.back = self.cluster.witness.wait_for_beat(cycle.healed, 60)
        if cycle.back is None:
            self.troubles.append(f"cycle {len(self.cycles)} ({fault.name}): nothing was launched for 60 s after the heal")
            cycle.back = boot_s()
        wrong = self.cluster.wait_settled(WHOLE_S)
        cycle.settled = boot_s()
        cycle.silence = self.cluster.witness.longest_silence(cycle.began, cycle.settled)
        cycle.stalled = self.cluster.witness.stalled(cycle.began, cycle.settled)
        cycle.bound = self.bound_s()
        if wrong:
            self.troubles.append(f"cycle {len(self.cycles)} ({fault.name}): not whole within {WHOLE_S} s after the heal: {wrong}")
        left = self.cluster.left()
        if left:
            self.troubles.append(f"cycle {len(self.cycles)} ({fault.name}): the server of {', '.join(left)} ended by itself")
            for server in self.cluster.servers:
                if server.name in left:
                    server.start()
        self.tidy()
        self.say(f"back after {cycle.back - cycle.healed:.2f} s, silence {cycle.silence:.2f} s, bound {cycle.bound:.1f} s")

    def heal(self):
        """All that may be wrong is set right, whatever it was."""
        self.network.heal()
        for cut in self.cuts:
            cut.healed = cut.healed or boot_s()
        if self.down_store:
            self.store.start()
            self.down_store = False
        if self.frozen_store:
            self.store.thaw()
            self.frozen_store = False
        self.store.trouble("pass")
        for order in self.mesos_orders:
            self.engine.order(*order)
        self.mesos_orders = []
        # The server first: what it has decided is on its way before anybody can refuse it.
        for pid in self.paused:
            signalled(pid, signal.SIGCONT)
        self.paused = []
        for server, began, seconds in self.shifted:
            server.shift(0)
            # The library looks once a second: a clock that goes back then, and owes what it was ahead, is of this fault still.
            time.sleep(LOOKS_S)
            self.shifts.append((began, boot_s() + 0.5, server.name, seconds))
        self.shifted = []
        for server in self.cluster.servers:
            if not server.expected_to_run:
                server.start()

    def tidy(self):
        """What was made for a fault goes with it: nobody is to wait for tasks that last."""
        for job in self.lasting:
            if not self.operator.remove(job):
                self.troubles.append(f"{job.name} could not be removed")
        self.lasting = []

    def also_cut(self, *servers):
        """Where the store's own leader is cut off too, the store needs another first."""
        if self.store.is_led_from([server.host for server in servers]):
            self.present.extra_s += self.store.election_s
            self.present.note += ", with the store's leader"

    def victim(self, *servers):
        self.present.victims = [server.name for server in servers]

    def wait(self, low, high):
        time.sleep(self.dice.uniform(low, high))

    def bound_s(self):
        return service.bound_s(self.present, self.lease, self.store.tick_s, self.engine.extra_s)

    def outlive(self, low, high):
        """The same, and until another leads than those that are out. Who only waits for the heal would be back in time as well."""
        until = time.monotonic() + self.dice.uniform(low, high)
        self.next_leader(self.bound_s() + service.SLACK_S)
        time.sleep(max(0.0, until - time.monotonic()))

    def next_leader(self, within_s):
        """Who leads of those that the fault has left; None, which is a trouble, if nobody comes to."""
        victims = self.present.victims
        leader = self.cluster.wait_leader(within_s, [server for server in self.cluster.servers if server.name not in victims])
        if leader is None:
            self.troubles.append(f"cycle {len(self.cycles)} ({self.present.fault.name}): for {within_s:.0f} s nobody came to lead in the place of "
                                 f"{' and '.join(victims)}")
        return leader

    def calm(self, _leader):
        self.wait(CALM_S, CALM_S + 2)

    # --- servers -------------------------------------------------------------------------------------------------

    def kill_leader(self, leader):
        self.victim(leader)
        leader.kill()
        self.at_once_or_outlived()

    def at_once_or_outlived(self):
        """Who was killed starts again at once, or after another has taken over."""
        if self.dice.random() < 0.5:
            self.wait(0, 0.5)
        else:
            self.outlive(self.lease, self.lease + 2)

    def kill_other(self, leader):
        other = self.dice.choice(self.cluster.others(leader))
        self.victim(other)
        other.kill()
        self.wait(0, 3)

    def kill_two(self, leader):
        other = self.dice.choice(self.cluster.others(leader))
        self.victim(leader, other)
        leader.kill()
        other.kill()
        self.outlive(1, self.lease + 2)

    def kill_next(self, leader):
        """One fault on top of another: the next one has just come to lead, and has not yet had an answer from anybody."""
        self.victim(leader)
        leader.kill()
        bound = self.lease + self.store.tick_s + 2
        # If the next one launched nothing, it is twice that.
        self.present.extra_s += bound
        other = self.next_leader(bound + service.SLACK_S)
        if other is None:
            return
        self.victim(leader, other)
        other.kill()
        self.at_once_or_outlived()

    def pause_leader(self, leader):
        self.victim(leader)
        pids = [leader.process.pid]
        if self.dice.random() < 0.5:
            # As if the machine had slept, but for the tasks.
            pids += leader.supervisors()
            self.present.note = "and of its supervisor"
        # Among those that look like a supervisor may be a child of it that is about to become a task, and then is none.
        self.paused += [pid for pid in pids if signalled(pid, signal.SIGSTOP)]
        self.outlive_lease()

    def rolling_restart(self, leader):
        self.victim(*self.cluster.servers)
        self.present.note = "seconds until gone:"
        for server in self.dice.sample(self.cluster.servers, 3):
            self.restart(server)

    def restart(self, server):
        began = boot_s()
        server.kill(signal.SIGTERM)
        self.present.note += f" {boot_s() - began:.2f}"
        server.start()
        wrong = self.cluster.wait_settled(WHOLE_S)
        if wrong:
            self.troubles.append(f"rolling restart: not whole within {WHOLE_S} s: {wrong}")

    def upgrade(self, leader):
        self.victim(*self.cluster.servers)
        self.present.note = "seconds until gone:"
        before, after = leader.binary, self.upgrade_to
        for server in self.cluster.others(leader) + [leader]:
            server.binary = after
            self.restart(server)
            self.let_lead(after)
            # Both versions side by side, for a slot or two of every job.
            time.sleep(self.MIXED_S)
        self.upgrade_to = before

    def let_lead(self, binary):
        """Restarts leaders until one of this version leads: of two that wait for it, either may be the next."""
        for _ in range(12):
            leader = self.cluster.wait_leader()
            if leader is None or leader.binary == binary:
                return
            self.restart(leader)
        self.troubles.append("beside the other version none of this one came to lead")

    # --- network -------------------------------------------------------------------------------------------------

    def how(self):
        how = self.dice.choice(["routes", "filter"])
        self.present.note = f"by {how}"
        return how

    def beyond_lease(self):
        self.wait(self.lease + 1, self.lease + 2.5)

    def outlive_lease(self):
        self.outlive(self.lease + 1, self.lease + 2.5)

    def cut_leader(self, leader):
        self.victim(leader)
        rest = [other.host for other in self.cluster.others(leader)] + self.store.own
        how = self.how()
        self.also_cut(leader)
        self.network.cut([leader.host], rest, how)
        self.outlive_lease()

    def cut_long(self, leader):
        """Beyond the 60 s after which a node ends its tasks, and the 75 s after which the others count on that."""
        if not self.engine.places:
            self.make_lasting(leader)
        self.victim(leader)
        rest = [other.host for other in self.cluster.others(leader)] + self.store.own
        how = self.how()
        self.also_cut(leader)
        if self.lasting:
            self.cuts.append(Cut(leader.name, boot_s(), [job.name for job in self.lasting]))
        self.network.cut([leader.host], rest, how)
        self.outlive(80, 85)
        for job in self.lasting:
            if not self.cluster.witness.wait_for_start(job.name, [other.name for other in self.cluster.others(leader)], REPLACED_S):
                self.troubles.append(f"cycle {len(self.cycles)} (cut-long): nothing took the place of {job.name}")

    def make_lasting(self, leader):
        """Jobs of which something runs on the leader that is far from its end: of one the next run waits for that, of the
        other the next attempt."""
        for kind, fields in (("next", {}), ("again", {"retries": 3, "retryDelay": f"PT{RETRY_DELAY_S}S"})):
            name = f"lasting-{kind}-{len(self.jobs):02}"
            job = Job(name, self.cluster.folder, LASTING_PERIOD_S, now_ms(), sleep=LASTING_S, description="1", **fields)
            self.jobs.append(job)
            self.lasting.append(job)
            if not self.operator.make(job) or not self.cluster.witness.wait_for_start(name, [leader.name], BEGUN_S):
                self.troubles.append(f"cycle {len(self.cycles)} (cut-long): {name} did not begin on {leader.name}")

    def halves(self, leader):
        others = self.cluster.others(leader)
        friend, other = self.dice.sample(others, 2)
        side, rest = [leader, friend], [other]
        # A store that has a server on each host is with the two.
        with_store = not self.store.own or self.dice.random() < 0.3
        self.victim(*(rest if with_store else side))
        store, how = self.store.own, self.how()
        some, more = [s.host for s in side], [s.host for s in rest]
        self.present.note += f", the leader {'with' if with_store else 'without'} the store"
        if with_store and self.store.own:
            self.present.takes = "nothing"
        self.also_cut(*(rest if with_store else side))
        self.network.cut(some + store if with_store else some, more if with_store else more + store, how)
        (self.beyond_lease if with_store else self.outlive_lease)()

    def one_way(self, leader):
        self.victim(leader)
        hears = self.dice.random() < 0.5
        self.present.note = "it hears nothing" if not hears else "it is not heard"
        led_from_there = self.store.is_led_from([leader.host])
        if not self.store.own:
            # A server of the store that only speaks, or only hears, keeps the others from electing.
            self.present.counts_from = "heal"
            self.present.extra_s += self.store.election_s
        for host in self.store.own or [other.host for other in self.cluster.others(leader)]:
            if hears:
                self.network.deafen(host, leader.host)
            else:
                self.network.deafen(leader.host, host)
        # Where the store cannot elect, nobody can lead.
        (self.beyond_lease if led_from_there else self.outlive_lease)()

    def cut_store(self, leader):
        self.victim(leader)
        self.store.cut_from(self.network, leader.host, self.how())
        self.outlive_lease()

    def cut_nodes(self, leader):
        """Whoever comes to lead cannot ask where the tasks of the last one are."""
        self.network.close(self.cluster.hosts(), PORT)
        if self.dice.random() < 0.5:
            self.victim(leader)
            self.present.takes, self.present.note = "handover", "with a hand-over"
            leader.kill(signal.SIGTERM)
        self.wait(3, 5)

    # --- store ---------------------------------------------------------------------------------------------------

    def store_restart(self, _leader):
        self.store.stop()
        self.down_store = True
        self.wait(0, 1)

    def store_away(self, _leader):
        self.store.stop()
        self.down_store = True
        self.beyond_lease()

    def zookeeper_leader(self, _leader):
        leader = self.store.leader()
        self.present.note = f"on {leader.name}"
        self.store.kill([leader])
        self.down_store = True
        self.wait(2, 4)

    def quorum_lost(self, _leader):
        two = self.dice.sample(self.store.hosts, 2)
        self.present.note = f"on {two[0].name} and {two[1].name}"
        self.store.kill(two)
        self.down_store = True
        self.beyond_lease()

    def store_frozen(self, _leader):
        self.store.freeze()
        self.frozen_store = True
        self.beyond_lease()

    def lost_answers(self, _leader):
        self.store.trouble("lose 0.2")
        self.wait(3, 5)

    def late_answers(self, leader):
        self.victim(leader)
        self.store.trouble(f"delay 0.1 1.5 {leader.host.ip}")
        self.wait(3, 5)

    # --- Mesos ---------------------------------------------------------------------------------------------------

    def mesos_leader(self, _leader):
        master = self.engine.leader()
        self.present.note = master
        self.mesos_orders.append(("start", master))
        self.engine.order("kill", master)
        self.wait(0, 4)

    def mesos_masters(self, _leader):
        for number in range(self.engine.MASTERS):
            self.mesos_orders.append(("start", f"master-{number}"))
            self.engine.order("kill", f"master-{number}")
        self.wait(2, 6)

    def agent(self):
        self.present.note = f"agent-{self.dice.randrange(self.engine.AGENTS)}"
        return self.present.note

    def agent_killed(self, _leader):
        agent = self.agent()
        self.mesos_orders.append(("start", agent))
        self.engine.order("kill", agent)
        self.wait(0, 2)

    def agent_silent(self, _leader):
        agent = self.agent()
        self.mesos_orders.append(("resume", agent))
        self.engine.order("pause", agent)
        self.wait(self.engine.UNREACHABLE_S, self.engine.UNREACHABLE_S + 3)

    # --- clocks --------------------------------------------------------------------------------------------------

    def shift(self, leader, seconds, wait):
        seconds *= self.dice.choice([-1, 1])
        self.victim(leader)
        self.present.note = f"by {seconds:+} s"
        self.shifted.append((leader, boot_s(), seconds))
        leader.shift(seconds)
        wait(3.5, 5)

    def clock_seconds(self, leader):
        self.shift(leader, SOME_SECONDS, self.wait)

    def clock_minutes(self, leader):
        self.shift(leader, SOME_MINUTES, self.outlive)


def signalled(pid, number):
    """Whether there was somebody to be told."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def plan(faults, cycles, dice):
    """Each as often as the others, in an order that the dice say, none twice in a row; a long one every third round."""
    order, rounds = [], 0
    while len(order) < cycles:
        rounds += 1
        block = [fault for fault in faults if not fault.is_long or rounds % 3 == 0 or len(faults) == 1]
        dice.shuffle(block)
        if order and len(block) > 1 and block[0] is order[-1]:
            block.append(block.pop(0))
        order += block
    return order[:cycles]
