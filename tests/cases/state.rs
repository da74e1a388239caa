//! The state store: what is set is what is got, by whomever, whatever is killed.

use std::fs;
use std::path::PathBuf;

use hive::store::state::{Key, NotAdded, Options, Outcome, Pattern, Watch};
use hive::store::{Folders, State};

use crate::harness::{Hive, kill, noise, wait_until};

/// The same folders for the library.
fn folders(hive: &Hive) -> Folders {
    let kept = hive.kept();
    let context = kept.parent().unwrap().join("context");
    Folders { hive: "default".into(), live: hive.live(), kept, context }
}

fn open(hive: &Hive) -> State {
    State::open(&folders(hive)).unwrap()
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn file(hive: &Hive, key: &str) -> PathBuf {
    hive.live().join("state").join(key)
}

/// What a killed writer may have left, but for the few seconds in which it might still be at work.
fn no_lock_is_stuck(hive: &Hive, keys: &[&str]) {
    for key in keys {
        hive.run(["state", "set", key, "after"]).exits(0);
        hive.run(["state", "get", key]).prints("after").exits(0);
    }
}

#[test]
fn a_value_comes_back_byte_for_byte_and_is_a_plain_file() {
    let hive = Hive::new();
    hive.run(["state", "get", "x"]).exits(4).says("hivectl: no key \"x\": see `hivectl state list`\n");
    assert!(!hive.live().exists(), "to look is no reason to make a folder");
    hive.run(["state", "set", "x", "  blanks \n"]).prints("").says("").exits(0);
    hive.run(["state", "get", "x"]).prints("  blanks \n").exits(0);
    assert_eq!(fs::read(file(&hive, "x")).unwrap(), b"  blanks \n");
    hive.run(["state", "set", "plan/step", "-5"]).exits(0);
    assert_eq!(hive.bash("cat $LIVE/state/plan/step").exits(0).out(), "-5");
    let bytes = noise(1 << 20, 7);
    hive.cmd(["state", "set", "noise", "-"]).stdin(bytes.clone()).run().exits(0);
    hive.run(["state", "get", "noise"]).prints(bytes).exits(0);
    hive.cmd(["state", "set", "empty"]).stdin("").run().exits(0);
    hive.run(["state", "get", "empty"]).prints("").exits(0);
    hive.run(["state", "list"]).prints("empty\nnoise\nplan/step\nx\n").exits(0);
    hive.run(["state", "list", "plan/"]).prints("plan/step\n").exits(0);
    let got = hive.json(["state", "get", "x"]);
    assert_eq!((&got["value"], &got["bytes"], &got["durable"]), (&"  blanks \n".into(), &10.into(), &false.into()));
    hive.run(["state", "del", "plan/", "x"]).exits(0);
    assert!(!file(&hive, "plan").exists());
    hive.run(["state", "del", "x"]).exits(4).mentions("no key \"x\"");
}

#[test]
fn a_value_of_64_mib_fits_and_one_byte_more_does_not() {
    let hive = Hive::new();
    let mut bytes = noise(64 << 20, 3);
    hive.cmd(["state", "set", "large"]).stdin(bytes.clone()).run().exits(0);
    assert!(hive.run(["state", "get", "large"]).exits(0).stdout == bytes);
    bytes.push(0);
    hive.cmd(["state", "set", "large"]).stdin(bytes).run().exits(6).mentions("at most 67108864");
}

#[test]
fn keys_that_would_leave_the_folder_are_refused_and_named() {
    let hive = Hive::new();
    let long = "x".repeat(5000);
    for (wrong, why) in [
        ("../x", "the key \"../x\" is refused"),
        ("", "must not be empty"),
        (long.as_str(), "too long (5000 bytes)"),
        ("a\nb", "the key \"a\\nb\" holds a control character"),
        ("a/.hive", "the key \"a/.hive\" is refused"),
    ] {
        for verb in ["set", "get", "incr", "del", "watch"] {
            let value = if verb == "set" { vec!["v"] } else { vec![] };
            let ran = hive.cmd(["state", verb, wrong]).args(value);
            // Nothing after a name means all, where many may be meant.
            ran.run().exits(2).mentions(why);
        }
    }
    assert!(Key::parse("a\0b").unwrap_err().contains("a\\0b"));
    hive.run(["state", "set", "plan", "v"]).exits(0);
    hive.run(["state", "set", "plan/step", "v"]).exits(2).mentions("is a key itself");
    hive.run(["state", "del", "plan"]).exits(0);
    hive.run(["state", "set", "plan/step", "v"]).exits(0);
    hive.run(["state", "set", "plan", "v"]).exits(2).mentions("there are keys below \"plan/\"");
    hive.write("outside", "secret");
    std::os::unix::fs::symlink(hive.path("outside"), file(&hive, "link")).unwrap();
    std::os::unix::fs::symlink(hive.path(""), file(&hive, "folder")).unwrap();
    hive.run(["state", "get", "link"]).exits(2).mentions("symbolic link");
    hive.run(["state", "set", "folder/outside", "x"]).exits(2).mentions("symbolic link");
    assert_eq!(hive.read("outside"), "secret");
}

#[test]
fn cas_sets_only_what_it_expects() {
    let hive = Hive::new();
    hive.run(["state", "cas", "x", "0", "first"]).exits(0);
    hive.run(["state", "cas", "x", "0", "second"]).exits(1).mentions("it has version");
    let version = hive.run(["state", "get", "--version", "x"]).exits(0).out().trim().to_owned();
    let next = hive.run(["state", "cas", "x", &version, "third"]).exits(0).out();
    assert!(next.trim().parse::<u64>().unwrap() > version.parse().unwrap());
    let lost = hive.run(["--json", "state", "cas", "x", &version, "fourth"]).exits(1).err();
    assert!(lost.contains("\"code\":\"conflict\""), "{lost}");
    hive.run(["state", "get", "x"]).prints("third").exits(0);
    // A foreign writer's value has a version too.
    hive.bash("echo mine >$LIVE/state/.tmp/me && mv $LIVE/state/.tmp/me $LIVE/state/x").exits(0);
    hive.run(["state", "cas", "x", next.trim(), "fifth"]).exits(1);
}

#[test]
fn of_many_that_compare_and_set_one_wins_each_time() {
    let hive = Hive::new();
    open(&hive).set(&key("n"), b"0", &Options::default()).unwrap();
    let folders = folders(&hive);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut state = State::open(&folders).unwrap();
                for _ in 0..250 {
                    loop {
                        let old = state.get(&key("n")).unwrap().unwrap();
                        let next: u64 = String::from_utf8(old.bytes).unwrap().parse::<u64>().unwrap() + 1;
                        let options = Options { expected: Some(old.version), ..Options::default() };
                        match state.set(&key("n"), next.to_string().as_bytes(), &options).unwrap() {
                            Outcome::Set(_) => break,
                            Outcome::Lost(_) => {}
                        }
                    }
                }
            });
        }
    });
    hive.run(["state", "get", "n"]).prints("1000");
}

