//! Reads the lines of a snapshot back, one by one. Its counterpart is `write.rs`.

use std::sync::Arc;

use super::{FORMAT, Leader, Point};
use crate::json::Flat;
use crate::model::{
    Agent, AgentId, AllWait, BarrierId, Counts, Course, Deadline, Frame, Generation, HostId, Now, Phase, ReplyTo,
    Retire, Seen, Shared, Spec, State, StopMode, Task, TaskId, TaskState, Usage, Verdict,
};
use crate::record::Fault;
use crate::record::decode::{Read, Reader, whole, wrong};

/// A snapshot as far as it was read.
pub struct Reading {
    /// What the reader's monotonic clock is ahead of the writer's, which is the wall's.
    shift: i64,
    lines: u64,
    point: Point,
    /// Until the first task or agent comes.
    frame: Option<Frame>,
    ended: bool,
}

impl Reading {
    pub fn new(shift: i64) -> Reading {
        Reading { shift, lines: 0, point: Point::default(), frame: None, ended: false }
    }

    /// Takes the next line, without its newline.
    pub fn line(&mut self, line: &[u8]) -> Read<()> {
        let flat = whole(line)?;
        let r = Line { r: Reader(&flat), shift: self.shift };
        let kind = r.r.str("kind")?;
        if (self.lines == 0) != (kind.as_ref() == "snapshot") || self.ended {
            return Err(Fault::Broken("a line is out of place".into()));
        }
        match kind.as_ref() {
            "snapshot" => self.head(&r)?,
            "hive" => self.frame = Some(r.hive()?),
            "all-wait" => self.frame()?.all_waits.push(r.all_wait()?),
            "surroundings" => drop(self.frame()?.surroundings.insert(r.r.str("digest")?)),
            "context" => {
                let (name, versions) = (r.r.str("name")?, r.r.strings("versions")?);
                let contexts = &mut self.frame()?.contexts;
                versions.into_iter().for_each(|digest| contexts.add(&name, &digest.into()));
            }
            "deadline" => drop(self.frame()?.deadlines.insert(r.deadline()?)),
            "task" => self.state().restore_task(r.task()?),
            "agent" => self.state().restore_agent(r.agent()?),
            "end" => {
                self.state();
                self.ended = r.r.num("lines")? == self.lines;
            }
            other => r.steering(other, self.frame()?)?,
        }
        self.lines += 1;
        Ok(())
    }

    /// The whole of it, if all lines came.
    pub fn finish(self) -> Read<Point> {
        if self.ended { Ok(self.point) } else { Err(Fault::Broken("lines are missing".into())) }
    }

    fn head(&mut self, r: &Line) -> Read<()> {
        if r.r.num("format")? > FORMAT {
            return Err(Fault::Unknown(format!("format {}", r.r.num("format")?)));
        }
        let stamp = r.r.stamp()?;
        (self.point.seq, self.point.wall, self.point.term) = (stamp.seq, stamp.wall, stamp.term);
        if let Some(pid) = r.r.opt_num("pid")? {
            self.point.leader = Some(Leader { pid: pid as i32, since: r.r.int("since")? });
        }
        Ok(())
    }

    fn frame(&mut self) -> Read<&mut Frame> {
        self.frame.as_mut().ok_or_else(|| Fault::Broken("a line is out of place".into()))
    }

    fn state(&mut self) -> &mut State {
        if let Some(frame) = self.frame.take() {
            self.point.state = Frame { seq: self.point.seq, ..frame }.into_state();
        }
        &mut self.point.state
    }
}

/// One line, and the way of its clock.
pub(super) struct Line<'f, 'a> {
    pub r: Reader<'f, 'a>,
    pub shift: i64,
}

impl Line<'_, '_> {
    fn hive(&self) -> Read<Frame> {
        let course = match self.r.str("course")?.as_ref() {
            "running" => Course::Running,
            "stopping" => {
                let mode = StopMode::parse(&self.r.str("mode")?).ok_or_else(|| wrong("mode"))?;
                Course::Stopping { mode, waiting: self.replies("waiting")? }
            }
            "stopped" => Course::Stopped,
            _ => return Err(wrong("course")),
        };
        let room = self.numbers("room")?;
        Ok(Frame {
            course,
            boot: self.r.opt_str("boot")?,
            unclaimed: self.r.opt_num("unclaimed")?.map(|agents| agents as u32),
            spec: Arc::new(self.spec()?),
            last_task: TaskId(self.r.num("last_task")?),
            last_barrier: BarrierId(self.r.opt_num("last_barrier")?.unwrap_or(0)),
            ended: self.verdicts("ended")?,
            unawaited: self.verdicts("unawaited")?,
            room: room.as_chunks().0.iter().map(|[held, agent]| (*held as u32, AgentId(*agent as u32))).collect(),
            retiring: self.agents("retiring")?.collect(),
            rolling: self.agents("rolling")?.collect(),
            shared: self.shared()?,
            used: self.used()?,
            room_waits: self.replies("room_waits")?,
            ready_waits: self.replies("ready_waits")?,
            ..Frame::default()
        })
    }

    fn all_wait(&self) -> Read<AllWait> {
        Ok(AllWait {
            to: self.r.reply()?,
            last: TaskId(self.r.num("last")?),
            left: self.r.num("left")?,
            ended: self.verdicts("ended")?,
        })
    }

    fn deadline(&self) -> Read<(i64, Deadline)> {
        let what = match self.r.str("what")?.as_ref() {
            "timeout" => Deadline::Timeout(self.r.task()?),
            "escalate" => Deadline::Escalate(self.r.task()?),
            "give-up" => Deadline::GiveUp(self.r.task()?),
            "restart" => Deadline::Restart(self.r.agent()?),
            "start" => Deadline::Start(self.r.agent()?),
            "barrier" => Deadline::Barrier,
            "rest" => Deadline::Rest(self.r.agent()?),
            _ => return Err(wrong("what")),
        };
        Ok((self.r.int("at")? + self.shift, what))
    }

