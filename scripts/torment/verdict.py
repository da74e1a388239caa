"""What a hive's log, its agents' own notes and its clients say, held against the promises."""

import hashlib
import json
import re
import zlib
from collections import Counter

ENDS = ("done", "failed", "cancelled")
# Shell tasks that fail by their own doing.
FAILING = re.compile(r"exit 3|kill -9 \$\$|kill -TERM 0|sleep 60")


class Log:
    """The event log, read byte by byte: each record whole, in order, and of no lower term than the one before."""

    def __init__(self, hive, tally):
        self.hive, self.tally = hive, tally
        self.submitted, self.ends, self.assigned, self.led = {}, {}, Counter(), []
        self.count, term = 0, 0
        for path in sorted(hive.events.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                record = self.whole(path.name, line)
                if record is None:
                    continue
                if record["seq"] != self.count + 1:
                    tally.breaks(f"{path.name}: seq {record['seq']} follows {self.count}")
                if record["term"] < term:
                    tally.breaks(f"{path.name}: seq {record['seq']} is of term {record['term']}, after term {term}")
                self.count, term = record["seq"], max(term, record["term"])
                self.take(record)

    def whole(self, name, line):
        body, mark, crc = line.rpartition(b',"crc":"')
        if not mark or crc != b'%08x"}' % zlib.crc32(body):
            self.tally.breaks(f"{name}: not whole: {line[:100]!r}")
            return None
        return json.loads(line)

    def take(self, record):
        kind = record["kind"]
        if kind == "led":
            self.led.append(record)
        elif kind == "submitted":
            self.submitted[record["task"]] = record
        elif kind == "assigned":
            self.assigned.update(record.get("tasks") or [record["task"]])
        elif kind in ENDS:
            self.ends.setdefault(record["task"], []).append(record)

    def result(self, end):
        field = end.get("result", "")
        if not field.startswith("REF:"):
            return field
        digest = field.removeprefix("REF:")
        content = (self.hive.folder / "context" / digest[:2] / digest[2:]).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            self.tally.breaks(f"task {end['task']}: its result is not what its reference says")
        return content.decode(errors="replace").removesuffix("\n")


def judge(hive, accepted, runs, excused, tally):
    """`accepted`: numbers that clients were given. `runs`: (nonce, code, stdout, stderr) of `run` clients.
    `excused`: the hive was away for a while, so that a client may have given up."""
    log = Log(hive, tally)
    judge_ends(log, accepted, tally)
    judge_attempts(hive, log, tally)
    judge_runs(log, runs, excused, tally)
    return log


def judge_ends(log, accepted, tally):
    for task in sorted(accepted - log.submitted.keys()):
        tally.count("lost")
        tally.breaks(f"task {task} was acknowledged and is not in the log")
    texts = Counter(record.get("text") for record in log.submitted.values())
    for text in [text for text, times in texts.items() if times > 1]:
        tally.count("doubled")
        tally.breaks(f"asked for once, accepted {texts[text]} times: {text!r}")
    for task, record in log.submitted.items():
        ends = log.ends.get(task, [])
        tally.count("accepted")
        if not ends:
            tally.count("lost")
            tally.breaks(f"task {task} was accepted and has not ended: {record.get('text')!r}")
            continue
        tally.count("ended")
        tally.count(ends[0]["kind"])
        if len(ends) > 1:
            tally.count("doubled")
            tally.breaks(f"task {task} ended {len(ends)} times in the log")
        judge_end(log, record, ends[0], tally)


def judge_end(log, record, end, tally):
    task, text = record["task"], record.get("text", "")
    if end["kind"] == "done":
        result, expected = log.result(end), expected_of(text)
        last = result if log.hive.kind != "shell" else result.rpartition("\n")[2]
        if expected is not None and last != expected:
            tally.breaks(f"task {task}: its result ends in {last[:80]!r} and should in {expected[:80]!r}")
        if FAILING.search(text):
            tally.breaks(f"task {task} is done, and cannot be: {text!r}")
    elif end["kind"] == "failed":
        # A workload that was killed, a task whose agents died, one out of time, or one that fails by itself.
        reasons = end.get("signal") == 9 or end.get("by_hive") or end.get("timed_out") or FAILING.search(text)
        if not reasons:
            tally.breaks(f"task {task} failed for no reason: {end}")


def expected_of(text):
    """The last line of what a task answers, where it answers."""
    if text.startswith("echo $HIVE_TASK"):
        answer = re.search(r" echo (answer-\S+)$", text)
        return answer and answer[1]
    return text.upper()


def judge_attempts(hive, log, tally):
    """A text ran no more often than its attempts say. `shell` tasks note (id, attempt), `lines` agents the id."""
    notes = hive.ran.read_text().splitlines() if hive.ran.exists() else []
    times = Counter(notes)
    for note, count in times.items():
        task, *attempt = map(int, note.split())
        allowed = 1 if attempt else log.assigned[task]
        at_most_once = log.submitted.get(task, {}).get("retries") == 0
        if count > allowed or (at_most_once and (count > 1 or attempt > [1])):
            tally.count("doubled")
            tally.breaks(f"task {task} ran {count} times (attempt {attempt or '?'}), and may {allowed} times")
    ran = {int(note.split()[0]) for note in notes}
    for task, ends in log.ends.items():
        if ends[0]["kind"] == "done" and task not in ran:
            tally.breaks(f"task {task} is done and never ran")


def judge_runs(log, runs, excused, tally):
    by_nonce = {}
    for task, record in log.submitted.items():
        by_nonce[nonce_of(record.get("text", ""))] = task
    for nonce, code, out, err in runs:
        task = by_nonce.get(nonce)
        end = log.ends.get(task, [None])[0]
        tally.count("run clients")
        if code is None:
            tally.breaks(f"run {nonce} (task {task}) never came back")
        elif task is None or end is None:
            # Refused, and so without a promise. But nobody may say that it went well.
            tally.count("run clients refused")
            if code == 0:
                tally.breaks(f"run {nonce} says it is done, and the log does not know it")
        elif end["kind"] == "done":
            if code != 0 and excused:
                tally.count("run clients that gave up")
            elif code != 0 or out != log.result(end) + "\n":
                tally.breaks(f"run {nonce}: task {task} is done, the client says {code}: {out[-80:]!r} {err[-200:]!r}")
        elif code == 0:
            tally.breaks(f"run {nonce}: task {task} {end['kind']}, the client says it is done")


def nonce_of(text):
    found = re.search(r"\S+$", text)
    return found and found[0].removeprefix("answer-")
