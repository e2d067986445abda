//! Decoding all of an image: by recursive descent first, then what is left from its beginning on.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use crate::{Image, Region, Way};

/// One of them alone may be a breakpoint; with several, compilers fill gaps.
const INT3: u8 = 0xcc;

/// What is known of a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unknown,
    /// Part of an instruction that control reaches.
    Reached,
}

/// How much of an image is what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Bytes of instructions found by descent.
    pub descent: usize,
    /// Bytes of instructions found by sweep.
    pub sweep: usize,
    /// Bytes of INT3 in what was swept, with which compilers fill gaps.
    pub padding: usize,
    /// Bytes that are no instructions.
    pub rest: usize,
}

/// Decodes an image and shows each instruction, those of a sweep last.
pub(crate) fn decode(image: &Image, mut visit: impl FnMut(&Instruction, Way)) -> Coverage {
    let mut marks: Vec<Vec<Mark>> =
        image.regions.iter().map(|region| vec![Mark::Unknown; region.bytes.len()]).collect();
    let mut coverage = Coverage::default();
    descend(image, &mut marks, &mut |instruction| {
        coverage.descent += instruction.len();
        visit(instruction, Way::Descent);
    });
    for (region, marks) in image.regions.iter().zip(&marks) {
        sweep(image, region, marks, &mut coverage, &mut visit);
    }
    coverage
}

fn decoder<'a>(image: &Image, region: &'a Region, offset: usize) -> Decoder<'a> {
    let bytes = &region.bytes[offset..];
    let address = region.address.wrapping_add(offset as u64);
    Decoder::with_ip(image.mode.code_bits(), bytes, address, DecoderOptions::NONE)
}

fn descend(image: &Image, marks: &mut [Vec<Mark>], visit: &mut impl FnMut(&Instruction)) {
    // Entries last, so that they are taken first.
    let mut waiting: Vec<u64> = image.symbols.addresses().chain(image.entries.iter().copied()).collect();
    let mut instruction = Instruction::default();
    while let Some(address) = waiting.pop() {
        let Some((index, start)) = locate(image, address) else { continue };
        let region = &image.regions[index];
        let mut decoder = decoder(image, region, start);
        let mut offset = start;
        let mut behind_call = false;
        while decoder.can_decode() && marks[index][offset] == Mark::Unknown {
            decoder.decode_out(&mut instruction);
            let end = offset + instruction.len();
            if instruction.is_invalid() || marks[index][offset..end].contains(&Mark::Reached) {
                break;
            }
            // What was called does not return, as the compiler knew; or a symbol marks the end of something.
            let filled = behind_call || region.bytes.get(end) == Some(&INT3);
            if instruction.code() == Code::Int3 && filled {
                break;
            }
            behind_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            marks[index][offset..end].fill(Mark::Reached);
            offset = end;
            visit(&instruction);
            if is_near_branch(&instruction) {
                waiting.push(instruction.near_branch_target());
            }
            if matches!(
                instruction.flow_control(),
                FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Return
                    | FlowControl::Exception
            ) {
                break;
            }
        }
    }
}

fn is_near_branch(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// The region and offset of an address.
fn locate(image: &Image, address: u64) -> Option<(usize, usize)> {
    let behind = image.regions.partition_point(|region| region.address <= address);
    let index = behind.checked_sub(1)?;
    let region = &image.regions[index];
    let offset = usize::try_from(address - region.address).ok()?;
    (offset < region.bytes.len()).then_some((index, offset))
}

/// Decodes what no descent has reached.
fn sweep(
    image: &Image,
    region: &Region,
    marks: &[Mark],
    coverage: &mut Coverage,
    visit: &mut impl FnMut(&Instruction, Way),
) {
    let mut instruction = Instruction::default();
    let mut offset = 0;
    while let Some(gap) = marks[offset..].iter().position(|&mark| mark == Mark::Unknown) {
        offset += gap;
        let length = marks[offset..].iter().position(|&mark| mark == Mark::Reached);
        let end = length.map_or(marks.len(), |length| offset + length);
        let mut decoder = decoder(image, region, offset);
        while offset < end {
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() || offset + instruction.len() > end {
                // Data, or the middle of something: the next byte may be a beginning.
                coverage.rest += 1;
                offset += 1;
                decoder = self::decoder(image, region, offset);
                continue;
            }
            offset += instruction.len();
            if instruction.code() == Code::Int3 {
                coverage.padding += instruction.len();
            } else {
                coverage.sweep += instruction.len();
                visit(&instruction, Way::Sweep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use x86::Mode;

    use super::*;

    /// jmp to the end past three bytes of data, there a call back to a ret; behind it nothing that control reaches.
    #[test]
    fn descent_leaves_data_alone() {
        let code = [0xeb, 4, 0x0f, 0xff, 0xff, 0xc3, 0xe8, 0xfa, 0xff, 0xff, 0xff, 0xf4, 0xc3, 0xcc, 0xfa];
        let image = Image::raw(&code, 0x1000, Mode::Long64).unwrap();
        let mut seen = Vec::new();
        let coverage =
            decode(&image, |instruction, way| seen.push((instruction.ip(), instruction.code(), way)));
        let descent: Vec<_> =
            seen.iter().filter(|(.., way)| *way == Way::Descent).map(|(ip, ..)| *ip).collect();
        assert_eq!(descent, [0x1000, 0x1006, 0x100b, 0x100c, 0x1005]);
        let last = seen.last().unwrap();
        assert_eq!(*last, (0x100e, Code::Cli, Way::Sweep));
        assert_eq!(coverage.descent + coverage.sweep + coverage.padding + coverage.rest, code.len());
        assert_eq!((coverage.descent, coverage.padding), (10, 1));
    }

    /// call +2; int3; int3; nop; int3; ret; rep int3: of the breakpoints only the third is one.
    #[test]
    fn filling_is_no_breakpoint() {
        let code = [0xe8, 2, 0, 0, 0, 0xcc, 0xcc, 0x90, 0xcc, 0xc3, 0xf3, 0xcc];
        let image = Image::raw(&code, 0, Mode::Long64).unwrap();
        let mut breakpoints = Vec::new();
        let coverage = decode(&image, |instruction, _| {
            if instruction.code() == Code::Int3 {
                breakpoints.push(instruction.ip());
            }
        });
        assert_eq!((&breakpoints[..], coverage.padding), (&[8][..], 4));
    }

    #[test]
    fn loops_and_wild_targets_end() {
        let code = [0x74, 0xfe, 0xe9, 0, 0, 0, 0x7f, 0xeb, 0xfe];
        let image = Image::raw(&code, u64::MAX - 20, Mode::Long64).unwrap();
        let mut count = 0;
        decode(&image, |_, _| count += 1);
        assert_eq!(count, 3);
    }
}
