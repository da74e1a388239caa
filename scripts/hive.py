"""hive.py: write an agent of kind `lines` in Python (3.8 or newer, standard library only).

    from hive import serve
    serve(lambda task: task.text.upper())

The handler gets a Task and returns str, bytes or None; an exception fails the task with its message.
Long, binary and multi-line results go by reference by themselves.

A handler that works long calls task.poll() now and then. There, and nowhere else, it is steered; so whatever it runs
between two polls is not disturbed. What it can is what functions are given for:

    def save(task): return json.dumps(task.state)            # str or bytes: enough to go on from here
    def load(task, saved): task.state = json.loads(saved)    # before the handler is called, if there is a checkpoint
    def told(task, text): ...                                # an instruction
    serve(handler, checkpoint=save, restore=load, inject=told, pause=save)

checkpoint is called for a barrier, and by task.checkpoint(); pause when the agent is to pause (what it returns is saved,
too), and poll() then returns when it is resumed. A cancelled task gets Cancelled raised from poll(). task.state is the
handler's own.

Owns the wire of one agent: whole lines, each one write(2), on descriptors that no tool inherits. While serving,
descriptor 0 is empty and descriptor 1 is stderr, so neither print() nor a subprocess can eat or corrupt a line.
Invariant: one thread reads and handles the lines in order, so a PONG says that every task sent before the PING is
answered, and an agent that is blocked reading its wire has nothing left to do but what it was paused in. What comes for
others while a task polls is kept for later, in order.
"""

import hashlib
import os
import re
import select
import signal
import sys
import tempfile
import traceback
import typing

RESULT_INLINE_MAX = 2048
NOTE_MAX = 500
REFERENCE = re.compile(rb"REF:([0-9a-f]{2})([0-9a-f]{62})")


class Cancelled(Exception):
    """The task is to be given up."""


def serve(handler, *, labels=(), checkpoint=None, restore=None, inject=None, pause=None):
    """Answer tasks with handler(task) until STOP or the end of input."""
    wire = _Wire(checkpoint=checkpoint, restore=restore, inject=inject, pause=pause)
    contexts = {}

    def task(id, text):
        wire.answer(handler, Task(id, text, contexts, wire))

    def keep(id, text):
        wire.told.setdefault(id, []).append(text)

    def context(id, text):
        name, reference, *more = text.split()
        more = dict(word.partition(b"=")[::2] for word in more)
        held = contexts.get(name.decode("utf-8", "surrogateescape"))
        diff = more.get(b"diff") if held and held.reference == more.get(b"base") else None
        contexts[name.decode("utf-8", "surrogateescape")] = _Context(reference, diff, id)

    verbs = {
        b"TASK": task,
        b"CONTEXT": context,
        b"PING": lambda number, _: wire.say("PONG", number),
        b"CHECKPOINT": lambda barrier, _: wire.say("CHECKPOINTED", barrier),
        b"INJECT": keep,
    }
    # For a task that is no longer there.
    verbs.update(dict.fromkeys(b"CANCEL PAUSE RESUME".split(), lambda *_: None))

    wire.say("READY", *wire.abilities(), *labels)
    for line in wire.lines():
        verb, _, rest = line.partition(b" ")
        if verb == b"STOP":
            break
        if verb == b"RESTORE":
            wire.saved = rest
            continue
        id, _, text = rest.partition(b" ")
        if verb in verbs and id and (verb != b"CONTEXT" or len(text.split()) > 1):
            verbs[verb](id.decode("utf-8", "surrogateescape"), text)
        else:
            _log(f"hive.py: ignored a line that starts with {line[:40]!r}")


class _Context(typing.NamedTuple):
    """What the agent holds under a name; and the difference by which it came, with that task."""
    reference: bytes
    diff: typing.Optional[bytes]
    task: str


class Task:
    """One task: what a handler reads, and what it may report while it works."""

    def __init__(self, id, text, contexts, wire):
        self.id = id
        #: the file that holds the text, where it came by reference; else None
        self.path = _path(text)
        #: the handler's own, for the functions that save and load it
        self.state = None
        self._inline, self._contexts, self._wire = text, contexts, wire

    def poll(self):
        """Hear what came for this task: a barrier, an instruction, a pause, a cancel."""
        self._wire.poll(self)

    def checkpoint(self):
        """Save the task without being asked."""
        self._wire.save(self, "0")

    @property
    def bytes(self):
        return self._inline if self.path is None else _read(self.path)

    @property
    def text(self):
        return self.bytes.decode("utf-8", "surrogateescape")

    @property
    def contexts(self):
        """The contexts that the agent holds: names, and the paths of their files."""
        return {name: _path(held.reference) for name, held in self._contexts.items()}

    def context(self, name):
        """The content of a context, as bytes."""
        path = self.contexts.get(name)
        if path is None:
            raise LookupError(f"no context {name}")
        return _read(path)

    def changes(self, name):
        """What this task changed in a context that the agent held before: a unified diff, as bytes; else None."""
        held = self._contexts.get(name)
        return _read(_path(held.diff)) if held and held.diff and held.task == self.id else None

    def progress(self, percent, text=""):
        self._wire.say("PROGRESS", self.id, int(percent), _note(text))

    def usage(self, in_=0, out=0, cache=None, usd=None):
        self._wire.say("USAGE", self.id, f"in={in_}", f"out={out}",
                       "" if cache is None else f"cache={cache}", "" if usd is None else f"usd={usd}")

    def log(self, text):
        _log(text)


