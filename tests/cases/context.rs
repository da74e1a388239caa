//! The context store from the command line: what is put, fetched, compared, cleared and verified.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Cmd, Hive, noise, peak_memory, wait_until};

/// Stores a file with this content: its digest.
fn put(hive: &Hive, content: impl AsRef<[u8]>) -> String {
    let file = hive.write("put", content);
    hive.run(["context", "put", &file]).exits(0).out().trim_end().to_owned()
}

fn store(hive: &Hive) -> PathBuf {
    hive.kept().parent().unwrap().join("context")
}

fn file_of(hive: &Hive, digest: &str) -> PathBuf {
    store(hive).join(&digest[..2]).join(&digest[2..])
}

/// As if it had last been stored or relied upon so many hours ago.
fn age(path: &Path, hours: u32) {
    Cmd::new("touch", ["-d", &format!("{hours} hours ago"), path.to_str().unwrap()]).run().exits(0);
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn left_in_tmp(hive: &Hive) -> usize {
    fs::read_dir(store(hive).join("tmp")).map_or(0, Iterator::count)
}

#[test]
fn put_prints_the_digest_that_sha256sum_prints_at_any_size() {
    let hive = Hive::new();
    for len in [0, 1, 4096, 50_000, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 320 * 1024, 3_000_000] {
        let content = noise(len, len as u64);
        let digest = put(&hive, &content);
        let sum = Cmd::new("sha256sum", [hive.file("put")]).run().exits(0).out();
        assert_eq!(sum.split(' ').next(), Some(digest.as_str()), "{len} bytes");
        hive.cmd(["context", "put"]).stdin(content.clone()).run().exits(0).prints(format!("{digest}\n"));
        hive.run(["context", "get", &digest]).exits(0).prints(&content);
        assert_eq!(fs::read(file_of(&hive, &digest)).unwrap(), content);
    }
    assert_eq!(left_in_tmp(&hive), 0);
}

#[test]
fn a_store_is_closed_to_others_and_stores_once() {
    use std::os::unix::fs::MetadataExt;
    let hive = Hive::new();
    let digest = put(&hive, "once");
    let before = fs::metadata(file_of(&hive, &digest)).unwrap();
    assert_eq!(before.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(store(&hive)).unwrap().mode() & 0o777, 0o700);
    let again = hive.json(["context", "put", &hive.file("put")]);
    assert_eq!(again["new"], false);
    assert_eq!(again["bytes"], 4);
    assert_eq!(again["ref"], format!("REF:{digest}"));
    assert_eq!(fs::metadata(file_of(&hive, &digest)).unwrap().ino(), before.ino());
    hive.cmd(["context", "put", "--durable", "-"]).stdin("once").run().exits(0).prints(format!("{digest}\n"));
    hive.cmd(["context", "put", "--durable"]).stdin("twice").run().exits(0);
}

#[test]
fn several_files_and_stdin_are_put_in_order() {
    let hive = Hive::new();
    let (a, b) = (hive.write("a", "a"), hive.write("b", "b"));
    let ran = hive.cmd(["context", "put", &a, "-", &b]).stdin("middle").run().exits(0);
    let digests: Vec<String> = ran.out().lines().map(str::to_owned).collect();
    hive.cmd(["context", "get"]).args(&digests).run().exits(0).prints("amiddleb");
    hive.run(["context", "put", &hive.file("none")]).exits(1).mentions("none: no such file");
    hive.run(["context", "put", "/"]).exits(1).mentions("cannot store /: is a directory");
}

#[test]
fn content_is_named_by_reference_digest_or_beginning() {
    let hive = Hive::new();
    let digest = put(&hive, "named");
    for name in [
        digest.clone(),
        format!("REF:{digest}"),
        digest.to_uppercase(),
        digest[..4].into(),
        format!("REF:{}", &digest[..9]),
    ] {
        hive.run(["context", "get", &name]).exits(0).prints("named");
        let path = file_of(&hive, &digest);
        hive.run(["context", "path", &name]).exits(0).prints(format!("{}\n", path.display()));
    }
    for bad in ["", "REF:", "abc", "nothex", "../../etc/passwd", &format!("{digest}0")] {
        hive.run(["context", "get", bad]).exits(2).prints("").mentions("names no content");
    }
    let missing = format!("REF:{}", "0".repeat(64));
    for verb in ["get", "path", "verify"] {
        hive.run(["context", verb, &missing]).exits(4).prints("").mentions(&missing);
        hive.run(["context", verb, "0000"]).exits(4).prints("").mentions("no content begins with 0000");
    }
    // Two that begin alike.
    fs::copy(file_of(&hive, &digest), file_of(&hive, &format!("{}{}", &digest[..10], "0".repeat(54)))).unwrap();
    hive.run(["context", "get", &digest[..8]]).exits(2).mentions("is the beginning of").mentions(&digest);
    let json = hive.json(["context", "get", &digest]);
    assert_eq!((&json["text"], &json["bytes"]), (&"named".into(), &5.into()));
}

#[test]
fn what_is_not_text_has_no_text_in_json() {
    let hive = Hive::new();
    let binary = put(&hive, [0xff, 0xfe, 0]);
    let json = hive.json(["context", "get", &binary]);
    assert!(json.get("text").is_none() && json["bytes"] == 3, "{json}");
    let long = put(&hive, "x".repeat(700_000));
    assert_eq!(hive.json(["context", "get", &long])["text"].as_str().map(str::len), Some(700_000));
}

#[test]
fn a_flipped_byte_is_refused_by_get_and_found_by_verify() {
    let hive = Hive::new();
    for content in [noise(1000, 1), noise(2_000_000, 2)] {
        let digest = put(&hive, &content);
        let whole = put(&hive, "whole");
        let path = file_of(&hive, &digest);
        flip_a_byte(&path);
        hive.run(["context", "get", &digest]).exits(1).prints("").mentions("is damaged: its SHA-256 is now ");
        hive.run(["context", "diff", &whole, &digest]).exits(1).prints("").mentions("is damaged");
        let ran = hive.run(["context", "verify"]).exits(1);
        assert!(ran.out().starts_with(&format!("{digest}  its SHA-256 is now ")), "{ran}");
        assert!(!path.exists() && store(&hive).join("damaged").join(&digest).exists());
        assert_eq!(left_in_tmp(&hive), 0);
        hive.run(["context", "get", &digest]).exits(4);
        hive.run(["context", "verify"]).exits(0).mentions("");
        // Put anew, it is whole again.
        assert_eq!(put(&hive, &content), digest);
        hive.run(["context", "get", &digest]).exits(0).prints(&content);
    }
}

#[test]
fn verify_names_what_is_damaged_in_json_too_and_can_look_at_some() {
    let hive = Hive::new();
    let (good, bad) = (put(&hive, "good"), put(&hive, "bad"));
    flip_a_byte(&file_of(&hive, &bad));
    assert_eq!(hive.json(["context", "verify", &good])["files"], 1);
    let json = hive.run(["context", "verify", "--json"]).exits(1).json();
    assert_eq!((&json["damaged"][0]["digest"], json["damaged"].as_array().unwrap().len()), (&bad.as_str().into(), 1));
    assert_eq!(hive.json(["context", "stats"])["damaged"]["files"], 1);
}

#[test]
fn content_that_lost_its_bytes_is_stored_anew() {
    let hive = Hive::new();
    let digest = put(&hive, "after a power cut");
    fs::write(file_of(&hive, &digest), "").unwrap();
    assert_eq!(put(&hive, "after a power cut"), digest);
    hive.run(["context", "get", &digest]).exits(0).prints("after a power cut");
}

#[test]
fn a_diff_is_one_that_patch_takes() {
    let hive = Hive::new();
    let old: String = (0..3000).map(|n| format!("line {n}\n")).collect();
    let new = old.replace("line 1500\n", "changed\n") + "no newline";
    let (a, b) = (put(&hive, &old), put(&hive, &new));
    let diff = hive.run(["context", "diff", &a, &b]).exits(1).out();
    assert!(diff.starts_with(&format!("--- REF:{a}\n+++ REF:{b}\n@@ -1498,7 +1498,7 @@\n")), "{diff}");
    let (file, patch) = (hive.write("old", &old), hive.write("patch", &diff));
    Cmd::new("patch", ["-s", &file, &patch]).run().exits(0);
    assert_eq!(hive.read("old"), new);
    hive.run(["context", "diff", &a, &a]).exits(0).prints("");
    let json = hive.run(["context", "diff", "--json", &a, &b]).exits(1).json();
    assert_eq!((&json["added"], &json["removed"], &json["same"]), (&2.into(), &1.into(), &false.into()));
    assert_eq!(json["diff"], diff);
    let binary = put(&hive, [0, 1, 2]);
    hive.run(["context", "diff", &a, &binary])
        .exits(1)
        .prints(format!("Binary contents REF:{a} and REF:{binary} differ\n"));
}

#[test]
fn memory_stays_small_however_much_is_put() {
    let hive = Hive::new();
    let mut running = hive.cmd(["context", "put"]).open_stdin().spawn();
    let chunk = noise(1 << 20, 7);
    for _ in 0..64 {
        running.write(&chunk);
    }
    let peak = peak_memory(running.pid());
    assert!(peak < 12 << 20, "{peak} bytes");
    running.close_stdin();
    let digest = running.ends().exits(0).out().trim_end().to_owned();
    assert_eq!(fs::metadata(file_of(&hive, &digest)).unwrap().len(), 64 << 20);
    hive.run(["context", "verify"]).exits(0);
}

#[test]
fn a_clearing_keeps_what_any_hive_refers_to_and_what_is_young() {
    let hive = Hive::start(["-n", "1"]);
    let long = |text: &str| text.repeat(3000);
    let waits = hive.submit_with(&["--priority", "1"], &format!("printf {}", long("a")));
    hive.run(["wait", &waits.to_string()]).exits(0);
    let result = hive.task(waits)["ref"].as_str().unwrap()[4..].to_owned();
    hive.run(["--hive", "other", "pool", "start", "-n", "1"]).exits(0);
    hive.run(["--hive", "other", "run", &format!(": {}", long("b"))]).exits(0);
    hive.run(["--hive", "other", "pool", "stop"]).exits(0);
    let (old, young) = (put(&hive, "nobody's, and old"), put(&hive, "nobody's, and young"));
    let all: Vec<PathBuf> = walk(&store(&hive));
    all.iter().filter(|path| **path != file_of(&hive, &young)).for_each(|path| age(path, 2));

    let plan = hive.json(["context", "gc", "--dry-run"]);
    assert_eq!(plan["contents"][0]["digest"], old.as_str());
    assert_eq!((&plan["removed"]["files"], plan["contents"].as_array().unwrap().len()), (&1.into(), 1));
    assert!(file_of(&hive, &old).exists());
    let dry = hive.run(["context", "gc", "--dry-run"]).exits(0).out();
    assert!(dry.starts_with(&format!("{old}  17 B  2 h old\nwould remove 1 content (17 B); ")), "{dry}");
    let stats = hive.json(["context", "stats"]);
    assert_eq!((&stats["unreferenced"]["files"], stats["hives"].as_array().unwrap().len()), (&2.into(), 2), "{stats}");

    hive.run(["context", "gc"]).exits(0);
    assert!(!file_of(&hive, &old).exists() && file_of(&hive, &young).exists());
    assert_eq!(walk(&store(&hive)).len(), all.len() - 1);
    hive.run(["result", &waits.to_string()]).exits(0).prints(long("a"));
    hive.run(["context", "get", &result]).exits(0).prints(long("a"));
    hive.run(["context", "gc", "--grace", "0"]).exits(0);
    assert_eq!(walk(&store(&hive)).len(), all.len() - 2);
}

/// All contents.
fn walk(store: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(store).unwrap().flatten().filter(|e| e.file_name().len() == 2);
    folders.flat_map(|e| fs::read_dir(e.path()).unwrap().flatten()).map(|e| e.path()).collect()
}

#[test]
fn a_size_limit_takes_the_oldest_first_and_no_more_than_it_has_to() {
    let hive = Hive::new();
    let contents: Vec<String> = (0..4).map(|n| put(&hive, noise(1000, n))).collect();
    for (digest, hours) in contents.iter().zip([3, 5, 4, 2]) {
        age(&file_of(&hive, digest), hours);
    }
    hive.run(["context", "gc", "--max-size", "4000"])
        .exits(0)
        .prints("removed 0 contents (0 B); 4 contents (3 KiB) stay\n");
    hive.run(["context", "gc", "--max-size", "2500"])
        .exits(0)
        .prints("removed 2 contents (1 KiB); 2 contents (1 KiB) stay\n");
    let there: Vec<bool> = contents.iter().map(|digest| file_of(&hive, digest).exists()).collect();
    assert_eq!(there, [true, false, false, true]);
    let young = hive.run(["context", "gc", "--max-size", "0", "--grace", "10000"]).exits(1);
    young.prints("removed 1 content (1000 B); 1 content (1000 B) stay\n").mentions("more than 0 B stay");
    for bad in ["-1", "x", "1Q", ""] {
        hive.run(["context", "gc", "--max-size", bad]).exits(2);
    }
    hive.run(["context", "gc", "--grace", "-1"]).exits(2);
}

#[test]
fn what_is_relied_upon_again_is_young_again() {
    let hive = Hive::new();
    let digests: Vec<String> = ["put", "path", "left"].iter().map(|text| put(&hive, text)).collect();
    digests.iter().for_each(|digest| age(&file_of(&hive, digest), 2));
    put(&hive, "put");
    hive.run(["context", "path", &digests[1]]).exits(0);
    hive.run(["context", "gc"]).exits(0);
    let there: Vec<bool> = digests.iter().map(|digest| file_of(&hive, digest).exists()).collect();
    assert_eq!(there, [true, true, false]);
}

#[test]
fn a_clearing_leaves_a_paused_writer_and_a_paused_reader_alone() {
    let hive = Hive::new();
    put(&hive, "the store is there");
    let mut writer = hive.cmd(["context", "put"]).open_stdin().spawn();
    writer.write(&noise(1 << 20, 3));
    wait_until("it has begun to write", || left_in_tmp(&hive) == 1);
    let tmp = store(&hive).join("tmp");
    let draft = fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path();
    fs::write(tmp.join("4-left-by-somebody"), "half").unwrap();
    // Long paused: nothing was written for two hours.
    writer.signal("STOP");
    fs::read_dir(&tmp).unwrap().for_each(|entry| age(&entry.unwrap().path(), 2));

    let read = noise(3 << 20, 4);
    let digest = put(&hive, &read);
    let mut reader = fs::File::open(file_of(&hive, &digest)).unwrap();
    let gc = hive.run(["context", "gc", "--grace", "0"]).exits(0).out();
    assert!(gc.contains("and 1 abandoned drafts"), "{gc}");
    assert!(draft.exists() && !file_of(&hive, &digest).exists());
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut got).unwrap();
    assert_eq!(got, read);

    writer.signal("CONT");
    writer.write(b"the end");
    writer.close_stdin();
    let written = writer.ends().exits(0).out().trim_end().to_owned();
    let expected = [noise(1 << 20, 3), b"the end".to_vec()].concat();
    hive.run(["context", "get", &written]).exits(0).prints(expected);
}

