//! Lowering: from decoded guest instructions to host code.
//!
//! An instruction without memory operand is copied. One with a memory operand has the operand replaced by a
//! host register that holds the checked host address. Control transfers go to other translated blocks. What
//! has a routine leaves to the monitor, save the few that [`system`] writes inline.

mod address;
mod control;
mod encode;
mod group;
mod held;
mod iret;
mod operand;
mod page;
mod saved;
mod special;
mod stack;
mod string;
mod stubs;
mod system;
mod transition;

use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpKind, Register};

pub use encode::widen;
pub use iret::is_slow as returns_slowly;
pub use special::{fpu_exception, masks_components};
pub use transition::{ENTERED, RETURNED, selectors};

use crate::access::{Accesses, Operands};
use crate::block::{BlockId, EXIT_BOUNCED, SiteKind, Sites};
use crate::cells::Cells;
use crate::context::{CellId, ContextField as F, PageSlot, VIEWS};
use crate::decode::{End, GuestInsn, is_amd};
use crate::emit::{Emitter, Fixup, Op, Reg};
use crate::hint::Hints;
use crate::hint_table::HintId;
use crate::mode::ModeWord;
use crate::trampoline::emit_leave;

use group::{Plan, Role};
use held::Held;
use page::{HintStub, WindowStub};
use stubs::{FarStub, LinkStub, SlowStub};

/// Where SYSCALL leads from 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallTarget {
    /// LSTAR.
    pub rip: u64,
    /// SFMASK: flags it clears.
    pub mask: u64,
    /// STAR: the selectors it loads, and those of SYSRET.
    pub star: u64,
}

/// What lowering needs to know of the block as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// If the block is good wherever its page is mapped, the slot that says where that is. Addresses of its code count from the
    /// beginning of that page then.
    pub page: Option<PageSlot>,
    /// Guest rip of the first instruction.
    pub rip: u64,
    /// Linear address of the first instruction.
    pub linear: u64,
    /// Guest-physical address of the first instruction.
    pub physical: u64,
    /// Bytes of guest code from `linear` backwards and forwards that one leaf mapping is known to cover and
    /// within which jumps may be linked: `[start, end)`.
    pub linkable: (u64, u64),
    /// Mode word.
    pub mode: ModeWord,
    /// Its identity.
    pub block: BlockId,
    /// Status flags live on entry.
    pub live_in: u8,
    /// XSAVE components the guest may use.
    pub xcr0: u64,
    /// Bytes of an XSAVE area with all of those.
    pub xsave_size: u32,
    /// Where SYSCALL leads, if it is enabled.
    pub syscall: Option<SyscallTarget>,
    /// Whether PAUSE leaves.
    pub pauses: bool,
    /// Where an indirect jump goes that finds no block.
    pub miss: u64,
    /// Where it goes when the jump table of its view holds another block.
    pub second_chance: [u64; VIEWS],
    /// Where the block's ways out go.
    pub ways_out: u64,
    /// Whether each access is to be checked by itself.
    pub apart: bool,
    /// For the slow path: the host address that stands for the memory operand's, unchecked.
    pub bounce: Option<u64>,
}

/// A jump to be patched once its target is translated.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Offset of the jump's 32-bit operand in the block's code.
    pub at: u32,
    /// Offset of the stub it goes to meanwhile.
    pub stub: u32,
    /// Guest rip it leads to.
    pub target: u64,
    /// The mode it leads to.
    pub mode: ModeWord,
    /// Whether it leads backwards, and so has to pass the kick check.
    pub backward: bool,
    /// The cell that it goes through, if it does not go straight.
    pub cell: Option<CellId>,
    /// Whether it leaves the flags in the context.
    pub parked: bool,
}

/// What lowering a block gives beside code.
#[derive(Debug, Default)]
pub struct Lowered {
    /// Offset of the entry that checks for a kick.
    pub checked: u32,
    /// Offset of the first instruction.
    pub body: u32,
    /// Offset of each instruction's code, with the guest's offset in the block.
    pub map: Vec<(u32, u16)>,
    /// Offset from which to `tail` flags are in `Context::jump_flags`.
    pub parked: Option<u32>,
    /// Offset of what stands behind them.
    pub tail: u32,
    /// Jumps to be linked.
    pub links: Vec<Link>,
    /// Accesses that are checked together.
    pub groups: Vec<LoweredGroup>,
}