class _Wire:
    def __init__(self, **functions):
        self._functions = functions
        self._in, self._out = os.dup(0), os.dup(1)  # Python's dup is close-on-exec
        self._rest, self._lines = b"", []
        #: lines that were read by a poll and are for the loop
        self._later = []
        #: instructions by task, and the checkpoint of the next one
        self.told, self.saved = {}, None
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        sys.stdout.flush()  # what was printed before is not protocol: after the dup2 it goes to stderr
        sys.stdout = sys.stderr
        for doorbell in (signal.SIGUSR1, signal.SIGUSR2):
            # Not ignored: that would be inherited, and a tool that is a shell could not trap it.
            if signal.getsignal(doorbell) is signal.SIG_DFL:
                signal.signal(doorbell, lambda *_: None)

    def abilities(self):
        return [name for name in ("checkpoint", "restore", "inject", "pause") if self._functions[name]]

    def lines(self):
        while True:
            if self._later:
                yield self._later.pop(0)
                continue
            line = self._next()
            if line is None:
                break
            yield line
        if self._rest:
            _log("hive.py: ignored half a line at the end of input")

    def _next(self):
        """The next line from the pipe; None at its end."""
        while not self._lines:
            chunk = os.read(self._in, 65536)
            if not chunk:
                return None
            *self._lines, self._rest = (self._rest + chunk).split(b"\n")
        return self._lines.pop(0)

    def poll(self, task):
        while self._lines or select.select([self._in], [], [], 0)[0]:
            line = self._next()
            if line is None:
                raise Cancelled("the end of input")
            self._steer(task, line)

    def _steer(self, task, line):
        """Do what a line asks of the task that runs; keep it if it is not about that."""
        verb, _, rest = line.partition(b" ")
        id, _, text = rest.partition(b" ")
        id = id.decode("utf-8", "surrogateescape")
        if verb == b"CHECKPOINT":
            self.save(task, id)
        elif id != task.id or verb not in (b"INJECT", b"PAUSE", b"RESUME", b"CANCEL"):
            self._later.append(line)
        elif verb == b"INJECT":
            self._tell(task, text)
        elif verb == b"CANCEL":
            raise Cancelled("cancelled")
        elif verb == b"PAUSE" and self._functions["pause"]:
            self._pause(task)

    def save(self, task, barrier):
        function = self._functions["checkpoint"]
        self._write(b" ".join(filter(None, (b"CHECKPOINTED", barrier.encode(), _result(function and function(task))))))

    def _pause(self, task):
        id = task.id.encode("utf-8", "surrogateescape")
        paused = b" ".join(filter(None, (b"PAUSED", id, _result(self._functions["pause"](task)))))
        self._write(paused)
        while True:
            line = self._next()
            if line is None:
                raise Cancelled("the end of input")
            verb, _, rest = line.partition(b" ")
            of, _, text = rest.partition(b" ")
            if verb == b"RESUME" and of == id:
                if text:
                    self._tell(task, text)
                return
            if verb == b"PAUSE" and of == id:
                self._write(paused)
            else:
                self._steer(task, line)

    def _tell(self, task, text):
        if self._functions["inject"]:
            self._functions["inject"](task, _content(text).decode("utf-8", "surrogateescape"))

    def say(self, *fields):
        self._write(" ".join(str(field) for field in fields if field != "").encode("utf-8", "surrogateescape"))

    def answer(self, handler, task):
        os.environ["HIVE_TASK"] = task.id
        for name, path in task.contexts.items():  # for tools: HIVE_CONTEXT_NOTES is where `notes` is
            os.environ["HIVE_CONTEXT_" + re.sub("[^A-Z0-9]", "_", name.upper())] = path or ""
        saved, self.saved = self.saved, None
        try:
            if saved is not None and self._functions["restore"]:
                self._functions["restore"](task, _content(saved).decode("utf-8", "surrogateescape"))
            for text in self.told.pop(task.id, ()):
                self._tell(task, text)
            result = _result(handler(task))
        except (Exception, SystemExit) as error:  # a handler that calls sys.exit fails its task, not the agent
            traceback.print_exc()
            self.say("FAIL", task.id, _note(error) or type(error).__name__)
        else:
            self._write(b" ".join(filter(None, (b"DONE", task.id.encode("utf-8", "surrogateescape"), result))))
        finally:
            del os.environ["HIVE_TASK"]

    def _write(self, line):
        os.write(self._out, line + b"\n")


def _result(value):
    """The result as it goes on the line: itself where that is one short line of text, else its reference."""
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if value is None:
        return b""
    if not isinstance(value, bytes):
        raise TypeError(f"the handler returned {type(value).__name__}, not str, bytes or None")
    # A text that looks like a reference is stored, so that it comes out as it went in.
    if len(value) <= RESULT_INLINE_MAX and not re.search(rb"[\n\0]", value) and not REFERENCE.fullmatch(value):
        try:
            value.decode()
            return value
        except UnicodeDecodeError:
            pass
    return _store(value)


def _content(field):
    path = _path(field)
    return field if path is None else _read(path)


def _store(content):
    digest = hashlib.sha256(content).hexdigest()
    root = os.environ["HIVE_CONTEXT"]
    scratch, folder = os.path.join(root, "tmp"), os.path.join(root, digest[:2])
    for path in scratch, folder:
        os.makedirs(path, mode=0o700, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=scratch)  # made 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.rename(temporary, os.path.join(folder, digest[2:]))
    except BaseException:
        os.unlink(temporary)
        raise
    return b"REF:" + digest.encode()


def _path(reference):
    match = REFERENCE.fullmatch(reference)
    return match and os.path.join(os.environ["HIVE_CONTEXT"], match[1].decode(), match[2].decode())


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _note(text):
    """What of a text fits beside other fields: one line, short, UTF-8."""
    return " ".join(str(text).split()).encode("utf-8", "replace")[:NOTE_MAX].decode("utf-8", "ignore")


def _log(text):
    print(text, file=sys.stderr, flush=True)
