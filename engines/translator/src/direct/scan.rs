//! Which code the processor may run as it is.
//!
//! In ring 3 next to all that is sensitive traps. What does not is looked for in a page before it is mapped to be executed. A page
//! that has it stays the translator's, unless that is in few places, at which the processor's breakpoints are.
//!
//! Its bytes are in every fourth page, most times as a part of a constant or a distance. Where instructions begin nothing
//! says for certain; but whoever reads x86 code from a wrong place on is on the right one after a few instructions (Linn and
//! Debray, CCS 2003). So it is read from several places in front. What is found by none of those ways is reached by a program only
//! that jumps into the middle of its own instructions on purpose: it finds the host's CPUID and time-stamp counter, or descriptor tables' addresses
//! where the processor has no UMIP, and nothing else that it could use.
//!
//! Linux could have RDTSC trap in a process (`PR_SET_TSC`), and some processors CPUID. That is a bit of a control register or MSR, which is then
//! written at each switch to a stub and back; in a virtual machine that took half of the way.
//!
//! Not looked for, since they give what the guest's processor would: SLDT, STR and the reading of segment registers, as long
//! as the guest's selectors are the host's, which [`crate::engine`] asks for; PUSHF, whose IF and IOPL are the guest's there.

use host::stub::BREAKPOINTS;
use iced_x86::{Decoder, DecoderOptions};

const PAGE: usize = 4096;
/// How far in front reading begins, and from how many places at least.
pub const AHEAD: usize = 64;
const STARTS: usize = 32;
/// The longest instruction.
const LONGEST: usize = 15;

/// What a page's code is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing in it is sensitive without a trap.
    Harmless,
    /// The same, but for an instruction that begins at its end: see [`joins`].
    Open,
    /// Something is, in few places: as long as the processor stops at those, the rest may run.
    Guarded(Places),
    /// More is.
    Sensitive,
}

/// Offsets of the instructions in a page that are sensitive, at most as many as the processor has breakpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    offsets: [u16; BREAKPOINTS],
    len: usize,
}

impl Places {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.offsets[..self.len].iter().map(|offset| u64::from(*offset))
    }

    /// Whether there was room for one more.
    pub(super) fn add(&mut self, at: usize) -> bool {
        let room = self.len < BREAKPOINTS;
        if room {
            self.offsets[self.len] = at as u16;
            self.len += 1;
        }
        room
    }
}

/// Looks at a page's code, given what lies in front of it if that is code: the last [`AHEAD`] bytes, or none. RDTSC is harmless if the
/// guest's counter `counts_as_host`'s does.
pub fn judge(before: &[u8], page: &[u8; PAGE], counts_as_host: bool) -> Verdict {
    let code = [before, page].concat();
    let (mut open, mut places) = (false, Places::default());
    for at in candidates(&code, before.len()) {
        if counts_as_host && code[at..].starts_with(&RDTSC) {
            continue;
        }
        let sensitive = is_sensitive(&code[at..]);
        if sensitive != Some(false) && may_begin(&code, at) {
            open |= sensitive.is_none();
            // With a prefix it begins elsewhere.
            let begins = at > 0 && !is_prefix(code[at - 1]);
            if sensitive.is_some() && !(begins && places.add(at - before.len())) {
                return Verdict::Sensitive;
            }
        }
    }
    match (open, places.len) {
        (false, 0) => Verdict::Harmless,
        (true, 0) => Verdict::Open,
        (false, _) => Verdict::Guarded(places),
        (true, _) => Verdict::Sensitive,
    }
}

/// Where the first two bytes may be of an opcode that is sensitive, or the first one at the end, from a place on.
fn candidates(code: &[u8], from: usize) -> Vec<usize> {
    const CHUNK: usize = 64;
    let last = code.len() - 1;
    let mut found = Vec::new();
    for start in (from..last).step_by(CHUNK) {
        let chunk = |at: usize| code[at..].first_chunk::<CHUNK>();
        if let (Some(first), Some(second)) = (chunk(start), chunk(start + 1))
            && !(0..CHUNK).fold(false, |any, n| any | may_be_sensitive(first[n], second[n]))
        {
            continue;
        }
        found.extend((start..last.min(start + CHUNK)).filter(|at| may_be_sensitive(code[*at], code[at + 1])));
    }
    found.extend(matches!(code[last], ESCAPE | INT).then_some(last));
    found
}

/// Whether an instruction that begins in the last bytes of one page is harmless if it goes on with the first of another.
pub fn joins(last: [u8; 2], first: [u8; 2]) -> bool {
    let bytes = [last[0], last[1], first[0], first[1]];
    (0..2).all(|at| !matches!(bytes[at], ESCAPE | INT) || is_sensitive(&bytes[at..]) == Some(false))
}