/// A group of accesses.
#[derive(Clone, Copy, Debug)]
pub struct LoweredGroup {
    /// Guest's offset in the block of the leader.
    pub first: u16,
    /// The same of the last follower.
    pub last: u16,
    /// The leader's hint, once it is lowered.
    pub hint: Option<HintId>,
    /// Offset of the word that says where to go if the group straddles pages.
    pub apart: u32,
}

/// An instruction form that has no lowering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLowering;

pub(crate) struct Lowering<'a> {
    e: &'a mut Emitter,
    encoder: &'a mut Encoder,
    sites: &'a mut Sites,
    hints: &'a mut Hints,
    cells: &'a mut Cells,
    frame: Frame,
    code: &'a [u8],
    slow: Vec<SlowStub>,
    hint_stubs: Vec<HintStub>,
    window_stubs: Vec<WindowStub>,
    link_stubs: Vec<LinkStub>,
    far_stubs: Vec<FarStub>,
    /// The block's indirect jump, where the jump table holds another block, and its site.
    elsewhere: Option<(Fixup, u32)>,
    held: Held,
    plan: Plan,
    /// The displacement by which the block has loaded the stack pointer.
    loaded_stack: Option<u64>,
    /// How many instructions have been lowered, this one included.
    count: usize,
    /// The last of them, if it ends the block by leading elsewhere.
    transfer: Option<usize>,
    /// Where the one that is being lowered is.
    rip: u64,
    /// Whether the way in for jumps backwards stands behind the block.
    checks_behind: bool,
    /// The first instruction from which on flags may be parked.
    parking: Option<usize>,
    /// Whether they are.
    parked: bool,
    out: Lowered,
}

/// What lowering writes with.
pub struct Tools<'a> {
    /// Takes the host code.
    pub emitter: &'a mut Emitter,
    /// Re-encodes guest instructions.
    pub encoder: &'a mut Encoder,
    /// Takes the places at which the code leaves.
    pub sites: &'a mut Sites,
    /// Gives accesses their hints.
    pub hints: &'a mut Hints,
    /// Gives jumps their cells.
    pub cells: &'a mut Cells,
    /// Knows what instructions do.
    pub accesses: &'a mut Accesses,
}

/// Lowers one block whose guest bytes are `code`.
pub fn lower(tools: Tools, frame: Frame, list: &[GuestInsn], end: End, code: &[u8]) -> Lowered {
    let plan = match frame.apart {
        true => Plan::default(),
        false => group::plan(list, frame.mode, frame.physical, tools.hints, tools.accesses),
    };
    let mut lowering = Lowering::new(tools, frame, code);
    lowering.out.groups = plan.lowered(list);
    lowering.plan = plan;
    lowering.transfer = (end == End::Transfer).then_some(list.len());
    lowering.parking = lowering.parking(list, end);
    lowering.entries(lowering.parks_at_once(list));
    for insn in list {
        lowering.instruction(insn);
    }
    lowering.finish(list, end);
    lowering.out
}

/// Lowers one instruction with [`Frame::bounce`] set; `false` if it has no such form.
pub fn lower_bounce(tools: Tools, frame: Frame, insn: &GuestInsn, code: &[u8]) -> bool {
    let before = tools.sites.len();
    let mut lowering = Lowering::new(tools, frame, code);
    let done = lowering.memory_form(insn);
    emit_leave(lowering.e, EXIT_BOUNCED);
    // An exit other than the last would name a block that does not exist.
    done.is_ok() && lowering.sites.len() == before
}

impl<'a> Lowering<'a> {
    fn new(tools: Tools<'a>, frame: Frame, code: &'a [u8]) -> Self {
        let Tools { emitter, encoder, sites, hints, cells, accesses: _ } = tools;
        Self {
            e: emitter,
            encoder,
            sites,
            hints,
            cells,
            frame,
            code,
            slow: Vec::new(),
            hint_stubs: Vec::new(),
            window_stubs: Vec::new(),
            link_stubs: Vec::new(),
            far_stubs: Vec::new(),
            elsewhere: None,
            held: Held::default(),
            plan: Plan::default(),
            loaded_stack: None,
            count: 0,
            transfer: None,
            rip: frame.rip,
            checks_behind: false,
            parking: None,
            parked: false,
            out: Lowered::default(),
        }
    }

