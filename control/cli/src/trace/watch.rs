//! Moments of a VM that runs, one after the other.

use std::time::{Duration, Instant};

use board::insight::Samples;
use insight::Symbols;
use vms::control::ClientError;

use super::frame::Frame;
use super::kernel;
use super::record::Recorder;
use super::session::Session;
use crate::error::CliError;

/// While samples are wanted, they are fetched so often, lest the VM has no room for more.
const FETCH: Duration = Duration::from_millis(500);
/// How long a kernel without names is left alone.
const NAMES_AGAIN: Duration = Duration::from_secs(10);

/// Watches a VM.
pub struct Watch {
    session: Session<'static>,
    symbols: Symbols,
    /// Whether the kernel is asked again for its names: it may not have had them yet.
    nameless: bool,
    hertz: u32,
    next_names: Instant,
    began: Instant,
    /// The number of the next sample of each vCPU.
    next: Vec<u64>,
    /// Fetched since the last moment.
    samples: Vec<Vec<board::insight::Sample>>,
    recorder: Option<Recorder>,
}

impl Watch {
    /// Begins.
    pub fn new(
        session: Session<'static>,
        symbols: Option<Symbols>,
        hertz: u32,
        recorder: Option<Recorder>,
    ) -> Self {
        let (next, samples, nameless) = (Vec::new(), Vec::new(), symbols.is_none());
        let symbols = symbols.unwrap_or_default();
        Self {
            session,
            symbols,
            nameless,
            hertz,
            next_names: Instant::now() + NAMES_AGAIN,
            began: Instant::now(),
            next,
            samples,
            recorder,
        }
    }

    /// What functions are called.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// This moment; `None` if the VM has ended.
    pub fn look(&mut self) -> Result<Option<Frame>, CliError> {
        let looked = self.try_look();
        if self.next_names <= Instant::now() {
            self.find_names();
        }
        match looked {
            Ok(frame) => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.add(&frame, &self.symbols)?;
                }
                Ok(Some(frame))
            }
            Err(ClientError::Gone) => Ok(None),
            // Between two lives, or on its way down; the next question finds it again or gone.
            Err(error) => Err(self.session.failed(error)),
        }
    }

    /// Asks the kernel for its names if it has not had any: it was starting then. This takes too long to be done at
    /// each moment.
    pub fn find_names(&mut self) {
        if !self.nameless {
            return;
        }
        match kernel::symbols(&mut self.session, None) {
            Ok(symbols) => (self.symbols, self.nameless) = (symbols, false),
            // Without them there are addresses.
            Err(_) => self.next_names = Instant::now() + NAMES_AGAIN,
        }
    }

    fn try_look(&mut self) -> Result<Frame, ClientError> {
        let mut vcpus = vec![self.session.trace(0, self.hertz)?];
        for vcpu in 1..vcpus[0].vcpus {
            vcpus.push(self.session.trace(vcpu, self.hertz)?);
        }
        self.next.resize(vcpus.len(), 0);
        self.samples.resize(vcpus.len(), Vec::new());
        self.fetch()?;
        let samples = self.samples.iter_mut().map(std::mem::take).collect();
        Ok(Frame { at: self.began.elapsed().as_secs_f64(), vcpus, samples })
    }

    /// Fetches samples.
    fn fetch(&mut self) -> Result<(), ClientError> {
        if self.hertz == 0 {
            return Ok(());
        }
        for (vcpu, (next, samples)) in self.next.iter_mut().zip(&mut self.samples).enumerate() {
            loop {
                let Samples { from, list } = self.session.samples(vcpu as u8, *next)?;
                *next = from.saturating_add(list.len() as u64);
                if list.is_empty() {
                    break;
                }
                samples.extend(list);
            }
        }
        Ok(())
    }

    /// Fetches samples, and keeps the VM counting, until a time. `wait` waits for a while, and says whether to go on.
    pub fn pass(
        &mut self,
        until: Instant,
        mut wait: impl FnMut(Duration) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait(left.min(FETCH))? {
                return Ok(());
            }
            let kept = self.session.trace(0, self.hertz).and_then(|_| self.fetch());
            match kept {
                Ok(()) => {}
                // The next look tells.
                Err(ClientError::Gone) => return Ok(()),
                Err(error) => return Err(self.session.failed(error)),
            }
        }
    }
}
