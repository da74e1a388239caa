//! Every bound of hive, in one place, with the relations between them asserted.
//! A bound that is reached is an answer ("refused: limit"), never growth or a crash.

use std::time::Duration;

/// The longest line on any pipe, newline included: what POSIX promises not to tear (PIPE_BUF).
pub const LINE_MAX: usize = 4096;
/// Text of a task that travels inline; longer text goes by reference.
pub const TEXT_INLINE_MAX: usize = 2048;
/// A result that travels inline; a longer one goes by reference.
pub const RESULT_INLINE_MAX: usize = 2048;
/// A reason, a progress text, a label list: what fits beside other fields in one line.
pub const NOTE_MAX: usize = 512;
/// Name of a reply FIFO, a hive, a task, a label.
pub const NAME_MAX: usize = 100;
/// A client's tag as raw JSON.
pub const TAG_MAX: usize = 256;
/// Ids in one `wait` request.
pub const WAIT_IDS_MAX: usize = 256;

/// Bytes taken from all pipes in one turn, and so the size of one half of the intake.
pub const TURN_BYTES_MAX: usize = 256 * 1024;
/// Bytes taken from one pipe in one read: the capacity of a pipe.
pub const READ_MAX: usize = 64 * 1024;

/// Agents in one pool.
pub const AGENTS_MAX: u32 = 4096;
/// Tasks a `lines` agent may hold.
pub const PREFETCH_MAX: u32 = 256;
/// Tasks that may wait for an agent (`pool start --max-queued` changes it).
pub const QUEUED_MAX: u64 = 1 << 20;
/// Bytes of ended tasks (text and result) kept in memory; older ones are read from the log.
pub const ENDED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What one ended task costs besides its text and result.
pub const ENDED_OVERHEAD: usize = 320;

/// Answers that wait for one client that does not read, before it is cut off.
pub const CLIENT_QUEUE_MAX: usize = 8 * 1024 * 1024;
/// A client whose pipe takes nothing for this long is cut off.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// Reply FIFOs kept open between answers.
pub const CLIENTS_OPEN_MAX: usize = 256;
/// Tasks in one answer to `tasks`; the client asks again from where it ended.
pub const TASKS_PAGE_BYTES: usize = 256 * 1024;

/// Restart policy: so many deaths within the window and the agent is parked.
pub const DEATHS_MAX: usize = 5;
pub const DEATHS_WINDOW: Duration = Duration::from_secs(60);
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// The least that an agent's workload may be held to: below this not even a shell starts.
pub const MEMORY_LEAST: u64 = 1024 * 1024;
pub const NOFILE_LEAST: u64 = 16;
pub const NPROC_LEAST: u64 = 1;
/// The nicest that the kernel knows.
pub const NICE_MAX: u64 = 19;
/// Where the kernel does not bound memory or processes, a host looks: at least and at most so often.
pub const LOOK_SOONEST: Duration = Duration::from_millis(10);
pub const LOOK_LATEST: Duration = Duration::from_secs(1);

/// Agents that a task may kill before it fails for good, unless it says otherwise.
pub const RETRIES_DEFAULT: u32 = 2;
pub const RETRIES_MAX: u32 = 1000;
/// A `lines` agent that was asked to cancel gets this long before it is ended.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// TERM, then this long, then KILL.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// A host that was told to end a task, and has not so long after the grace, is killed itself.
pub const HOST_PATIENCE: Duration = Duration::from_secs(2);
/// An agent that is not ready after this long counts as dead.
pub const START_PATIENCE: Duration = Duration::from_secs(60);
/// Hosts live on without a supervisor for this long.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// Hosts that were taken over are told so when the first rush is over.
pub const TELL_AFTER: Duration = Duration::from_millis(100);
/// A host says in a file that it has no leader, unless it has one again by then.
pub const ORPHAN_NOTE_AFTER: Duration = Duration::from_millis(150);
/// A standby reads a log that grows this often, and not more.
pub const STANDBY_PAUSE: Duration = Duration::from_millis(20);
/// A barrier whose agents have not all answered after this has failed; and so has a pause at a checkpoint.
pub const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(30);
/// Instructions that are kept for one task, or for an agent's next one.
pub const INSTRUCTIONS_MAX: usize = 64;

/// A supervisor that has no agents after this long was left by whoever started it.
pub const STARTER_PATIENCE: Duration = Duration::from_secs(2);
/// A supervisor that was killed to make room for another gets so long to be gone.
pub const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// A client that waits for an answer waits so long for the next leader; and again, as long as agents live.
pub const LEADERLESS_PATIENCE: Duration = Duration::from_secs(3);

/// A task's log (what is not result), and an agent's log before it is rotated.
pub const TASK_LOG_MAX: u64 = 64 * 1024 * 1024;
pub const AGENT_LOG_MAX: u64 = 1024 * 1024;
/// The end of a dead workload's stderr that is shown with its death.
pub const STDERR_TAIL_MAX: usize = 1024;