    fn instruction(&mut self, insn: &GuestInsn) {
        self.out.map.push((self.e.offset() as u32, insn.offset));
        self.count += 1;
        let i = &insn.instruction;
        self.rip = i.ip();
        if let Some(routine) = insn.routine {
            if !self.inline_routine(insn, routine) {
                self.leave(SiteKind::Callout, insn.offset);
            }
            self.held.clear();
            return;
        }
        if self.frame.mode.restricts_fpu() && fpu_exception(i, self.frame.mode).is_some() {
            self.leave(SiteKind::FpuTrap, insn.offset);
            return;
        }
        if self.ordinary(insn).is_err() {
            self.leave(SiteKind::Unsupported, insn.offset);
        }
        if i.code() == Code::Mov_r64_rm64 && i.op0_register() == Register::RSP && has_memory(i) {
            self.loaded_stack = Some(i.memory_displacement64());
        }
    }

    fn ordinary(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        if self.stack(insn)? {
            return Ok(());
        }
        if self.branch_aside(insn) {
            return Ok(());
        }
        if self.control(insn)? || self.string(insn) {
            self.held.clear();
            return Ok(());
        }
        self.memory_form(insn)
    }

    /// Whatever remains: with a memory operand or without.
    fn memory_form(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        if i.mnemonic() == Mnemonic::Lea {
            self.load_address(insn)
        } else if self.special(insn)? {
            self.held.clear();
            Ok(())
        } else if has_memory(i) {
            self.with_memory(insn, i, access_size(i))
        } else {
            self.without_memory(insn)
        }
    }

    /// Copies an instruction whose operands are all registers, around it the moves of those that live in the
    /// context.
    fn without_memory(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let operands = insn.operands;
        self.load_operands(operands);
        if self.frame.mode.is_long() {
            let start = usize::from(insn.offset);
            let code = self.code;
            self.e.bytes(&code[start..start + insn.instruction.len()]);
        } else {
            let mut wide = insn.instruction;
            widen(&mut wide);
            self.encode(&wide)?;
        }
        self.store_operands(operands);
        Ok(())
    }

    /// What the access of the instruction that is being lowered is to a group.
    fn role(&self) -> Role {
        self.plan.role(self.count.wrapping_sub(1))
    }

    fn encode(&mut self, instruction: &Instruction) -> Result<(), NoLowering> {
        let rip = self.e.here();
        let encoded = self.encoder.encode(instruction, rip).map_err(|_| NoLowering);
        let mut bytes = self.encoder.take_buffer();
        if encoded.is_ok() {
            self.e.bytes(&bytes);
        }
        // A failure leaves part of an instruction there, which must not go before the next.
        bytes.clear();
        self.encoder.set_buffer(bytes);
        encoded.map(|_| ())
    }

    fn load_operands(&mut self, operands: Operands) {
        for reg in operands.read() {
            self.load_spilled(reg);
        }
    }

    /// A register that lives in the context into its host register, if it is not there.
    fn load_spilled(&mut self, reg: Reg) {
        if !self.held.has(reg) {
            self.e.op_ctx(Op::Load, true, reg, F::Gpr(reg.0));
            self.held.add(reg);
        }
    }

    fn store_spilled(&mut self, reg: Reg) {
        self.e.op_ctx(Op::Store, true, reg, F::Gpr(reg.0));
        self.held.add(reg);
    }

    fn store_operands(&mut self, operands: Operands) {
        for reg in operands.written() {
            self.store_spilled(reg);
        }
    }
}

/// Whether an operand is an explicit memory operand that is accessed; LEA's is not.
pub fn has_memory(i: &Instruction) -> bool {
    i.mnemonic() != Mnemonic::Lea && i.op_kinds().any(|kind| kind == OpKind::Memory)
}

/// Bytes of an explicit memory operand's address: 2, 4 or 8.
pub fn address_bytes(i: &Instruction) -> usize {
    let registers = [i.memory_base(), i.memory_index()].into_iter().filter(|r| r.is_gpr() || r.is_ip());
    match registers.map(Register::size).max() {
        Some(size) => size,
        None if matches!(i.memory_displ_size(), 2 | 4 | 8) => i.memory_displ_size() as usize,
        None => 4,
    }
}

/// Bytes an explicit memory operand spans; at least 1, so that cache-line operations check their page.
pub fn access_size(i: &Instruction) -> u32 {
    match i.code() {
        // AMD's processors read a doubleword, of which they take half.
        Code::Movsxd_r16_rm16 if is_amd() => 4,
        _ => (i.memory_size().size() as u32).max(1),
    }
}
