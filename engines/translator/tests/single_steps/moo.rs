//! Files of single steps: chunks in chunks, each with a name of four letters and a length.

/// Register numbers in the files' order.
pub mod register {
    pub const AX: usize = 0;
    pub const CS: usize = 4;
    pub const SS: usize = 5;
    pub const SP: usize = 8;
    pub const IP: usize = 12;
    pub const FLAGS: usize = 13;
    pub const COUNT: usize = 14;
}

/// What stands in registers and memory.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub registers: [Option<u16>; register::COUNT],
    /// Addresses and bytes.
    pub ram: Vec<(u32, u8)>,
}

/// One step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub name: String,
    pub code: Vec<u8>,
    /// All registers, and all memory that is read.
    pub before: State,
    /// What has changed.
    pub after: State,
    /// The vector of the exception that it raised.
    pub exception: Option<u8>,
}

/// Reads a file.
pub fn parse(file: &[u8]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for (name, content) in Chunks(file) {
        if name == *b"TEST" {
            steps.push(step(content.get(4..)?)?);
        }
    }
    Some(steps)
}

fn step(bytes: &[u8]) -> Option<Step> {
    let mut step = Step::default();
    for (name, content) in Chunks(bytes) {
        match &name {
            b"NAME" => step.name = String::from_utf8_lossy(content.get(4..)?).into_owned(),
            b"BYTS" => step.code = content.get(4..)?.to_vec(),
            b"INIT" => step.before = state(content)?,
            b"FINA" => step.after = state(content)?,
            b"EXCP" => step.exception = Some(*content.first()?),
            _ => {}
        }
    }
    Some(step)
}

fn state(bytes: &[u8]) -> Option<State> {
    let mut state = State::default();
    for (name, content) in Chunks(bytes) {
        match &name {
            b"REGS" => {
                let present = u16::from_le_bytes(content.get(..2)?.try_into().ok()?);
                let mut values = content[2..].chunks_exact(2);
                for (n, register) in state.registers.iter_mut().enumerate() {
                    if present >> n & 1 != 0 {
                        *register = Some(u16::from_le_bytes(values.next()?.try_into().ok()?));
                    }
                }
            }
            b"RAM " => {
                let entries = content.get(4..)?.chunks_exact(5);
                state.ram = entries.map(|entry| Some((word(entry, 0)?, entry[4]))).collect::<Option<_>>()?;
            }
            _ => {}
        }
    }
    Some(state)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The chunks that bytes are made of, up to one that is cut off.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.get(..4)?.try_into().ok()?;
        let len = word(self.0, 4)? as usize;
        let content = self.0.get(8..8 + len)?;
        self.0 = &self.0[8 + len..];
        Some((name, content))
    }
}
