//! The pipes themselves: what a shell writes into `ctl` and reads back, and what garbage does there: nothing.

use std::fs;

use crate::harness::{Hive, Raw, noise, wait_until};

#[test]
fn the_shell_lines_of_the_design_work() {
    let hive = Hive::start(["-n", "1"]);
    let shell = hive.bash(
        r#"mkfifo "$LIVE/replies/me"; exec 3<>"$LIVE/replies/me"
        echo '{"op":"run","text":"echo hi","reply":"me","tag":1}' >"$LIVE/ctl"; read -r answer <&3
        printf '%s\n' "$answer"; rm "$LIVE/replies/me""#,
    );
    shell.prints("{\"tag\":1,\"ok\":true,\"id\":1,\"state\":\"done\",\"result\":\"hi\",\"exit\":0,\"attempt\":1,\"agent\":1}\n").exits(0);
}

#[test]
fn the_short_form_submits_and_cancels() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.bash(&format!("echo 'submit {}' >$LIVE/ctl", gate.wait())).exits(0);
    gate.wait_for(1);
    hive.bash(
        "echo submit echo  two  blanks >$LIVE/ctl; echo 'submit echo third' >$LIVE/ctl; echo cancel 2 >$LIVE/ctl",
    )
    .exits(0);
    gate.open(1);
    hive.run(["wait", "3"]).prints("3 done\n").exits(0);
    let states: Vec<_> = hive.tasks().iter().map(|t| t["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["done", "cancelled", "done"]);
}

#[test]
fn a_tag_comes_back_as_it_was() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    for tag in ["1", "\"x\"", "null", "[1,{\"a\":\"}\"}]", "1.50", "{\"b\" : true}"] {
        raw.send(&format!("\"op\":\"run\",\"text\":\"true\",\"tag\":{tag}"));
        let line = raw.answer_line();
        assert!(line.starts_with(&format!("{{\"tag\":{tag},\"ok\":true,")), "{line}");
    }
    raw.send("\"op\":\"submit\",\"text\":\"true\"");
    assert!(raw.answer_line().starts_with("{\"tag\":null,\"ok\":true,\"id\":7}"));
}

