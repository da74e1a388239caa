//! Owns the list of groups; each is a file that says what is compared with what, and what a good figure is.

mod barrier;
mod board;
mod command;
mod context;
mod dispatch;
mod idle;
mod lock;
mod oneshot;
mod pool;
mod recovery;
mod state;
mod takeover;
mod throughput;

use crate::runner::Group;

/// In the order in which they are run.
pub const ALL: [Group; 13] = [
    dispatch::GROUP,
    throughput::GROUP,
    oneshot::GROUP,
    command::GROUP,
    context::GROUP,
    pool::GROUP,
    state::GROUP,
    board::GROUP,
    lock::GROUP,
    barrier::GROUP,
    recovery::GROUP,
    takeover::GROUP,
    idle::GROUP,
];