/// Content below this is read whole, then hashed; written only where it is not there already.
pub const CONTEXT_AT_ONCE: usize = 64 * 1024;
/// Larger content is read, hashed and written in pieces of this size: so large that calls cost little, so small that a
/// processor's cache holds it from one to the next.
pub const CONTEXT_CHUNK: usize = 256 * 1024;
/// Content that no log refers to is kept for so long after it was stored or relied upon, unless `context gc` is told otherwise.
pub const CONTEXT_GRACE: Duration = Duration::from_secs(3600);
/// Files of unfinished writers are kept for at least so long.
pub const CONTEXT_DRAFT_GRACE: Duration = Duration::from_secs(60);
/// Contexts that one task is given.
pub const CONTEXTS_MAX: usize = 16;
/// Names of contexts that are remembered, of a hive and of each agent; the one not used for longest goes first.
pub const CONTEXT_NAMES_MAX: usize = 256;
/// Versions of each, to any of which a new one may say the difference.
pub const CONTEXT_VERSIONS_MAX: usize = 8;
/// A context that is compared with its former versions when a task is handed over.
pub const CONTEXT_COMPARED_MAX: u64 = 4 * 1024 * 1024;
/// Each of two contents that are compared.
pub const DIFF_MAX: u64 = 64 * 1024 * 1024;
/// Text in the JSON of `context get`.
pub const CONTEXT_TEXT_MAX: u64 = 1024 * 1024;

/// One segment of the event log: what a start reads at most, besides a snapshot.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of the event log that are kept (`pool start --keep-log` changes it).
pub const KEEP_LOG_BYTES: u64 = 1024 * 1024 * 1024;
/// Room in the log that is kept free for what must always be recorded: deaths, stops, the next leader.
pub const LOG_RESERVE: u64 = 64 * 1024;
/// And for each task that an agent may hold: how it ends, with its result.
pub const LOG_RESERVE_TASK: u64 = 4 * 1024;
/// What one request may add.
pub const LOG_RESERVE_REQUEST: u64 = 8 * 1024;
/// Room is taken in pieces of this size, or smaller ones where the disk is nearly full.
pub const LOG_PIECE: u64 = 64 * 1024;
/// With a full disk and tasks that wait: how often it is looked whether there is room again.
pub const DISK_FULL_LOOK: Duration = Duration::from_secs(1);
/// The log is synced at most this long after it was written.
pub const SYNC_WITHIN: Duration = Duration::from_millis(100);
/// The supervisor's own log, before it starts over.
pub const SUPERVISOR_LOG_MAX: u64 = 1024 * 1024;

/// A key as one file name, and a part of its path.
pub const KEY_MAX: usize = 200;
pub const KEY_PART_MAX: usize = 200;
/// One value of the state store.
pub const VALUE_MAX: u64 = 64 * 1024 * 1024;
/// All values of a hive (`state quota` changes it): /dev/shm is memory.
pub const STATE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Changes that watchers have not taken; the one that is furthest behind is cut off.
pub const MAIL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A counter stays within these bounds, both ways; and what is added at once.
pub const COUNTER_MAX: i64 = 1 << 61;
pub const INCR_MAX: i64 = 1 << 53;
/// An item of a queue that lies in it; a longer one goes by reference.
pub const ITEM_INLINE_MAX: usize = 4096;
/// Items that wait in one queue.
pub const QUEUE_ITEMS_MAX: u64 = 1 << 20;

const _: () = assert!(LINE_MAX <= 4096, "a line must not tear: PIPE_BUF");
const _: () = assert!(TEXT_INLINE_MAX + NOTE_MAX < LINE_MAX, "a TASK line fits");
const _: () = assert!(RESULT_INLINE_MAX + NOTE_MAX < LINE_MAX, "a DONE line fits");
const _: () = assert!(TEXT_INLINE_MAX + 64 < LINE_MAX, "a RESTORE and an INJECT line fit");
const _: () = assert!(NAME_MAX + TAG_MAX < LINE_MAX);
const _: () = assert!(READ_MAX * 2 <= TURN_BYTES_MAX, "one pipe cannot fill a turn");
const _: () = assert!(LOG_RESERVE_TASK as usize > RESULT_INLINE_MAX + 2 * NOTE_MAX, "an end fits its reserve");
const _: () = assert!(LOG_RESERVE_REQUEST as usize > 2 * LINE_MAX - TAG_MAX, "a request fits its reserve");
const _: () = assert!(CLIENT_QUEUE_MAX > TASKS_PAGE_BYTES * 2, "a page fits a client's queue");
const _: () = assert!(KEY_MAX + 32 < 255, "a key with a version is one file name");
const _: () = assert!(STATE_BYTES_MAX > 2 * VALUE_MAX, "a value can be replaced by another");
const _: () = assert!(COUNTER_MAX / INCR_MAX >= 256, "many too large additions at once stay far from a closed counter");
