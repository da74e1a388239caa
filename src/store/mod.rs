//! What hive keeps: the event log, content by digest, the intake and the marks; what processes share without a
//! supervisor: state, locks, queues; and where all of it lies.
//! Invariant: everything lies in folders of this user alone (0700), and nothing is reached through a symbolic link.

pub mod board;
pub mod context;
pub mod diff;
pub mod folders;
pub mod intake;
pub mod keeper;
pub mod locks;
pub mod log;
#[cfg(test)]
mod log_tests;
pub mod marks;
pub mod output;
pub mod queue;
pub mod references;
pub mod repair;
pub mod segment;
pub mod snapshot;
pub mod stamp;
pub mod state;
pub mod surroundings;
pub mod sync;
pub mod upkeep;

pub use board::Board;
pub use context::Context;
pub use folders::Folders;
pub use intake::Intake;
pub use locks::{Lock, Locks};
pub use log::Log;
pub use marks::Marks;
pub use output::BoundedLog;
pub use queue::Queue;
pub use state::State;
