//! GDB's remote protocol from the debugger's side, as far as tests speak it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{Read, Write};

/// A debugger.
pub struct Client<S> {
    stream: S,
}

impl<S: Read + Write> Client<S> {
    /// One that has shaken hands.
    pub fn new(stream: S) -> Self {
        let mut client = Self { stream };
        assert_eq!(client.ask("QStartNoAckMode"), "OK");
        client
    }

    /// Sends a packet; its answer.
    pub fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.answer()
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.stream, "${packet}#{sum:02x}").unwrap();
    }

    /// Sends the byte that interrupts.
    pub fn interrupt(&mut self) {
        self.stream.write_all(&[3]).unwrap();
    }

    /// The next packet, with runs and escapes undone.
    pub fn answer(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut text = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let (last, more) = (*text.last().unwrap(), self.byte() - 29);
                    text.extend(std::iter::repeat_n(last, more.into()));
                }
                b'}' => text.push(self.byte() ^ 0x20),
                byte => text.push(byte),
            }
        }
        let _checksum = [self.byte(), self.byte()];
        String::from_utf8(text).unwrap()
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("an answer in time");
        byte[0]
    }

    /// A register by number, little-endian.
    pub fn register(&mut self, number: usize) -> u64 {
        let answer = self.ask(&format!("p{number:x}"));
        bytes(&answer).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// What a `monitor` command prints.
    pub fn monitor(&mut self, command: &str) -> String {
        let command: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{command}"));
        let mut text = String::new();
        loop {
            match self.answer().as_str() {
                "OK" => return text,
                output => text.push_str(&String::from_utf8(bytes(&output[1..])).unwrap()),
            }
        }
    }
}

/// From hexadecimal.
pub fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16);
    (0..hex.len() / 2).map(|n| digits(2 * n).unwrap_or_else(|_| panic!("{hex}"))).collect()
}