/// Whether an instruction may have its opcode here.
fn may_begin(code: &[u8], at: usize) -> bool {
    let low = at.saturating_sub(AHEAD);
    // The first instruction may begin in front of what is known.
    let last = if at < AHEAD { LONGEST.min(at) } else { low + STARTS };
    let mut lengths = [0_u8; AHEAD];
    for (length, start) in lengths.iter_mut().zip(low..at) {
        let bytes = &code[start..code.len().min(start + LONGEST)];
        *length = match Decoder::new(64, bytes, DecoderOptions::NONE).decode() {
            // One that does not end in the page has what there is of it.
            instruction if instruction.is_invalid() && start + LONGEST <= code.len() => 1,
            instruction if instruction.is_invalid() => bytes.len() as u8,
            instruction => instruction.len() as u8,
        };
    }
    let leads_here = |start: usize| {
        let mut here = start;
        while here < at {
            let next = here + usize::from(lengths[here - low]);
            if next > at {
                return code[here..at].iter().all(|byte| is_prefix(*byte));
            }
            here = next;
        }
        true
    };
    let starts = last.saturating_sub(low);
    at == 0 || (low..last).filter(|start| leads_here(*start)).count() * 3 > starts
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

const ESCAPE: u8 = 0x0f;
const RDTSC: [u8; 2] = [ESCAPE, 0x31];
const INT: u8 = 0xcd;

/// Whether an opcode that begins with these bytes may be sensitive. A compiler makes vector code of what has no branches.
#[inline]
fn may_be_sensitive(first: u8, second: u8) -> bool {
    // What a third byte tells apart is at 00, 01 and C7. LAR, LSL; RDTSC; SYSENTER, which forgets where it was; CPUID.
    let escaped = (second <= 3) | (second == 0x31) | (second == 0x34) | (second == 0xa2) | (second == 0xc7);
    // INTO's vector: a trap behind it for the host, and no word of it.
    ((first == ESCAPE) & escaped) | ((first == INT) & (second == 4))
}

/// Whether an instruction with its opcode here is sensitive, if there are enough bytes to say.
fn is_sensitive(bytes: &[u8]) -> Option<bool> {
    let second = *bytes.get(1)?;
    let may_be = may_be_sensitive(bytes[0], second);
    if !may_be || bytes[0] == INT || !matches!(second, 0x00 | 0x01 | 0xc7) {
        return Some(may_be);
    }
    let modrm = *bytes.get(2)?;
    let (reg, in_register) = (modrm >> 3 & 7, modrm >= 0xc0);
    Some(match second {
        // VERR, VERW.
        0x00 => matches!(reg, 4 | 5),
        // SGDT, SIDT, SMSW, XGETBV, RDTSCP, RDPKRU, VMCALL and others. INVLPG and SWAPGS trap, XEND and XTEST are for all.
        0x01 => !matches!(modrm, 0xd5 | 0xd6 | 0xf8) && (reg != 7 || in_register),
        // RDPID, and RDSEED with it.
        _ => reg == 7 && in_register,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with(at: usize, bytes: &[u8]) -> [u8; 4096] {
        let mut page = [0x90; 4096];
        page[at..at + bytes.len()].copy_from_slice(bytes);
        page
    }

    #[test]
    fn what_does_not_trap_is_found_wherever_it_is() {
        const SENSITIVE: [&[u8]; 16] = [
            &[0x0f, 0xa2],             // cpuid
            &[0x0f, 0x31],             // rdtsc
            &[0x0f, 0x01, 0xf9],       // rdtscp
            &[0x0f, 0x01, 0x00],       // sgdt [rax]
            &[0x0f, 0x01, 0x0b],       // sidt [rbx]
            &[0x0f, 0x01, 0xe0],       // smsw eax
            &[0x0f, 0x01, 0xd0],       // xgetbv
            &[0x0f, 0x01, 0xee],       // rdpkru
            &[0x0f, 0x02, 0xc0],       // lar eax, eax
            &[0x0f, 0x03, 0x03],       // lsl eax, [rbx]
            &[0x0f, 0x00, 0xe0],       // verr ax
            &[0x0f, 0x00, 0x28],       // verw [rax]
            &[0x0f, 0x34],             // sysenter
            &[0xf3, 0x0f, 0xc7, 0xf8], // rdpid rax
            &[0xcd, 0x04],             // int 4
            &[0x48, 0x0f, 0x01, 0xe1], // smsw rcx
        ];
        for bytes in SENSITIVE {
            for at in [0, 1, 777, 4096 - bytes.len()] {
                let verdict = judge(&[], &page_with(at, bytes), false);
                let place = |places: Places| places.iter().next().is_some_and(|place| place >= at as u64);
                let found = match verdict {
                    Verdict::Guarded(places) => place(places) && !is_prefix(bytes[0]),
                    verdict => verdict == Verdict::Sensitive,
                };
                assert!(found, "{bytes:x?} at {at}: {verdict:?}");
            }
        }
        // The rest may be in the next page.
        for bytes in [&[0x0f][..], &[0x0f, 0x01], &[0x0f, 0x00], &[0xcd], &[0x0f, 0xc7]] {
            assert_eq!(
                judge(&[], &page_with(4096 - bytes.len(), bytes), false),
                Verdict::Open,
                "{bytes:x?} at the end"
            );
        }
        assert!(
            !joins([0x90, 0x0f], [0xa2, 0x90])
                && !joins([0x0f, 0x01], [0xd0, 0])
                && !joins([0, 0xcd], [4, 0])
        );
        assert!(
            joins([0x85, 0x0f], [0x84, 0x0f])
                && joins([0x0f, 0x1f], [0x00, 0])
                && joins([0, 0xcd], [0x80, 0])
        );
    }

    #[test]
    fn rdtsc_is_harmless_where_the_counter_is_the_hosts() {
        let verdict = |bytes| judge(&[], &page_with(100, bytes), true);
        assert_eq!(verdict(&[0x0f, 0x31]), Verdict::Harmless);
        assert!(matches!(verdict(&[0x0f, 0x01, 0xf9]), Verdict::Guarded(_)), "rdtscp says who it is, too");
        assert!(matches!(verdict(&[0x0f, 0x31, 0x0f, 0xa2]), Verdict::Guarded(_)));
    }

    #[test]
    fn there_are_as_many_places_as_breakpoints() {
        let mut page = [0x90; 4096];
        for n in 1..=BREAKPOINTS + 1 {
            page[n * 100..n * 100 + 2].copy_from_slice(&[0x0f, 0xa2]);
            match judge(&[], &page, false) {
                Verdict::Guarded(places) => assert!(places.iter().eq((1..=n as u64).map(|n| n * 100))),
                verdict => assert!(verdict == Verdict::Sensitive && n > BREAKPOINTS, "{n} {verdict:?}"),
            }
        }
    }

    #[test]
    fn what_is_within_another_instruction_is_let_pass() {
        const WITHIN: [&[u8]; 4] = [
            &[0xb8, 0x0f, 0xa2, 0, 0],             // mov eax, 0xa20f
            &[0xe8, 0x0f, 0x01, 0, 0],             // call
            &[0x0f, 0x84, 0x0f, 0x01, 0, 0],       // je
            &[0x48, 0x8b, 0x88, 0x0f, 0x03, 0, 0], // mov rcx, [rax + 0x30f]
        ];
        for bytes in WITHIN {
            for at in [100, 777, 4096 - bytes.len()] {
                assert_eq!(judge(&[], &page_with(at, bytes), false), Verdict::Harmless, "{bytes:x?} at {at}");
            }
        }
        // Its last bytes are in the next page.
        assert_eq!(judge(&[], &page_with(4094, &[0xb8, 0x0f]), false), Verdict::Harmless);
    }

    #[test]
    fn what_begins_in_the_page_before_does_not_begin_here() {
        let code = [[0x90; AHEAD - 2].as_slice(), &[0x0f, 0x84]].concat();
        let page = page_with(0, &[0x0f, 0x02, 0, 0]); // je
        assert_eq!(judge(&[], &page, false), Verdict::Sensitive);
        assert_eq!(judge(&code, &page, false), Verdict::Harmless);
        let guarded = |verdict| matches!(verdict, Verdict::Guarded(places) if places.iter().eq([0]));
        assert!(guarded(judge(&[0x90; AHEAD], &page_with(0, &[0x0f, 0xa2]), false)), "cpuid");
    }

    #[test]
    fn what_traps_or_is_the_same_is_let_pass() {
        const HARMLESS: [&[u8]; 8] = [
            &[0x0f, 0x05],             // syscall
            &[0x0f, 0x01, 0xf8],       // swapgs
            &[0xb8, 0x0f, 0, 0, 0],    // mov eax, 15
            &[0x0f, 0x84, 0, 1, 0, 0], // je
            &[0x0f, 0xc7, 0x0f],       // cmpxchg8b [rdi]
            &[0x0f, 0x1f, 0x44, 0, 0], // nop
            &[0xcd, 0x80],             // int 80
            &[0x0f, 0x10, 0x01],       // movups xmm0, [rcx]
        ];
        for bytes in HARMLESS {
            assert_eq!(judge(&[], &page_with(100, bytes), false), Verdict::Harmless, "{bytes:x?}");
        }
        assert_eq!(judge(&[], &[0; 4096], false), Verdict::Harmless);
    }
}
