"""Clients of a hive, each a thread: batches, single runs, raw requests over FIFOs, and garbage."""

import json
import os
import random
import select
import threading
import time

from .hive import finish

# What comes between a task's note of its attempt and its answer. Some leave processes behind, some will not go.
AWKWARD = [
    "true", "true", "true", "sleep 0.05", "sleep 0.3",
    "setsid sleep 1000 &",
    "(setsid setsid sleep 1001 >/dev/null 2>&1 &)",
    "trap '' TERM; sleep 0.2",
    "seq 1 20000",
    "seq 1 3000 >&2",
    "exec 2>&-; sleep 1002 <&- >&- &",
    "(sleep 0.1; kill -CONT $$) & kill -STOP $$",
    "exit 3", "kill -9 $$", "kill -TERM 0",
]  # fmt: skip
WORDS = ["plain", "plain", "plain", "plain", "plain", "chatty", "sleepy"]
ASKED_MAX = {"shell": 250, "lines": 2500, "single": 1500}


class Load(threading.Thread):
    """One client, again and again, until it is told to stop. All its choices come from its seed."""

    def __init__(self, hive, tally, seed, desk):
        super().__init__(daemon=True)
        self.hive, self.tally, self.desk = hive, tally, desk
        self.dice, self.serial = random.Random(seed), 0
        self.label = seed.rpartition("/")[2]

    def run(self):
        while not self.desk.closed.is_set():
            self.once()
            self.desk.closed.wait(self.dice.uniform(0.02, 0.4))

    def text(self, words=None):
        """A task's text that is like no other, and its nonce."""
        self.serial += 1
        nonce = f"{self.label}-{self.serial}"
        if self.hive.kind == "shell":
            does = words or self.dice.choice(AWKWARD)
            end = "" if does.endswith("&") else ";"
            return f"echo $HIVE_TASK $HIVE_ATTEMPT >>{self.hive.ran}; {does}{end} echo answer-{nonce}", nonce
        return f"{words or self.dice.choice(WORDS)} {nonce}", nonce

    def options(self):
        options = ["--retries", self.dice.choice(["1000", "1000", "1000", "2", "0"])]
        if self.dice.random() < 0.2:
            options += ["--priority", str(self.dice.randint(-2, 2))]
        return options


class Desk:
    """What the clients of one round were told."""

    def __init__(self):
        self.closed = threading.Event()
        self.lock = threading.Lock()
        self.asked, self.accepted, self.runs, self.background = 0, set(), [], []

    def may_ask(self, hive, count):
        with self.lock:
            self.asked += count
            return self.asked <= ASKED_MAX[hive.kind]

    def take(self, numbers):
        with self.lock:
            self.accepted.update(numbers)


class Batches(Load):
    def once(self):
        count = self.dice.randint(1, 15 if self.hive.kind == "shell" else 200)
        if not self.desk.may_ask(self.hive, count):
            return
        texts = [self.text()[0] for _ in range(count)]
        options = self.options()
        if self.dice.random() < 0.1:
            # Out of time; or, as a lines agent reads it, the end of the agent: few of these, five in a minute park it.
            deed, *limit = ["sleep 60", "--timeout", "0.3"] if self.hive.kind == "shell" else ["deadly", "--retries", "1"]
            texts, options = [self.text(deed)[0]], limit
        _, out, _ = self.hive.verb("submit", "--stdin", *options, text="".join(t + "\n" for t in texts))
        # What was printed counts, however the client ended.
        self.desk.take(int(line) for line in out.splitlines() if line.isdigit())


class Runs(Load):
    def once(self):
        if not self.desk.may_ask(self.hive, 1):
            return
        text, nonce = self.text(self.dice.choice(["true", "sleep 0.2"]) if self.hive.kind == "shell" else None)
        child = self.hive.spawn("run", *self.options(), text)
        code, out, err = finish(child, patience=120)
        with self.desk.lock:
            self.desk.runs.append((nonce, code, out, err))


class Raw(Load):
    """Requests in JSON, by hand; the answer says the number."""

    def once(self):
        if not self.desk.may_ask(self.hive, 3):
            return
        name = f"raw-{self.label}-{self.serial}"
        path = self.hive.live / "replies" / name
        try:
            os.mkfifo(path, 0o600)
            reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            return
        try:
            sent = [self.ask(name) for _ in range(3)]
            self.answers(reply, {tag for tag in sent if tag})
        finally:
            os.close(reply)
            path.unlink(missing_ok=True)

    def ask(self, name):
        text, nonce = self.text()
        request = {"op": "submit", "text": text, "retries": 1000, "reply": name, "tag": nonce}
        return nonce if write(self.hive, b"\n" + json.dumps(request).encode() + b"\n") else None

    def answers(self, reply, open_tags):
        """An answer may come twice, from two leaders, and not at all where the hive went away."""
        rest, until = b"", time.monotonic() + 3
        while open_tags and time.monotonic() < until:
            if not select.select([reply], [], [], 0.2)[0]:
                continue
            *lines, rest = (rest + os.read(reply, 65536)).split(b"\n")
            for answer in map(json.loads, lines):
                open_tags.discard(answer["tag"])
                if answer["ok"]:
                    self.desk.take([answer["id"]])


class Garbage(Load):
    """Lines that nobody should write."""

    KINDS = ("no newline", "NUL", "too long", "half a line", "bad UTF-8", "noise", "wrong JSON", "a flood of nothing")

    def once(self):
        kind = self.dice.choice(self.KINDS)
        line = {
            "no newline": b"no newline at all ",
            "NUL": b"\0\0submit \0\n",
            "too long": b"x" * 4096 + b"\n",
            "half a line": b'\n{"op":"submit","text":"ha',
            "bad UTF-8": b"submit \xff\xfe\xc0\n",
            "noise": self.dice.randbytes(self.dice.randint(1, 3000)) + b"\n",
            "wrong JSON": b'{"op":"submit","text":7,"reply":"../../x","tag":{}}\n',
            "a flood of nothing": b"\n" * 4000,
        }[kind]
        if write(self.hive, line):
            self.tally.count("garbage")


def write(hive, line):
    """Writes to ctl, if it is there and takes it."""
    try:
        ctl = os.open(hive.live / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.write(ctl, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(ctl)
