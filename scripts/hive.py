"""hive.py: write an agent of kind `lines` in Python (3.8 or newer, standard library only).

    from hive import serve
    serve(lambda task: task.text.upper())

The handler gets a Task and returns str, bytes or None; an exception fails the task with its message.
Long, binary and multi-line results go by reference by themselves.

Owns the wire of one agent: whole lines, each one write(2), on descriptors that no tool inherits. While serving,
descriptor 0 is empty and descriptor 1 is stderr, so neither print() nor a subprocess can eat or corrupt a line.
Invariant: one thread reads and handles the lines in order, so a PONG says that every task sent before the PING is
answered, and an agent that is blocked reading its wire has nothing left to do.
"""

import hashlib
import os
import re
import signal
import sys
import tempfile
import traceback
import typing

RESULT_INLINE_MAX = 2048
NOTE_MAX = 500
REFERENCE = re.compile(rb"REF:([0-9a-f]{2})([0-9a-f]{62})")


def serve(handler, *, labels=()):
    """Answer tasks with handler(task) until STOP or the end of input."""
    wire = _Wire()
    contexts = {}

    def task(id, text):
        wire.answer(handler, Task(id, text, contexts, wire))

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
    }
    # What the supervisor may send to an agent that declared nothing, and that needs no answer from it.
    verbs.update(dict.fromkeys(b"CANCEL CHECKPOINT INJECT PAUSE RESTORE RESUME".split(), lambda *_: None))

    wire.say("READY", *labels)
    for line in wire.lines():
        verb, _, rest = line.partition(b" ")
        if verb == b"STOP":
            break
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
        self._inline, self._contexts, self._wire = text, contexts, wire

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
    def __init__(self):
        self._in, self._out = os.dup(0), os.dup(1)  # Python's dup is close-on-exec
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

    def lines(self):
        rest = b""
        while True:
            chunk = os.read(self._in, 65536)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            _log("hive.py: ignored half a line at the end of input")

    def say(self, *fields):
        self._write(" ".join(str(field) for field in fields if field != "").encode("utf-8", "surrogateescape"))

    def answer(self, handler, task):
        os.environ["HIVE_TASK"] = task.id
        for name, path in task.contexts.items():  # for tools: HIVE_CONTEXT_NOTES is where `notes` is
            os.environ["HIVE_CONTEXT_" + re.sub("[^A-Z0-9]", "_", name.upper())] = path or ""
        try:
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
