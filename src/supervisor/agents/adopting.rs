//! Taking over agents of a former leader: their pipes, and which of their tasks they have been sent.
//! Invariant: a task is sent again only if it is known that it was not sent before.

use std::io;
use std::os::fd::AsRawFd;

use mio::{Interest, Poll};

use super::{Agents, Link, Pipes};
use crate::host::number;
use crate::limits;
use crate::model::{Agent, AgentId, State, TaskId};
use crate::store::marks::Delivery;
use crate::supervisor::{Wake, watch};
use crate::sys::fifo;
use crate::sys::process::{self, Process};
use crate::wire::host::Command;

impl Agents {
    /// Takes over a living host: its pipes are found where it holds them open, whatever became of their names.
    pub fn adopt(&mut self, id: AgentId, host: Process, group: i32, poll: &Poll) -> io::Result<()> {
        let pipe = |number: i32| fifo::open_of(host.pid, number);
        let pipes = Pipes { out: pipe(number::OUT)?, inbox: pipe(number::IN)?, commands: pipe(number::COMMANDS)? };
        watch(poll, pipes.out.as_raw_fd(), Wake::AgentOut(id), Interest::READABLE)?;
        watch(poll, host.as_raw_fd(), Wake::HostGone(id), Interest::READABLE)?;
        self.former_groups.insert(group);
        self.links.insert(id, Link::new(pipes, host, true));
        self.untold.push(id);
        Ok(())
    }

    /// Adopted hosts live without a leader for their grace time: to wake them all can wait until there is nothing better
    /// to do.
    pub fn tell_soon(&mut self, mono: i64, grace_us: i64) {
        let pause = limits::TELL_AFTER.as_micros() as i64;
        self.tell_at = (!self.untold.is_empty()).then_some(mono + pause.min(grace_us / 2));
    }

    pub fn tell_at(&self) -> Option<i64> {
        self.tell_at
    }

    pub fn tell_who_leads(&mut self, mono: i64) {
        if self.tell_at.is_some_and(|at| at <= mono) {
            self.tell_at = None;
            for id in std::mem::take(&mut self.untold) {
                self.command(id, &Command::Leader(process::my_pid().0));
            }
        }
    }

    /// How many of the tasks that a `lines` agent holds need not be sent again. Those that were being sent when the last
    /// supervisor died, and are not in the pipe, were read or never written: that is for its host to find out.
    pub fn sent_before(&mut self, agent: &Agent, state: &State) -> usize {
        let held: Vec<TaskId> = agent.held.iter().copied().collect();
        let attempt = |at: usize| state.tasks[held[at]].attempts + u32::from(at > 0);
        let is = |delivery: Delivery| (0..held.len()).find(|at| Delivery::of(held[*at], attempt(*at)) == delivery);
        let sure = self.marks.sent(agent.id).and_then(is).map_or(0, |last| last + 1);
        let Some(link) = self.links.get_mut(&agent.id).filter(|_| self.marks.may_be_sending(agent.id)) else {
            return sure;
        };
        let waiting = fifo::look(&link.inbox.file).unwrap_or_default();
        let in_pipe = |task: TaskId| memchr::memmem::find(&waiting, format!("TASK {task} ").as_bytes()).is_some();
        let seen = held.iter().rposition(|task| in_pipe(*task)).map_or(sure, |last| sure.max(last + 1));
        link.unsettled = held[seen..].to_vec();
        self.ask_to_settle(agent.id, state);
        held.len()
    }
}
