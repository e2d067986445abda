//! A reader of `ar` archives, the outer format of a Debian package (deb(5), ar(5)), from a stream.
//!
//! Not modelled: the symbol table and the long-name tables of object archives; a package has neither.

use std::io::{self, Read, Take};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_SIZE: usize = 60;
const HEADER_END: &[u8; 2] = b"`\n";

/// An archive that is read member by member.
#[derive(Debug)]
pub struct Archive<R> {
    /// Its limit is what is left of the current member.
    input: Take<R>,
    /// Members start at even offsets.
    odd: bool,
}

/// The current member: its content is read from it.
#[derive(Debug)]
pub struct Member<'a, R> {
    /// Without the padding, and without the slash that GNU's `ar` ends it with.
    pub name: String,
    input: &'a mut Take<R>,
}

impl<R: Read> Archive<R> {
    /// Starts to read; fails unless it is an `ar` archive.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(invalid("not an ar archive"));
        }
        Ok(Self { input: input.take(0), odd: false })
    }

    /// The next member, whatever of the current one is unread left out.
    pub fn next_member(&mut self) -> io::Result<Option<Member<'_, R>>> {
        let unread = self.input.limit();
        if io::copy(&mut self.input, &mut io::sink())? < unread {
            return Err(truncated());
        }
        if self.odd {
            self.input.set_limit(1);
            // The last member's padding may be absent.
            io::copy(&mut self.input, &mut io::sink())?;
        }
        let mut header = [0; HEADER_SIZE];
        self.input.set_limit(HEADER_SIZE as u64);
        let mut filled = 0;
        while filled < HEADER_SIZE {
            match self.input.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if header[58..] != *HEADER_END {
            return Err(invalid("a member's header does not end as it must"));
        }
        let size = decimal(&header[48..58])?;
        let name = std::str::from_utf8(&header[..16]).map_err(|_| invalid("a member's name is not text"))?;
        let name = name.trim_end_matches(' ');
        let name = name.strip_suffix('/').unwrap_or(name).to_owned();
        self.input.set_limit(size);
        self.odd = size % 2 == 1;
        Ok(Some(Member { name, input: &mut self.input }))
    }
}

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.input.limit() > 0 {
            return Err(truncated());
        }
        Ok(count)
    }
}

/// A field of decimal digits padded with blanks. Ten digits fit.
fn decimal(field: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(field).unwrap_or_default().trim_end_matches(' ');
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid("a member's size is not a number"));
    }
    text.parse().map_err(|_| invalid("a member's size is not a number"))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the ar archive ends in the middle of a member")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An archive as `dpkg-deb` writes it.
    pub(crate) fn write(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = MAGIC.to_vec();
        for (name, content) in members {
            let size = content.len();
            archive.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644).bytes());
            archive.extend_from_slice(content);
            if size % 2 == 1 {
                archive.push(b'\n');
            }
        }
        archive
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut archive = Archive::new(bytes)?;
        let mut members = Vec::new();
        while let Some(mut member) = archive.next_member()? {
            let mut content = Vec::new();
            member.read_to_end(&mut content)?;
            members.push((member.name, content));
        }
        Ok(members)
    }

    #[test]
    fn members_read_back() {
        let archive = write(&[("debian-binary", b"2.0\n"), ("odd/", b"abc"), ("empty", b""), ("last", b"x")]);
        let members = read(&archive).unwrap();
        let expected: [(&str, &[u8]); 4] =
            [("debian-binary", b"2.0\n"), ("odd", b"abc"), ("empty", b""), ("last", b"x")];
        assert_eq!(members, expected.map(|(name, content)| (name.to_owned(), content.to_vec())));
        // The final padding is often left out.
        assert_eq!(read(&archive[..archive.len() - 1]).unwrap(), members);
    }

    #[test]
    fn unread_content_is_skipped() {
        let archive = write(&[("first", &[7; 1001]), ("second", b"content")]);
        let mut archive = Archive::new(archive.as_slice()).unwrap();
        let mut first = archive.next_member().unwrap().unwrap();
        first.read_exact(&mut [0; 10]).unwrap();
        let mut second = archive.next_member().unwrap().unwrap();
        let mut content = String::new();
        second.read_to_string(&mut content).unwrap();
        assert_eq!((second.name.as_str(), content.as_str()), ("second", "content"));
        assert!(archive.next_member().unwrap().is_none());
    }

    #[test]
    fn every_truncation_is_noticed_or_falls_between_members() {
        let archive = write(&[("first", b"12345"), ("second", b"1234")]);
        let first_end = MAGIC.len() + HEADER_SIZE + 5;
        for length in 0..archive.len() {
            let result = read(&archive[..length]);
            let between = [MAGIC.len(), first_end, first_end + 1].contains(&length);
            assert_eq!(result.is_ok(), between, "cut at {length}: {result:?}");
        }
    }

    #[test]
    fn a_skip_past_the_end_is_noticed() {
        let archive = write(&[("first", b"12345")]);
        let mut archive = Archive::new(&archive[..archive.len() - 3]).unwrap();
        archive.next_member().unwrap().unwrap();
        assert_eq!(archive.next_member().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = write(&[("name", b"1234")]);
        let with = |at: usize, bytes: &[u8]| {
            let mut archive = good.clone();
            archive[at..at + bytes.len()].copy_from_slice(bytes);
            read(&archive)
        };
        assert!(with(0, b"!<thin>\n").is_err());
        assert!(with(MAGIC.len() + 48, b"-1        ").is_err());
        assert!(with(MAGIC.len() + 48, b"+4        ").is_err());
        assert!(with(MAGIC.len() + 48, b"          ").is_err());
        assert!(with(MAGIC.len() + 48, b"0x4       ").is_err());
        assert!(with(MAGIC.len() + 48, b"4 4       ").is_err());
        assert!(with(MAGIC.len() + 48, b"9999999999").is_err());
        assert!(with(MAGIC.len() + 58, b"xx").is_err());
        assert!(with(MAGIC.len(), &[0xff]).is_err());
    }
}
