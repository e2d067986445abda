//! Our end of one TCP connection with the guest (RFC 9293, 7323, 5681 in part).
//!
//! A state machine without sockets or clocks of its own: segments and bytes go in, segments and bytes come out. It
//! is lean because of where it stands. What lies between it and the guest's TCP is a ring in memory: segments do not
//! overtake each other, and one is lost only where the guest itself drops it. So there is no congestion window, no
//! selective acknowledgement, no measuring of round trips; what the guest has not acknowledged is sent again from
//! there on, after three duplicate acknowledgements or a fixed time. Flow control is complete, since it is what
//! carries back-pressure from one side to the other.
//!
//! smoltcp has a TCP, which was not taken: it cuts what it sends to the guest's MSS, so that no segment of 64 KiB could
//! be handed over whole, and polls every socket of an interface in turn, of which there may be thousands here.
//!
//! Not modelled: urgent data, timestamps, ECN, simultaneous open, TIME-WAIT (the host's sockets have it; a segment that
//! comes late is answered with a reset).

use std::time::{Duration, Instant};

use super::ring::{Budget, LARGEST, Ring};
use super::segment::Segment;

/// What the guest may send ahead.
const WINDOW: u32 = LARGEST as u32;
/// How many bits our windows are short of, if the guest knows of that.
const SCALE: u8 = 4;
/// Until something is sent again for the first time. A translated guest is slow to answer, and nothing is lost on
/// the way, so there is no hurry.
const PATIENCE: Duration = Duration::from_millis(500);
/// It doubles up to this.
const LONGEST_PATIENCE: Duration = Duration::from_secs(8);
/// How often something is sent in vain before the guest counts as gone: a minute and a half.
const TRIES: u32 = 15;
/// Sizes below this are not believed, lest a guest has us make a frame of every byte.
const SMALLEST_MSS: u16 = 64;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest called; the host's answer is not there yet, and neither is ours.
    Waiting,
    /// SYN and ACK are sent, or about to be.
    Greeting,
    /// We call the guest.
    Calling,
    /// Both have greeted.
    Open,
}

/// What a segment means for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Goes,
    /// The guest ended it.
    Reset,
    /// The guest has forgotten this connection and begins one of the same name.
    Anew,
}

/// What came with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival<'a> {
    pub verdict: Verdict,
    /// New bytes, in order; to be answered with [`Endpoint::accept`].
    pub payload: &'a [u8],
    /// The guest sends nothing after them.
    pub fin: bool,
    /// Acknowledge this one at once, by itself.
    pub at_once: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Endpoint {
    phase: Phase,

    /// SND.UNA, SND.NXT, and the end of what was ever sent.
    una: u32,
    nxt: u32,
    max: u32,
    /// What the guest has not acknowledged, from SND.UNA on.
    outgoing: Ring,
    /// After that comes our FIN.
    host_ended: bool,
    fin_acknowledged: bool,
    /// SND.WND, already scaled.
    window: u32,
    guest_scale: u8,
    mss: u16,
    duplicates: u32,
    /// Sending again is under way up to here; until it is acknowledged, duplicates mean nothing.
    recover: Option<u32>,
    tries: u32,
    since: Instant,
    /// Ask what the guest's window is now.
    probe: bool,

    /// The guest's first sequence number.
    irs: u32,
    /// RCV.NXT, and the end of the window the guest was told.
    rcv: u32,
    edge: u32,
    /// What the host has not taken yet.
    incoming: Ring,
    guest_ended: bool,
    scale: u8,
    acknowledge: bool,
}

/// `a` is before `b` in sequence space.
fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

impl Endpoint {
    /// For a call of the guest's: `syn` is its SYN, `iss` our first sequence number, `largest` the largest payload
    /// that fits into a packet.
    pub(super) fn called(syn: &Segment<'_>, iss: u32, default_mss: u16, largest: u16, now: Instant) -> Self {
        let mut endpoint = Self::new(Phase::Waiting, iss, default_mss, now);
        endpoint.greeted(syn, largest);
        endpoint
    }

    /// For a call to the guest.
    pub(super) fn calling(iss: u32, default_mss: u16, now: Instant) -> Self {
        Self::new(Phase::Calling, iss, default_mss, now)
    }

