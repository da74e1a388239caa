//! A folder and an environment, kept once as content and named by its digest: secrets stay out of the log.
//! The content is NUL-terminated strings: the folder first, then NAME=value, sorted.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::Context;
use crate::sys::process;

#[derive(Debug, Clone)]
pub struct Surroundings {
    pub folder: PathBuf,
    pub env: Vec<CString>,
}

/// Whether it is a variable at all, and not one of ours.
fn is_to_be_kept(var: &CStr) -> bool {
    // A name may begin with an equals sign.
    let end = var.to_bytes().iter().skip(1).position(|b| *b == b'=');
    end.is_some_and(|end| !OWN.iter().any(|own| own.as_bytes() == &var.to_bytes()[..end + 1]))
}

/// What hive sets itself for each workload: what another hive set is not handed on.
const OWN: [&str; 5] = ["HIVE_TASK", "HIVE_ATTEMPT", "HIVE_AGENT", "HIVE_START", "HIVE_HOST"];

impl Surroundings {
    /// Those of this process.
    pub fn here() -> io::Result<Surroundings> {
        let mut env: Vec<CString> =
            process::environment().filter(|var| is_to_be_kept(var)).map(CStr::to_owned).collect();
        env.sort();
        Ok(Surroundings { folder: std::env::current_dir()?, env })
    }

    pub fn store(&self, context: &Context) -> io::Result<String> {
        let mut bytes = self.folder.as_os_str().as_bytes().to_vec();
        bytes.push(0);
        self.env.iter().for_each(|var| bytes.extend_from_slice(var.as_bytes_with_nul()));
        context.put(&bytes)
    }

    pub fn load(context: &Context, digest: &str) -> io::Result<Surroundings> {
        let bytes = std::fs::read(context.path(digest))?;
        let mut strings = bytes.split(|b| *b == 0);
        let folder = PathBuf::from(OsString::from_vec(strings.next().unwrap_or_default().to_vec()));
        let env = strings.filter(|s| !s.is_empty()).filter_map(|s| CString::new(s).ok()).collect();
        Ok(Surroundings { folder, env })
    }

    /// The same with some variables set anew.
    pub fn with(mut self, set: &[(&str, &OsStr)]) -> Surroundings {
        for (name, value) in set {
            let prefix = format!("{name}=").into_bytes();
            self.env.retain(|var| !var.as_bytes().starts_with(&prefix));
            self.env.extend(CString::new([prefix.as_slice(), value.as_bytes()].concat()));
        }
        self
    }
}
