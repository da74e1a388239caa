"""One hive in folders of its own: its verbs, its processes, and what is left of it.

A process is signalled only while it is held by a pidfd and its environment bears this hive's token; never by its name."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

PATIENCE = 60  # seconds, for a verb that should take a fraction of one
SHAPE = {
    "shell": ["--kind", "shell"],
    "lines": ["--kind", "lines", "--prefetch", "8"],
    "single": ["--kind", "lines"],
}
AGENT = """echo READY
while read -r verb id text; do
    [ "$verb" = TASK ] || continue
    echo "$id" >>%s
    case $text in
        sleepy*) sleep 0.2 ;;
        deadly*) exit 9 ;;
        chatty*) for n in 1 2 3 4 5 6 7 8 9; do echo "beside the protocol $n"; done ;;
    esac
    echo "DONE $id ${text^^}"
done"""


class Hive:
    def __init__(self, binary, folder, name, kind="shell"):
        self.binary, self.kind = str(binary), kind
        self.folder = Path(folder) / name
        self.folder.mkdir(mode=0o700)
        self.token = str(self.folder)
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.shm = Path(tempfile.mkdtemp(prefix="hive-chaos-", dir=base))
        self.live = self.shm / "default"
        self.events = self.folder / "default" / "events"
        self.ran = self.folder / "ran"
        own = {name: value for name, value in os.environ.items() if not name.startswith("HIVE_")}
        self.env = {**own, "HIVE_DIR": self.token, "HIVE_SHM": str(self.shm), "NO_COLOR": "1"}

    def spawn(self, *args, program=(), **options):
        """A client; `program` runs it."""
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*program, self.binary, *args], env=self.env, text=True, **{**piped, **options})

    def verb(self, *args, text=None, patience=PATIENCE):
        """Exit code, stdout, stderr; the code is None where it did not end in time."""
        child = self.spawn(*args, stdin=subprocess.DEVNULL if text is None else subprocess.PIPE)
        return finish(child, text, patience)

    def pool(self, count, *more):
        """What starts the pool of this hive's kind."""
        command = [] if self.kind == "shell" else ["--", "bash", "-c", AGENT % self.ran]
        return ["pool", "start", "-n", str(count), *SHAPE[self.kind], *more, *command]

    def leader(self):
        """The pid of the supervisor, if there is one and it lives."""
        try:
            pid = json.loads((self.live / "leader").read_text())["pid"]
        except (OSError, ValueError, KeyError):
            return None
        return pid if is_alive(pid) else None

    def next_leader(self, former, since, patience):
        """Seconds from `since` until another than `former` leads; None where none did in time."""
        while time.monotonic() - since < patience:
            if self.leader() not in (None, former):
                return time.monotonic() - since
            time.sleep(0.001)
        return None

    def standbys(self):
        try:
            return [int(name) for name in os.listdir(self.live / "standbys") if is_alive(int(name))]
        except OSError:
            return []

    def status(self):
        code, out, _ = self.verb("--json", "pool", "status")
        return json.loads(out) if code == 0 else {"agents": [], "tasks": {}}

    def agents(self):
        return self.status()["agents"]

    def signal(self, pid, number):
        """Sends a signal to a process of this hive; to any other, none. True where it was sent."""
        if not pid:
            return False
        try:
            held = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if not self.owns(pid):
                return False
            signal.pidfd_send_signal(held, number)
            return True
        except OSError:
            return False
        finally:
            os.close(held)

    def owns(self, pid):
        try:
            return self.token.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def processes(self):
        """Every process that bears this hive's token, but for the clients that this script runs itself."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if self.owns(pid) and is_alive(pid) and parent(pid) != os.getpid()]

    def end(self):
        """Whatever became of it: nothing of it goes on running."""
        if self.live.exists():
            self.verb("pool", "stop", "--now", patience=20)
        for _ in range(50):
            left = self.processes()
            if not left:
                break
            for pid in left:
                self.signal(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.shm, ignore_errors=True)


def finish(child, text=None, patience=PATIENCE):
    """Waits for a client; one that does not end is killed, and its code is None."""
    try:
        out, err = child.communicate(text, timeout=patience)
        return child.returncode, out, err
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        return None, out, err


def stat_of(pid):
    """The fields of /proc/<pid>/stat after the name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_alive(pid):
    try:
        return stat_of(pid)[0] not in "ZX"
    except OSError:
        return False


def parent(pid):
    try:
        return int(stat_of(pid)[1])
    except OSError:
        return 0


def describe(pid):
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} ({line.strip()[:60]})"
    except OSError:
        return str(pid)


class Tally:
    """What is counted, what took longest, and every promise that broke. Threads share it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts, self.worst, self.broken = {}, {}, []

    def count(self, what, by=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + by

    def took(self, what, seconds):
        with self.lock:
            self.worst[what] = max(self.worst.get(what, 0.0), seconds)

    def breaks(self, promise):
        with self.lock:
            self.broken.append(promise)
