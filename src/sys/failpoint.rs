//! Places at which a test has this process die, as `kill -9` would have it: `HIVE_FAIL=NAME:N` at the N-th passing of NAME.
//! In builds without debug assertions, and so in every release, none of this is compiled in.

/// Passes this place, or dies here.
#[inline(always)]
pub fn pass(name: &str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};

    struct Failpoint {
        name: String,
        left: AtomicU64,
    }

    fn armed() -> Option<&'static Failpoint> {
        static ARMED: OnceLock<Option<Failpoint>> = OnceLock::new();
        let read = || {
            let text = std::env::var("HIVE_FAIL").ok()?;
            let (name, at) = text.rsplit_once(':')?;
            Some(Failpoint { name: name.to_owned(), left: AtomicU64::new(at.parse().ok()?) })
        };
        ARMED.get_or_init(read).as_ref()
    }

    pub fn pass(name: &str) {
        if let Some(point) = armed().filter(|point| point.name == name)
            && point.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
