//! What a unit gives: its state, a check and a commit.

use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::format::RawSection;
use crate::{Invalid, ReadError};

/// A type that stands in saved files: plain data, versioned, never changed once published.
///
/// Versions form a chain from [`NoOlder`] on, each the successor of its `Older`; a file of any of them is read
/// and converted step by step.
pub trait Saved: Serialize + DeserializeOwned {
    /// Its number: 1 for the first, one more than `Older`'s for the others.
    const VERSION: u16;
    /// The version before this one, with `From<Older>` for this one; [`NoOlder`] for the first.
    type Older: Before<Self>;
}

/// What may stand behind the version `T`: a [`Saved`] type that converts into it, or [`NoOlder`]. Implemented for
/// both; not to be implemented by others.
pub trait Before<T>: Sized {
    /// The number, 0 for nothing.
    #[doc(hidden)]
    const NUMBER: u16;
    /// Decodes a body of this version or an older one; `None` for a version that never was.
    #[doc(hidden)]
    fn decode(version: u16, body: &[u8]) -> Option<Result<T, postcard::Error>>;
}

/// Stands before the first version of a saved type. Has no values.
#[derive(Clone, Copy, Debug)]
pub enum NoOlder {}

impl<T> Before<T> for NoOlder {
    const NUMBER: u16 = 0;

    fn decode(_version: u16, _body: &[u8]) -> Option<Result<T, postcard::Error>> {
        None
    }
}

impl<S: Saved, T: From<S>> Before<T> for S {
    const NUMBER: u16 = {
        assert!(S::VERSION == <S::Older as Before<S>>::NUMBER + 1, "a version follows its older one by one");
        S::VERSION
    };

    fn decode(version: u16, body: &[u8]) -> Option<Result<T, postcard::Error>> {
        if version == newest::<S>() {
            return Some(decode_all::<S>(body).map(T::from));
        }
        let older = <S::Older as Before<S>>::decode(version, body)?;
        Some(older.map(T::from))
    }
}

/// The version of a saved type, its chain checked at compile time.
const fn newest<S: Saved>() -> u16 {
    <S as Before<S>>::NUMBER
}

/// Decodes a body and refuses bytes behind it.
fn decode_all<S: DeserializeOwned>(body: &[u8]) -> Result<S, postcard::Error> {
    match postcard::take_from_bytes(body)? {
        (state, []) => Ok(state),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// A unit whose state can be saved and restored; the crate's header shows one.
///
/// The machine is at rest meanwhile: no vCPU runs, no back-end calls.
pub trait Persist {
    /// What stands in the section's header: the chip's name, such as `"i8254"`. ASCII letters, digits, `-_.`;
    /// at most 63 of them; never reused for something else.
    const KIND: &'static str;
    /// The newest saved form.
    type State: Saved;

    /// The state as it is now. Destructure `self` without `..`.
    fn save(&self) -> Self::State;

    /// Whether [`commit`](Self::commit) may take this state, which may come from a damaged or malicious file:
    /// every index, enumeration, count and combination the unit relies on. Changes nothing.
    fn check(&self, state: &Self::State) -> Result<(), Invalid>;

    /// Takes over a state that was checked. Destructure it without `..`. Cannot fail.
    fn commit(&mut self, state: Self::State);
}

/// A handle to a unit that others have, too. It is locked for each step by itself, since one unit's commit may call
/// another.
impl<P: Persist> Persist for Arc<Mutex<P>> {
    const KIND: &'static str = P::KIND;
    type State = P::State;

    fn save(&self) -> P::State {
        lock(self).save()
    }

    fn check(&self, state: &P::State) -> Result<(), Invalid> {
        lock(self).check(state)
    }

    fn commit(&mut self, state: P::State) {
        lock(self).commit(state);
    }
}

/// A unit whose owner has panicked is in no state to be saved.
fn lock<P>(unit: &Mutex<P>) -> MutexGuard<'_, P> {
    unit.lock().expect("a unit panicked while it was being accessed")
}

/// [`Persist`] without its types, so that a machine can keep its units in one list. Implemented for every
/// `Persist`; not to be implemented by others.
pub trait Unit {
    /// [`Persist::KIND`].
    fn kind(&self) -> &'static str;
    /// The version [`encode`](Self::encode) writes.
    fn version(&self) -> u16;
    /// The body of a section with the state as it is now.
    fn encode(&self) -> Result<Vec<u8>, postcard::Error>;
    /// Decodes and checks a section; what comes back commits it.
    #[doc(hidden)]
    fn prepare<'a>(&'a mut self, section: &SectionRef<'_>) -> Result<Commit<'a>, ReadError>;
}

/// A commit that waits for all the other checks.
#[doc(hidden)]
pub type Commit<'a> = Box<dyn FnOnce() + 'a>;

/// A section on its way to its unit.
#[doc(hidden)]
pub struct SectionRef<'a>(pub(crate) &'a RawSection<'a>);

impl<P: Persist> Unit for P {
    fn kind(&self) -> &'static str {
        P::KIND
    }

    fn version(&self) -> u16 {
        newest::<P::State>()
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(&self.save())
    }

    fn prepare<'a>(&'a mut self, section: &SectionRef<'_>) -> Result<Commit<'a>, ReadError> {
        let &RawSection { instance, version, body, .. } = section.0;
        let kind = || P::KIND.to_owned();
        let state = <P::State as Before<P::State>>::decode(version, body)
            .ok_or_else(|| ReadError::Version {
                kind: kind(),
                instance,
                found: version,
                known: self.version(),
            })?
            .map_err(|source| ReadError::Decode { kind: kind(), instance, source })?;
        self.check(&state).map_err(|source| ReadError::Invalid { kind: kind(), instance, source })?;
        Ok(Box::new(move || self.commit(state)))
    }
}