#[test]
fn many_requests_may_be_under_way_on_one_reply_pipe() {
    let hive = Hive::start(["-n", "3"]);
    let mut raw = hive.raw("me");
    for n in 0..100 {
        raw.send(&format!("\"op\":\"run\",\"text\":\"echo {n}\",\"tag\":{n}"));
    }
    let mut answers: Vec<(u64, String)> = (0..100)
        .map(|_| raw.answer())
        .map(|a| (a["tag"].as_u64().unwrap(), a["result"].as_str().unwrap().to_owned()))
        .collect();
    answers.sort();
    assert_eq!(answers, (0..100).map(|n| (n, n.to_string())).collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    for (fields, code, part) in [
        ("\"op\":\"frobnicate\"", "bad-request", "unknown \\\"op\\\" \\\"frobnicate\\\""),
        ("\"tag\":1", "bad-request", "\\\"op\\\" is missing"),
        ("\"op\":\"run\"", "bad-request", "\\\"text\\\" is missing"),
        ("\"op\":\"run\",\"text\":5", "bad-request", "text"),
        ("\"op\":\"run\",\"text\":\"x\",\"timeout\":-1", "bad-request", "timeout"),
        ("\"op\":\"run\",\"text\":\"x\",\"priority\":\"high\"", "bad-request", "priority"),
        ("\"op\":\"run\",\"text\":\"x\",\"retries\":100000", "bad-request", "retries"),
        ("\"op\":\"run\",\"text\":\"x\",\"labels\":[\"a b\"]", "bad-request", "a label"),
        ("\"op\":\"run\",\"text\":\"x\",\"labels\":[\"gpu\"]", "no-such-label", "gpu"),
        ("\"op\":\"run\",\"text\":\"x\",\"agent\":9", "no-such-agent", "no agent 9: this pool has agent 1 alone"),
        ("\"op\":\"run\",\"text\":\"a\\u0000b\"", "bad-request", "NUL"),
        ("\"op\":\"wait\",\"id\":77", "no-such-task", "no task 77"),
        ("\"op\":\"cancel\"", "bad-request", "needs an"),
        ("\"op\":\"scale\",\"n\":99999", "bad-request", "at most"),
        ("\"op\":\"pool-start\",\"n\":1", "already-running", "has a pool already"),
        ("\"op\":\"stop\",\"mode\":\"gently\"", "bad-request", "mode"),
    ] {
        raw.send(fields);
        let line = raw.answer_line();
        assert!(line.contains("\"ok\":false"), "{fields}: {line}");
        assert!(line.contains(&format!("\"code\":\"{code}\"")) && line.contains(part), "{fields}: {line}");
    }
    assert_eq!(hive.tasks().len(), 0);
    assert_eq!(raw.ask("\"op\":\"run\",\"text\":\"echo hi\"")["result"], "hi");
}

#[test]
fn a_request_without_a_reply_is_done_all_the_same() {
    let hive = Hive::start(["-n", "1"]);
    hive.bash("echo '{\"op\":\"run\",\"text\":\"echo hi\"}' >$LIVE/ctl").exits(0);
    wait_until("it is done", || hive.status()["tasks"]["done"] == 1);
    hive.run(["result", "1"]).prints("hi\n").exits(0);
}

#[test]
fn a_reply_pipe_that_is_not_there_or_has_no_reader_costs_only_the_answer() {
    let hive = Hive::start(["-n", "1"]);
    hive.bash("mkfifo $LIVE/replies/nobody").exits(0);
    for name in ["missing", "nobody"] {
        hive.bash(&format!("echo '{{\"op\":\"run\",\"text\":\"echo hi\",\"reply\":\"{name}\"}}' >$LIVE/ctl")).exits(0);
    }
    wait_until("both are done", || hive.status()["tasks"]["done"] == 2);
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
    hive.bash("rm $LIVE/replies/nobody").exits(0);
}

#[test]
fn a_reply_name_cannot_leave_its_folder_or_hit_a_file() {
    let hive = Hive::start(["-n", "1"]);
    let plain = hive.live().join("replies/plain");
    fs::write(&plain, "").unwrap();
    let target = hive.write("target", "");
    std::os::unix::fs::symlink(&target, hive.live().join("replies/link")).unwrap();
    for name in ["plain", "link", "../ctl", "..", "/etc/passwd", ""] {
        hive.bash(&format!("echo '{{\"op\":\"run\",\"text\":\"echo hi\",\"reply\":\"{name}\"}}' >$LIVE/ctl")).exits(0);
    }
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
    assert_eq!(fs::read_to_string(&plain).unwrap(), "");
    assert_eq!(hive.read("target"), "");
}

#[test]
fn a_reply_pipe_may_be_made_anew_under_the_same_name() {
    let hive = Hive::start(["-n", "1"]);
    for n in 0..3 {
        let mut raw = hive.raw("me");
        assert_eq!(raw.ask(&format!("\"op\":\"run\",\"text\":\"echo {n}\""))["result"], n.to_string());
    }
}

#[test]
fn a_client_that_never_reads_costs_nobody_else_anything() {
    let hive = Hive::start(["-n", "2"]);
    hive.cmd(["submit", "--stdin"]).stdin("true\n".repeat(500)).run().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    let mut silent = hive.raw("silent");
    // Each answer is a page of more than its pipe takes.
    for n in 0..20 {
        silent.send("\"op\":\"tasks\"");
        hive.run(["run".to_owned(), format!("echo {n}")]).prints(format!("{n}\n")).exits(0);
    }
    // What it is owed comes when it reads after all.
    assert!(silent.answer_line().len() > 64 * 1024);
}

#[test]
fn a_client_that_never_reads_is_cut_off_before_it_costs_much() {
    let hive = Hive::start(["-n", "1"]);
    hive.cmd(["submit", "--stdin"]).stdin("true\n".repeat(500)).run().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    let mut silent = hive.raw("silent");
    for _ in 0..200 {
        silent.send("\"op\":\"tasks\"");
    }
    wait_until("it is cut off", || hive.status()["clients_cut"].as_u64().unwrap() >= 1);
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
}

// ---- garbage ----

/// Others are served, and in time; the supervisor is the same as before.
#[track_caller]
fn still_serves(hive: &Hive, supervisor: i32) {
    hive.run(["run", "echo hi"]).prints("hi\n").says("").exits(0);
    assert_eq!(hive.supervisor(), supervisor);
}

#[test]
fn a_megabyte_of_noise_changes_nothing_for_others() {
    let hive = Hive::start(["-n", "1"]);
    let supervisor = hive.supervisor();
    let gate = hive.gate();
    let task = hive.spawn(["run", &gate.then("echo unharmed")]);
    gate.wait_for(1);
    hive.raw("me").write(&noise(1024 * 1024, 7));
    still_serves_beside(&hive, supervisor);
    gate.open(1);
    task.ends().prints("unharmed\n").exits(0);
    still_serves(&hive, supervisor);
}

/// The only agent is busy: what can be asked is the status.
fn still_serves_beside(hive: &Hive, supervisor: i32) {
    assert_eq!(hive.supervisor(), supervisor);
    assert_eq!(hive.status()["tasks"]["running"], 1);
}

#[test]
fn noise_of_a_shell_pipe_changes_nothing_for_others() {
    let hive = Hive::start(["-n", "1"]);
    let supervisor = hive.supervisor();
    hive.bash("head -c 1048576 /dev/urandom >$LIVE/ctl").exits(0);
    still_serves(&hive, supervisor);
    hive.run(["tasks"]).exits(0);
}

#[test]
fn broken_lines_are_counted_and_nothing_else() {
    let hive = Hive::start(["-n", "1"]);
    let supervisor = hive.supervisor();
    let mut raw = hive.raw("me");
    let lines: [&[u8]; 12] = [
        b"\0",
        b"\0\0\0 submit x",
        b"submit a\xff\xfe",
        b"submit",
        b"frobnicate 2",
        b"{",
        b"{\"op\":\"run\"",
        b"{\"op\":\"run\",\"text\":\"x\"} trailing",
        b"{\"op\":\"run\",\"text\":\"\xff\"}",
        b"{\"op\":\"run\",\"text\":\"\\ud800\"}",
        b"cancel",
        b"cancel minus one",
    ];
    for line in lines {
        raw.write(&[line, b"\n"].concat());
    }
    assert_eq!(raw.ask("\"op\":\"status\"")["malformed"], lines.len());
    assert_eq!(hive.tasks().len(), 0);
    still_serves(&hive, supervisor);
}

#[test]
fn empty_lines_are_nothing_at_all() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    raw.write(b"\n\n\n");
    assert_eq!(raw.ask("\"op\":\"status\"")["malformed"], 0);
    raw.write(b"{\"op\":\"run\",\"text\":\"echo hi\",\"reply\":\"me\"}\r\n");
    assert_eq!(raw.answer()["result"], "hi");
}

