//! What hive keeps: the event log, content by digest, and the intake; and where all of it lies.
//! Invariant: everything lies in folders of this user alone (0700), and nothing is reached through a symbolic link.

pub mod context;
pub mod folders;
pub mod intake;
pub mod log;
pub mod output;
pub mod surroundings;
pub mod sync;

pub use context::Context;
pub use folders::Folders;
pub use intake::Intake;
pub use log::Log;
pub use output::BoundedLog;
