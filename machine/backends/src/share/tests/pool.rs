use std::collections::VecDeque;
use std::fs;
use std::sync::{Arc, Condvar, Mutex};

use super::guest::*;
use crate::share::nodes::ROOT;
use crate::share::wire::opcode;
use crate::share::{Pool, Requests, Ticket};

/// A queue of requests, and the answers to them by token.
#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<(u64, Vec<u8>)>>,
    answers: Mutex<Vec<(u64, Vec<u8>)>>,
    answered: Condvar,
}

impl Requests for Queue {
    type Token = u64;

    fn take(&self, request: &mut Vec<u8>) -> Option<Ticket<u64>> {
        let mut waiting = self.waiting.lock().unwrap();
        let (token, bytes) = waiting.pop_front()?;
        *request = bytes;
        Some(Ticket { token, room: 4096, more: !waiting.is_empty() })
    }

    fn answer(&self, token: u64, reply: &[u8]) {
        self.answers.lock().unwrap().push((token, reply.to_vec()));
        self.answered.notify_all();
    }
}

#[test]
fn each_request_is_answered_once() {
    let mut guest = Shared::new();
    for index in 0..100 {
        fs::write(guest.path(&format!("{index}")), vec![0; index]).unwrap();
    }
    let queue = Arc::new(Queue::default());
    let pool = Pool::start(&guest.share, &queue).unwrap();
    for index in 0..100 {
        let request = guest.request(opcode::LOOKUP, ROOT, Body::default().name(format!("{index}")));
        queue.waiting.lock().unwrap().push_back((index, request));
        if index % 7 == 0 {
            pool.bell().ring();
        }
    }
    pool.bell().ring();
    let answers = queue.answers.lock().unwrap();
    let answers = queue.answered.wait_while(answers, |answers| answers.len() < 100).unwrap();
    let mut sizes: Vec<_> =
        answers.iter().map(|(token, reply)| (*token, Entry::of(&reply[16..]).attributes.size)).collect();
    drop(answers);
    sizes.sort_unstable();
    assert_eq!(sizes, (0..100).map(|index| (index, index)).collect::<Vec<_>>());
    pool.settle();
    drop(pool);
}