#[test]
fn deeply_nested_json_is_refused() {
    let hive = Hive::start(["-n", "1"]);
    let supervisor = hive.supervisor();
    let mut raw = hive.raw("me");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 1800 / open.len();
        let tag = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        raw.send(&format!("\"op\":\"run\",\"text\":\"true\",\"tag\":{tag}"));
    }
    still_serves(&hive, supervisor);
}

/// A request of exactly `len` bytes with its newline.
fn request_of(len: usize, name: &str) -> Vec<u8> {
    let (head, tail) = (format!("{{\"op\":\"run\",\"reply\":\"{name}\",\"text\":\"echo hi #"), "\"}\n");
    let padding = "x".repeat(len - head.len() - tail.len());
    let line = format!("{head}{padding}{tail}").into_bytes();
    assert_eq!(line.len(), len);
    line
}

#[test]
fn a_line_may_have_4096_bytes_and_not_one_more() {
    let hive = Hive::start(["-n", "1"]);
    let supervisor = hive.supervisor();
    let mut raw = hive.raw("me");
    for len in [4095, 4096] {
        raw.write(&request_of(len, "me"));
        assert_eq!(raw.answer()["result"], "hi", "{len} bytes");
    }
    raw.write(&request_of(4097, "me"));
    raw.write(&request_of(20_000, "me"));
    let status = raw.ask("\"op\":\"status\"");
    assert_eq!((&status["malformed"], &status["tasks"]["done"]), (&2.into(), &2.into()));
    assert!(!raw.has_more());
    still_serves(&hive, supervisor);
}

