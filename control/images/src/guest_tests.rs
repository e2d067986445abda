//! Tests of what the guest's first process reads; the rest of it is tested by booting.

#[path = "../guest/parse.rs"]
mod parse;

use parse::{exit_status, name, number, parameter, strings};

#[test]
fn parameters_are_whole_words() {
    let line = b"quiet popf.term=xterm popf.rows=24 xpopf.rows=9 popf.rows=50 popf.termx=no popf.cols\n";
    assert_eq!(parameter(line, b"popf.term"), Some(b"xterm".as_slice()));
    assert_eq!(parameter(line, b"popf.rows"), Some(b"50".as_slice()));
    assert_eq!(parameter(line, b"popf.cols"), None);
    assert_eq!(parameter(b"", b"quiet"), None);
    assert_eq!(parameter(b"a= ", b"a"), Some(b"".as_slice()));
}

#[test]
fn numbers_fit_or_are_none() {
    assert_eq!(number(b"0"), Some(0));
    assert_eq!(number(b"65535"), Some(65535));
    for text in [b"".as_slice(), b"65536", b"99999999999999999999", b"-1", b"+1", b"1 ", b"1x"] {
        assert_eq!(number(text), None, "{text:?}");
    }
}

#[test]
fn strings_end_with_nul() {
    let list = |bytes| strings(bytes).map(|string| string.to_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(list(b"sh\0-c\0\0"), [b"sh".to_vec(), b"-c".to_vec(), Vec::new()]);
    assert_eq!(list(b"sh\0unfinished"), [b"sh".to_vec()]);
    assert!(list(b"").is_empty());
}

#[test]
fn names_end_at_the_first_equals_sign() {
    assert_eq!(name(b"PATH=/bin=x"), b"PATH");
    assert_eq!(name(b"PATH"), b"PATH");
    assert_eq!(name(b"=x"), b"");
}

#[test]
fn statuses_are_the_shells() {
    assert_eq!(exit_status(7 << 8), 7);
    assert_eq!(exit_status(255 << 8), 255);
    assert_eq!(exit_status(9), 137);
    assert_eq!(exit_status(11 | 0x80), 139);
}
