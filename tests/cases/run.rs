//! `run` with shell agents: the result byte for byte, stderr, and the exit code.

use crate::harness::{Hive, noise, peak_memory};

#[test]
fn a_task_prints_its_result() {
    let hive = Hive::start(["-n", "4"]);
    hive.run(["run", "echo", "hi"]).prints("hi\n").says("").exits(0);
}

#[test]
fn words_are_joined_by_blanks() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo", "-n", "a", "  b"]).prints("a b").exits(0);
    hive.run(["run", "echo 'a   b'"]).prints("a   b\n").exits(0);
    hive.run(["run", "--", "echo", "--agent"]).prints("--agent\n").exits(0);
}

#[test]
fn short_results_come_byte_for_byte() {
    let hive = Hive::start(["-n", "1"]);
    for (script, expected) in [
        ("true", &b""[..]),
        ("printf x", b"x"),
        ("echo", b"\n"),
        ("printf '\\n\\n'", b"\n\n"),
        ("printf 'a\\nb'", b"a\nb"),
        ("printf 'a\\r\\n'", b"a\r\n"),
        ("printf ' a '", b" a "),
        ("printf '\"\\\\'", b"\"\\"),
        ("printf '\\000'", b"\0"),
        ("printf '\\377\\376\\n'", b"\xff\xfe\n"),
        ("printf '\\033[1m'", b"\x1b[1m"),
        ("printf 'gr\u{fc}n \u{1f41d}\\n'", "gr\u{fc}n \u{1f41d}\n".as_bytes()),
    ] {
        hive.run(["run", script]).prints(expected).says("").exits(0);
    }
}

#[test]
fn results_around_the_inline_bound_come_byte_for_byte() {
    let hive = Hive::start(["-n", "1"]);
    for size in [2047, 2048, 2049, 4095, 4096, 65_535, 65_536, 65_537] {
        for end in ["", "\n"] {
            let script = format!("head -c {size} /dev/zero | tr '\\0' x; printf '{}'", end.escape_default());
            let expected = "x".repeat(size) + end;
            hive.run(["run", &script]).prints(expected).exits(0);
        }
    }
}

#[test]
fn a_result_of_many_escapes_comes_byte_for_byte() {
    let hive = Hive::start(["-n", "1"]);
    for byte in ["\\001", "\"", "\\\\", "\\n", "\\177"] {
        let script = format!("i=0; while [ $i -lt 1500 ]; do printf '{byte}'; i=$((i+1)); done");
        let printed = match byte {
            "\\001" => "\u{1}",
            "\\\\" => "\\",
            "\\n" => "\n",
            "\\177" => "\u{7f}",
            other => other,
        };
        hive.run(["run", &script]).prints(printed.repeat(1500)).exits(0);
    }
}

#[test]
fn five_megabytes_come_byte_for_byte() {
    let hive = Hive::start(["-n", "1"]);
    let content = noise(5 * 1024 * 1024, 1);
    let file = hive.write("noise", &content);
    hive.run(["run", "cat", &file]).prints(&content).says("").exits(0);
    let answer = hive.json(["result", "1"]);
    assert_eq!(answer["bytes"], content.len());
    assert!(answer["ref"].as_str().unwrap().starts_with("REF:"), "{answer}");
}

#[test]
fn a_large_result_costs_no_memory() {
    let hive = Hive::start(["-n", "1"]);
    let size = 40_000_000;
    hive.bash(&format!("hivectl run head -c {size} /dev/zero | wc -c")).prints(format!("{size}\n")).says("").exits(0);
    for pid in [hive.supervisor(), hive.host(1)] {
        assert!(peak_memory(pid) < 32 << 20, "{pid}");
    }
}

#[test]
fn a_long_result_is_found_in_the_context_store_by_its_digest() {
    let hive = Hive::start(["-n", "1"]);
    let answer = hive.json(["run", "head -c 5000 /dev/zero"]);
    let digest = answer["ref"].as_str().unwrap().strip_prefix("REF:").unwrap().to_owned();
    let file = hive.kept().with_file_name("context").join(&digest[..2]).join(&digest[2..]);
    hive.bash(&format!("sha256sum <{}", file.display())).prints(format!("{digest}  -\n")).exits(0);
}

#[test]
fn stderr_of_a_task_goes_to_stderr() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo out; echo err >&2; exit 3"]).prints("out\n").says("err\n").exits(3);
}

#[test]
fn a_text_of_many_lines_runs() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo one\necho two\n"]).prints("one\ntwo\n").exits(0);
    hive.cmd(["run", "-"]).stdin("cat <<END\none\n  two\nEND\n").run().prints("one\n  two\n").exits(0);
}

#[test]
fn texts_around_the_inline_bound_run() {
    let hive = Hive::start(["-n", "1"]);
    for size in [2047, 2048, 2049, 4096, 100_000, 140_000] {
        let script = format!("echo {}", "y".repeat(size - 5));
        hive.cmd(["run", "-"]).stdin(script).run().prints("y".repeat(size - 5) + "\n").exits(0);
    }
    let script = format!("echo {}", "z".repeat(60_000));
    hive.run(["run", &script]).prints("z".repeat(60_000) + "\n").exits(0);
}

