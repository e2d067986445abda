//! Flame graphs (Gregg, "The Flame Graph", CACM 59(6), 2016): stacks side by side, each as wide as the time it was
//! seen for, as an SVG without scripts. A box's tooltip has its whole name and its share.
//!
//! The usual library for this, inferno, is under a licence (CDDL) that this project's does not go with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How wide the picture is, in pixels.
const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 10.0;
const ROW: f64 = 17.0;
const HEADER: f64 = 40.0;
/// A letter of the font, about.
const LETTER: f64 = 7.0;
/// What is narrower is left out.
const NARROWEST: f64 = 0.3;

/// Stacks with how often they were seen.
#[derive(Clone, Debug, Default)]
pub struct Flames {
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    weight: u64,
    children: BTreeMap<String, Node>,
}

impl Node {
    fn depth(&self) -> usize {
        1 + self.children.values().map(Node::depth).max().unwrap_or(0)
    }
}

impl Flames {
    /// Adds a stack, the outermost function first.
    pub fn add(&mut self, stack: &[String], weight: u64) {
        let mut node = &mut self.root;
        node.weight = node.weight.saturating_add(weight);
        for name in stack {
            node = node.children.entry(name.clone()).or_default();
            node.weight = node.weight.saturating_add(weight);
        }
    }

    /// How much there is.
    pub fn weight(&self) -> u64 {
        self.root.weight
    }

    /// Functions by the time they were on top, the most first.
    pub fn tops(&self) -> Vec<(String, u64)> {
        fn walk(name: &str, node: &Node, tops: &mut BTreeMap<String, u64>) {
            let below: u64 = node.children.values().fold(0, |sum, child| sum.saturating_add(child.weight));
            let own = node.weight.saturating_sub(below);
            if own > 0 {
                *tops.entry(name.to_owned()).or_default() += own;
            }
            node.children.iter().for_each(|(name, child)| walk(name, child, tops));
        }
        let mut tops = BTreeMap::new();
        self.root.children.iter().for_each(|(name, child)| walk(name, child, &mut tops));
        let mut tops: Vec<_> = tops.into_iter().collect();
        tops.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        tops
    }

    /// The picture.
    pub fn svg(&self, title: &str) -> String {
        let rows = self.root.depth();
        let height = HEADER + rows as f64 * ROW + MARGIN;
        // Writing to a string cannot fail, here and below.
        let mut svg = String::new();
        let _ = writeln!(
            svg,
            r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">
<rect width="100%" height="100%" fill="#fdf6e3"/>
<text x="{MARGIN}" y="24" font-size="15">{}</text>"##,
            escape(title)
        );
        let scale = (WIDTH - 2.0 * MARGIN) / self.root.weight.max(1) as f64;
        self.draw(&mut svg, "all", &self.root, MARGIN, scale, height - MARGIN - ROW);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String, name: &str, node: &Node, x: f64, scale: f64, y: f64) {
        let width = node.weight as f64 * scale;
        if width < NARROWEST {
            return;
        }
        let percent = 100.0 * node.weight as f64 / self.root.weight.max(1) as f64;
        let text = escape(name);
        let _ = writeln!(
            svg,
            r#"<g><title>{text}: {percent:.2} %</title><rect x="{x:.2}" y="{y:.1}" width="{width:.2}" height="{:.1}" fill="{}" rx="1"/>"#,
            ROW - 1.0,
            colour(name)
        );
        let letters = ((width - 4.0) / LETTER) as usize;
        if letters >= 3 {
            let shown = if name.chars().count() > letters {
                let cut: String = name.chars().take(letters - 2).collect();
                format!("{}..", escape(&cut))
            } else {
                text
            };
            let _ = writeln!(svg, r#"<text x="{:.2}" y="{:.1}">{shown}</text>"#, x + 2.0, y + ROW - 5.0);
        }
        svg.push_str("</g>\n");
        let mut left = x;
        for (name, child) in &node.children {
            self.draw(svg, name, child, left, scale, y - ROW);
            left += child.weight as f64 * scale;
        }
    }
}

/// A warm colour, always the same for a name.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("rgb({},{},{})", 205 + hash % 50, 90 + hash / 50 % 120, 40 + hash / 6000 % 40)
}

/// As XML has it; control characters, which it forbids, as they are written in source code.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter if letter.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&letter) => {
                out.extend(letter.escape_default());
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn widths_are_shares_and_names_are_text() {
        let mut flames = Flames::default();
        flames.add(&stack(&["main", "a<b>&\"\u{1}"]), 3);
        flames.add(&stack(&["main"]), 1);
        assert_eq!(flames.weight(), 4);
        assert_eq!(flames.tops(), [("a<b>&\"\u{1}".to_owned(), 3), ("main".to_owned(), 1)]);
        let svg = flames.svg("x < y");
        assert!(svg.contains("<title>main: 100.00 %</title>"), "{svg}");
        assert!(svg.contains("<title>a&lt;b&gt;&amp;&quot;\\u{1}: 75.00 %</title>"), "{svg}");
        assert!(svg.contains("width=\"885.00\""), "three quarters of 1180: {svg}");
        assert!(svg.contains("x &lt; y") && !svg.contains('\u{1}'));
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let svg = Flames::default().svg("idle");
        assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n"));
    }
}
