//! What came of it: medians, ratios and their geometric means.

use serde::Serialize;

use super::PEERS;
use super::list::{Group, WORKLOADS, Workload};
use super::run::Pass;
use crate::bench::median;

/// The whole result.
#[derive(Serialize)]
pub struct Report {
    benchmark: &'static str,
    rounds: u32,
    /// Seconds from the start of the process until the list begins.
    ready: [Option<f64>; 3],
    workloads: Vec<Row>,
    means: Vec<Means>,
}

/// A workload.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    group: &'static str,
    /// Median seconds on the host, under popf and under QEMU.
    seconds: [Option<f64>; 3],
    /// popf's over native.
    popf_native: Option<f64>,
    /// QEMU's over native.
    qemu_native: Option<f64>,
    /// QEMU's over popf's: above 1, popf is faster.
    qemu_popf: Option<f64>,
}

/// Geometric means of the ratios over a group, or over all.
#[derive(Serialize)]
struct Means {
    group: &'static str,
    popf_native: Option<f64>,
    qemu_native: Option<f64>,
    qemu_popf: Option<f64>,
}

impl Report {
    /// From all passes; an error if a workload came to different results.
    pub fn of(rounds: u32, passes: &[Vec<Pass>; 3]) -> Result<Self, String> {
        let workloads: Vec<Row> = WORKLOADS
            .iter()
            .filter_map(|work| Row::of(work, passes).transpose())
            .collect::<Result<_, _>>()?;
        let mut means = vec![Means::of("all", workloads.iter())];
        for group in Group::ALL.map(Group::name) {
            let members = || workloads.iter().filter(move |row| row.group == group);
            if members().count() > 1 {
                means.push(Means::of(group, members()));
            }
        }
        let ready = std::array::from_fn(|peer| median_of(passes[peer].iter().map(|pass| pass.ready)));
        Ok(Self { benchmark: "work", rounds, ready, workloads, means })
    }

    /// As a table, or as JSON.
    pub fn print(&self, json: bool) -> Result<(), String> {
        if json {
            println!("{}", serde_json::to_string_pretty(self).map_err(|error| error.to_string())?);
            return Ok(());
        }
        let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        println!(
            "| seconds, medians of {} | native | popf | QEMU | popf/native | QEMU/native | QEMU/popf |",
            self.rounds
        );
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        let line = |name: &str, cells: [Option<f64>; 6]| {
            println!("| {name} | {} |", cells.map(cell).join(" | "));
        };
        line(
            "boot",
            [self.ready[0], self.ready[1], self.ready[2], None, None, ratio(self.ready[2], self.ready[1])],
        );
        for row in &self.workloads {
            let [native, popf, qemu] = row.seconds;
            line(row.name, [native, popf, qemu, row.popf_native, row.qemu_native, row.qemu_popf]);
        }
        for means in &self.means {
            let name = format!("**{}**, geometric mean", means.group);
            line(&name, [None, None, None, means.popf_native, means.qemu_native, means.qemu_popf]);
        }
        Ok(())
    }
}

impl Row {
    fn of(work: &Workload, passes: &[Vec<Pass>; 3]) -> Result<Option<Self>, String> {
        let measured = |peer: usize| passes[peer].iter().filter_map(|pass| pass.workloads.get(work.name));
        let mut sums = (0..PEERS.len()).flat_map(|peer| measured(peer).map(move |it| (PEERS[peer], &it.sum)));
        let Some((first_peer, first)) = sums.next() else { return Ok(None) };
        if let Some((peer, _)) = sums.find(|(_, sum)| *sum != first) {
            let name = work.name;
            return Err(format!("{name} came to another result on {peer} than on {first_peer}"));
        }
        let seconds @ [native, popf, qemu] =
            std::array::from_fn(|peer| median_of(measured(peer).map(|it| it.seconds)));
        Ok(Some(Self {
            name: work.name,
            group: work.group.name(),
            seconds,
            popf_native: ratio(popf, native),
            qemu_native: ratio(qemu, native),
            qemu_popf: ratio(qemu, popf),
        }))
    }
}

impl Means {
    fn of<'a>(group: &'static str, rows: impl Iterator<Item = &'a Row> + Clone) -> Self {
        Self {
            group,
            popf_native: geometric_mean(rows.clone().filter_map(|row| row.popf_native)),
            qemu_native: geometric_mean(rows.clone().filter_map(|row| row.qemu_native)),
            qemu_popf: geometric_mean(rows.filter_map(|row| row.qemu_popf)),
        }
    }
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}

fn median_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| median(&values))
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = values.map(f64::ln).collect();
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work::run::Measured;

    fn pass(seconds: f64, sum: &str) -> Pass {
        let measured = Measured { seconds, sum: sum.into() };
        Pass { ready: 1.0, workloads: [(WORKLOADS[0].name.to_owned(), measured)].into() }
    }

    #[test]
    fn ratios_of_medians() {
        let passes = [vec![pass(1.0, "a")], vec![pass(2.0, "a"), pass(4.0, "a")], vec![pass(12.0, "a")]];
        let report = Report::of(2, &passes).unwrap();
        assert_eq!(report.workloads[0].popf_native, Some(3.0));
        assert_eq!(report.workloads[0].qemu_popf, Some(4.0));
        let mean = report.means[0].qemu_native.unwrap();
        assert!((mean - 12.0).abs() < 1e-9);
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        let passes = [vec![pass(1.0, "a")], vec![pass(1.0, "b")], vec![]];
        assert!(
            Report::of(1, &passes)
                .err()
                .unwrap_or_default()
                .contains("another result on popf than on native")
        );
    }

    #[test]
    fn who_was_left_out_has_no_figure() {
        let passes = [vec![], vec![pass(1.0, "a")], vec![pass(2.0, "a")]];
        let report = Report::of(1, &passes).unwrap();
        assert_eq!((report.workloads[0].popf_native, report.workloads[0].qemu_popf), (None, Some(2.0)));
        assert_eq!(report.workloads.len(), 1);
    }
}