#[test]
fn a_short_text_of_many_escapes_runs() {
    let hive = Hive::start(["-n", "1"]);
    for character in ["\u{1}", "\"", "\\", "\t", "\u{7f}", "\u{1f41d}"] {
        let text = format!("printf %s '{}'", character.repeat(2000 / character.len()));
        hive.run(["run", &text]).prints(character.repeat(2000 / character.len())).exits(0);
        let batch = hive.cmd(["submit", "--stdin"]).stdin(format!("true\n{text}\ntrue\n")).run().exits(0);
        assert_eq!(batch.out().lines().count(), 3);
    }
    hive.run(["wait", "--all"]).exits(0);
}

#[test]
fn a_text_of_a_megabyte_runs() {
    let hive = Hive::start(["-n", "1"]);
    let script = format!("echo begin\n{}echo end\n", format!(": {}\n", "w".repeat(98)).repeat(10_000));
    hive.cmd(["run", "-"]).stdin(script).run().prints("begin\nend\n").exits(0);
}

#[test]
fn a_text_that_looks_like_a_reference_is_only_a_text() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "REF: nothing"]).exits(127);
    hive.run(["run", "echo", "REF:abc"]).prints("REF:abc\n").exits(0);
    let whole = format!("REF:{}", "0".repeat(64));
    hive.run(["run", "echo", &whole]).prints(format!("{whole}\n")).exits(0);
    hive.run(["run", "printf", &whole]).prints(&whole).exits(0);
}

#[test]
fn a_reference_to_nothing_fails_and_says_so() {
    let hive = Hive::start(["-n", "1"]);
    let missing = format!("REF:{}", "0".repeat(64));
    hive.run(["run", &missing]).prints("").exits(125).mentions("cannot read the task's text").mentions("no such file");
}

#[test]
fn a_script_with_a_nul_byte_harms_nothing() {
    let hive = Hive::start(["-n", "1"]);
    hive.cmd(["run", "-"]).stdin(&b"echo one\n# \0\necho two\n"[..]).run().exits(0);
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
}

#[test]
fn json_says_how_it_ended() {
    let hive = Hive::start(["-n", "1"]);
    let done = hive.json(["run", "echo hi"]);
    assert_eq!((&done["state"], &done["result"], &done["exit"]), (&"done".into(), &"hi".into(), &0.into()));
    assert_eq!((&done["id"], &done["attempt"], &done["agent"]), (&1.into(), &1.into(), &1.into()));
    let failed = hive.run(["--json", "run", "printf x; exit 7"]).exits(7).json();
    assert_eq!((&failed["state"], &failed["newline"]), (&"failed".into(), &false.into()));
}

#[test]
fn nothing_is_shown_on_the_side_where_there_is_no_terminal() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let first = hive.spawn(["run", &gate.wait()]);
    gate.wait_for(1);
    let second = hive.spawn(["run", "echo second"]);
    gate.open(1);
    first.ends().prints("").says("").exits(0);
    second.ends().prints("second\n").says("").exits(0);
}

#[test]
fn on_a_terminal_one_line_says_what_goes_on_and_vanishes() {
    let hive = Hive::start(["-n", "1"]);
    let run = hive.bash("script -qec 'hivectl run echo hi' /dev/null </dev/null").exits(0).out();
    assert!(run.contains("task 1: running on agent 1"), "{run:?}");
    assert!(run.ends_with("\r\x1b[Khi\r\n"), "{run:?}");
}

#[test]
fn a_durable_hive_answers_all_the_same() {
    let hive = Hive::start(["-n", "2", "--durable"]);
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
    hive.cmd(["submit", "--stdin"]).stdin("true\n".repeat(100)).run().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    let task = hive.submit("sleep 1000");
    hive.run(["cancel".to_owned(), task.to_string()]).exits(0);
    hive.run(["wait".to_owned(), task.to_string()]).prints("102 cancelled\n").exits(1);
    assert_eq!(hive.tasks().len(), 102);
}

#[test]
fn many_clients_at_once_each_get_their_own_answer() {
    let hive = Hive::start(["-n", "3"]);
    let clients: Vec<_> = (0..30).map(|n| hive.spawn(["run".to_owned(), format!("echo {n}")])).collect();
    for (n, client) in clients.into_iter().enumerate() {
        client.ends().prints(format!("{n}\n")).exits(0);
    }
    let left: Vec<_> = std::fs::read_dir(hive.live().join("replies")).unwrap().collect();
    assert!(left.is_empty(), "reply FIFOs left: {left:?}");
}

#[test]
fn a_result_is_kept_and_printed_again() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo out; echo err >&2; exit 4"]).exits(4);
    hive.run(["result", "1"]).prints("out\n").says("err\n").exits(4);
    hive.run(["result", "2"]).prints("").exits(4).mentions("no task 2: the last one is 1");
}

#[test]
fn a_result_that_is_not_there_yet_is_not_waited_for() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    hive.run(["result", "1"]).prints("").exits(1).mentions("task 1 has not ended: it is running; `hivectl wait 1`");
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
}
