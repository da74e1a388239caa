//! The board: what it shows is so, is shown before anybody is told, and is never half written.

use hive::store::{Board, Folders};
use serde_json::Value;

use super::takeover::kill_supervisor;
use crate::harness::{Cmd, Hive, python, wait_until};

fn folders(hive: &Hive) -> Folders {
    let context = hive.kept().parent().unwrap().join("context");
    Folders { hive: "default".into(), live: hive.live(), kept: hive.kept(), context }
}

fn stats(hive: &Hive) -> Value {
    hive.json(["stats"])
}

/// Says the same number three times, so that half a row can be told.
const COUNTS: &str = "echo READY
n=0
while IFS= read -r line; do
    read -r verb id _ <<<\"$line\"
    [[ $verb == TASK ]] || continue
    n=$((n + 1))
    echo \"PROGRESS $id $((n % 100))\"
    echo \"USAGE $id in=$n out=$n cache=$n usd=0.000001\"
    echo \"DONE $id\"
done";

/// Reads the board by what PROTOCOL.md says of it, and nothing else. Prints how often, until its stdin ends.
const READER: &str = r#"
import mmap, os, select, struct, sys, time

fd = os.open(sys.argv[1], os.O_RDONLY)
board = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
magic, hive_at, hive_bytes, rows_at, row_bytes, rows, closed = struct.unpack_from("<8s6Q", board, 0)
assert magic == b"HIVEBD01", magic

def block(at, length):
    while True:
        before, = struct.unpack_from("<Q", board, at)
        copy = board[at : at + length]
        if before % 2 == 0 and struct.unpack_from("<Q", board, at)[0] == before:
            return copy

reads, seen = 0, set()
print("begun", flush=True)
while not select.select([0], [], [], 0)[0]:
    hive = block(hive_at, hive_bytes)
    _, updated, pid, term, since = struct.unpack_from("<5Q", hive, 0)
    state = hive[40:56].rstrip(b"\0").decode()
    agents, queued, running, done, failed, cancelled, last, records = struct.unpack_from("<8Q", hive, 56)
    assert (state, agents) == ("running", 2), (state, agents)
    assert queued + running + done + failed + cancelled == last, struct.unpack("<24Q", hive)
    for n in range(1, agents + 1):
        row = block(rows_at + (n - 1) * row_bytes, row_bytes)
        number, = struct.unpack_from("<Q", row, 8)
        state = row[16:32].rstrip(b"\0").decode()
        task, since, progress, held, pid, workload, restarts, heard = struct.unpack_from("<8Q", row, 32)
        tokens = struct.unpack_from("<4Q", row, 96)
        asked, sent = struct.unpack_from("<2Q", row, 128)
        assert number == n and pid > 0 and workload > 0, struct.unpack("<24Q", row)
        assert (state == "busy") == (task != 0) == (held != 0), (state, task, held)
        assert tokens[0] == tokens[1] == tokens[2] and (task == 0 or task <= last + 256), (tokens, task)
        seen.add((n, tokens[0]))
    reads += 1
print(reads, len(seen), done)
"#;

#[test]
fn a_reader_that_knows_the_layout_alone_never_sees_half_a_row() {
    let hive = Hive::start(["-n", "2", "--kind", "lines", "--prefetch", "8", "--", "bash", "-c", COUNTS]);
    let board = hive.live().join("board");
    let mut reader = Cmd::new(python(), [hive.write("reader.py", READER)]).args([&board]).open_stdin().spawn();
    reader.wait_for_out("begun");
    let tasks = "x\n".repeat(2000);
    hive.cmd(["submit", "--stdin"]).stdin(tasks).run().exits(0);
    hive.run(["wait", "--all"]).prints("2000 done, 0 failed, 0 cancelled\n");
    reader.write(b"\n");
    let out = reader.ends().exits(0).out();
    let numbers: Vec<u64> = out.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    assert!(numbers[0] > 20 && numbers[1] > 20, "it read {} times and saw {} rows", numbers[0], numbers[1]);
}

