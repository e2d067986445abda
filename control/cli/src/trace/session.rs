//! Questions to a VM: one that runs, by its control socket, or one of this process's at its end.

use board::insight::{
    Answer, Ask, BlockView, HostCode, MOST_BYTES, MOST_MAPPED, Mapped, Question, Samples, Snapshot,
};
use vms::control::ClientError;
use vms::{Error, Name, Registry};

use crate::error::CliError;

/// A VM that can be asked.
pub struct Session<'a> {
    name: Name,
    way: Box<Way<'a>>,
}

/// How a question gets to it.
type Way<'a> = dyn FnMut(&Question) -> Result<Answer, ClientError> + 'a;

impl<'a> Session<'a> {
    /// Reaches the VM of this name.
    pub fn open(name: &Name) -> Result<Self, CliError> {
        let mut client = Registry::of_user()?.running(name)?.control()?;
        let way = move |question: &Question| {
            let question = serde_json::to_value(question).expect("a question is plain data");
            let answer = client.inspect(question)?;
            serde_json::from_value(answer).map_err(|error| ClientError::Nonsense(error.to_string()))
        };
        Ok(Self { name: name.clone(), way: Box::new(way) })
    }

    /// A VM that `ask` is a way to.
    pub fn direct(name: &Name, ask: &'a mut Ask<'_>) -> Self {
        let way =
            |question: &Question| ask(question).map_err(|error| ClientError::Refused(error.to_string()));
        Self { name: name.clone(), way: Box::new(way) }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    fn ask(&mut self, question: &Question) -> Result<Answer, ClientError> {
        (self.way)(question)
    }

    /// What has been counted on a vCPU.
    pub fn counters(&mut self, vcpu: u8) -> Result<Snapshot, ClientError> {
        self.snapshot(&Question::Counters { vcpu })
    }

    /// The same of all vCPUs.
    pub fn all_counters(&mut self) -> Result<Vec<Snapshot>, ClientError> {
        let first = self.counters(0)?;
        let rest = (1..first.vcpus).map(|vcpu| self.counters(vcpu)).collect::<Result<Vec<_>, _>>()?;
        Ok([vec![first], rest].concat())
    }

    /// The same with what is counted by place; keeps that going.
    pub fn trace(&mut self, vcpu: u8, hertz: u32) -> Result<Snapshot, ClientError> {
        self.snapshot(&Question::Trace { vcpu, hertz })
    }

    fn snapshot(&mut self, question: &Question) -> Result<Snapshot, ClientError> {
        match self.ask(question)? {
            Answer::Counters(snapshot) => Ok(*snapshot),
            other => Err(nonsense(&other)),
        }
    }

    /// What sampling has seen of a vCPU.
    pub fn samples(&mut self, vcpu: u8, from: u64) -> Result<Samples, ClientError> {
        match self.ask(&Question::Samples { vcpu, from })? {
            Answer::Samples(samples) => Ok(samples),
            other => Err(nonsense(&other)),
        }
    }

    /// What a vCPU's engine has made of the code at an address.
    pub fn blocks(&mut self, vcpu: u8, rip: u64) -> Result<Vec<BlockView>, ClientError> {
        match self.ask(&Question::Blocks { vcpu, rip })? {
            Answer::Blocks(blocks) => Ok(blocks),
            other => Err(nonsense(&other)),
        }
    }

    /// What a vCPU's engine has for host code from an address on, in part.
    pub fn host_code(&mut self, vcpu: u8, from: u64) -> Result<Vec<HostCode>, ClientError> {
        match self.ask(&Question::HostCode { vcpu, from })? {
            Answer::HostCode(parts) => Ok(parts),
            other => Err(nonsense(&other)),
        }
    }

    /// The pages that are there from one address to before another, in vCPU 0's address space.
    pub fn mappings(&mut self, from: u64, to: u64) -> Result<Vec<Mapped>, ClientError> {
        let mut all: Vec<Mapped> = Vec::new();
        let mut at = from;
        while at < to {
            let end = at.saturating_add(MOST_MAPPED).min(to);
            let ranges = match self.ask(&Question::Mappings { vcpu: 0, from: at, to: end })? {
                Answer::Mappings(ranges) => ranges,
                other => return Err(nonsense(&other)),
            };
            for range in ranges {
                match all.last_mut() {
                    Some(last)
                        if last.linear.checked_add(last.len) == Some(range.linear)
                            && (last.executable, last.user) == (range.executable, range.user) =>
                    {
                        last.len = last.len.saturating_add(range.len);
                    }
                    _ => all.push(range),
                }
            }
            at = end;
        }
        Ok(all)
    }

    /// What stands in memory, in vCPU 0's address space, up to where something is missing.
    pub fn read(&mut self, linear: u64, len: u64) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let want = (len - bytes.len() as u64).min(MOST_BYTES.into());
            let Some(from) = linear.checked_add(bytes.len() as u64) else { break };
            let question = Question::Read { vcpu: 0, linear: from, len: want as u32 };
            let text = match self.ask(&question)? {
                Answer::Bytes(text) => text,
                other => return Err(nonsense(&other)),
            };
            let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
            let pairs = text.as_bytes().chunks_exact(2);
            let got = pairs.len() as u64;
            bytes.extend(pairs.map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
            if got < want {
                break;
            }
        }
        Ok(bytes)
    }

    /// That it has not answered.
    pub fn failed(&self, source: ClientError) -> CliError {
        Error::NoAnswer { name: self.name.clone(), source }.into()
    }
}

fn nonsense(answer: &Answer) -> ClientError {
    let mut text = format!("{answer:?}");
    text.truncate(text.char_indices().nth(80).map_or(text.len(), |(at, _)| at));
    ClientError::Nonsense(text)
}