#[test]
fn eight_shells_count_and_lose_nothing() {
    let hive = Hive::new();
    let script =
        "for s in 1 2 3 4 5 6 7 8; do (for i in $(seq 100); do hivectl state incr n >/dev/null; done) & done; wait";
    hive.bash(script).says("").exits(0);
    hive.run(["state", "get", "n"]).prints("800").exits(0);
    assert_eq!(fs::read_to_string(file(&hive, "n")).unwrap(), "800");
    hive.run(["state", "incr", "n", "--by", "-900"]).prints("-100\n").exits(0);
    hive.run(["state", "set", "n", "41"]).exits(0);
    hive.run(["state", "incr", "n"]).prints("42\n").exits(0);
    hive.run(["state", "set", "n", "some text"]).exits(0);
    hive.run(["state", "incr", "n"]).exits(2).mentions("no whole number");
    hive.run(["state", "incr", "m", "--by", "9223372036854775807"]).exits(6).mentions("a counter stays within");
    hive.run(["state", "set", "kept", "7", "--durable"]).exits(0);
    hive.run(["state", "incr", "kept"]).prints("8\n").exits(0);
    assert_eq!(fs::read(hive.kept().join("state/kept")).unwrap(), b"8");
}

#[test]
fn threads_count_through_the_library_while_the_key_is_set_and_deleted() {
    let hive = Hive::new();
    let folders = folders(&hive);
    let count = |adds: u64| {
        let mut state = State::open(&folders).unwrap();
        let mut counter = state.counter(&key("n")).unwrap();
        let mut reopened = 0;
        for _ in 0..adds {
            while let Err(NotAdded::Closed) = counter.add(1) {
                counter = state.counter(&key("n")).unwrap();
                reopened += 1;
            }
        }
        reopened
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| count(200_000)))));
    hive.run(["state", "get", "n"]).prints("800000").exits(0);
    // Each set is a point in time: what is added before it is gone, what is added after it counts.
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| count(2_000_000))).collect();
        let mut state = State::open(&folders).unwrap();
        while !threads.iter().all(|thread| thread.is_finished()) {
            state.set(&key("n"), b"1000", &Options::default()).unwrap();
        }
    });
    let mut state = State::open(&folders).unwrap();
    state.set(&key("n"), b"0", &Options::default()).unwrap();
    assert_eq!(state.incr(&key("n"), 5).unwrap(), 5);
}

