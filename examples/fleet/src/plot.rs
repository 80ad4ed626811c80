//! Plots the fetches in each phase of the simulation, and the load of each server.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::report::Report;

const OURS: RGBColor = RGBColor(31, 119, 180);
const ALONE: RGBColor = RGBColor(200, 200, 200);

pub(crate) fn draw(report: &Report, path: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (900, 900)).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.split_vertically(500);
    draw_fetches(report, &above)?;
    draw_loads(report, &below)?;
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws two bars for each phase. The grey bar shows how many fetches there would be if each
/// process had only a local cache, and the other bar shows the fetches of the simulation. The scale
/// is logarithmic.
fn draw_fetches(report: &Report, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let most =
        report.phases.iter().map(|phase| phase.fetches_alone).max().unwrap_or(1).max(10) as f64;
    let phases = report.phases.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("Fetches in each phase (grey: with a local cache only)", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(12)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..phases, (0.5..most * 20.0).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|fetches| format!("{fetches:.0}"))
        .draw()?;
    for (index, phase) in report.phases.iter().enumerate() {
        let left = index as f64;
        let bars = [
            (left + 0.08, left + 0.5, phase.fetches_alone, ALONE),
            (left + 0.5, left + 0.92, phase.fetches, OURS),
        ];
        for (from, to, fetches, colour) in bars {
            let height = (fetches as f64).max(0.5);
            chart.draw_series([Rectangle::new([(from, 0.5), (to, height)], colour.filled())])?;
            let at = (from, height * 1.25);
            chart.draw_series([Text::new(fetches.to_string(), at, ("sans-serif", 13))])?;
        }
        let lines = words_in_lines(phase.title, 14);
        for (line, words) in lines.iter().enumerate() {
            let at = (left + 0.08, most * 14.0 / 1.7_f64.powi(line as i32));
            chart.draw_series([Text::new(words.clone(), at, ("sans-serif", 13))])?;
        }
    }
    Ok(())
}

/// Draws a bar for the number of commands that each server received, in descending order.
fn draw_loads(report: &Report, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let mut loads = report.load.clone();
    loads.sort_unstable_by(|a, b| b.cmp(a));
    let most = loads.first().copied().unwrap_or(1).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("Commands by server, the busiest first", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..loads.len() as f64, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_label_formatter(&|server| format!("{server:.0}"))
        .y_label_formatter(&|commands| format!("{commands:.0}"))
        .draw()?;
    chart.draw_series(loads.iter().enumerate().map(|(server, &commands)| {
        let left = server as f64;
        Rectangle::new([(left + 0.1, 0.0), (left + 0.9, commands as f64)], OURS.filled())
    }))?;
    Ok(())
}

fn words_in_lines(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
