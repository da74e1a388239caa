//! How the process begins: as the C library starts it. Rust's own beginning reads /proc/self/maps and makes a stack for
//! signal handlers, which is a tenth of what a short command costs, and nothing here uses it.
//! Invariant: before anything else runs, descriptors 0 to 2 are open and SIGPIPE is ignored.

use std::ffi::{CStr, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

/// Makes a function from arguments to exit code the beginning of the program. Its file is marked `#![no_main]`.
#[macro_export]
macro_rules! begins_with {
    ($life:path) => {
        // SAFETY: there is no other `main` in the program, and this one has the signature that C gives it.
        #[unsafe(no_mangle)]
        extern "C" fn main(count: i32, words: *const *const std::ffi::c_char) -> i32 {
            // SAFETY: these are the arguments as the C library hands them over.
            unsafe { $crate::sys::begin::run(count, words, $life) }
        }
    };
}

/// Runs the whole program, and ends the process.
///
/// # Safety
/// SAFETY: `words` points to `count` strings that stay.
pub unsafe fn run(count: i32, words: *const *const c_char, life: fn(Vec<OsString>) -> i32) -> i32 {
    let word = |n: usize| {
        // SAFETY: the caller says so.
        let word = unsafe { CStr::from_ptr(*words.add(n)) };
        OsStr::from_bytes(word.to_bytes()).to_owned()
    };
    open_the_first_three();
    let _ = super::signal::ignore(Signal::SIGPIPE);
    let code = life((0..count as usize).map(word).collect());
    // Flushes stdout.
    std::process::exit(code)
}

/// What is opened later must not come to be stdout by accident.
fn open_the_first_three() {
    for fd in 0..=2 {
        // SAFETY: F_GETFD reads a flag of a descriptor, or says that there is none.
        let closed = unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 && Errno::last() == Errno::EBADF;
        if closed && let Ok(file) = open(Path::new("/dev/null"), OFlag::O_RDWR, Mode::empty()) {
            // The lowest number that is free: this one. It stays open as long as the process.
            std::mem::forget(file);
        }
    }
}
