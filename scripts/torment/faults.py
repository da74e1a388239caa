"""What is done to a hive: each torment is one method, done whole before the next. Pids come from the hive's own files."""

import os
import shutil
import signal
import threading
import time

from .hive import describe, finish, is_alive

KILL, STOP, CONT, TERM = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM


class Torments:
    # How often each is taken, against the others.
    WEIGHTS = {
        "kill_leader_with_standby": 5, "kill_leader": 4, "kill_standby": 1, "kill_host": 4, "kill_workload": 3,
        "kill_everything": 1, "suspend_leader": 2, "take_over_suspended": 2, "suspend_host": 3, "scale": 3,
        "restart": 1, "remove_live": 2, "remove_live_and_kill": 1, "cancel": 4, "stop_and_start": 1, "crowd": 1,
    }  # fmt: skip

    def __init__(self, hive, tally, dice, desk):
        self.hive, self.tally, self.dice, self.desk = hive, tally, dice, desk
        # Timers by which stopped hosts go on.
        self.frozen, self.excused = [], False

    def once(self):
        """One torment, chosen by the dice. What it leaves broken on purpose is mended: somebody leads, no agent is parked."""
        name = self.dice.choices(list(self.WEIGHTS), self.WEIGHTS.values())[0]
        getattr(self, name)()
        self.mend()
        return name

    def calm(self):
        for timer in self.frozen:
            timer.join()
        self.mend()

    def mend(self):
        if self.hive.leader() is None:
            self.start()
        if any(agent["state"] == "parked" for agent in self.hive.agents()):
            self.hive.verb("pool", "restart")

    def agent(self):
        agents = self.hive.agents()
        return self.dice.choice(agents) if agents else {}

    def start(self):
        """`pool start` as a person would: by name, or with nothing said."""
        code, out, err = self.hive.verb("pool", "start")
        # 1: some agents are parked; 6: another leads already.
        if code not in (0, 1, 6):
            self.tally.breaks(f"pool start exits with {code}: {out!r} {err!r}")

    def kill(self, pid, kind, number=KILL):
        sent = self.hive.signal(pid, number)
        self.tally.count(f"killed: {kind}", int(sent))
        return sent

    def in_background(self, *args):
        self.desk.background.append((args, self.hive.spawn(*args)))

    def kill_leader_with_standby(self):
        if not self.hive.standbys():
            self.hive.verb("pool", "start", "--standby")
        leader, waiting = self.hive.leader(), self.hive.standbys()
        if not waiting or not self.kill(leader, "supervisor"):
            return
        took = self.hive.next_leader(leader, time.monotonic(), 20)
        if took is None:
            self.tally.breaks(f"supervisor {leader} is dead, standbys {waiting} waited, and none leads after 20 s")
            return
        self.tally.count("take-overs by a standby")
        self.tally.took("death to next leader, a standby waits", took)

    def kill_leader(self):
        """Nobody waits: the next `pool start` takes over."""
        leader = self.hive.leader()
        for pid in self.hive.standbys():
            self.kill(pid, "standby")
        if not self.kill(leader, "supervisor"):
            return
        time.sleep(self.dice.choice([0, 0, 0.05, 0.5]))
        since = time.monotonic()
        child = self.hive.spawn("pool", "start")
        took = self.hive.next_leader(leader, since, 20)
        code, _, err = finish(child)
        if took is None or code not in (0, 1, 6):
            self.tally.breaks(f"after the death of supervisor {leader}, pool start exits with {code}: {err!r}")
            return
        self.tally.count("take-overs by pool start")
        self.tally.took("pool start to next leader", took)

    def kill_standby(self):
        self.hive.verb("pool", "start", "--standby")
        for pid in self.hive.standbys()[:1]:
            self.kill(pid, "standby")

    def kill_host(self):
        self.kill(self.agent().get("pid"), "host")

    def kill_workload(self):
        self.kill(self.agent().get("workload"), "workload")

    def kill_everything(self):
        hosts = [agent.get("pid") for agent in self.hive.agents()]
        self.excused = True
        for pid in self.hive.standbys():
            self.kill(pid, "standby")
        self.kill(self.hive.leader(), "supervisor")
        for pid in hosts:
            self.kill(pid, "host")
        self.tally.count("everything killed at once")
        self.start()

    def suspend_leader(self):
        leader = self.hive.leader()
        if self.hive.signal(leader, STOP):
            self.tally.count("suspended: supervisor")
            time.sleep(self.dice.uniform(0.05, 1))
            self.hive.signal(leader, CONT)

    def take_over_suspended(self):
        leader = self.hive.leader()
        if not self.hive.signal(leader, STOP):
            return
        self.tally.count("suspended: supervisor")
        code, out, err = self.hive.verb("pool", "takeover")
        if code != 0:
            self.tally.breaks(f"pool takeover exits with {code}: {out!r} {err!r}")
        if is_alive(leader) and self.hive.owns(leader):
            self.tally.breaks(f"another leads, and the suspended supervisor {leader} lives")
        self.hive.signal(leader, CONT)
        self.tally.count("take-overs from a suspended supervisor")

    def suspend_host(self):
        pid = self.agent().get("pid")
        if self.hive.signal(pid, STOP):
            self.tally.count("suspended: host")
            timer = threading.Timer(self.dice.uniform(0.1, 3), self.hive.signal, [pid, CONT])
            timer.start()
            self.frozen.append(timer)

    def scale(self):
        self.tally.count("scaled")
        self.in_background("pool", "scale", str(self.dice.randint(1, 6)))

    def restart(self):
        self.tally.count("restarts")
        self.in_background("pool", "restart", *self.dice.choice([["--rolling"], []]))

    def remove(self):
        self.tally.count("live folder removed")
        # As `rm -rf` does: it may find that what it removes comes back.
        for _ in range(100):
            try:
                shutil.rmtree(self.hive.live)
                return
            except OSError:
                continue

    def remove_live(self):
        if self.hive.leader() is None:
            return
        self.remove()
        since = time.monotonic()
        while self.hive.verb("pool", "status")[0] != 0:
            if time.monotonic() - since > 10:
                self.tally.breaks("the live folder was removed, and 10 s later clients are still not served")
                return
            time.sleep(0.01)
        self.tally.took("live folder removed to a client served", time.monotonic() - since)

    def remove_live_and_kill(self):
        """With its supervisor: the next one finds the agents by what they hold. A client finds the hive again by name."""
        for pid in self.hive.standbys():
            self.kill(pid, "standby")
        self.kill(self.hive.leader(), "supervisor")
        self.remove()
        self.excused = True
        self.start()

    def cancel(self):
        last = max(self.desk.accepted, default=0)
        if last:
            self.tally.count("cancels asked")
            self.in_background("cancel", *(str(self.dice.randint(max(1, last - 40), last)) for _ in range(3)))

    def stop_and_start(self):
        """In the middle of all: what ran runs again after the start."""
        self.excused = True
        self.stop(*self.dice.choice([[], ["--now"]]))
        code, out, err = self.hive.verb(*self.hive.pool(self.dice.randint(2, 5), "--stop-grace", "1"))
        if code != 0:
            self.tally.breaks(f"pool start after pool stop exits with {code}: {out!r} {err!r}")

    def stop(self, *how):
        """A stop that says it is done has looked: so is what is looked for here at once."""
        self.tally.count("stops")
        since = time.monotonic()
        code, out, err = self.hive.verb("pool", "stop", *how, patience=90)
        self.tally.took("pool stop", time.monotonic() - since)
        if code != 0:
            self.tally.breaks(f"pool stop {' '.join(how)} exits with {code}: {out!r} {err!r}")
        self.nothing_is_left("after pool stop")

    def nothing_is_left(self, when):
        left = self.hive.processes()
        self.tally.count("processes left", len(left))
        if left:
            self.tally.breaks(f"{when}: left alive: {', '.join(describe(pid) for pid in left)}")

    def abandon(self, grace):
        """Nobody comes back: the hosts end all by themselves."""
        hosts = self.hive.agents()
        for pid in [*self.hive.standbys(), self.hive.leader()]:
            self.kill(pid, "supervisor")
        # A second for a host that begins to count late, on a busy machine.
        until = time.monotonic() + grace + 3
        while self.hive.processes() and time.monotonic() < until:
            time.sleep(0.05)
        self.tally.count("abandoned")
        self.nothing_is_left(f"{grace} s after {len(hosts)} agents were abandoned")

    def crowd(self):
        """Twenty supervisors at once, beside one or after one: exactly one leads."""
        former = self.hive.leader()
        with_one = self.dice.random() < 0.5
        if not with_one:
            for pid in self.hive.standbys():
                self.kill(pid, "standby")
            self.kill(former, "supervisor")
        crowd = [self.hive.spawn("pool", "start") for _ in range(20)]
        codes = [finish(child)[0] for child in crowd]
        self.tally.count("crowds of twenty")
        if with_one and set(codes) != {6}:
            self.tally.breaks(f"twenty pool starts beside supervisor {former} exit with {codes}")
        if not with_one and sum(code in (0, 1) for code in codes) != 1:
            self.tally.breaks(f"twenty pool starts after supervisor {former} exit with {codes}")
        leads = [pid for pid in self.hive.processes() if os.path.realpath(f"/proc/{pid}/exe") == self.hive.binary]
        if self.hive.leader() not in leads:
            self.tally.breaks("nobody leads after twenty pool starts")
