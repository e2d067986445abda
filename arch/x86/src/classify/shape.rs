//! What a row of the table is made of, in words short enough for one line.

use iced_x86::Code;

use super::{Routine, Row, Sensitivity, TrapSwitch};

/// Instructions that share routine and row.
pub(super) struct Family {
    pub(super) routine: Routine,
    /// As in protected mode.
    pub(super) row: Row,
    pub(super) scope: Scope,
    pub(super) codes: &'static [Code],
}

/// In which modes the row holds as it stands.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    /// In all.
    All,
    /// Where there are descriptors; in real and virtual-8086 mode the family is innocuous.
    Protected,
    /// In all, and in virtual-8086 mode the family is privileged too.
    Traps8086,
}

/// Whether and when a family traps in user mode.
pub(super) struct Traps {
    always: bool,
    switch: Option<TrapSwitch>,
}

/// Privileged.
pub(super) const TRAPS: Traps = Traps { always: true, switch: None };
/// Never privileged.
pub(super) const SILENT: Traps = Traps { always: false, switch: None };
/// Neither privileged nor sensitive; here for its routine.
pub(super) const HARMLESS: Traps = SILENT;
/// Privileged with CR4.UMIP.
pub(super) const UMIP: Traps = Traps { always: false, switch: Some(TrapSwitch::Umip) };
/// Privileged with CR4.TSD.
pub(super) const TSD: Traps = Traps { always: false, switch: Some(TrapSwitch::Tsd) };

pub(super) const ALL: Scope = Scope::All;
pub(super) const PROTECTED: Scope = Scope::Protected;
pub(super) const VM86_TRAPS: Scope = Scope::Traps8086;

pub(super) const NEITHER: Sensitivity = Sensitivity::None;
pub(super) const BEHAVIOUR: Sensitivity = Sensitivity::Behaviour;
pub(super) const CONTROL: Sensitivity = Sensitivity::Control;
pub(super) const BOTH: Sensitivity = Sensitivity::Both;

pub(super) const fn family(
    routine: Routine,
    traps: Traps,
    sensitivity: Sensitivity,
    scope: Scope,
    reason: &'static str,
    manual: &'static str,
    codes: &'static [Code],
) -> Family {
    let row = Row { privileged: traps.always, switch: traps.switch, sensitivity, reason, manual };
    Family { routine, row, scope, codes }
}
