//! Lines, which the including program writes by its `put`: `nano NAME ITERATIONS CYCLES...`, with the cycles of each batch.

/// Batches of each; the first ones find nothing translated and nothing in caches.
pub const BATCHES: usize = 31;

/// What was measured.
pub fn report(name: &str, iterations: u64, batches: &[u64]) {
    text("nano ");
    text(name);
    for value in [iterations].iter().chain(batches) {
        text(" ");
        number(*value);
    }
    text("\n");
}

/// Everything was.
pub fn done() {
    text("nano done\n");
}

fn text(text: &str) {
    text.bytes().for_each(crate::put);
}

fn number(value: u64) {
    let mut digits = [0; 20];
    let mut rest = value;
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    digits[from..].iter().copied().for_each(crate::put);
}
