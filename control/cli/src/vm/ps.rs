//! `popf ps`.

use serde::Serialize;
use vms::{Entry, Record, Registry};

use crate::args::PsArgs;
use crate::error::CliError;
use crate::image::{print, print_json};
use crate::size::Size;

/// A VM in `popf ps --json`.
#[derive(Serialize)]
struct Row<'a> {
    running: bool,
    #[serde(flatten)]
    record: &'a Record,
}

/// Lists VMs.
pub fn ps(args: &PsArgs) -> Result<u8, CliError> {
    let mut entries = Registry::of_user()?.list()?;
    entries.retain(|entry| args.all || entry.running);
    if args.json {
        let rows: Vec<_> =
            entries.iter().map(|Entry { record, running }| Row { running: *running, record }).collect();
        return print_json(&rows).map(|()| 0);
    }
    print(format_args!("{}", table(&entries, vms::now()))).map(|()| 0)
}

/// Columns as wide as what is in them.
fn table(entries: &[Entry], now: u64) -> String {
    let heading = ["NAME", "STATUS", "IMAGE", "MEMORY", "PORTS"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let record = &entry.record;
        [
            record.name.to_string(),
            status(entry, now),
            record.image.clone(),
            Size(record.memory).to_string(),
            record.ports.join(", "),
        ]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn status(entry: &Entry, now: u64) -> String {
    let record = &entry.record;
    match &record.ended {
        _ if entry.running => format!("up {}", span(now.saturating_sub(record.started))),
        Some(end) => format!("{} {} ago", end.how, span(now.saturating_sub(end.at))),
        // Nobody was left to write that down.
        None => "its process was killed".to_owned(),
    }
}

/// A time in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_runs_and_how_others_ended() {
        let entry = |name: &str, running, ended: Option<&str>, ports: &[&str]| Entry {
            record: Record {
                name: name.parse().unwrap(),
                image: "debian".to_owned(),
                memory: 1 << 30,
                cpus: 1,
                ports: ports.iter().map(|port| (*port).to_owned()).collect(),
                pid: 1,
                started: 100,
                detached: true,
                kept: true,
                ended: ended.map(|how| vms::End { at: 200, how: how.to_owned(), status: 0 }),
            },
            running,
        };
        let entries = [
            entry("web", true, None, &["127.0.0.1:8080:80", "127.0.0.1:2222:22"]),
            entry("database", false, Some("powered off"), &[]),
            entry("x", false, None, &[]),
        ];
        let expected = "\
NAME       STATUS                   IMAGE    MEMORY   PORTS
web        up 2 min                 debian   1G       127.0.0.1:8080:80, 127.0.0.1:2222:22
database   powered off 30 s ago     debian   1G
x          its process was killed   debian   1G
";
        assert_eq!(table(&entries, 230), expected);
        let spans = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 days"]);
    }
}
