//! One debugger's visit, from connection to detachment.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use board::yard::{Ending, Yard};
use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine as Stub;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use host::event::{Wait, poll};
use vcpu::DebugPoints;

use crate::connection::{Output, Stream};
use crate::registers::Shape;
use crate::target::Machine;

/// Longest packet: all registers in hexadecimal take a quarter.
const PACKET: usize = 4096;

/// Why a session ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("it sends or takes no more")]
    Io(#[from] io::Error),
    #[error("the host refuses to wait")]
    Host(#[from] host::HostError),
    #[error("what it sends is not GDB's protocol: {0}")]
    Protocol(String),
}

impl<T: std::fmt::Display + std::fmt::Debug> From<GdbStubError<T, io::Error>> for SessionError {
    fn from(error: GdbStubError<T, io::Error>) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// What a debugger sends, byte by byte.
struct Input<'a> {
    stream: &'a Stream,
    bytes: VecDeque<u8>,
}

/// What comes next.
enum Next {
    Byte(u8),
    /// The debugger has gone.
    Gone,
    /// Something about the machine has changed.
    News,
}

impl Input<'_> {
    fn next(&mut self, yard: &Yard) -> Result<Next, SessionError> {
        if let Some(byte) = self.bytes.pop_front() {
            return Ok(Next::Byte(byte));
        }
        let mut waits = [Wait::readable(self.stream), Wait::readable(yard.news())];
        poll(&mut waits, None)?;
        if waits[1].ready() {
            yard.news().take();
            return Ok(Next::News);
        }
        let mut buffer = [0; 1024];
        self.bytes.extend(self.stream.read(&mut buffer)?);
        Ok(self.bytes.pop_front().map_or(Next::Gone, Next::Byte))
    }
}

/// Takes the debugger's points back and lets the machine go, however the session ends.
struct Visit<'a>(&'a Yard);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.close();
        // Points change when a vCPU leaves the yard, so all have to be in it once.
        if wait_until_standing(self.0) {
            self.0.set_points(DebugPoints::default());
            while self.0.take_event().is_some() {}
            self.0.open(&[]);
        }
    }
}

/// Waits until all vCPUs stand; `false` if the machine has ended.
fn wait_until_standing(yard: &Yard) -> bool {
    loop {
        yard.news().take();
        if yard.ending().is_some() {
            return false;
        }
        if yard.stands() {
            return true;
        }
        if poll(&mut [Wait::readable(yard.news())], None).is_err() {
            return false;
        }
    }
}

/// Serves a debugger to its end; whether it asked for the machine's.
pub(crate) fn serve(yard: &Arc<Yard>, stream: Stream, shape: Option<Shape>) -> Result<bool, SessionError> {
    let stream = Arc::new(stream);
    yard.close();
    let _visit = Visit(yard);
    if !wait_until_standing(yard) {
        return Ok(false);
    }
    let mut machine = Machine::new(yard.clone(), shape);
    let output = Output::new(stream.clone(), yard.clone());
    let stub = GdbStub::builder(output)
        .packet_buffer_size(PACKET)
        .build()
        .map_err(|error| SessionError::Protocol(error.to_string()))?;
    let mut stub = stub.run_state_machine(&mut machine)?;
    let mut input = Input { stream: &stream, bytes: VecDeque::new() };
    loop {
        stub = match stub {
            Stub::Disconnected(stub) => return Ok(stub.get_reason() == DisconnectReason::Kill),
            Stub::CtrlCInterrupt(stub) => {
                yard.close();
                // Told when all stand.
                stub.interrupt_handled(&mut machine, None::<MultiThreadStopReason<u64>>)?
            }
            Stub::Running(stub) if yard.stands() => {
                let reason = machine.reason(yard.take_event());
                stub.report_stop(&mut machine, reason)?
            }
            stub => match (yard.ending(), stub) {
                (Some(ending), Stub::Running(stub)) => stub.report_stop(&mut machine, told(ending))?,
                // It has not asked how the machine ends.
                (Some(_), _) => return Ok(false),
                (None, stub) => match input.next(yard)? {
                    Next::Byte(byte) => feed(stub, &mut machine, byte)?,
                    Next::Gone => return Ok(false),
                    Next::News => stub,
                },
            },
        };
    }
}

type Protocol<'a> = Stub<'a, Machine, Output>;

fn feed<'a>(stub: Protocol<'a>, machine: &mut Machine, byte: u8) -> Result<Protocol<'a>, SessionError> {
    Ok(match stub {
        Stub::Idle(stub) => stub.incoming_data(machine, byte)?,
        Stub::Running(stub) => stub.incoming_data(machine, byte)?,
        other => other,
    })
}

fn told(ending: Ending) -> MultiThreadStopReason<u64> {
    match ending {
        Ending::Exited(status) => MultiThreadStopReason::Exited(status),
        Ending::Killed(signal) => MultiThreadStopReason::Terminated(Signal(signal)),
    }
}