    fn new(phase: Phase, iss: u32, mss: u16, now: Instant) -> Self {
        Self {
            phase,
            una: iss,
            nxt: iss,
            max: iss,
            outgoing: Ring::default(),
            host_ended: false,
            fin_acknowledged: false,
            window: 0,
            guest_scale: 0,
            mss,
            duplicates: 0,
            recover: None,
            tries: 0,
            since: now,
            probe: false,
            irs: 0,
            rcv: 0,
            edge: 0,
            incoming: Ring::default(),
            guest_ended: false,
            scale: SCALE,
            acknowledge: false,
        }
    }

    /// Takes over what the guest's SYN says.
    fn greeted(&mut self, syn: &Segment<'_>, largest: u16) {
        self.irs = syn.seq;
        self.rcv = syn.seq.wrapping_add(1);
        self.edge = self.rcv;
        self.mss = syn.mss.unwrap_or(self.mss).clamp(SMALLEST_MSS, largest);
        // A SYN's own window is never scaled.
        self.window = u32::from(syn.window);
        (self.scale, self.guest_scale) = syn.scale.map_or((0, 0), |scale| (SCALE, scale));
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn mss(&self) -> u16 {
        self.mss
    }

    /// The host has answered: the guest may have our greeting.
    pub(super) fn greet(&mut self, now: Instant) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Greeting;
            self.since = now;
        }
    }

    /// A segment of the guest's.
    pub(super) fn receive<'a>(&mut self, segment: &Segment<'a>, largest: u16, now: Instant) -> Arrival<'a> {
        let quiet = Arrival { verdict: Verdict::Goes, payload: &[], fin: false, at_once: false };
        if segment.rst {
            let meant = match self.phase {
                Phase::Calling => segment.ack == Some(self.nxt) && self.nxt != self.una,
                _ => segment.seq.wrapping_sub(self.rcv) <= self.edge.wrapping_sub(self.rcv),
            };
            let verdict = if meant { Verdict::Reset } else { Verdict::Goes };
            return Arrival { verdict, ..quiet };
        }
        if segment.syn {
            return self.syn(segment, largest, now, quiet);
        }
        let (Some(ack), Phase::Greeting | Phase::Open) = (segment.ack, self.phase) else { return quiet };
        let acknowledged = ack.wrapping_sub(self.una);
        if acknowledged > self.max.wrapping_sub(self.una) {
            // Of something older it says nothing; of something that was never sent it is told the truth.
            return Arrival { at_once: !before(ack, self.una), ..quiet };
        }
        if self.phase == Phase::Greeting {
            if acknowledged == 0 {
                return quiet;
            }
            self.phase = Phase::Open;
            self.advance(1, now);
            self.acknowledged(acknowledged - 1, segment, now);
        } else {
            self.acknowledged(acknowledged, segment, now);
        }
        self.payload(segment, quiet)
    }

    fn syn<'a>(&mut self, syn: &Segment<'a>, largest: u16, now: Instant, quiet: Arrival<'a>) -> Arrival<'a> {
        match self.phase {
            Phase::Calling if syn.ack == Some(self.una.wrapping_add(1)) && self.max != self.una => {
                self.greeted(syn, largest);
                self.phase = Phase::Open;
                self.advance(1, now);
                self.acknowledge = true;
                quiet
            }
            Phase::Calling => quiet,
            // The same again: our greeting or our acknowledgement was lost.
            _ if syn.seq == self.irs => {
                if self.phase == Phase::Greeting {
                    self.nxt = self.una;
                }
                Arrival { at_once: self.phase == Phase::Open, ..quiet }
            }
            _ if syn.ack.is_none() => Arrival { verdict: Verdict::Anew, ..quiet },
            _ => quiet,
        }
    }

    /// SND.UNA goes on by `count`.
    fn advance(&mut self, count: u32, now: Instant) {
        self.una = self.una.wrapping_add(count);
        if before(self.nxt, self.una) {
            self.nxt = self.una;
        }
        if self.recover.is_some_and(|recover| !before(self.una, recover)) {
            self.recover = None;
        }
        self.duplicates = 0;
        self.tries = 0;
        self.since = now;
    }

    fn acknowledged(&mut self, count: u32, segment: &Segment<'_>, now: Instant) {
        let window = u32::from(segment.window) << self.guest_scale;
        if count > 0 {
            let bytes = self.outgoing.len().min(count as usize);
            self.outgoing.consume(bytes);
            // What exceeds the bytes can only be our FIN.
            self.fin_acknowledged |= count as usize > bytes;
            self.advance(count, now);
        } else if self.nxt != self.una && segment.len() == 0 && window == self.window {
            self.duplicates += 1;
            if self.duplicates == 3 && self.recover.is_none() {
                self.again();
            }
        }
        if window > 0 && self.window == 0 {
            self.since = now;
        }
        if self.nxt == self.una || window == 0 {
            // It answers, so it is there, however long its window stays shut.
            self.tries = 0;
        }
        self.window = window;
    }

    /// Everything from SND.UNA on is to be sent again.
    fn again(&mut self) {
        self.recover = Some(self.max);
        self.nxt = self.una;
    }

    /// What of a segment's payload is new.
    fn payload<'a>(&mut self, segment: &Segment<'a>, quiet: Arrival<'a>) -> Arrival<'a> {
        if segment.len() == 0 {
            // A keep-alive has a number we have passed.
            return Arrival { at_once: before(segment.seq, self.rcv), ..quiet };
        }
        let old = self.rcv.wrapping_sub(segment.seq);
        // Ahead of us, or all of it known.
        if before(self.rcv, segment.seq) || old >= segment.len() || self.guest_ended {
            return Arrival { at_once: true, ..quiet };
        }
        let payload = segment.payload.get(old as usize..).unwrap_or_default();
        let room = self.edge.wrapping_sub(self.rcv) as usize;
        let inside = payload.len().min(room);
        self.acknowledge = true;
        Arrival { payload: &payload[..inside], fin: segment.fin && inside == payload.len(), ..quiet }
    }

    /// Takes `payload`, of which the host has taken the first `direct` bytes already. What there is no memory for is
    /// as if it had not come. Says how many bytes are taken in all.
    pub(super) fn accept(&mut self, payload: &[u8], direct: usize, fin: bool, budget: &mut Budget) -> usize {
        let kept = self.incoming.push(&payload[direct..], budget);
        let taken = direct + kept;
        self.rcv = self.rcv.wrapping_add(taken as u32);
        if fin && taken == payload.len() {
            self.rcv = self.rcv.wrapping_add(1);
            self.guest_ended = true;
        }
        taken
    }

    /// What waits for the host.
    pub(super) fn incoming(&mut self) -> &mut Ring {
        &mut self.incoming
    }

    /// The host has taken some of what waited: the guest is told once that is worth a segment.
    pub(super) fn drained(&mut self) {
        let gain = self.free_edge().wrapping_sub(self.edge);
        let open = self.edge.wrapping_sub(self.rcv);
        let worth =
            gain >= WINDOW / 4 || open < 2 * u32::from(self.mss) && gain > 0 && self.incoming.is_empty();
        self.acknowledge |= worth && !self.guest_ended;
    }

    /// Room for what the host sends; grows where that helps.
    pub(super) fn room(&mut self, budget: &mut Budget) -> usize {
        if self.host_ended || self.phase != Phase::Open {
            return 0;
        }
        let wanted = (self.window as usize).max(1);
        while self.outgoing.room() < usize::from(self.mss) && self.outgoing.len() < wanted {
            if !self.outgoing.grow(budget) {
                break;
            }
        }
        self.outgoing.room()
    }

    /// What waits for the guest.
    pub(super) fn outgoing(&mut self) -> &mut Ring {
        &mut self.outgoing
    }

    /// The host sends nothing more.
    pub(super) fn end(&mut self) {
        self.host_ended = true;
    }

    /// The guest sends nothing more, and the host has all of it.
    pub(super) fn guest_done(&self) -> bool {
        self.guest_ended && self.incoming.is_empty()
    }

    /// Nothing is left to be said on either side.
    pub(super) fn done(&self) -> bool {
        self.guest_done() && self.fin_acknowledged
    }

    fn free_edge(&self) -> u32 {
        let limit = if self.scale == 0 { u32::from(u16::MAX) } else { WINDOW };
        let free = limit.saturating_sub(self.incoming.len() as u32);
        let edge = self.rcv.wrapping_add(free);
        if before(edge, self.edge) { self.edge } else { edge }
    }

    /// The window to tell the guest. It is what we stand by, in the units in which it is told.
    fn tell_window(&mut self, scale: u8) -> u16 {
        let window = self.free_edge().wrapping_sub(self.rcv) >> scale;
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        self.edge = self.rcv.wrapping_add(u32::from(window) << scale);
        window
    }

    /// An acknowledgement by itself.
    pub(super) fn acknowledgement(&mut self) -> Segment<'static> {
        self.acknowledge = false;
        let window = self.tell_window(self.scale);
        Segment { seq: self.nxt, ack: Some(self.rcv), window, ..Segment::default() }
    }

    /// The guest's call, as far as it has to be refused.
    pub(super) fn call(&self) -> Segment<'static> {
        Segment { seq: self.irs, syn: true, ..Segment::default() }
    }

    /// A reset.
    pub(super) fn reset(&self) -> Segment<'static> {
        Segment { seq: self.nxt, ack: Some(self.rcv), rst: true, ..Segment::default() }
    }

    /// The next segment to send, without payload, and which of the outgoing bytes it carries: at most `limit`, or
    /// one MSS if that is more. `largest` is what we announce as our MSS.
    pub(super) fn next(
        &mut self,
        limit: usize,
        largest: u16,
        now: Instant,
    ) -> Option<(Segment<'static>, usize, usize)> {
        match self.phase {
            Phase::Waiting => None,
            Phase::Greeting | Phase::Calling if self.nxt != self.una => None,
            Phase::Greeting | Phase::Calling => Some((self.syn_segment(largest, now), 0, 0)),
            Phase::Open => self.open_segment(limit, now),
        }
    }

    fn syn_segment(&mut self, largest: u16, now: Instant) -> Segment<'static> {
        let greeting = self.phase == Phase::Greeting;
        let seq = self.una;
        self.step(1, now);
        let window = if greeting { self.tell_window(0) } else { u16::MAX };
        Segment {
            seq,
            ack: greeting.then_some(self.rcv),
            syn: true,
            window,
            mss: Some(largest),
            scale: (self.scale != 0).then_some(self.scale),
            ..Segment::default()
        }
    }

    fn open_segment(&mut self, limit: usize, now: Instant) -> Option<(Segment<'static>, usize, usize)> {
        let mss = usize::from(self.mss);
        let flight = self.nxt.wrapping_sub(self.una) as usize;
        let unsent = self.outgoing.len().saturating_sub(flight);
        let usable = (self.window as usize).saturating_sub(flight);
        let mut len = unsent.min(usable).min(limit.max(mss));
        if len < unsent && len > mss {
            len -= len % mss;
        } else if len < unsent && len < mss && flight > 0 {
            // A sliver of a window: the rest of it will open.
            len = 0;
        }
        if std::mem::take(&mut self.probe) && len == 0 {
            // Something known already has to be answered, and is thrown away.
            return Some((Segment { seq: self.una.wrapping_sub(1), ..self.acknowledgement() }, 0, 0));
        }
        let fin = unsent == 0 && self.host_ended && flight == self.outgoing.len() && !self.fin_acknowledged;
        if len == 0 && !fin {
            return self.acknowledge.then(|| (self.acknowledgement(), 0, 0));
        }
        let psh = len > 0 && len == unsent;
        let segment = Segment { fin, psh, ..self.acknowledgement() };
        self.step(len as u32 + u32::from(fin), now);
        Some((segment, flight, len))
    }

    /// SND.NXT goes on by `count`.
    fn step(&mut self, count: u32, now: Instant) {
        if self.nxt == self.una {
            self.since = now;
        }
        self.nxt = self.nxt.wrapping_add(count);
        if before(self.max, self.nxt) {
            self.max = self.nxt;
        }
    }

    /// When [`Endpoint::timeout`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.nxt != self.una || (self.phase == Phase::Open && !self.outgoing.is_empty());
        waits.then(|| self.since + (PATIENCE * (1 << self.tries.min(6))).min(LONGEST_PATIENCE))
    }

    /// The guest has not answered in time. Says whether there is hope.
    pub(super) fn timeout(&mut self, now: Instant) -> bool {
        self.tries += 1;
        self.since = now;
        self.duplicates = 0;
        if self.nxt != self.una {
            self.again();
        } else {
            self.probe = true;
        }
        self.tries <= TRIES
    }

    /// Nothing could be sent, so the guest cannot be blamed for not answering.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.since = now;
    }

    /// Gives back memory that is not in use, if others may need it.
    pub(super) fn trim(&mut self, budget: &mut Budget) {
        for ring in [&mut self.incoming, &mut self.outgoing] {
            if ring.is_empty() && budget.is_tight() {
                ring.release(budget);
            }
        }
    }

    /// Gives the memory back.
    pub(super) fn release(&mut self, budget: &mut Budget) {
        self.incoming.release(budget);
        self.outgoing.release(budget);
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