#[test]
fn the_board_shows_what_the_supervisor_answers() {
    let hive = Hive::lines(
        "echo READY; read -r _ id _; echo \"USAGE $id in=3 out=4 usd=0.5\"; echo \"PROGRESS $id 41\"; read -r x",
    );
    let task = hive.submit("x");
    wait_until("it is on its way", || hive.task(task)["percent"] == 41);
    let (stats, status) = (stats(&hive), hive.status());
    for field in ["queued", "running", "done", "failed", "cancelled"] {
        assert_eq!(stats["tasks"][field], status["tasks"][field], "{field}");
    }
    for field in ["pid", "term", "since"] {
        assert_eq!(stats["supervisor"][field], status["supervisor"][field], "{field}");
    }
    let of = |value: &Value, n: usize| value["agents"][n].clone();
    for n in 0..2 {
        for field in ["id", "state", "task", "pid", "workload", "since", "restarts"] {
            assert_eq!(of(&stats, n)[field], of(&status, n)[field], "agent {}: {field}", n + 1);
        }
        assert!(of(&stats, n)["heard"].is_string());
    }
    let busy = stats["agents"].as_array().unwrap().iter().find(|a| a["state"] == "busy").unwrap();
    assert_eq!((&busy["percent"], &busy["tokens"]["in"], &busy["tokens"]["usd"]), (&41.into(), &3.into(), &0.5.into()));
    assert_eq!(stats["tokens"]["out"], 4);
    let shown = hive.run(["stats"]).exits(0).out();
    assert!(shown.contains("41 %") && shown.contains("0.500000 USD"), "{shown}");
}

#[test]
fn what_one_is_told_is_on_the_board_already() {
    let hive = Hive::start(["-n", "2"]);
    let mut board = Board::open(&folders(&hive)).unwrap();
    for done in 1..=30 {
        hive.run(["run", "true"]).exits(0);
        let shown = board.hive().unwrap();
        assert_eq!((shown.done, shown.running), (done, 0));
        assert!(board.agents().unwrap().iter().all(|agent| agent.state.as_str() == "idle"));
    }
}

#[test]
fn a_reader_goes_along_with_growth_and_a_new_leader_and_a_new_file() {
    let hive = Hive::start(["-n", "1"]);
    let mut board = Board::open(&folders(&hive)).unwrap();
    hive.run(["pool", "scale", "50"]).exits(0);
    let numbers = |board: &mut Board| board.agents().unwrap().iter().map(|agent| agent.id).collect::<Vec<_>>();
    assert_eq!(numbers(&mut board), (1..=50).collect::<Vec<_>>());
    hive.run(["pool", "scale", "2"]).exits(0);
    wait_until("the others have left", || numbers(&mut board) == [1, 2]);

    kill_supervisor(&hive);
    assert_eq!(stats(&hive)["led"], false);
    assert!(hive.run(["stats"]).exits(0).out().contains("dead"));
    hive.pool_start::<&str>([]).exits(0);
    assert_eq!((board.hive().unwrap().term, stats(&hive)["led"].clone()), (2, true.into()));

    std::fs::remove_file(hive.live().join("board")).unwrap();
    wait_until("it is made again", || hive.live().join("board").exists());
    hive.run(["run", "true"]).exits(0);
    assert_eq!(numbers(&mut board), [1, 2]);
    assert_eq!(board.hive().unwrap().done, 1);

    hive.run(["pool", "stop"]).exits(0);
    assert!(board.hive().is_err());
    hive.run(["stats"]).exits(3).mentions("no hive");
}

#[test]
fn prometheus_gets_families_with_their_samples_together() {
    let hive = Hive::start(["-n", "2"]);
    hive.run(["run", "false"]).exits(1);
    let text = hive.run(["stats", "--prometheus"]).exits(0).out();
    let mut family = "";
    let mut known = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap();
            assert!(!known.contains(&family), "{family} comes twice");
            known.push(family);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name == family && ["gauge", "counter"].contains(&kind), "{line}");
        } else {
            let (name, rest) = line.split_once("{hive=\"default\"").unwrap_or_else(|| panic!("{line}"));
            assert_eq!(name, family, "{line}");
            rest.rsplit_once("} ").unwrap().1.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        }
    }
    for sample in [
        "hive_up{hive=\"default\"} 1\n",
        "hive_ended_total{hive=\"default\",state=\"failed\"} 1\n",
        "hive_agent_state{hive=\"default\",agent=\"2\",state=\"idle\"} 1\n",
    ] {
        assert!(text.contains(sample), "{sample} is not in {text}");
    }
}
