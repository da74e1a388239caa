//! hive: an agent supervisor built from what the kernel already offers.

pub mod cli;
pub mod client;
pub mod error;
pub mod host;
pub mod json;
pub mod limits;
pub mod model;
pub mod outbox;
pub mod record;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod time;
pub mod wire;
