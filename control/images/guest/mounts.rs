//! `popf.mount=TAG:PATH[:ro]` of the kernel command line as systemd's mount units (systemd.mount(5)).
//!
//! Pure, so that the host's tests can call it.

use crate::text::Text;

/// The longest name of a unit (systemd's `UNIT_NAME_MAX`), with a NUL.
const NAME_SIZE: usize = 256;
const UNIT_SIZE: usize = 1024;

/// A unit's file name.
pub type Name = Text<NAME_SIZE>;
/// A unit's content.
pub type Unit = Text<UNIT_SIZE>;

/// A folder of the host's and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    tag: &'a [u8],
    path: &'a [u8],
    read_only: bool,
}

/// Those on a command line; words that make no sense are left out.
pub fn of(command_line: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    command_line
        .split(|byte| byte.is_ascii_whitespace())
        .filter_map(|word| mount(word.strip_prefix(b"popf.mount=")?))
}

fn mount(word: &[u8]) -> Option<Mount<'_>> {
    let mut parts = word.split(|byte| *byte == b':');
    let (tag, path) = (parts.next()?, parts.next()?);
    let read_only = match parts.next() {
        None => false,
        Some(b"ro") => true,
        Some(_) => return None,
    };
    // A percent sign would be a specifier, and no device of popf's has one in its tag.
    let plain = |byte: &u8| byte.is_ascii_graphic() && !b"%\"'\\".contains(byte);
    let sane = !tag.is_empty()
        && path.starts_with(b"/")
        && path.iter().any(|byte| *byte != b'/')
        && path.split(|byte| *byte == b'/').all(|part| part != b"." && part != b"..")
        && tag.iter().chain(path).all(plain);
    (sane && parts.next().is_none()).then_some(Mount { tag, path, read_only })
}

impl Mount<'_> {
    /// The path as systemd-escape(1) writes it, since a mount unit must bear its path's name.
    pub fn name(&self) -> Name {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut name = Name::of(&[]);
        let mut first = true;
        for part in self.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if !first {
                name.push(b"-");
            }
            for (index, byte) in part.iter().enumerate() {
                let plain = byte.is_ascii_alphanumeric() || b":_".contains(byte);
                if plain || *byte == b'.' && !(first && index == 0) {
                    name.push(&[*byte]);
                } else {
                    let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                    name.push(&[b'\\', b'x', digits[0], digits[1]]);
                }
            }
            first = false;
        }
        name.push(b".mount");
        name
    }

    pub fn unit(&self) -> Unit {
        let access: &[u8] = if self.read_only { b"ro" } else { b"rw" };
        Unit::of(&[
            b"[Unit]\nDescription=Shared by the host: ",
            self.tag,
            b"\n\n[Mount]\nWhat=",
            self.tag,
            b"\nWhere=",
            self.path,
            b"\nType=virtiofs\nOptions=",
            access,
            b"\n",
        ])
    }
}
