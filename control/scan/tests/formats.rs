//! Files of every format, made here, whole and damaged.

use std::io::Write;

use scan::{Format, Image, ScanError, Symbols, Way, scan};
use x86::Mode;

/// cli; call +1; hlt; ret
const CODE: [u8; 8] = [0xfa, 0xe8, 1, 0, 0, 0, 0xf4, 0xc3];
const VIRTUAL: u64 = 0xffff_ffff_8100_0000;
const PHYSICAL: u64 = 0x100_0000;

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// An ELF64 file of one segment without sections, which enters by a physical address, as a kernel does.
fn elf() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &2_u16.to_le_bytes()); // ET_EXEC
    put(&mut file, 18, &62_u16.to_le_bytes()); // EM_X86_64
    put(&mut file, 20, &1_u32.to_le_bytes());
    put(&mut file, 24, &(PHYSICAL + 1).to_le_bytes()); // e_entry
    put(&mut file, 32, &64_u64.to_le_bytes()); // e_phoff
    put(&mut file, 52, &64_u16.to_le_bytes()); // e_ehsize
    put(&mut file, 54, &56_u16.to_le_bytes()); // e_phentsize
    put(&mut file, 56, &1_u16.to_le_bytes()); // e_phnum
    put(&mut file, 64, &1_u32.to_le_bytes()); // PT_LOAD
    put(&mut file, 68, &5_u32.to_le_bytes()); // readable and executable
    put(&mut file, 72, &120_u64.to_le_bytes()); // p_offset
    put(&mut file, 80, &VIRTUAL.to_le_bytes());
    put(&mut file, 88, &PHYSICAL.to_le_bytes());
    put(&mut file, 96, &(CODE.len() as u64).to_le_bytes());
    put(&mut file, 104, &(CODE.len() as u64).to_le_bytes());
    put(&mut file, 120, &CODE);
    file
}

/// A bzImage with this payload; the four bytes behind it are the unpacked size, as the kernel's build has it.
fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1fe, &[0x55, 0xaa]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x248, &16_u32.to_le_bytes());
    put(&mut file, 0x24c, &(payload.len() as u32 + 4).to_le_bytes());
    put(&mut file, 1024 + 16, payload);
    let end = file.len();
    put(&mut file, end, &[0; 4]);
    file
}

/// A PE32+ file of one section, with nothing that a scan does not need.
fn pe() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &0x80_u32.to_le_bytes());
    put(&mut file, 0x80, b"PE\0\0");
    put(&mut file, 0x84, &0x8664_u16.to_le_bytes()); // machine
    put(&mut file, 0x86, &1_u16.to_le_bytes()); // sections
    put(&mut file, 0x94, &112_u16.to_le_bytes()); // size of the optional header
    put(&mut file, 0x98, &0x20b_u16.to_le_bytes()); // PE32+
    put(&mut file, 0xa8, &0x1000_u32.to_le_bytes()); // entry
    put(&mut file, 0xb0, &0x1_4000_0000_u64.to_le_bytes()); // image base
    let section = 0x98 + 112;
    put(&mut file, section, b".text");
    put(&mut file, section + 8, &(CODE.len() as u32).to_le_bytes());
    put(&mut file, section + 12, &0x1000_u32.to_le_bytes());
    put(&mut file, section + 16, &(CODE.len() as u32).to_le_bytes());
    put(&mut file, section + 20, &0x200_u32.to_le_bytes());
    put(&mut file, section + 36, &0x6000_0020_u32.to_le_bytes()); // code, executable, readable
    put(&mut file, 0x200, &CODE);
    file
}

/// Address, text and way of what is found.
fn found(image: &Image) -> Vec<(u64, String, Way)> {
    scan(image)
        .findings
        .iter()
        .map(|finding| (finding.instruction.ip(), finding.text(), finding.way))
        .collect()
}

