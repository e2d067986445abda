//! The screens of `popf top`: what is on them, wherever they are drawn.

use insight::Symbols;
use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};

use super::frame::Change;
use super::text::{called, rate, share, what};

/// How large a screen is that is printed.
const PRINTED: (u16, u16) = (132, 46);
/// How wide the bar of a vCPU's time is.
const BAR: usize = 30;
/// As many vCPUs have one.
const BARS: usize = 8;

/// What a screen of one VM shows.
pub struct View<'a> {
    /// The VM.
    pub vm: &'a str,
    /// Which moment it is, or that the screen stands still.
    pub status: String,
    /// By vCPU.
    pub vcpus: &'a [Change],
    /// Together.
    pub all: &'a Change,
    /// What functions are called.
    pub symbols: &'a Symbols,
    /// Functions by how often they were on top when sampled.
    pub tops: &'a [(String, u64)],
    /// Ticks of the sampling clock.
    pub ticks: u64,
}

/// A line of the screen of all VMs.
pub struct Overview {
    /// The VM.
    pub vm: String,
    /// All its vCPUs together; none if it has not answered.
    pub all: Option<Change>,
    /// How many those are.
    pub vcpus: usize,
}

/// Draws a VM.
pub fn draw(frame: &mut Frame, view: &View) {
    let bars = view.vcpus.len().clamp(1, BARS) as u16;
    let rows = [Constraint::Length(1), Constraint::Length(bars), Constraint::Fill(3), Constraint::Fill(4)];
    let [title, time, upper, lower] = Layout::vertical(rows).areas(frame.area());
    draw_title(frame, title, &format!("popf top: {}", view.vm.escape_debug()), &view.status);
    let lines = view.vcpus.iter().take(BARS).map(bar).collect::<Vec<_>>();
    frame.render_widget(Paragraph::new(lines), time);
    let [causes, engine] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(58)]).areas(upper);
    draw_causes(frame, causes, view.all);
    draw_engine(frame, engine, view.all);
    let [places, tops] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(42)]).areas(lower);
    draw_places(frame, places, view);
    draw_tops(frame, tops, view);
}

/// Draws all VMs.
pub fn draw_overview(frame: &mut Frame, vms: &[Overview], status: &str) {
    let [title, table] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(frame.area());
    draw_title(frame, title, &format!("popf top: {} VMs", vms.len()), status);
    let row = |vm: &Overview| {
        let exits = |change: &Change| {
            change.rows.iter().fold(0_u64, |sum, row| sum.saturating_add(row.counter.count))
        };
        let cells = match &vm.all {
            Some(all) => vec![
                vm.vm.clone(),
                vm.vcpus.to_string(),
                percent(all.guest),
                percent(all.monitor),
                percent(all.idle),
                format!("{:.0}", rate(exits(all), all.seconds)),
                all.rows.first().map_or_else(String::new, |row| row.cause.escape_debug().to_string()),
            ],
            None => {
                let nothing = String::new;
                vec![
                    vm.vm.clone(),
                    nothing(),
                    nothing(),
                    nothing(),
                    nothing(),
                    nothing(),
                    "has not answered".into(),
                ]
            }
        };
        Row::new(cells)
    };
    let widths = [24, 6, 8, 9, 9, 12, 24].map(Constraint::Length);
    let heading = ["VM", "vCPUs", "guest", "monitor", "waiting", "exits per s", "costliest cause"];
    let table_of = Table::new(vms.iter().map(row), widths).header(header(&heading));
    frame.render_widget(table_of, table);
}

