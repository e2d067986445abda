//! The files a guest knows, by the numbers it knows them by, and the descriptors they stand for.
//!
//! A guest's kernel keeps what it has looked up for as long as it has memory, which may be all files of a large tree,
//! while a process has few descriptors. So a file's number does not hold its descriptor for ever: of those that
//! nobody is using, a clock hand closes one that has not been asked for since it last came by. The file is found again
//! by its name in the folder it was last seen in, and known by device, number and time of birth. If there is another
//! file by now, or none, the number is stale (ESTALE), and the guest's kernel looks the path up anew. That happens to
//! a file only whose name the host has changed, or which is gone and was not open.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::tree::errno::{ENFILE, ESTALE};
use host::tree::{Name, Node, Status, error};

use super::MAX_NODES;
use super::slots::Slots;

/// The number of the folder itself (FUSE_ROOT_ID).
pub(super) const ROOT: u64 = 1;
/// More folders in one another have no path; what we know would have to be wrong.
const DEEPEST: usize = 4096;
/// Devices that can be told apart by the numbers of their files.
const DEVICES: usize = 1 << 15;

/// What makes a file the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    dev: u64,
    ino: u64,
    btime: Duration,
}

impl Identity {
    fn of(status: &Status) -> Self {
        Self { dev: status.dev, ino: status.ino, btime: status.btime }
    }
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// How often the guest was told of it and has not forgotten it.
    lookups: u64,
    /// Where it was seen last. The root has no name.
    parent: u64,
    name: CString,
    node: Option<Arc<Node>>,
    /// Asked for since the clock hand came by.
    asked: bool,
    /// See [`Nodes::keeps_pages`].
    stamp: Option<Duration>,
}

#[derive(Debug)]
struct State {
    known: Slots<Known>,
    by_identity: HashMap<Identity, u64>,
    /// Of those known, how many have a descriptor.
    open: usize,
    hand: usize,
    /// The devices met so far, the root's first.
    devices: Vec<u64>,
}

/// A file the guest is told of.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) number: u64,
    pub(super) node: Arc<Node>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Nodes {
    state: Mutex<State>,
    root: Arc<Node>,
    root_identity: Identity,
    /// Descriptors that may be held.
    limit: usize,
}

