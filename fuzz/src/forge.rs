//! Saved files whose bodies say what the fuzzer likes; all around them is in order.

use std::marker::PhantomData;

use savestate::{Invalid, NoOlder, Persist, Saved, Sections, Unit, Writer};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};

use crate::input::Input;

/// A unit for which a state can be forged: any.
pub trait Forge: Unit {
    /// A unit that saves this body as if it were this one's state.
    fn forged<'a>(&self, body: &'a [u8]) -> Box<dyn Unit + 'a>;
}

impl<P: Persist + 'static> Forge for P {
    fn forged<'a>(&self, body: &'a [u8]) -> Box<dyn Unit + 'a> {
        Box::new(Forged::<P>(body, PhantomData))
    }
}

struct Forged<'a, P>(&'a [u8], PhantomData<P>);

impl<P: Persist> Persist for Forged<'_, P> {
    const KIND: &'static str = P::KIND;
    type State = Bytes;

    fn save(&self) -> Bytes {
        Bytes(self.0.to_vec())
    }

    fn check(&self, _: &Bytes) -> Result<(), Invalid> {
        Ok(())
    }

    fn commit(&mut self, _: Bytes) {}
}

/// A section's body as it is: a sequence without the length that a `Vec` has in front.
#[derive(Deserialize)]
struct Bytes(#[serde(skip)] Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl Saved for Bytes {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

/// Puts each body into a well-formed file and that into the units; `true` if they took it.
pub fn restore(units: Vec<(&[u8], &mut dyn Forge)>) -> bool {
    let mut writer = Writer::new();
    for (body, unit) in &units {
        writer.add(0, &*unit.forged(body)).expect("a body that can be written");
    }
    let file = writer.finish();
    let sections = Sections::parse(&file).expect("a file that was just written");
    match sections.check(units.into_iter().map(|(_, unit)| (0, unit as &mut dyn Unit))) {
        Ok(checked) => {
            checked.commit();
            true
        }
        Err(_) => false,
    }
}

/// Changes a body in a few places, most of them near its end: what a guest can change is there.
pub fn damage(body: &mut Vec<u8>, input: &mut Input) {
    for _ in 0..input.byte() % 8 {
        let kind = input.byte();
        let back = if kind & 0x10 != 0 { usize::from(input.half()) } else { usize::from(input.byte()) };
        let at = body.len() - back % (body.len() + 1);
        match (kind % 8, body.get_mut(at)) {
            (0, _) => body.truncate(at),
            (1, Some(_)) => drop(body.remove(at)),
            (2 | 3, _) => body.insert(at, input.byte()),
            (4, Some(byte)) => *byte ^= 1 << (input.byte() % 8),
            (_, Some(byte)) => *byte = input.byte(),
            (_, None) => {}
        }
    }
}
