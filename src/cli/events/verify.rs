//! `events verify`: every record looked at: its checksum, its number, its term. With or without a hive that runs.

use clap::Command;

use super::super::{Call, exit, output};
use crate::client;
use crate::error::Result;
use crate::json::Object;
use crate::store::repair::{self, Damage, Survey};

pub fn command() -> Command {
    Command::new("verify").about("Check every record of the log; exit 1 and say where, if one is damaged or missing")
}

pub fn run(call: &mut Call) -> Result<i32> {
    let folder = super::folder(call)?;
    let mut survey = repair::survey(&folder, |_, _| {})?;
    if client::leader(&call.folders).is_some() {
        // It was being written while we read it.
        survey.torn = None;
    }
    if call.json {
        call.out.line(&json(&survey))?;
    } else {
        call.out.line(&summary(&survey))?;
        for (from, to) in &survey.repaired {
            call.out.line(&format!("repaired: {} lost", records(*from, *to)))?;
        }
        for damage in &survey.damage {
            call.out.line(&in_words(damage))?;
        }
    }
    call.out.finish()?;
    warn(&survey);
    Ok(if survey.is_clean() { exit::DONE } else { exit::FAILED })
}

/// What does no harm by itself, and what to do about the rest.
fn warn(survey: &Survey) {
    if let Some(torn) = &survey.torn {
        let (file, at, bytes) = (torn.file.display(), torn.offset, torn.bytes);
        eprintln!(
            "hivectl: {file}: byte {at}: the last {bytes} bytes are no whole record, as a crash leaves them: the next start cuts them off"
        );
    }
    for (path, at) in &survey.snapshots {
        if let Err(why) = at {
            eprintln!("hivectl: the snapshot {} is not used: {why}", path.display());
        }
    }
    if !survey.is_clean() {
        eprintln!("hivectl: `hivectl events repair` cuts damage out and says what is lost by it");
    }
}

fn summary(survey: &Survey) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut text = format!(
        "{} in {}, {}",
        count(survey.records as usize, "record"),
        count(survey.segments as usize, "segment"),
        output::size(survey.bytes)
    );
    if let (Some(first), Some(last), Some((first_term, last_term))) = (survey.first, survey.last, survey.terms) {
        text.push_str(&format!(": {first} to {last}, terms {first_term} to {last_term}"));
    }
    let good = survey.snapshots.iter().filter(|(_, at)| at.is_ok()).count();
    format!("{text}; {}", count(good, "snapshot"))
}

/// One damage as a person reads it.
pub fn in_words(damage: &Damage) -> String {
    let (file, from, to) = (damage.file.display(), damage.from, damage.to);
    let place = if from == to { format!("byte {from}") } else { format!("bytes {from} to {to}") };
    let lost = damage.lost.map_or_else(
        || "; no record is missing".to_owned(),
        |(first, last)| format!("; {} missing", records(first, last)),
    );
    format!("{file}: {place}: {}{lost}", damage.what)
}

/// "record 7 is" or "records 7 to 9 are".
pub fn records(first: crate::model::Seq, last: crate::model::Seq) -> String {
    if first == last { format!("record {first} is") } else { format!("records {first} to {last} are") }
}

fn json(survey: &Survey) -> String {
    let mut text = Vec::new();
    let mut o = Object::open(&mut text);
    o.bool("ok", survey.is_clean()).num("records", survey.records).num("segments", survey.segments);
    o.num("bytes", survey.bytes);
    if let (Some(first), Some(last), Some((first_term, last_term))) = (survey.first, survey.last, survey.terms) {
        o.num("first", first.0).num("last", last.0).num("first_term", first_term.0).num("last_term", last_term.0);
    }
    list(o.key("damage"), &survey.damage, damage_fields);
    list(o.key("repaired"), &survey.repaired, |o, (from, to)| {
        o.num("from", from.0).num("to", to.0);
    });
    list(o.key("snapshots"), &survey.snapshots, |o, (path, at)| {
        o.str("file", &path.display().to_string());
        match at {
            Ok(seq) => o.num("seq", seq.0),
            Err(why) => o.str("error", why),
        };
    });
    if let Some(torn) = &survey.torn {
        let mut t = Object::open(o.key("torn"));
        t.str("file", &torn.file.display().to_string()).num("from", torn.offset).num("bytes", torn.bytes);
        t.close();
    }
    o.close();
    String::from_utf8_lossy(&text).into_owned()
}

pub fn damage_fields(o: &mut Object, damage: &Damage) {
    o.str("file", &damage.file.display().to_string()).num("from", damage.from).num("to", damage.to);
    o.str("what", &damage.what);
    if let Some((first, last)) = damage.lost {
        o.num("first_lost", first.0).num("last_lost", last.0);
    }
    o.opt_str("kept", damage.kept.as_ref().map(|path| path.display().to_string()).as_deref());
}

pub fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Object, &T)) {
    out.push(b'[');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let mut o = Object::open(out);
        write(&mut o, item);
        o.close();
    }
    out.push(b']');
}
