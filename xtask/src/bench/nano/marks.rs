//! What is measured, beside what others have published of translators.
//!
//! The first of two figures is the processor's, the second that of code under a translator, in cycles of a 3.8 GHz Pentium 4
//! of 2006: K. Adams and O. Agesen, "A Comparison of Software and Hardware Techniques for x86 Virtualization" (ASPLOS
//! 2006). Theirs is a write to the page table alone, and their traps are handled elsewhere: good for orders of magnitude.

use serde::Serialize;

/// One of them.
#[derive(Serialize)]
pub struct Event {
    /// As the guest names it.
    pub name: &'static str,
    pub what: &'static str,
    pub published: &'static str,
}

#[rustfmt::skip]
pub const EVENTS: &[Event] = &[
    Event { name: "loop",             what: "an empty loop's turn, ring 3",                              published: "" },
    Event { name: "call-ret",         what: "CALL and RET, ring 3",                                      published: "11, 51" },
    Event { name: "syscall",          what: "SYSCALL from ring 3 and SYSRET (natively: getppid)",        published: "242, 2308" },
    Event { name: "int",              what: "INT n from ring 3 and IRET",                                published: "" },
    Event { name: "divide",           what: "#DE from ring 3, IRET behind the division",                 published: "889, 3223" },
    Event { name: "fault",            what: "#PF from ring 3, page made present, IRET, access",          published: "1093, 3927" },
    Event { name: "in",               what: "IN from port 61",                                           published: "a 15th of native" },
    Event { name: "out",              what: "OUT to port 61",                                            published: "" },
    Event { name: "cr8-write",        what: "MOV to CR8",                                                published: "a quarter of native" },
    Event { name: "cr3-write",        what: "MOV to CR3",                                                published: "" },
    Event { name: "pte-write",        what: "write of a page-table entry",                               published: "1, 391" },
    Event { name: "pte-invlpg-touch", what: "the same, INVLPG, read of the page",                        published: "" },
    Event { name: "self-ipi",         what: "self-IPI by the local APIC, EOI, IRET",                     published: "" },
    Event { name: "hlt-wake",         what: "from when the local APIC's timer is due to the handler, in HLT", published: "" },
];
