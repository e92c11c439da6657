//! Charts as SVG text, by plotters: ratios of rows, latencies by percentile, bytes per tier. Axes of ratios, times and bytes are
//! logarithmic: twice as much and half as much are as far from 1.

use super::Summary;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;

const WIDTH: u32 = 960;
/// Height of a bar with its gap, pixels.
const BAR: u32 = 26;
const MARGIN: u32 = 60;
/// Size of text.
const LABEL: u32 = 16;
/// Room for the names of rows.
const NAMES: u32 = 380;
/// Names of the places of a latency curve.
pub(crate) const LATENCY_LABELS: [&str; 6] = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
/// Told apart also by those who do not tell red from green (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(100, 100, 100),
    RGBColor(0, 0, 0),
];
const DRAWS: &str = "text is drawn to memory, within its bounds";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Place in [`LATENCY_LABELS`], microseconds.
    pub(crate) points: Vec<(usize, f64)>,
}

/// What `draw` draws, as the text of an SVG element.
fn svg(height: u32, draw: impl FnOnce(&Area<'_>)) -> String {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).expect(DRAWS);
        draw(&area);
        area.present().expect(DRAWS);
    }
    text
}

/// From below the least to above the most, so that no value stands on an edge; `values` are above 0.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) =
        values.fold((f64::MAX, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if most == 0.0 { 0.5..2.0 } else { least / 1.5..most * 1.5 }
}

/// A bar for each row with a line from least to most, and a line at 1.
pub(crate) fn ratios(bars: &[(String, Summary)]) -> String {
    let all = bars.iter().flat_map(|(_, found)| [found.least, found.most]).filter(|value| *value > 0.0);
    rows(bars, around(all.chain([1.0])), 1.0, |value| format!("{value:.2}"))
}

/// A bar for each tier.
pub(crate) fn bytes(bars: &[(String, Summary)]) -> String {
    let range = around(bars.iter().map(|(_, found)| found.median).filter(|value| *value > 0.0));
    let from = range.start;
    rows(bars, range, from, |value| format!("{}B", super::text::number(value)))
}

/// Bars from `base` to the medians.
fn rows(bars: &[(String, Summary)], range: Range<f64>, base: f64, label: impl Fn(f64) -> String) -> String {
    let count = bars.len();
    let height = MARGIN + BAR * u32::try_from(count).expect("rows are few");
    svg(height, |area| {
        let places = 0.0..count as f64;
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(range.log_scale().base(2.0), places)
            .expect(DRAWS);
        chart
            .configure_mesh()
            .disable_mesh()
            .label_style(("sans-serif", LABEL))
            .x_labels(8)
            .x_label_formatter(&|value| label(*value))
            .y_labels(0)
            .draw()
            .expect(DRAWS);
        let line = |from, to, style: ShapeStyle| PathElement::new(vec![from, to], style);
        for (at, (_, found)) in bars.iter().enumerate() {
            let middle = (count - 1 - at) as f64 + 0.5;
            let (low, high) = (base.min(found.median), base.max(found.median));
            let colour = if found.median >= base { COLOURS[0] } else { COLOURS[1] };
            let bar = Rectangle::new([(low, middle - 0.3), (high, middle + 0.3)], colour.mix(0.75).filled());
            chart.draw_series([bar]).expect(DRAWS);
            if found.least < found.most {
                let spread = line((found.least, middle), (found.most, middle), BLACK.stroke_width(2));
                chart.draw_series([spread]).expect(DRAWS);
            }
        }
        chart.draw_series([line((base, 0.0), (base, count as f64), BLACK.stroke_width(1))]).expect(DRAWS);
        // Names by hand: an axis labels the edges of rows, not their middles.
        let (_, top) = chart.plotting_area().get_base_pixel();
        let plot = chart.plotting_area().dim_in_pixel();
        for (at, (name, found)) in bars.iter().enumerate() {
            let y = top + ((at as f64 + 0.5) / count as f64 * f64::from(plot.1)) as i32;
            let style = ("sans-serif", LABEL).into_font().color(&BLACK);
            let text = format!("{name}  {}", label(found.median));
            area.draw(&Text::new(text, (8, y - 7), style)).expect(DRAWS);
        }
    })
}

/// A line for each side, percentiles from left to right, microseconds upwards.
pub(crate) fn latencies(curves: &[Curve]) -> String {
    let range = around(curves.iter().flat_map(|curve| curve.points.iter().map(|(_, us)| *us)));
    svg(360, |area| {
        let places: Range<f64> = -0.2..LATENCY_LABELS.len() as f64 - 0.8;
        let places: RangedCoordf64 = places.into();
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(80)
            .build_cartesian_2d(places, range.log_scale())
            .expect(DRAWS);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .label_style(("sans-serif", LABEL))
            .x_labels(LATENCY_LABELS.len() + 1)
            .x_label_formatter(&|place| {
                let whole = place.round();
                let at =
                    if (place - whole).abs() < 0.05 && whole >= 0.0 { whole as usize } else { usize::MAX };
                LATENCY_LABELS.get(at).map_or_else(String::new, |label| (*label).to_owned())
            })
            .y_label_formatter(&|us| super::text::number(*us))
            .y_desc("µs")
            .draw()
            .expect(DRAWS);
        for (number, curve) in curves.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = || curve.points.iter().map(|(place, us)| (*place as f64, *us));
            chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(2)))
                .expect(DRAWS)
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
            chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled()))).expect(DRAWS);
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", LABEL))
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .expect(DRAWS);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(median: f64) -> Summary {
        Summary { median, least: median / 2.0, most: median * 2.0 }
    }

    #[test]
    fn each_row_has_its_name_and_its_bar() {
        let text = ratios(&[("a < b".to_owned(), summary(3.0)), ("slower".to_owned(), summary(0.5))]);
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(text.contains("a &lt; b  3.00") && text.contains("slower  0.50"), "{text}");
        let bars = |colour: &str| text.matches(colour).count();
        assert!(bars("#0072B2") == 1 && bars("#D55E00") == 1, "{text}");
    }

    #[test]
    fn each_side_has_a_line_and_each_place_a_label() {
        let curve = |name: &str, from: f64| Curve {
            name: name.to_owned(),
            points: (0..6).map(|place| (place, from * (place + 1) as f64)).collect(),
        };
        let text = latencies(&[curve("own", 10.0), curve("peer", 30.0)]);
        for label in ["own", "peer", "p50", "p99.9", "max"] {
            assert!(text.contains(label), "{label}: {text}");
        }
        // The line itself and its sample in the legend.
        assert!(text.matches("<polyline").count() >= 4, "{text}");
    }

    #[test]
    fn nothing_and_one_value_are_drawn_too() {
        assert!(latencies(&[]).starts_with("<svg"));
        assert!(ratios(&[]).starts_with("<svg"));
        assert!(bytes(&[("tables".to_owned(), summary(4096.0))]).contains("tables"));
    }
}
