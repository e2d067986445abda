//! Blocks and tables, shown to whoever watches: each instruction beside its host code, and why the two differ.
//!
//! The guest's bytes are read anew. That they are those the block was made from is known: a write to one of them
//! would have dropped it.

use iced_x86::{FlowControl, Mnemonic, OpKind, Register};
use vcpu::{BlockView, PieceView};
use x86::paging::{self, Access, AccessKind};

use crate::block::Block;
use crate::context::VIEWS;
use crate::decode::GuestInsn;
use crate::engine::Translator;
use crate::inlining;
use crate::mode::{ModeWord, VIEW_KERNEL_AC, VIEW_USER};
use crate::regs;
use crate::tlb_entry::TlbEntry;

/// As many blocks are shown at once.
const BLOCKS: usize = 4;
/// As much host code of one.
const BYTES: usize = 3 << 10;

impl Translator {
    /// See [`vcpu::Engine::blocks_at`]: the blocks that go over the instruction, those that begin there first.
    pub(crate) fn view_blocks(&mut self, rip: u64) -> Vec<BlockView> {
        let page = rip & !0xfff;
        let access = Access::explicit(AccessKind::Execute, true);
        let user_page = paging::walk(&self.paging, &self.guest, page, access).ok();
        let user_page = user_page.map(|found| found.physical & !0xfff);
        let mut found: Vec<_> = self.cache.blocks_over(rip, user_page).collect();
        found.sort_by_key(|id| self.cache.block(*id).is_none_or(|block| block.key.rip(page) != rip));
        found.truncate(BLOCKS);
        let mut views = Vec::new();
        for id in found {
            let Some(block) = self.cache.block(id) else { continue };
            let (key, sources) = (block.key, block.sources.clone());
            let mut code = Vec::new();
            // The second source is code only of a block that straddles pages; else it was looked at for flags.
            let pages = if block.second_page.is_some() { 2 } else { 1 };
            for range in sources.iter().take(pages) {
                code.extend(self.guest.code(range.start, usize::MAX).unwrap_or_default());
            }
            let limit = block.map.len();
            let list = self.cache.decode_list(&code, key.rip(page), key.mode, limit);
            if let Some(block) = self.cache.block(id) {
                views.push(self.view(block, page, &list, &code));
            }
        }
        views
    }

    fn view(&self, block: &Block, page: u64, list: &[GuestInsn], code: &[u8]) -> BlockView {
        let start_rip = block.key.rip(page);
        let mode = block.key.mode;
        let host = |from: u64, to: u64| self.cache.host_code(from, to);
        let at = |offset: u32| block.entry + u64::from(offset);
        let first = block.map.first().map_or(block.end, |(offset, _)| at(*offset));
        let mut pieces = vec![PieceView {
            rip: start_rip,
            guest: Vec::new(),
            address: block.entry,
            host: host(block.entry, first),
            reason: entry_reason(block).into(),
        }];
        for (n, (start, offset)) in block.map.iter().enumerate() {
            let end = block.map.get(n + 1).map_or(block.end, |(next, _)| at(*next));
            let insn = list.iter().find(|insn| insn.offset == *offset);
            let from = usize::from(*offset);
            let len = insn.map_or(0, |insn| insn.instruction.len());
            let guest = code.get(from..from + len).unwrap_or_default().to_vec();
            let bytes = host(at(*start), end);
            let same = bytes == guest;
            let reason = insn.filter(|_| !same).map_or_else(String::new, |insn| reason(insn, mode));
            let rip = start_rip.wrapping_add(u64::from(*offset));
            pieces.push(PieceView { rip, guest, address: at(*start), host: bytes, reason });
        }
        if !block.ways_out.is_empty() {
            pieces.push(PieceView {
                rip: start_rip,
                guest: Vec::new(),
                address: block.ways_out.start,
                host: host(block.ways_out.start, block.ways_out.end),
                reason: "ways out: what the code above jumps to when it cannot go on by itself".into(),
            });
        }
        let mut room = BYTES;
        let shown = pieces.iter().take_while(|piece| {
            room = room.saturating_sub(piece.host.len());
            room > 0
        });
        let shown = shown.count().max(1);
        let omitted = (pieces.len() - shown) as u64;
        pieces.truncate(shown);
        BlockView {
            rip: start_rip,
            physical: block.key.physical,
            bits: mode.bits(),
            circumstances: circumstances(mode),
            incoming: block.incoming.len() as u64,
            pieces,
            omitted,
        }
    }

