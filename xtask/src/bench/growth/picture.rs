//! The curves as a picture: an SVG with a panel for each of the three, both axes logarithmic.

use std::path::Path;

use plotters::prelude::*;

use super::{Curve, POPF, Report, TCG};

const SIZE: (u32, u32) = (900, 1080);
const BLUE: RGBColor = RGBColor(31, 111, 180);
const GREEN: RGBColor = RGBColor(40, 140, 70);
const ORANGE: RGBColor = RGBColor(222, 120, 20);

/// A panel: its title, what the horizontal axis counts, where there is room for the names of its curves, and those, each
/// with what it is beside its peer's name.
struct Panel {
    title: &'static str,
    axis: String,
    names: SeriesLabelPosition,
    curves: &'static [(&'static str, &'static str)],
}

/// Draws it to a file.
pub fn draw(path: &Path, report: &Report) -> Result<(), String> {
    let panels = [
        Panel {
            title: "Code: nanoseconds for a call of a function",
            axis: format!(
                "functions, as a multiple of what a translation cache of {} MiB holds",
                report.cache_mib
            ),
            names: SeriesLabelPosition::LowerRight,
            curves: &[("code-first", "first call"), ("code", "later calls")],
        },
        Panel {
            title: "Processes: nanoseconds for a switch from one to the next",
            axis: "processes in a ring of pipes".into(),
            names: SeriesLabelPosition::LowerRight,
            curves: &[("processes", "")],
        },
        Panel {
            title: "Memory: nanoseconds for a page",
            axis: "MiB".into(),
            names: SeriesLabelPosition::MiddleLeft,
            curves: &[("memory-first", "first touch"), ("memory", "second touch")],
        },
    ];
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| format!("cannot draw {}: {error}", path.display());
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let areas = area.split_evenly((panels.len(), 1));
    for (area, panel) in areas.iter().zip(&panels) {
        draw_panel(area, panel, &report.curves).map_err(|error| failed(&error))?;
    }
    area.present().map_err(|error| failed(&error))
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    panel: &Panel,
    curves: &[Curve],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let of_panel = |(name, kind): &(&'static str, &'static str)| {
        let (name, kind) = (*name, *kind);
        curves.iter().filter(move |curve| curve.what == name).map(move |curve| (curve, kind))
    };
    let shown: Vec<(&Curve, &str)> = panel.curves.iter().flat_map(of_panel).collect();
    let points = || shown.iter().flat_map(|(curve, _)| &curve.points);
    let (mut xs, mut ys) = ((f64::MAX, 0.0_f64), (f64::MAX, 0.0_f64));
    for point in points() {
        xs = (xs.0.min(point.size), xs.1.max(point.size));
        ys = (ys.0.min(point.nanoseconds), ys.1.max(point.nanoseconds));
    }
    if xs.1 == 0.0 {
        // It was not measured.
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d((xs.0..xs.1).log_scale(), (ys.0 / 1.5..ys.1 * 1.5).log_scale())?;
    let number = |value: &f64| format!("{value}");
    chart
        .configure_mesh()
        .x_desc(panel.axis.as_str())
        .x_labels(6)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (curve, kind) in &shown {
        let (colour, peer) = match curve.peer {
            TCG => (ORANGE, "QEMU's TCG"),
            POPF => (BLUE, POPF),
            translated => (GREEN, translated),
        };
        // The first of two is the lighter one.
        let first = panel.curves.len() > 1 && curve.what == panel.curves[0].0;
        let style =
            ShapeStyle { color: colour.mix(if first { 0.45 } else { 1.0 }), filled: true, stroke_width: 2 };
        let line = || curve.points.iter().map(|point| (point.size, point.nanoseconds));
        let label = if kind.is_empty() { peer.to_owned() } else { format!("{peer}, {kind}") };
        chart
            .draw_series(LineSeries::new(line(), style))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        chart.draw_series(line().map(|at| Circle::new(at, 3, style)))?;
    }
    chart
        .configure_series_labels()
        .position(panel.names.clone())
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::super::{Point, TRANSLATED};
    use super::*;

    #[test]
    fn each_curve_is_a_line_with_a_name() {
        let points = |factor| [1.0, 10.0].map(|size| Point { size, nanoseconds: size * factor }).to_vec();
        let curve = |what, peer, factor| Curve { what, peer, points: points(factor) };
        let report = Report {
            benchmark: "growth",
            rounds: 1,
            versions: Vec::new(),
            cache_mib: 8,
            cache_holds: Some(100),
            curves: vec![
                curve("code-first", "popf", 1.0),
                curve("code", "popf", 2.0),
                curve("code", TRANSLATED, 4.0),
                curve("processes", "qemu", 3.0),
            ],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("growth.svg");
        draw(&path, &report).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        let parts = ["popf, first call", "popf, later calls", "direct off, later calls", "QEMU&apos;s TCG"];
        for part in parts.into_iter().chain(["of 8 MiB", "Processes"]) {
            assert!(svg.contains(part), "no {part:?} in {svg}");
        }
        assert!(!svg.contains("Memory"), "what was not measured has no panel");
        assert_eq!(svg.matches("<circle").count(), 8);
    }
}