fn draw_title(frame: &mut Frame, area: Rect, title: &str, status: &str) {
    let line = Line::from(vec![
        Span::from(title.to_owned()).bold(),
        Span::from(format!("  {status}")),
        Span::from("   q quits, space stops").dim(),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A vCPU's time: guest code, monitor, waiting.
fn bar(change: &Change) -> Line<'static> {
    let length = |share: f64| (share * BAR as f64).round() as usize;
    let (guest, monitor) = (length(change.guest), length(change.monitor));
    let rest = BAR.saturating_sub(guest + monitor);
    Line::from(vec![
        Span::from(format!("vCPU {:<3} ", change.vcpu)),
        Span::from("#".repeat(guest)).green(),
        Span::from("+".repeat(monitor)).red(),
        Span::from(".".repeat(rest)).dim(),
        Span::from(format!(
            "  # guest {:>7}  + monitor {:>7}  . waiting {:>7}",
            percent(change.guest),
            percent(change.monitor),
            percent(change.idle)
        )),
    ])
}

fn header(cells: &[&'static str]) -> Row<'static> {
    Row::new(cells.iter().map(|cell| Cell::from(*cell))).style(Style::new().dim())
}

fn framed(title: &str) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(format!(" {title} "))
}

fn draw_causes(frame: &mut Frame, area: Rect, all: &Change) {
    let row = |row: &board::insight::Row| {
        let counter = row.counter;
        let cause = format!("{}{}", row.cause.escape_debug(), if row.sensitive { "*" } else { "" });
        Row::new(vec![
            format!("{:>9.0}", rate(counter.count, all.seconds)),
            format!("{:>8}", counter.cycles / counter.count.max(1)),
            format!("{:>6.2}", share(counter.cycles, all)),
            cause,
        ])
    };
    let widths = [Constraint::Length(9), Constraint::Length(8), Constraint::Length(6), Constraint::Fill(1)];
    let table = Table::new(all.rows.iter().map(row), widths)
        .header(header(&["    per s", "  cycles", "% time", "cause"]))
        .block(framed("exits by cause, * sensitive instructions"));
    frame.render_widget(table, area);
}

fn draw_engine(frame: &mut Frame, area: Rect, all: &Change) {
    let active = all.counters.iter().filter(|(_, count)| *count > 0);
    let per_second = active.map(|(name, count)| (format!("{:>10.0}/s", rate(*count, all.seconds)), name));
    let held = all.contents.iter().map(|(name, count)| (format!("{count:>10}  "), name));
    let rows =
        per_second.chain(held).map(|(count, name)| Row::new(vec![count, name.escape_debug().to_string()]));
    let table = Table::new(rows, [Constraint::Length(12), Constraint::Fill(1)])
        .block(framed(&format!("{} engine: what it does and holds", all.engine.escape_debug())));
    frame.render_widget(table, area);
}

fn draw_places(frame: &mut Frame, area: Rect, view: &View) {
    let row = |place: &board::insight::Place| {
        Row::new(vec![
            format!("{:>8.0}", rate(place.counter.count, view.all.seconds)),
            format!("{:>8}", place.counter.cycles / place.counter.count.max(1)),
            format!("{:>#18x}", place.rip),
            called(view.symbols, place.rip),
            what(place),
        ])
    };
    let widths = [
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(18),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    let table = Table::new(view.all.places.iter().map(row), widths)
        .header(header(&["   per s", "  cycles", "           address", "function", "instruction or event"]))
        .block(framed(&format!("exits by place, of {} places", view.all.known)));
    frame.render_widget(table, area);
}

fn draw_tops(frame: &mut Frame, area: Rect, view: &View) {
    let row = |(name, weight): &(String, u64)| {
        let percent = 100.0 * *weight as f64 / view.ticks.max(1) as f64;
        Row::new(vec![format!("{percent:>6.1}"), name.escape_debug().to_string()])
    };
    let table = Table::new(view.tops.iter().map(row), [Constraint::Length(6), Constraint::Fill(1)])
        .header(header(&["% seen", "function"]))
        .block(framed(&format!("where time goes, {} samples", view.ticks)));
    frame.render_widget(table, area);
}

/// A screen as text.
pub fn printed(draw: impl FnOnce(&mut Frame)) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(PRINTED.0, PRINTED.1));
    let Ok(completed) = terminal.draw(draw);
    let buffer = completed.buffer;
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use board::insight::{Counter, Place};

    use super::*;

    #[test]
    fn a_screen_shows_causes_places_and_functions() {
        let counter = Counter { count: 10, cycles: 5000 };
        let change = Change {
            vcpu: 0,
            engine: "translator".into(),
            seconds: 2.0,
            guest: 0.5,
            monitor: 0.25,
            idle: 0.25,
            tsc_hz: 100_000,
            rows: vec![board::insight::Row { cause: "Out".into(), sensitive: true, counter }],
            places: vec![Place {
                rip: 0x1004,
                cause: "Out".into(),
                what: "out dx,al".into(),
                last: Some(0x3f8),
                counter,
            }],
            known: 1,
            beyond: 0,
            delivered: vec![],
            counters: vec![("blocks translated".into(), 8)],
            contents: vec![("blocks in the cache".into(), 77)],
        };
        let symbols = Symbols::new(vec![(0x1000, "io_serial_out".into())]);
        let tops = [("io_\u{1b}[31m".to_owned(), 3)];
        let vcpus = [change.clone()];
        let view = View {
            vm: "web",
            status: "2 s".into(),
            vcpus: &vcpus,
            all: &change,
            symbols: &symbols,
            tops: &tops,
            ticks: 4,
        };
        let text = printed(|frame| draw(frame, &view));
        for part in [
            "popf top: web",
            "guest  50.0 %",
            "Out*",
            "io_serial_out+0x4",
            "out dx,al [port 0x3f8]",
            "4/s",
            "77",
            "75.0",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "a guest must not write to the terminal");
        let vms = [
            Overview { vm: "web".into(), all: Some(change), vcpus: 1 },
            Overview { vm: "x".into(), all: None, vcpus: 0 },
        ];
        let text = printed(|frame| draw_overview(frame, &vms, ""));
        assert!(
            text.contains("web") && text.contains("50.0 %") && text.contains("has not answered"),
            "{text}"
        );
    }
}