#[test]
fn what_a_killed_clearing_had_taken_comes_back() {
    let hive = Hive::new();
    let digest = put(&hive, "taken");
    let taken = store(&hive).join("tmp").join(format!("taken-{digest}-1"));
    fs::rename(file_of(&hive, &digest), &taken).unwrap();
    hive.run(["context", "gc"]).exits(0);
    assert!(!taken.exists());
    hive.run(["context", "get", &digest]).exits(0).prints("taken");
}

#[test]
fn a_digest_in_any_file_of_a_log_is_a_reference() {
    let hive = Hive::new();
    let digest = put(&hive, "old");
    age(&file_of(&hive, &digest), 2);
    fs::create_dir_all(hive.kept().join("events/more")).unwrap();
    std::os::unix::fs::symlink("/nowhere", hive.kept().join("events/link")).unwrap();
    let snapshot = hive.kept().join("events/more/snapshot");
    fs::write(&snapshot, format!("{{\"any\":\"{digest}\"}}")).unwrap();
    hive.run(["context", "gc"]).exits(0).prints("removed 0 contents (0 B); 1 content (3 B) stay\n");
    // What tasks printed is none.
    fs::create_dir_all(hive.kept().join("logs")).unwrap();
    fs::rename(snapshot, hive.kept().join("logs/1.log")).unwrap();
    hive.run(["context", "gc"]).exits(0).prints("removed 1 content (3 B); 0 contents (0 B) stay\n");
}

