//! Owns how whole lines are cut out of what pipes give: at the speed of memchr, so that neither the bench's agent nor
//! its client is what a throughput figure measures.

use std::io::BufRead as _;

/// Takes the next whole line, its newline included, from the front of `bytes`. What is left at `None` is no whole line.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut cursor = *bytes;
    // Reading from a slice cannot fail.
    let length = cursor.skip_until(b'\n').unwrap_or(0);
    let (line, rest) = bytes.split_at(length);
    line.ends_with(b"\n").then(|| {
        *bytes = rest;
        line
    })
}