    fn task(&self) -> Read<Task> {
        Ok(Task {
            id: self.r.task()?,
            text: self.r.str("text")?,
            options: self.r.options()?,
            state: self.task_state()?,
            submitted: self.r.int("submitted")?,
            attempts: self.r.num("attempts")? as u32,
            deaths: self.r.num("deaths")? as u32,
            percent: self.r.opt_num("percent")?.map(|percent| percent as u8),
            asker: self.replies("asker")?.pop(),
            waiting: self.replies("waiting")?,
        })
    }

    fn task_state(&self) -> Read<TaskState> {
        let ending = || self.r.opt_str("why")?.map(|_| self.r.why_ending()).transpose();
        Ok(match self.r.str("state")?.as_ref() {
            "queued" => TaskState::Queued,
            "held" => TaskState::Held { agent: self.r.agent()?, ending: ending()? },
            "running" => TaskState::Running {
                agent: self.r.agent()?,
                since: self.moment("since")?,
                ending: ending()?,
                paused: self.r.flag("paused")?,
            },
            verdict => {
                let mut ended = self.r.ended(Verdict::parse(verdict).ok_or_else(|| wrong("state"))?)?;
                ended.at = self.r.int("ended")?;
                ended.started = self.r.opt_int("started")?;
                TaskState::Ended(Box::new(ended))
            }
        })
    }

    fn agent(&self) -> Read<Agent> {
        let host = match self.r.opt_num("pid")? {
            Some(pid) => Some(HostId { pid: pid as i32, start_ticks: self.r.num("start")? }),
            None => None,
        };
        let retire = match self.r.opt_str("retire")?.as_deref() {
            Some("restart") => Some(Retire::Restart),
            Some("remove") => Some(Retire::Remove),
            Some(_) => return Err(wrong("retire")),
            None => None,
        };
        Ok(Agent {
            id: self.r.agent()?,
            spec: Arc::new(self.spec()?),
            phase: self.phase()?,
            host,
            generation: Generation(self.r.num("generation")? as u32),
            workload: self.r.opt_num("workload")?.map(|pid| pid as i32),
            held: self.numbers("held")?.into_iter().map(|id| TaskId(id as u64)).collect(),
            retire,
            since: self.moment("since")?,
            restarts: self.r.num("restarts")? as u32,
            deaths: self.numbers("deaths")?.into_iter().map(|at| at + self.shift).collect(),
            abilities: self.r.strings("abilities")?,
            labels: self.r.strings("labels")?,
            seen: self.seen()?,
            shared: self.shared()?,
            used: self.used()?,
        })
    }

    fn seen(&self) -> Read<Seen> {
        let mut seen = Seen::default();
        for text in self.r.strings("seen")? {
            let (name, digest) = text.split_once(' ').ok_or_else(|| wrong("seen"))?;
            seen.set(name.into(), digest.into());
        }
        Ok(seen)
    }

    /// Absent where an older version wrote it.
    fn shared(&self) -> Read<Shared> {
        let [asked, sent] = self.counts("shared")?;
        Ok(Shared { asked, sent })
    }

    fn used(&self) -> Read<Usage> {
        let [input, output, cache, usd_micros] = self.counts("used")?;
        Ok(Usage { input, output, cache, usd_micros })
    }

    fn counts<const N: usize>(&self, name: &str) -> Read<[u64; N]> {
        let numbers = self.r.0.numbers(name).map_err(Fault::Broken)?;
        if numbers.is_empty() { Ok([0; N]) } else { numbers.try_into().map_err(|_| wrong(name)) }
    }

    fn phase(&self) -> Read<Phase> {
        Ok(match self.r.str("phase")?.as_ref() {
            "starting" => Phase::Starting { overdue: self.r.flag("overdue")? },
            "ready" => Phase::Ready,
            "backoff" => Phase::Backoff { until: self.r.int("until")? + self.shift, reason: self.r.str("reason")? },
            "parked" => Phase::Parked { reason: self.r.str("reason")? },
            "leaving" => Phase::Leaving,
            _ => return Err(wrong("phase")),
        })
    }

    fn spec(&self) -> Read<Spec> {
        let flat = Flat::parse(self.r.0.raw("spec").ok_or_else(|| wrong("spec"))?).map_err(|_| wrong("spec"))?;
        Reader(&flat).spec()
    }

    fn moment(&self, name: &str) -> Read<Now> {
        match self.numbers(name)?[..] {
            [mono, wall] => Ok(Now { mono: mono + self.shift, wall }),
            _ => Err(wrong(name)),
        }
    }

    fn numbers(&self, name: &str) -> Read<Vec<i64>> {
        self.r.0.integers(name).map_err(Fault::Broken)
    }

    fn agents(&self, name: &str) -> Read<impl Iterator<Item = AgentId> + use<>> {
        Ok(self.numbers(name)?.into_iter().map(|id| AgentId(id as u32)))
    }

    fn verdicts(&self, name: &str) -> Read<Counts> {
        match self.numbers(name)?[..] {
            [done, failed, cancelled] => Ok(Counts {
                done: done as u64,
                failed: failed as u64,
                cancelled: cancelled as u64,
                ..Counts::default()
            }),
            _ => Err(wrong(name)),
        }
    }

    pub fn replies(&self, name: &str) -> Read<Vec<ReplyTo>> {
        let list = self.r.0.objects(name).map_err(Fault::Broken)?;
        list.iter().map(|flat| Reader(flat).reply()).collect()
    }
}