#[test]
fn a_value_goes_when_its_time_is_over() {
    let hive = Hive::new();
    hive.run(["state", "set", "x", "v", "--ttl", "0.3"]).exits(0);
    hive.run(["state", "get", "x"]).prints("v");
    assert!(hive.json(["state", "list"])["keys"][0]["expires_in"].as_f64().unwrap() < 0.3);
    wait_until("it is over", || hive.run(["state", "get", "x"]).code == 4);
    assert!(!file(&hive, "x").exists());
    hive.run(["state", "list"]).prints("").exits(0);
    hive.run(["state", "set", "x", "v", "--ttl", "0.2"]).exits(0);
    hive.run(["state", "set", "x", "stays"]).exits(0);
    hive.run(["state", "watch", "x", "--timeout", "0.5"]).exits(5).prints("");
    hive.run(["state", "get", "x"]).prints("stays");
    hive.run(["state", "set", "x", "v", "--ttl", "5", "--durable"]).exits(2);
}

#[test]
fn durable_keys_outlive_the_live_folder_and_stay_durable() {
    let hive = Hive::new();
    hive.run(["state", "set", "k", "live"]).exits(0);
    hive.run(["state", "set", "k", "first", "--durable"]).exits(0);
    assert!(!file(&hive, "k").exists(), "it is in one place");
    hive.run(["state", "set", "k", "second"]).exits(0);
    hive.run(["state", "set", "plan/a", "deep", "--durable"]).exits(0);
    hive.run(["state", "set", "gone", "x"]).exits(0);
    // As a reboot does.
    fs::remove_dir_all(hive.live()).unwrap();
    hive.run(["state", "get", "k"]).prints("second").exits(0);
    hive.run(["state", "get", "plan/a"]).prints("deep").exits(0);
    hive.run(["state", "get", "gone"]).exits(4);
    hive.run(["state", "list"]).prints("k\nplan/a\n");
    hive.run(["state", "del", "k"]).exits(0);
    hive.run(["state", "get", "k"]).exits(4);
}

#[test]
fn a_full_store_refuses_and_says_so() {
    let hive = Hive::new();
    hive.run(["state", "set", "a", "1"]).exits(0);
    hive.run(["state", "quota", "20000"]).exits(0);
    hive.cmd(["state", "set", "b"]).stdin(vec![b'x'; 10_000]).run().exits(0);
    let ran = hive.cmd(["state", "set", "c"]).stdin(vec![b'x'; 10_000]).run().exits(6);
    ran.mentions("of 20000 bytes are used").mentions("state quota");
    hive.run(["state", "get", "c"]).exits(4);
    // What is there can be replaced.
    hive.cmd(["state", "set", "b"]).stdin(vec![b'y'; 10_000]).run().exits(0);
    hive.run(["state", "del", "b"]).exits(0);
    hive.cmd(["state", "set", "c"]).stdin(vec![b'x'; 10_000]).run().exits(0);
}

#[test]
fn a_watcher_is_told_every_change_once_and_in_order() {
    let hive = Hive::new();
    let watch = hive.spawn(["--json", "state", "watch", "k", "plan/", "-n", "2002"]);
    let boxes = || {
        fs::read_dir(hive.live().join("state/.watch"))
            .map_or(0, |list| list.flatten().filter(|e| e.path().join("keys").exists()).count())
    };
    wait_until("it watches", || boxes() == 1);
    // The word that says so comes a moment after the box: a first change shows that it is there.
    wait_until("it is told", || {
        hive.run(["state", "set", "k", "begin"]).exits(0);
        watch.out().contains("begin")
    });
    let begun = watch.out().lines().count();
    let folders = folders(&hive);
    std::thread::scope(|scope| {
        for name in ["k", "plan/x", "other"] {
            let folders = &folders;
            scope.spawn(move || {
                let mut state = State::open(folders).unwrap();
                for n in 0..1000 {
                    state.set(&key(name), n.to_string().as_bytes(), &Options::default()).unwrap();
                }
            });
        }
    });
    for _ in begun..2 {
        hive.run(["state", "del", "plan/"]).exits(0);
        hive.run(["state", "set", "plan/y", "1"]).exits(0);
    }
    let ran = watch.ends().exits(0);
    let lines: Vec<serde_json::Value> = ran.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["k", "plan/x"] {
        let told =
            lines.iter().filter(|line| line["key"] == name && line["value"] != "begin" && line["deleted"] == false);
        let told: Vec<&str> = told.map(|line| line["value"].as_str().unwrap()).collect();
        let all: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert!(told == all, "{name}: {} of 1000", told.len());
    }
    assert!(lines.iter().all(|line| line["key"] != "other"));
    assert_eq!(boxes(), 0);
}