    /// See [`vcpu::Engine::contents`].
    pub(crate) fn view_contents(&mut self) -> Vec<(&'static str, u64)> {
        let mut tlb = [0; VIEWS];
        let (mut writable, mut large) = (0, 0);
        for (view, count) in tlb.iter_mut().enumerate() {
            for (slot, entry) in self.cache.region.tlb(view).iter().enumerate() {
                let never = TlbEntry::empty(slot);
                let (reads, writes) = (entry.read != never.read, entry.write != never.write);
                *count += u64::from(reads || writes);
                writable += u64::from(writes);
                large += u64::from((reads || writes) && entry.physical & TlbEntry::LARGE != 0);
            }
        }
        let (blocks, links) = self.cache.population();
        vec![
            ("blocks in the cache", blocks),
            ("links between them", links),
            ("software TLB entries of the supervisor", tlb[0] + tlb[VIEW_KERNEL_AC]),
            ("software TLB entries of ring 3", tlb[VIEW_USER]),
            ("of these for writing", writable),
            ("of these from large pages", large),
        ]
    }
}

fn entry_reason(block: &Block) -> &'static str {
    if block.key.floats() {
        "entry of indirect jumps: notes which page this is, since the block is good wherever that is mapped; does another thread want the vCPU?"
    } else {
        "entry of indirect jumps: does another thread want the vCPU?"
    }
}

fn circumstances(mode: ModeWord) -> String {
    let ring = match mode.view() {
        VIEW_USER => "ring 3",
        VIEW_KERNEL_AC => "ring 0 to 2 with SMAP lifted",
        _ if mode.is_ring0() => "ring 0",
        _ => "ring 1 or 2",
    };
    let step = if mode.steps() { ", one instruction at a time" } else { "" };
    format!("{:?}, {ring}{step}", mode.mode())
}

/// Why an instruction was not copied: the first of the translator's rules that applies, and those that go with it.
fn reason(insn: &GuestInsn, mode: ModeWord) -> String {
    let i = &insn.instruction;
    if let Some(routine) = insn.routine {
        return if inlining::inlines(i, routine, mode) {
            format!("sensitive ({routine:?}), done inline on the vCPU's own state")
        } else {
            format!("sensitive ({routine:?}): leaves to the monitor, which interprets it")
        };
    }
    if i.mnemonic() == Mnemonic::Nop {
        return "does nothing".to_owned();
    }
    let mut reasons = Vec::new();
    match i.flow_control() {
        FlowControl::Next => {}
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return => {
            reasons.push("leads elsewhere: the target is looked up in the jump table");
        }
        _ => reasons.push("leads elsewhere: to the block there, once that is translated"),
    }
    let explicit = i.op_kinds().any(|kind| kind == OpKind::Memory) && i.mnemonic() != Mnemonic::Lea;
    if explicit || i.is_stack_instruction() || i.is_string_instruction() {
        reasons.push("touches memory: its page is looked up in the software TLB, and flags that are still read are kept meanwhile");
    }
    if i.is_ip_rel_memory_operand() {
        reasons.push("is relative to rip, which is another here");
    }
    let spilled = |register: Register| regs::number(register).is_some_and(regs::is_spilled);
    let registers = (0..i.op_count()).map(|n| i.op_register(n)).chain([i.memory_base(), i.memory_index()]);
    if registers.into_iter().any(spilled) {
        reasons.push("uses r9, r10 or r11, which live in memory");
    }
    if i.mnemonic() == Mnemonic::Cld || i.mnemonic() == Mnemonic::Std {
        reasons.push("DF stands apart from the other flags");
    }
    if reasons.is_empty() {
        reasons.push("written anew for 64-bit mode, or with its operand elsewhere");
    }
    reasons.join("; ")
}