#[test]
fn puts_and_clearings_at_once_lose_nothing() {
    let hive = Hive::new();
    put(&hive, "the store is there");
    // Each content is put again and again, old again at once, and cleared all the time; after a put it must be there.
    let putter = r#"for i in $(seq 40); do
        d=$(printf 'same %d' $((i % 3)) | hivectl context put) || exit 1
        f=$HIVE_DIR/context/${d:0:2}/${d:2}
        [ "$(cat "$f")" = "same $((i % 3))" ] || { echo "lost $d"; exit 1; }
        [ $((i % 2)) = 0 ] || touch -c -d '2 hours ago' "$f"
    done"#;
    let clearer = "for i in $(seq 40); do hivectl context gc >/dev/null || exit 1; done";
    let script = format!("({putter}) & a=$!\n ({clearer}) & b=$!\n ({clearer}) & c=$!\n wait $a && wait $b && wait $c");
    hive.bash(&script).exits(0).prints("");
    hive.run(["context", "verify"]).exits(0);
    assert_eq!(left_in_tmp(&hive), 0);
}

#[test]
fn killed_puts_leave_no_wrong_content() {
    let hive = Hive::new();
    put(&hive, "the store is there");
    for round in 0..20 {
        let mut writer = hive.cmd(["context", "put"]).stdin(noise(3 << 20, round)).spawn();
        std::thread::sleep(std::time::Duration::from_micros(500 * round));
        writer.signal("KILL");
        wait_until("it is dead", || writer.has_ended());
    }
    hive.run(["context", "verify"]).exits(0);
}

#[test]
fn a_store_that_nobody_used_is_empty() {
    let hive = Hive::new();
    assert_eq!(hive.json(["context", "stats"])["files"], 0);
    hive.run(["context", "gc"]).exits(0).prints("removed 0 contents (0 B); 0 contents (0 B) stay\n");
    hive.run(["context", "verify"]).exits(0).prints("0 contents (0 B): all are what they were\n");
    hive.run(["context"]).exits(2);
    hive.run(["context", "nonsense"]).exits(2);
}

#[test]
fn a_closed_stdout_ends_get_quietly() {
    let hive = Hive::new();
    let digest = put(&hive, noise(3 << 20, 9));
    hive.bash(&format!("hivectl context get {digest} | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"))
        .says("")
        .prints("141\n");
}
