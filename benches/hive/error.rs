//! Owns how a measurement that could not be made is reported: what was tried, and why it failed.

use std::fmt::{self, Display};

/// One sentence, from the outermost attempt to the cause.
#[derive(Debug)]
pub struct Failure(String);

pub type Result<T> = std::result::Result<T, Failure>;

/// Makes a failure out of what was seen.
pub fn failure(what: impl Into<String>) -> Failure {
    Failure(what.into())
}

impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Names the attempt an error belongs to.
pub trait Trying<T> {
    fn trying(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Trying<T> for std::result::Result<T, E> {
    fn trying(self, what: impl Display) -> Result<T> {
        self.map_err(|cause| Failure(format!("{what}: {cause}")))
    }
}
