"""A supervisor that is killed at its n-th write, for each n, from outside: by strace, which counts in the kernel."""

import shutil
import signal
import sys
import threading
import time

from .hive import Hive, finish
from .verdict import judge

TASKS = 50
CALLS = "write,pwrite64,writev"


def killed_at_every_write(binary, folder, tally, count):
    if not shutil.which("strace"):
        print("skipped: strace is not installed", file=sys.stderr)
        return
    for n in range(1, count + 1):
        hive = Hive(binary, folder, f"write-{n}")
        try:
            died = one(hive, tally, n)
        finally:
            hive.end()
        if tally.broken:
            return tally.breaks(f"(that was the kill at write {n})")
        shutil.rmtree(hive.folder, ignore_errors=True)
        tally.count("rounds")
        if not died:
            print(f"the run has fewer than {n} writes: done", file=sys.stderr)
            return


def one(hive, tally, n):
    """True where the supervisor died of it."""
    inject = f"inject={CALLS}:signal=KILL:when={n}"
    start = ["pool", "start", "--foreground", "-n", "4"]
    # Not -f: the traced process is the supervisor itself, and its hosts are not.
    traced = hive.spawn(*start, program=["strace", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", inject])
    while hive.leader() is None and traced.poll() is None:
        time.sleep(0.005)
    clients = [Submit(hive)]
    died = wait_for_end(hive, traced, tally)
    if died:
        tally.count("killed: supervisor")
        code, out, err = hive.verb("pool", "start", "-n", "4")
        if code != 0:
            tally.breaks(f"pool start exits with {code}: {out!r} {err!r}")
        # If the first came before anybody led, there is work all the same.
        clients.append(Submit(hive))
    for client in clients:
        client.join(100)
    if hive.verb("wait", "--all", "--timeout", "60", patience=90)[0] not in (0, 1):
        tally.breaks(f"tasks do not end: {hive.status()}")
    died |= stop(hive, traced, tally)
    judge(hive, set().union(*(client.numbers for client in clients)), [], True, tally)
    left = hive.processes()
    tally.count("processes left", len(left))
    if left:
        tally.breaks(f"left alive after pool stop: {left}")
    return died


class Submit(threading.Thread):
    """Fifty tasks from one client; it waits through the change of leaders. What it printed was accepted."""

    def __init__(self, hive):
        super().__init__(daemon=True)
        self.hive, self.numbers = hive, set()
        self.start()

    def run(self):
        note = f"echo $HIVE_TASK $HIVE_ATTEMPT >>{self.hive.ran}"
        text = "".join(f"{note}; echo answer-{id(self)}-{n}\n" for n in range(TASKS))
        _, out, _ = self.hive.verb("submit", "--stdin", text=text)
        self.numbers.update(int(line) for line in out.splitlines() if line.isdigit())


def wait_for_end(hive, traced, tally):
    """Until the supervisor is dead, or has done all there is to do."""
    until = time.monotonic() + 60
    while traced.poll() is None and time.monotonic() < until:
        # Read, not asked for: a client would wait for the next leader.
        if sum(path.read_bytes().count(b'"kind":"done"') for path in hive.events.glob("*.jsonl")) >= TASKS:
            return False
        time.sleep(0.02)
    if traced.poll() is None:
        tally.breaks(f"{TASKS} tasks are not done after 60 s: {hive.status()}")
    return True


def stop(hive, traced, tally):
    """True where the supervisor died of the stop: then the next stop brings it to its end, or finds nothing to end."""
    was_alive = traced.poll() is None
    code, out, err = hive.verb("pool", "stop")
    finish(traced, patience=10)
    died = was_alive and traced.returncode == -signal.SIGKILL
    if died and code != 0:
        tally.count("killed: supervisor")
        code, out, err = hive.verb("pool", "stop")
    if code != 0 and not (died and code == 3):
        tally.breaks(f"pool stop exits with {code}: {out!r} {err!r}")
    return died
