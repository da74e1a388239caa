//! What a dead supervisor left: its hosts may be alive. They are ended, tree by tree, before a new pool is made.

use crate::model::State;
use crate::store::Folders;
use crate::sys::process::{self, Pid};
use crate::sys::tree;

/// Ends the hosts that the log says ran, if they are still the same processes.
pub fn end_old_hosts(state: &State, folders: &Folders) {
    if state.boot.as_deref() != Some(process::boot_id().as_str()) {
        return;
    }
    for host in state.agents.values().filter_map(|agent| agent.host) {
        let pid = Pid(host.pid);
        if process::start_time(pid).is_ok_and(|ticks| ticks == host.start_ticks) {
            tree::end_stranger(pid);
        }
        // A host that was killed too left its tree to init: those carry its mark.
        let live = format!("HIVE_LIVE={}", folders.live.display());
        tree::end_marked(&[live, format!("HIVE_START={}.", host.pid)]);
    }
}
