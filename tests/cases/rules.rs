//! Rules about the source that a machine can check.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::PROJECT;

const LINES_MAX: usize = 520;

struct Source {
    /// From src/ on.
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || (place.ends_with('/') && self.path.starts_with(place)))
    }

    /// The code: without comments, and without what is only there for its tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate();
        lines.map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("")))
    }

    /// Modules of this crate that the code names: `crate::x`, `super::` left aside.
    fn names_of_crate(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().flat_map(|(n, line)| {
            line.match_indices("crate::").map(move |(at, found)| {
                let rest = &line[at + found.len()..];
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (n, &rest[..end])
            })
        })
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(PROJECT).join("src");
    let mut found = Vec::new();
    collect(&src, &mut found);
    assert!(found.len() > 30, "the source is where it is looked for");
    let sources: Vec<Source> = found
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(),
        })
        .collect();
    let tests: Vec<String> = sources.iter().flat_map(tests_of).collect();
    sources.into_iter().filter(|s| !tests.contains(&s.path)).collect()
}

/// Files that are only there for tests: `#[cfg(test)]`, and on the next line `mod name;`.
fn tests_of(source: &Source) -> Vec<String> {
    let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let lines: Vec<&str> = source.text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]");
    let names = pairs.filter_map(|pair| pair[1].trim().strip_prefix("mod ")?.strip_suffix(';'));
    names.map(|name| format!("{folder}/{name}.rs")).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => collect(&path, found),
            Some("rs") => found.push(path),
            _ => {}
        }
    }
}

#[track_caller]
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every line of code in `places` that holds one of `words`.
fn lines_with(places: impl Fn(&Source) -> bool, words: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| places(s)) {
        for (n, line) in source.code() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                wrong.push(format!("src/{}:{n}: {word}", source.path));
            }
        }
    }
    wrong
}

/// `word` stands in `line`, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    line.match_indices(word)
        .any(|(at, _)| !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next()))
}

#[test]
fn every_file_says_first_what_it_is() {
    let files = sources().into_iter().filter(|s| !s.text.starts_with("//! ")).map(|s| format!("src/{}", s.path));
    none(files.collect());
}

#[test]
fn every_test_file_says_first_what_it_is() {
    let mut found = Vec::new();
    collect(&Path::new(PROJECT).join("tests"), &mut found);
    none(
        found
            .iter()
            .filter(|p| !fs::read_to_string(p).unwrap().starts_with("//! "))
            .map(|p| p.display().to_string())
            .collect(),
    );
}

#[test]
fn no_file_is_too_long() {
    let long = sources().into_iter().map(|s| (s.text.lines().count(), s.path)).filter(|(lines, _)| *lines > LINES_MAX);
    none(long.map(|(lines, path)| format!("src/{path} has {lines} lines, more than {LINES_MAX}")).collect());
}

#[test]
fn main_is_short() {
    let main = sources().into_iter().find(|s| s.path == "main.rs").unwrap();
    assert!(main.text.lines().count() < 60);
}

#[test]
fn unsafe_is_in_sys_alone_and_says_why() {
    none(lines_with(|s| !s.is_in(&["sys/"]), &["unsafe"]));
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.is_in(&["sys/"])) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let block = has_word(line.split("//").next().unwrap_or(""), "unsafe") && line.contains('{');
            let before = &lines[n.saturating_sub(6)..n];
            if block && !line.contains("unsafe extern") && !before.iter().any(|l| l.contains("SAFETY")) {
                wrong.push(format!("src/{}:{}: unsafe without SAFETY", source.path, n + 1));
            }
        }
    }
    none(wrong);
}

#[test]
fn the_model_does_no_io_and_has_no_clock() {
    let words = [
        "std::fs",
        "std::io",
        "std::net",
        "std::process",
        "std::thread",
        "std::env",
        "std::os",
        "std::time::Instant",
        "std::time::SystemTime",
        "Instant",
        "SystemTime",
        "nix",
        "libc",
        "mio",
        "rand",
        "println",
        "eprintln",
    ];
    none(lines_with(|s| s.is_in(&["model/"]), &words));
}

#[test]
fn the_model_knows_only_itself_its_limits_and_its_errors() {
    none(foreign_names(&["model/"], &["model", "limits", "error"]));
}

#[test]
fn the_wire_and_the_records_know_nothing_of_the_machine() {
    let mut wrong = foreign_names(
        &["wire/", "record.rs", "json.rs"],
        &["wire", "record", "json", "model", "limits", "error", "time"],
    );
    wrong.extend(lines_with(
        |s| s.is_in(&["wire/", "record.rs", "json.rs"]),
        &["nix", "mio", "libc", "std::fs", "std::process"],
    ));
    none(wrong);
}

#[test]
fn the_store_and_sys_know_nothing_of_those_who_use_them() {
    let mut wrong = foreign_names(&["sys/"], &["sys", "limits", "error"]);
    wrong.extend(foreign_names(
        &["store/"],
        &["store", "sys", "record", "model", "limits", "error", "wire", "time", "json"],
    ));
    none(wrong);
}

#[test]
fn the_client_and_the_verbs_know_nothing_of_the_supervisors_inside() {
    let rooms = ["client", "wire", "sys", "store", "model", "record", "limits", "error", "json", "time"];
    let mut wrong = foreign_names(&["client.rs"], &rooms);
    let with_cli: Vec<&str> = rooms.into_iter().chain(["cli", "supervisor"]).collect();
    wrong.extend(foreign_names(&["cli/"], &with_cli));
    wrong.extend(foreign_names(
        &["host/"],
        &["host", "store", "sys", "wire", "model", "limits", "error", "json", "outbox"],
    ));
    none(wrong);
}

#[test]
fn mio_is_where_the_loops_are() {
    none(lines_with(|s| !s.is_in(&["supervisor/", "host/", "outbox.rs"]), &["mio"]));
}

#[test]
fn nothing_sleeps_but_in_its_one_place() {
    // Taking the lead has a client's look at the lock to wait out, before there is a loop.
    let sleeps = lines_with(|_| true, &["thread::sleep"]);
    let wrong = sleeps.into_iter().filter(|line| !line.starts_with("src/supervisor/mod.rs"));
    none(wrong.collect());
}

/// Places that name modules of this crate beside those that they may.
fn foreign_names(places: &[&str], may: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.is_in(places)) {
        for (n, name) in source.names_of_crate().filter(|(_, name)| !name.is_empty() && !may.contains(name)) {
            wrong.push(format!("src/{}:{n}: crate::{name}", source.path));
        }
    }
    wrong
}