#[test]
fn a_program_without_sections() {
    let image = Image::read(&elf()).unwrap();
    assert_eq!((image.format, image.mode, image.len()), (Format::Elf, Mode::Long64, CODE.len()));
    // The entry is where nothing is, so all is swept.
    assert_eq!(found(&image), [(VIRTUAL, "cli".into(), Way::Sweep), (VIRTUAL + 6, "hlt".into(), Way::Sweep)]);
}

#[test]
fn a_kernel_packed_in_every_way() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&elf()).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&elf()).unwrap();
    let mut lz4 = lz4.finish().unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&elf()[..], ruzstd::encoding::CompressionLevel::Fastest);
    for packed in [gzip.finish().unwrap(), zstd] {
        let image = Image::read(&bz_image(&packed)).unwrap();
        assert_eq!((image.format, &image.entries[..]), (Format::BzImage, &[VIRTUAL + 1][..]));
        // From the entry: the call goes over HLT, and comes back to it.
        assert_eq!(
            found(&image),
            [(VIRTUAL, "cli".into(), Way::Sweep), (VIRTUAL + 6, "hlt".into(), Way::Descent)]
        );
    }
    // Linux writes the older frame format, of which only the first bytes differ.
    lz4[..4].copy_from_slice(&[0x02, 0x21, 0x4c, 0x18]);
    assert!(matches!(Image::read(&bz_image(&lz4)), Err(ScanError::Unpacking(_))));
    assert!(matches!(Image::read(&bz_image(b"BZh9")), Err(ScanError::Packed("bzip2"))));
    assert!(matches!(Image::read(&bz_image(b"\x1f\x8bnothing")), Err(ScanError::Unpacking(_))));
}

#[test]
fn names_follow_a_kernel_that_moved() {
    let mut image = Image::read(&bz_image(&elf())).unwrap();
    image.name(Symbols::from_map(
        "ffffffffafe00000 T _stext\nffffffffafe00000 T _text\nffffffffafe00006 t halt\n",
    ));
    assert_eq!(image.symbols.find(VIRTUAL + 7), Some(("halt", 1)));
    let mut program = Image::read(&elf()).unwrap();
    program.name(Symbols::from_map("1000 T _text\n"));
    assert_eq!(program.symbols.find(0x1000), Some(("_text", 0)), "a program stays where it is");
}

#[test]
fn the_older_lz4_frame() {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    let block = lz4_flex::block::compress(&elf());
    packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
    packed.extend_from_slice(&block);
    assert_eq!(Image::read(&bz_image(&packed)).unwrap().len(), CODE.len());
}

#[test]
fn a_windows_program() {
    let image = Image::read(&pe()).unwrap();
    assert_eq!((image.format, image.mode), (Format::Pe, Mode::Long64));
    let base = 0x1_4000_1000;
    assert_eq!(found(&image), [(base, "cli".into(), Way::Descent), (base + 6, "hlt".into(), Way::Descent)]);
}

#[test]
fn damage_is_told_or_harmless() {
    for whole in [elf(), pe(), bz_image(&elf())] {
        assert!(Image::read(&whole).is_ok());
        for cut in 0..whole.len() {
            let _ = Image::read(&whole[..cut]).map(|image| scan(&image));
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = Image::read(&damaged).map(|image| scan(&image));
            }
        }
    }
}

#[test]
fn modes_decode_differently() {
    // In 16-bit code 67h is an address size, and in real mode POPF is what it seems.
    let code = [0x9d, 0x0f, 0x01, 0x17, 0xfa];
    let texts = |mode| found(&Image::raw(&code, 0x7c00, mode).unwrap()).into_iter().map(|(_, text, _)| text);
    assert_eq!(texts(Mode::Real).collect::<Vec<_>>(), ["popf", "lgdt [bx]", "cli"]);
    assert_eq!(texts(Mode::Long64).collect::<Vec<_>>(), ["popf", "lgdt [rdi]", "cli"]);
}
