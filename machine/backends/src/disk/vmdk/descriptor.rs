//! The text that describes a disk's extents.

use crate::disk::{ImageError, SECTOR};

/// More files than any disk has.
const EXTENTS_MAX: usize = 1024;

/// A part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) sectors: u64,
    pub(super) kind: Kind,
}

/// What stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    Flat { name: String, offset: u64 },
    Sparse { name: String },
}

const DAMAGED: ImageError = ImageError::Damaged("a line of its descriptor makes no sense");

/// Reads the extents of a disk.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Extent>, ImageError> {
    check_parent(text)?;
    let text = String::from_utf8_lossy(text);
    let mut extents = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((access, rest)) = line.split_once(' ')
            && matches!(access, "RW" | "RDONLY" | "NOACCESS")
        {
            if extents.len() == EXTENTS_MAX {
                return Err(ImageError::Damaged("its descriptor lists more files than any disk has"));
            }
            extents.push(parse_extent(rest)?);
        }
    }
    if extents.is_empty() { Err(ImageError::Damaged("its descriptor lists no extents")) } else { Ok(extents) }
}

/// Refuses a disk that holds only what differs from another one.
pub(super) fn check_parent(text: &[u8]) -> Result<(), ImageError> {
    let text = String::from_utf8_lossy(text);
    let mut fields = text.lines().filter_map(|line| line.split_once('='));
    let parent = fields.find(|(key, _)| key.trim().eq_ignore_ascii_case("parentCID"));
    match parent {
        Some((_, cid)) if !cid.trim().eq_ignore_ascii_case("ffffffff") => Err(ImageError::Unsupported(
            "it stands on a parent image, which popf does not support; convert it where its parent is (qemu-img \
             convert -O qcow2 OLD NEW.qcow2)",
        )),
        _ => Ok(()),
    }
}

/// `SECTORS KIND ["NAME" [OFFSET]]`
fn parse_extent(line: &str) -> Result<Extent, ImageError> {
    let (sectors, rest) = line.trim().split_once(' ').ok_or(DAMAGED)?;
    let sectors = sectors.parse().map_err(|_| DAMAGED)?;
    let (kind, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
    let kind = match kind {
        "ZERO" => Kind::Zero,
        "FLAT" | "VMFS" => {
            let (name, rest) = parse_name(rest)?;
            let offset = if rest.is_empty() { Some(0) } else { rest.parse().ok() };
            let offset = offset.and_then(|sectors: u64| sectors.checked_mul(SECTOR)).ok_or(DAMAGED)?;
            // So that no offset within the extent can overflow.
            let end = u64::checked_mul(sectors, SECTOR).and_then(|bytes| bytes.checked_add(offset));
            end.ok_or(DAMAGED)?;
            Kind::Flat { name, offset }
        }
        "SPARSE" => Kind::Sparse { name: parse_name(rest)?.0 },
        _ => {
            return Err(ImageError::Unsupported(
                "it has a kind of extent that popf does not read; convert it (qemu-img convert -O qcow2 OLD NEW.qcow2)",
            ));
        }
    };
    Ok(Extent { sectors, kind })
}

/// A file's name in quotes, and what follows it.
fn parse_name(text: &str) -> Result<(String, &str), ImageError> {
    let (name, rest) = text.trim().strip_prefix('"').and_then(|text| text.split_once('"')).ok_or(DAMAGED)?;
    // A descriptor is no place to name any file of the host.
    if name.is_empty() || name == ".." || name.contains(['/', '\0']) {
        return Err(ImageError::Damaged("its descriptor names a file outside its folder"));
    }
    Ok((name.to_owned(), rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Disk DescriptorFile\nversion=1\nCID=1234\nparentCID=ffffffff\ncreateType=\"x\"\n";

    fn extents(lines: &str) -> Result<Vec<Extent>, String> {
        parse(format!("{HEAD}{lines}").as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn extents_are_read_in_order() {
        let read = extents(
            "RW 8 SPARSE \"a b-s001.vmdk\"\r\nRW 16 FLAT \"c.vmdk\" 2\n\nRDONLY 4 ZERO\nRW 1 VMFS \"d\"",
        );
        let expected = [
            (8, Kind::Sparse { name: "a b-s001.vmdk".into() }),
            (16, Kind::Flat { name: "c.vmdk".into(), offset: 1024 }),
            (4, Kind::Zero),
            (1, Kind::Flat { name: "d".into(), offset: 0 }),
        ];
        assert_eq!(read.unwrap(), expected.map(|(sectors, kind)| Extent { sectors, kind }));
    }

    #[test]
    fn nonsense_is_told() {
        for (lines, told) in [
            ("", "no extents"),
            ("RW x FLAT \"a\"", "makes no sense"),
            ("RW 1", "makes no sense"),
            ("RW 1 FLAT a", "makes no sense"),
            ("RW 1 FLAT \"a\" 36028797018963968", "makes no sense"),
            ("RW 36028797018963968 FLAT \"a\"", "makes no sense"),
            ("RW 1 FLAT \"/etc/shadow\"", "outside its folder"),
            ("RW 1 SPARSE \"..\"", "outside its folder"),
            ("RW 1 SESPARSE \"a\"", "kind of extent"),
        ] {
            let error = extents(lines).unwrap_err();
            assert!(error.contains(told), "{lines}: {error}");
        }
        let child = HEAD.replace("ffffffff", "12345678");
        assert!(parse(child.as_bytes()).unwrap_err().to_string().contains("parent"));
    }
}
