//! The name server: passes questions on to the host's, and answers back.
//!
//! Questions and answers are not looked into. Each question has a socket of its own, so that its port is as good as
//! random and whoever wants to answer in another's place has to guess it. A server that refuses or is silent is passed
//! over, and the one after it is asked from then on; when nobody answers the guest is told so, which is sooner than it
//! would find out. Over TCP a question is a connection to the server just now, and that is `tcp`'s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use host::epoll::Interest;

use super::context::{Context, Key};
use super::slab::{Id, Slab};
use super::timers::Alarm;

pub(super) const PORT: u16 = 53;
/// Until the next server is asked: shorter than the C library's five seconds, so that its one patience is two of
/// ours.
const PATIENCE: Duration = Duration::from_millis(2400);
/// How often a question is asked before it counts as unanswered.
const TRIES: usize = 4;
/// How many questions are open at once.
const MOST: usize = 256;
/// The longest question; they are short.
const LONGEST: usize = 2048;
/// Of a message: identifier, flags, and four counts.
const HEADER: usize = 12;

/// See the module.
pub(super) struct Dns {
    servers: Vec<SocketAddr>,
    /// The one that has answered last.
    current: usize,
    questions: Slab<Question>,
}

struct Question {
    guest: SocketAddr,
    /// Which of the server's addresses was asked.
    asked: IpAddr,
    text: Vec<u8>,
    server: usize,
    socket: Option<UdpSocket>,
    tries: usize,
    since: Instant,
    alarm: Alarm,
}

impl Dns {
    /// To be answered by these.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, current: 0, questions: Slab::default() }
    }

    /// Whom to ask just now.
    pub(super) fn server(&self) -> SocketAddr {
        self.servers[self.current]
    }

    /// A question from the guest.
    pub(super) fn guest(&mut self, context: &mut Context<'_>, guest: SocketAddr, asked: IpAddr, text: &[u8]) {
        if !(HEADER..=LONGEST).contains(&text.len()) {
            return;
        }
        // It asks again before we do; we will.
        let same = |question: &Question| question.guest == guest && question.text == text;
        if self.questions.iter().any(|(_, question)| same(question)) {
            return;
        }
        if self.questions.len() >= MOST
            && let Some(oldest) = self.questions.iter().min_by_key(|(_, question)| question.since)
        {
            let id = oldest.0;
            self.questions.remove(id);
        }
        let id = self.questions.insert(Question {
            guest,
            asked,
            text: text.to_vec(),
            server: self.current,
            socket: None,
            tries: 0,
            since: context.now,
            alarm: Alarm::default(),
        });
        self.ask(context, id);
    }

    /// Asks the question's server, or the next if that refuses at once.
    fn ask(&mut self, context: &mut Context<'_>, id: Id) {
        let Some(question) = self.questions.get_mut(id) else { return };
        while question.tries < TRIES {
            question.tries += 1;
            match send(self.servers[question.server], &question.text) {
                Ok(socket)
                    if context.epoll.add(&socket, Key::Dns(id).token(), Interest::Readable).is_ok() =>
                {
                    question.socket = Some(socket);
                    context.timers.set(&mut question.alarm, Key::Dns(id), Some(context.now + PATIENCE));
                    return;
                }
                _ => question.server = (question.server + 1) % self.servers.len(),
            }
        }
        let mut text = std::mem::take(&mut question.text);
        let (guest, asked) = (question.guest, question.asked);
        self.questions.remove(id);
        // An answer to this question: the server failed.
        text[2] |= 0x80;
        text[3] = (text[3] & 0xf0) | 2;
        context.link.send_udp(SocketAddr::new(asked, PORT), guest, &text, context.now);
    }

    /// An answer, or a refusal.
    pub(super) fn ready(&mut self, context: &mut Context<'_>, id: Id, buffer: &mut [u8]) {
        let Some(question) = self.questions.get(id) else { return };
        let Some(socket) = &question.socket else { return };
        match socket.recv(buffer) {
            Ok(len) if len >= 2 && buffer[..2] == question.text[..2] => {
                self.current = question.server;
                let from = SocketAddr::new(question.asked, PORT);
                context.link.send_udp(from, question.guest, &buffer[..len], context.now);
                self.questions.remove(id);
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.ask_next(context, id),
        }
    }

    /// Whether there still is such a one.
    pub(super) fn knows(&self, id: Id) -> bool {
        self.questions.get(id).is_some()
    }

    pub(super) fn timer(&mut self, context: &mut Context<'_>, id: Id, when: Instant) {
        let Some(question) = self.questions.get_mut(id) else { return };
        if context.timers.due(&mut question.alarm, Key::Dns(id), when, context.now) {
            self.ask_next(context, id);
        }
    }

    fn ask_next(&mut self, context: &mut Context<'_>, id: Id) {
        if let Some(question) = self.questions.get_mut(id) {
            question.server = (question.server + 1) % self.servers.len();
            if question.tries == 1 && self.servers.len() > 1 {
                // Others need not wait for the same.
                self.current = question.server;
            }
        }
        self.ask(context, id);
    }
}

fn send(server: SocketAddr, text: &[u8]) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(text)?;
    Ok(socket)
}