#[test]
fn a_watcher_sees_the_end_of_a_key_and_a_dead_one_costs_nothing() {
    let hive = Hive::new();
    let mut state = open(&hive);
    let mut watch = Watch::new(&mut state, &[Pattern::parse("k").unwrap()]).unwrap();
    hive.run(["state", "set", "k", "v", "--ttl", "0.3"]).exits(0);
    assert_eq!(watch.next(&mut state, None).unwrap().unwrap().value.as_deref(), Some(&b"v"[..]));
    assert_eq!(watch.next(&mut state, None).unwrap().unwrap().value, None);
    hive.run(["state", "set", "k", "w", "--durable"]).exits(0);
    assert_eq!(watch.next(&mut state, None).unwrap().unwrap().value.as_deref(), Some(&b"w"[..]));
    assert_eq!(watch.next(&mut state, Some(0)).unwrap(), None);
    watch.close(&state).unwrap();
    let dead = hive.spawn(["state", "watch", "k"]);
    let boxes = || fs::read_dir(hive.live().join("state/.watch")).unwrap().count();
    wait_until("it watches", || boxes() == 1);
    wait_until("it is told", || {
        hive.run(["state", "incr", "k2"]).exits(0);
        hive.run(["state", "set", "k", "x"]).exits(0);
        dead.out().contains('x')
    });
    dead.signal("KILL");
    wait_until("its box goes", || {
        hive.run(["state", "set", "k", "y"]).exits(0);
        boxes() == 0
    });
}

#[test]
fn writers_killed_anywhere_leave_the_old_value_or_the_new_one() {
    let hive = Hive::new();
    let (a, b) = (vec![b'a'; 100_000], vec![b'b'; 100_000]);
    fs::write(hive.path("a"), &a).unwrap();
    fs::write(hive.path("b"), &b).unwrap();
    let script = format!(
        "while :; do hivectl state set k <{0}; hivectl state set k <{1}; v=$(hivectl state get --version c || echo 0); \
         hivectl state cas c $v <{0}; hivectl state incr n >/dev/null; hivectl state set d - --durable <{1}; hivectl state set t x --ttl 60; done",
        hive.file("a"),
        hive.file("b")
    );
    let whole = |path: PathBuf| match fs::read(&path) {
        Ok(bytes) => assert!(bytes == a || bytes == b, "{} is torn: {} bytes", path.display(), bytes.len()),
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound),
    };
    for round in 0..40 {
        let writers: Vec<_> = (0..2).map(|_| hive.spawn_bash(&script)).collect();
        let end = std::time::Instant::now() + std::time::Duration::from_millis(20 + round * 3);
        while std::time::Instant::now() < end {
            whole(file(&hive, "k"));
            whole(file(&hive, "c"));
            whole(hive.kept().join("state/d"));
        }
        for writer in writers {
            // The shell first, or it would start another.
            let children = hive.children_of(writer.pid());
            writer.signal("KILL");
            children.into_iter().for_each(|pid| kill(pid, "KILL"));
            drop(writer);
        }
    }
    no_lock_is_stuck(&hive, &["k", "c", "d", "t"]);
    let n: i64 = hive.run(["state", "get", "n"]).exits(0).out().parse().unwrap();
    hive.run(["state", "incr", "n"]).prints(format!("{}\n", n + 1)).exits(0);
    hive.run(["state", "del", "k", "c", "d", "t", "n"]).exits(0);
    hive.run(["state", "list"]).prints("").exits(0);
}

#[test]
fn state_outlives_the_pool() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["state", "set", "x", "stays"]).exits(0);
    hive.run(["run", "hivectl state set from-task $HIVE_TASK || exit 9"]);
    hive.run(["pool", "stop"]).exits(0).prints("hive default has stopped; nothing of it is left running\n");
    hive.run(["state", "get", "x"]).prints("stays").exits(0);
    let left: Vec<_> = fs::read_dir(hive.live()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["state"]);
    hive.run(["pool", "status"]).exits(3);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["state", "get", "x"]).prints("stays").exits(0);
}
