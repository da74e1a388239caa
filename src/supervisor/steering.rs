//! Requests for checkpoints, instructions and pauses: names become numbers, long texts references.

use super::Hive;
use super::requests::asker;
use crate::error::Result;
use crate::model::{Checkpoint, Input, ReplyTo, Whom};
use crate::wire::request::Op;
use crate::wire::steering::Named;

impl Hive {
    pub(super) fn steering(&mut self, op: Op, to: Option<ReplyTo>) -> Result<Input> {
        Ok(match op {
            Op::Checkpoint { agents, within_us, partial } => {
                let agents = agents.iter().map(|name| self.agent_called(name)).collect::<Result<_>>()?;
                Input::Checkpoint(Checkpoint { agents, within_us, partial, to })
            }
            Op::Inject { whom, text, now } => {
                let whom = match whom {
                    Named::Agent(name) => Whom::Agent(self.agent_called(&name)?),
                    Named::Task(id) => Whom::Task(id),
                };
                Input::Inject { whom, text: self.as_field(text)?, now, to }
            }
            Op::PauseAtCheckpoint { agent, within_us } => {
                Input::Rest { agent: self.agent_called(&agent)?, within_us, to: Some(asker(to)?) }
            }
            Op::Resume { agent, text } => {
                let text = text.map(|text| self.as_field(text)).transpose()?;
                Input::Resume { agent: self.agent_called(&agent)?, text, to }
            }
            other => unreachable!("no request about steering: {other:?}"),
        })
    }
}
