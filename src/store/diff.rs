//! What changed from one text to another, as a unified diff that patch(1) takes. Pure: bytes in, bytes out.

use std::ops::Range;

use imara_diff::{Algorithm, Diff, Hunk, InternedInput};

/// Lines shown around a change.
const AROUND: u32 = 3;

/// The changes, and how many lines they add and remove.
pub struct Changes {
    pub text: Vec<u8>,
    pub added: u32,
    pub removed: u32,
}

/// The unified diff of `a` and `b`, empty where they are the same. Lines are bytes: any text will do.
pub fn unified(a: (&str, &[u8]), b: (&str, &[u8])) -> Changes {
    let input = InternedInput::new(a.1, b.1);
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let mut page = Page { input: &input, text: Vec::new() };
    let mut near: Vec<Hunk> = Vec::new();
    for hunk in diff.hunks() {
        // Changes whose surroundings touch are shown together.
        if near.last().is_some_and(|last| hunk.before.start - last.before.end > 2 * AROUND) {
            page.print(&near);
            near.clear();
        }
        near.push(hunk);
    }
    page.print(&near);
    if !page.text.is_empty() {
        page.text.splice(..0, format!("--- {}\n+++ {}\n", a.0, b.0).into_bytes());
    }
    Changes { text: page.text, added: diff.count_additions(), removed: diff.count_removals() }
}

struct Page<'a> {
    input: &'a InternedInput<&'a [u8]>,
    text: Vec<u8>,
}

impl Page<'_> {
    /// Changes that are near each other, with the lines around them.
    fn print(&mut self, hunks: &[Hunk]) {
        let (Some(first), Some(last)) = (hunks.first(), hunks.last()) else { return };
        let before = around(&first.before, &last.before, self.input.before.len());
        let after = around(&first.after, &last.after, self.input.after.len());
        let head = format!("@@ -{} +{} @@\n", place(&before), place(&after));
        self.text.extend_from_slice(head.as_bytes());
        let mut at = before.start;
        for hunk in hunks {
            self.lines(b' ', at..hunk.before.start, false);
            self.lines(b'-', hunk.before.clone(), false);
            self.lines(b'+', hunk.after.clone(), true);
            at = hunk.before.end;
        }
        self.lines(b' ', at..before.end, false);
    }

    fn lines(&mut self, mark: u8, range: Range<u32>, new: bool) {
        let side = if new { &self.input.after } else { &self.input.before };
        for token in &side[range.start as usize..range.end as usize] {
            let line = self.input.interner[*token];
            self.text.push(mark);
            self.text.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                self.text.extend_from_slice(b"\n\\ No newline at end of file\n");
            }
        }
    }
}

/// From the first change to the last, with the lines around. Both sides have the same lines around, and so as many.
fn around(first: &Range<u32>, last: &Range<u32>, len: usize) -> Range<u32> {
    first.start.saturating_sub(AROUND)..(last.end + AROUND).min(len as u32)
}

/// A range as patch(1) reads it: counted from 1, its length left out where that is 1; an empty one stands after a line.
fn place(range: &Range<u32>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        n => format!("{},{n}", range.start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(a: &str, b: &str) -> String {
        String::from_utf8(unified(("a", a.as_bytes()), ("b", b.as_bytes())).text).unwrap()
    }

    #[test]
    fn the_same_has_no_changes() {
        assert_eq!(text("", ""), "");
        assert_eq!(text("x\ny", "x\ny"), "");
    }

    #[test]
    fn changes_near_each_other_are_shown_together() {
        let lines = |changed: &[u32]| -> String {
            (1..=20).map(|n| format!("{n}{}\n", if changed.contains(&n) { "!" } else { "" })).collect()
        };
        let near = text(&lines(&[]), &lines(&[5, 12]));
        assert_eq!(near.matches("@@ -").count(), 1, "{near}");
        assert!(near.starts_with("--- a\n+++ b\n@@ -2,14 +2,14 @@\n 2\n 3\n 4\n-5\n+5!\n 6\n"), "{near}");
        let far = text(&lines(&[]), &lines(&[5, 13]));
        assert_eq!(far.matches("@@ -").count(), 2, "{far}");
    }

    #[test]
    fn ends_without_a_newline_and_empty_sides_are_as_patch_wants_them() {
        assert_eq!(text("", "x\n"), "--- a\n+++ b\n@@ -0,0 +1 @@\n+x\n");
        assert_eq!(text("x\n", ""), "--- a\n+++ b\n@@ -1 +0,0 @@\n-x\n");
        let no = "\\ No newline at end of file\n";
        assert_eq!(text("x", "x\n"), format!("--- a\n+++ b\n@@ -1 +1 @@\n-x\n{no}+x\n"));
        assert_eq!(text("a\nx", "b\nx"), format!("--- a\n+++ b\n@@ -1,2 +1,2 @@\n-a\n+b\n x\n{no}"));
    }
}
