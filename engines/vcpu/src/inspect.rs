//! What an engine shows of its insides to whoever watches: data only, and made when it is asked for.

use serde::{Deserialize, Serialize};

/// A piece of guest code as an engine keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// Guest rip of the first instruction.
    pub rip: u64,
    /// Guest-physical address of the first byte.
    pub physical: u64,
    /// Size of code: 16, 32 or 64 bits.
    pub bits: u32,
    /// Who runs it: the ring, and what else of the processor's state it was made for.
    pub circumstances: String,
    /// How many direct jumps of other blocks lead straight here.
    pub incoming: u64,
    /// In the order of the host code.
    pub pieces: Vec<PieceView>,
    /// Pieces left out at the end, because it is too long to be shown whole.
    pub omitted: u64,
}

/// Host code, and the guest's instruction that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceView {
    /// Guest rip of the instruction.
    pub rip: u64,
    /// The instruction; empty for code that stands for none.
    #[serde(with = "hex")]
    pub guest: Vec<u8>,
    /// Where the host's code stands.
    pub address: u64,
    /// It.
    #[serde(with = "hex")]
    pub host: Vec<u8>,
    /// Why it is not the guest's instruction as it was; empty if it is.
    pub reason: String,
}

/// A range of an engine's host code, for tools that see host addresses only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCode {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// What it does.
    pub part: HostPart,
}

/// See [`HostCode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPart {
    /// The guest's instructions from `rip` on.
    Guest {
        /// Guest rip; of code that is good wherever its page is mapped, at the last place it was found, and without a
        /// page if that is not known any more.
        rip: u64,
        /// In ring 3.
        user: bool,
        /// Not the instructions themselves, but what they lead to when they cannot go on: misses and exits.
        way_out: bool,
    },
    /// The engine's own.
    Engine(String),
}

/// What was seen of a thread that was interrupted in the midst of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sighting {
    /// It ran guest code, at this rip.
    Guest(u64),
    /// It was in the engine itself.
    Engine,
    /// It was in neither: in the monitor or a device.
    Monitor,
}

/// Bytes as text of two digits each.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        });
        pairs
            .collect::<Option<_>>()
            .ok_or_else(|| serde::de::Error::custom("not pairs of hexadecimal digits"))
    }
}