#[test]
fn a_line_of_a_megabyte_is_one_malformed_line() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    raw.write(&vec![b'a'; 1024 * 1024]);
    raw.write(b"\n");
    assert_eq!(raw.ask("\"op\":\"status\"")["malformed"], 1);
}

#[test]
fn half_a_line_and_silence_hold_nobody_up() {
    let hive = Hive::start(["-n", "1"]);
    let mut slow = hive.raw("slow");
    slow.write(b"{\"op\":\"run\",\"text\":");
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
    hive.run(["run", "echo again"]).prints("again\n").exits(0);
}

#[test]
fn a_line_that_comes_in_pieces_is_one_line() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    let line = request_of(300, "me");
    for piece in line.chunks(7) {
        raw.write(piece);
        // Whoever reads here has seen all that was written before.
        wait_until("the pipe is empty", || pipe_is_empty(&hive));
    }
    assert_eq!(raw.answer()["result"], "hi");
}

fn pipe_is_empty(hive: &Hive) -> bool {
    use std::os::fd::AsRawFd;
    let ctl = fs::OpenOptions::new().write(true).open(hive.live().join("ctl")).unwrap();
    let mut waiting: nix::libc::c_int = -1;
    nix::ioctl_read_bad!(fionread, nix::libc::FIONREAD, nix::libc::c_int);
    // SAFETY: FIONREAD writes one int to where it is told to.
    unsafe { fionread(ctl.as_raw_fd(), &raw mut waiting) }.unwrap();
    waiting == 0
}

#[test]
fn garbage_without_a_newline_does_not_swallow_the_next_request() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    raw.write(b"no newline here");
    assert_eq!(raw.ask("\"op\":\"run\",\"text\":\"echo one\"")["result"], "one");
    raw.write(b"{\"op\":\"run\",");
    hive.run(["run", "echo two"]).prints("two\n").exits(0);
    raw.write(&noise(5000, 3).into_iter().filter(|b| *b != b'\n').collect::<Vec<_>>());
    hive.run(["run", "echo three"]).prints("three\n").exits(0);
}

#[test]
fn what_stands_within_a_broken_line_is_not_obeyed() {
    let hive = Hive::start(["-n", "1"]);
    let supervisor = hive.supervisor();
    let mut raw = hive.raw("me");
    // Somebody's text, with a byte that is not UTF-8 and a request quoted in it.
    raw.write(b"submit echo \xff {\"op\":\"stop\",\"mode\":\"now\"}\n");
    raw.write(&[b"submit echo ", &[b'x'; 5000][..], b"{\"op\":\"stop\",\"mode\":\"now\"}\n"].concat());
    still_serves(&hive, supervisor);
}

#[test]
fn several_writers_of_whole_lines_never_tear_each_other() {
    let hive = Hive::start(["-n", "2"]);
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let mut raw: Raw = hive.raw(&format!("writer{w}"));
            std::thread::spawn(move || {
                for _ in 0..50 {
                    raw.write(&request_of(4096, &format!("writer{w}")));
                }
                (0..50).filter(|_| raw.answer()["result"] == "hi").count()
            })
        })
        .collect();
    for writer in writers {
        assert_eq!(writer.join().unwrap(), 50);
    }
    assert_eq!(hive.status()["malformed"], 0);
}