impl Nodes {
    pub(super) fn new(root: Node, status: &Status, limit: usize) -> Self {
        let (root, root_identity) = (Arc::new(root), Identity::of(status));
        let state = Mutex::new(State::new(&root, root_identity));
        Self { state, root, root_identity, limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all but the root.
    pub(super) fn reset(&self) {
        *self.lock() = State::new(&self.root, self.root_identity);
    }

    /// The file of a number.
    pub(super) fn get(&self, number: u64) -> io::Result<Arc<Node>> {
        let mut state = self.lock();
        if let Some(node) = state.ask(number)? {
            return Ok(node);
        }
        // The way up to a folder that has its descriptor, and down again. The lock is held: this is rare.
        let mut way = vec![number];
        let mut node = loop {
            let lowest = way[way.len() - 1];
            let parent = state.known.get(lowest).ok_or_else(stale)?.parent;
            if let Some(node) = state.ask(parent)? {
                break node;
            }
            if way.len() == DEEPEST {
                return Err(stale());
            }
            way.push(parent);
        };
        while let Some(number) = way.pop() {
            let known = state.known.get(number).ok_or_else(stale)?;
            let (found, status) = node.lookup(Name::new(&known.name)?).map_err(|_| stale())?;
            if Identity::of(&status) != known.identity {
                return Err(stale());
            }
            node = Arc::new(found);
            state.hold(number, &node, self.limit)?;
        }
        Ok(node)
    }

    /// The guest is told of a file that was found by this name. Whoever then fails to tell it forgets the file once.
    pub(super) fn learn(&self, parent: u64, name: Name, node: Node, status: &Status) -> io::Result<Told> {
        let identity = Identity::of(status);
        let mut state = self.lock();
        let number = match state.by_identity.get(&identity) {
            Some(&number) => number,
            None => {
                let known = Known {
                    identity,
                    lookups: 0,
                    parent,
                    name: CString::default(),
                    node: None,
                    asked: false,
                    stamp: None,
                };
                let number = state.known.insert(known).ok_or_else(|| error(ENFILE))?;
                state.by_identity.insert(identity, number);
                number
            }
        };
        let node = match state.ask(number)? {
            Some(node) => node,
            None => {
                let node = Arc::new(node);
                if let Err(error) = state.hold(number, &node, self.limit) {
                    state.forget(number, 0);
                    return Err(error);
                }
                node
            }
        };
        if let Some(known) = state.known.get_mut(number) {
            known.lookups = known.lookups.saturating_add(1);
            if number != ROOT {
                known.parent = parent;
                if known.name.as_c_str() != name.as_c_str() {
                    known.name = name.as_c_str().to_owned();
                }
            }
        }
        Ok(Told { number, node })
    }

    /// A known file may have this name now, and the guest is told nothing.
    pub(super) fn rename(&self, parent: u64, name: Name, status: &Status) {
        let mut state = self.lock();
        if let Some(&number) = state.by_identity.get(&Identity::of(status))
            && number != ROOT
            && let Some(known) = state.known.get_mut(number)
        {
            known.parent = parent;
            known.name = name.as_c_str().to_owned();
        }
    }

    /// The guest has forgotten a file so many times.
    pub(super) fn forget(&self, number: u64, times: u64) {
        self.lock().forget(number, times);
    }

    /// The number that the guest shows for a file. Where other file systems are mounted in the folder, their files'
    /// numbers are told apart by their upper bits, since for the guest all is one file system.
    pub(super) fn ino(&self, status: &Status) -> u64 {
        let mut state = self.lock();
        let index = match state.devices.iter().position(|dev| *dev == status.dev) {
            Some(index) => index,
            None if state.devices.len() < DEVICES => {
                state.devices.push(status.dev);
                state.devices.len() - 1
            }
            None => DEVICES,
        };
        status.ino ^ (index as u64) << 48
    }

    /// Whether the guest's pages of a file that it opens are good: it has opened it before, and nothing has changed
    /// since. A change of a moment ago may be followed by another that leaves the same time, so the file has to have
    /// been at rest.
    pub(super) fn keeps_pages(&self, number: u64, status: &Status, now: Duration) -> bool {
        const REST: Duration = Duration::from_secs(1);
        let rests = now.checked_sub(status.ctime).is_some_and(|age| age > REST);
        let stamp = rests.then_some(status.ctime);
        let mut state = self.lock();
        let Some(known) = state.known.get_mut(number) else { return false };
        let before = std::mem::replace(&mut known.stamp, stamp);
        stamp.is_some() && before == stamp
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.lock().open
    }
}

impl State {
    fn new(root: &Arc<Node>, identity: Identity) -> Self {
        let mut known = Slots::new(MAX_NODES);
        let number = known.insert(Known {
            identity,
            lookups: 1,
            parent: ROOT,
            name: CString::default(),
            node: Some(root.clone()),
            asked: true,
            stamp: None,
        });
        assert_eq!(number, Some(ROOT), "the first number is 1");
        let by_identity = HashMap::from([(identity, ROOT)]);
        Self { known: known.scatter(), by_identity, open: 1, hand: 0, devices: vec![identity.dev] }
    }

    /// A file's descriptor, if it has one; stale if the number means nothing.
    fn ask(&mut self, number: u64) -> io::Result<Option<Arc<Node>>> {
        let known = self.known.get_mut(number).ok_or_else(stale)?;
        known.asked = true;
        Ok(known.node.clone())
    }

    /// Gives a known file its descriptor.
    fn hold(&mut self, number: u64, node: &Arc<Node>, limit: usize) -> io::Result<()> {
        while self.open >= limit {
            self.close_one()?;
        }
        let known = self.known.get_mut(number).ok_or_else(stale)?;
        known.node = Some(node.clone());
        self.open += 1;
        Ok(())
    }

    /// Has the clock hand go on to a file that can do without its descriptor, and closes that.
    fn close_one(&mut self) -> io::Result<()> {
        // The first time round all may have been asked for.
        for _ in 0..2 * self.known.capacity() {
            self.hand = (self.hand + 1) % self.known.capacity();
            let Some(known) = self.known.at(self.hand) else { continue };
            // The root's descriptor is held by the table, others by open files and by requests at work.
            let idle = known.node.as_ref().is_some_and(|node| Arc::strong_count(node) == 1);
            if idle && !std::mem::take(&mut known.asked) {
                known.node = None;
                self.open -= 1;
                return Ok(());
            }
        }
        Err(error(ENFILE))
    }

    fn forget(&mut self, number: u64, times: u64) {
        let Some(known) = self.known.get_mut(number).filter(|_| number != ROOT) else { return };
        known.lookups = known.lookups.saturating_sub(times);
        if known.lookups > 0 {
            return;
        }
        if let Some(known) = self.known.remove(number) {
            self.by_identity.remove(&known.identity);
            self.open -= usize::from(known.node.is_some());
        }
    }
}

fn stale() -> io::Error {
    error(ESTALE)
}
