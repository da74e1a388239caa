//! hive: an agent supervisor built from what the kernel already offers.
//!
//! What needs no supervisor is here for programs in Rust, too: [`Board`], [`Context`], [`State`], [`Locks`] and [`Queue`], each of
//! the hive that [`Folders`] names. Other programs see the same files.
//!
//! ```
//! use hive::store::locks::{Patience, Sharing};
//! use hive::store::queue::Holder;
//! use hive::store::state::{Key, Options};
//! use hive::{Context, Folders, Locks, Queue, State};
//!
//! # let base = std::env::temp_dir().join(format!("hive-doc-{}", std::process::id()));
//! # let folders = Folders { hive: "doc".into(), live: base.join("live/doc"), kept: base.join("kept/doc"), context: base.join("kept/context") };
//! # #[cfg(any())]
//! let folders = Folders::of("default")?;
//!
//! // Values, and counters that any number of processes add to.
//! let mut state = State::open(&folders)?;
//! let step = Key::parse("plan/step")?;
//! state.set(&step, b"two", &Options::default())?;
//! assert_eq!(&state.get(&step)?.unwrap().bytes[..], b"two");
//! let counter = state.counter(&Key::parse("n")?)?;
//! assert_eq!(counter.add(5), Ok(5));
//!
//! // Content by its SHA-256.
//! let context = Context::at(&folders.context);
//! let digest = context.put(b"notes for all agents")?;
//! assert_eq!(std::fs::read(context.path(&digest))?, b"notes for all agents");
//!
//! // A lock, until it is dropped; flock(1) and `hivectl lock` keep out, and are kept out.
//! let lock = Locks::open(&folders)?.take("build", Sharing::Alone, Patience::No)?;
//! assert!(lock.is_some());
//!
//! // A queue: what is popped comes back if this process dies before it acknowledges.
//! let mut queue = Queue::open(&folders, "jobs")?;
//! queue.push(b"first", "")?;
//! let me = Holder::of(std::process::id() as i32)?;
//! let item = queue.pop(me)?.unwrap();
//! assert!(queue.ack(item.id, me)?);
//! # std::fs::remove_dir_all(base)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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

pub use store::{Board, Context, Folders, Lock, Locks, Queue, State};
