//! An agent's limits as JSON fields: the same in a request, in the log and in a host's orders.
//! Invariant: limits that were read are within the bounds of each.

use crate::json::{Flat, Object};
use crate::limits::{MEMORY_LEAST, NICE_MAX, NOFILE_LEAST, NPROC_LEAST};
use crate::model::Limits;

pub fn write(o: &mut Object, limits: &Limits) {
    let Limits { memory, cpu_time, nofile, nproc, nice } = *limits;
    let named = [("memory", memory), ("cpu_time", cpu_time), ("nofile", nofile), ("nproc", nproc), ("nice", nice)];
    for (name, value) in named {
        if let Some(value) = value {
            o.num(name, value);
        }
    }
}

pub fn read(flat: &Flat) -> Result<Limits, String> {
    let within = |name: &str, least: u64, most: u64| match flat.u64(name)? {
        Some(n) if n < least => Err(format!("\"{name}\" must be at least {least}")),
        Some(n) if n > most => Err(format!("\"{name}\" may be at most {most}")),
        other => Ok(other),
    };
    // What the kernel takes as a number, and not for "no limit".
    let most = i64::MAX as u64;
    Ok(Limits {
        memory: within("memory", MEMORY_LEAST, most)?,
        cpu_time: within("cpu_time", 1, u64::from(u32::MAX))?,
        nofile: within("nofile", NOFILE_LEAST, u64::from(u32::MAX))?,
        nproc: within("nproc", NPROC_LEAST, u64::from(u32::MAX))?,
        nice: within("nice", 0, NICE_MAX)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_back() {
        let limits =
            Limits { memory: Some(512 << 20), cpu_time: Some(60), nofile: None, nproc: Some(20), nice: Some(5) };
        let mut out = Vec::new();
        let mut o = Object::open(&mut out);
        write(&mut o, &limits);
        o.close();
        assert_eq!(read(&Flat::parse(std::str::from_utf8(&out).unwrap()).unwrap()), Ok(limits));
    }

    #[test]
    fn a_bound_that_makes_no_sense_is_named() {
        for (text, word) in [(r#"{"memory":5}"#, "memory"), (r#"{"nice":20}"#, "nice"), (r#"{"nproc":0}"#, "nproc")] {
            assert!(read(&Flat::parse(text).unwrap()).unwrap_err().contains(word));
        }
    }
}
