//! Call stacks out of candidates: of the words on a kernel's stack that may be return addresses, those that fit
//! together.
//!
//! A direct call names whom it calls, so a candidate behind one that leads into the function below it is taken for
//! true. Behind an indirect call the word may be one that an earlier call has left there; it is taken if no better
//! one comes. A function that was jumped to by another's last act has no caller of its own: then the next candidate
//! is as good as any. So a stack may lack a frame or have one too many; its top is exact.

use crate::Symbols;

/// What may be a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// It.
    pub returns_to: u64,
    /// What the call before it leads to; `None` for an indirect one.
    pub called: Option<u64>,
}

/// As deep as stacks are followed.
const DEPTH: usize = 64;
/// How far a candidate that fits may be behind one that does not.
const AHEAD: usize = 12;
/// The kernel's indirect calls may go through functions of these names.
const THUNK: &str = "__x86_indirect";

/// The functions that are active, the outermost first, without their places in them: `leaf` is where the vCPU was
/// seen, `rip` where it came out shortly after, to which the candidates belong.
pub fn stack(symbols: &Symbols, leaf: u64, rip: u64, candidates: &[Candidate]) -> Vec<String> {
    let function = |address: u64| crate::function(symbols, address).map(|(name, _)| name);
    // A call may be the last instruction of a function.
    let caller = |candidate: &Candidate| candidate.returns_to.checked_sub(1).and_then(function);
    let mut names: Vec<&str> = Vec::new();
    let Some(top) = function(leaf) else { return Vec::new() };
    names.push(top);
    let mut rest = candidates;
    let mut here = top;
    if let Some(came_out) = function(rip)
        && came_out != top
    {
        // Between the two it has returned, or called.
        match rest.iter().take(AHEAD).position(|candidate| caller(candidate) == Some(top)) {
            Some(own) => rest = &rest[own + 1..],
            None => {
                names.push(came_out);
                here = came_out;
            }
        }
    }
    while names.len() < DEPTH {
        let window = &rest[..rest.len().min(AHEAD)];
        let kind = |c: &Candidate| match c.called.and_then(function) {
            Some(called) if called.starts_with(THUNK) => None,
            Some(called) => Some(called),
            None => None,
        };
        let direct = window.iter().position(|c| kind(c) == Some(here));
        let indirect = || window.iter().position(|c| kind(c).is_none());
        let any = || (!window.is_empty()).then_some(0);
        let Some(taken) = direct.or_else(indirect).or_else(any) else { break };
        let Some(name) = caller(&rest[taken]) else { break };
        names.push(name);
        here = name;
        rest = &rest[taken + 1..];
    }
    names.reverse();
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        let names =
            [(0x1000, "entry"), (0x2000, "read"), (0x3000, "copy"), (0x4000, "other"), (0x5000, "leaf")];
        Symbols::new(names.map(|(at, name)| (at, name.to_owned())).to_vec())
    }

    fn direct(returns_to: u64, called: u64) -> Candidate {
        Candidate { returns_to, called: Some(called) }
    }

    #[test]
    fn calls_that_fit_are_taken_and_what_is_left_over_is_not() {
        let left_over = direct(0x4010, 0x4000);
        let candidates =
            [left_over, direct(0x3010, 0x5000), left_over, direct(0x2010, 0x3000), direct(0x1010, 0x2000)];
        assert_eq!(stack(&symbols(), 0x5004, 0x5008, &candidates), ["entry", "read", "copy", "leaf"]);
    }

    #[test]
    fn an_indirect_call_is_believed_where_nothing_better_comes() {
        let indirect = Candidate { returns_to: 0x2010, called: None };
        let candidates = [direct(0x3010, 0x5000), indirect, direct(0x1010, 0x2000)];
        assert_eq!(stack(&symbols(), 0x5004, 0x5004, &candidates), ["entry", "read", "copy", "leaf"]);
    }

    #[test]
    fn a_leaf_that_has_returned_is_put_on_top() {
        let candidates = [direct(0x2010, 0x3000), direct(0x1010, 0x2000)];
        assert_eq!(stack(&symbols(), 0x5004, 0x3008, &candidates), ["entry", "read", "copy", "leaf"]);
    }

    #[test]
    fn a_call_after_the_sighting_is_left_out() {
        // Seen in copy, came out in leaf, which copy has called meanwhile.
        let candidates = [direct(0x3010, 0x5000), direct(0x2010, 0x3000), direct(0x1010, 0x2000)];
        assert_eq!(stack(&symbols(), 0x3004, 0x5000, &candidates), ["entry", "read", "copy"]);
    }

    #[test]
    fn nonsense_has_an_end() {
        let round: Vec<_> = (0..1000).map(|_| direct(0x2010, 0x2000)).collect();
        assert_eq!(stack(&symbols(), 0x2004, 0x2004, &round).len(), DEPTH);
        assert!(stack(&symbols(), 0, 0, &round).is_empty());
        let zero = [Candidate { returns_to: 0, called: None }];
        assert_eq!(stack(&symbols(), 0x2004, 0x3000, &zero), ["copy", "read"]);
    }
}
