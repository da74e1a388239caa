//! Owns the floors: the same work with the same number of processes and hops, doing nothing else.

pub mod crowd;
pub mod relay;
pub mod ring;
