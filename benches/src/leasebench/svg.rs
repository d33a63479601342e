//! A plot of throughput over outstanding requests, both axes logarithmic, as SVG.

use std::fmt::Write as _;

/// One line of the plot: `(outstanding, pairs per second)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart also without seeing colours well (Okabe and Ito), then repeated dashed.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// A logarithmic axis from one power of ten to another.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .map(f64::log10)
            .fold((f64::MAX, f64::MIN), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let low = low.floor();
        Self {
            low,
            high: high.ceil().max(low + 1.0),
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low as i32, self.high as i32);
        (low..=high).map(|power| 10_f64.powi(power))
    }
}

/// Draws.
pub(crate) fn plot(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let x = Axis::over(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Axis::over(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    text(&mut svg, (LEFT, 24.0), "start", title);
    text(
        &mut svg,
        ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0),
        "middle",
        x_label,
    );
    text(&mut svg, (LEFT, TOP - 2.0), "end", y_label);
    for tick in x.ticks() {
        let at = x.place(tick);
        line(&mut svg, (at, TOP), (at, HEIGHT - BOTTOM));
        text(
            &mut svg,
            (at, HEIGHT - BOTTOM + 16.0),
            "middle",
            &short(tick),
        );
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        line(&mut svg, (LEFT, at), (WIDTH - RIGHT, at));
        text(&mut svg, (LEFT - 6.0, at + 4.0), "end", &short(tick));
    }
    for (number, series) in series.iter().enumerate() {
        let colour = COLOURS.get(number % COLOURS.len()).unwrap_or(&"#000000");
        let dash = if number < COLOURS.len() {
            "none"
        } else {
            "6 3"
        };
        let mut path = String::new();
        for (px, py) in &series.points {
            // Writing to a string does not fail.
            let _ = write!(path, "{:.1},{:.1} ", x.place(*px), y.place(*py));
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dash}\"/>",
            path.trim_end()
        );
        let (legend_x, legend_y) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + 20.0 * number as f64);
        let _ = writeln!(
            svg,
            "<line x1=\"{legend_x}\" y1=\"{0}\" x2=\"{1}\" y2=\"{0}\" stroke=\"{colour}\" \
             stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            legend_y - 4.0,
            legend_x + 24.0
        );
        text(&mut svg, (legend_x + 30.0, legend_y), "start", &series.name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.0} M", value / 1e6)
    } else if value >= 1e3 {
        format!("{:.0} k", value / 1e3)
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series {
            name: "a < b & c".to_owned(),
            points: points.to_vec(),
        }
    }

    #[test]
    fn points_lie_where_their_logarithms_are() {
        let svg = plot(
            "t",
            "x",
            "y",
            &[series(&[(1.0, 10.0), (10.0, 100.0), (100.0, 1000.0)])],
        );

        let right = WIDTH - RIGHT;
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        let expected = format!(
            "points=\"{LEFT:.1},{:.1} {middle_x:.1},{middle_y:.1} {right:.1},{TOP:.1}\"",
            HEIGHT - BOTTOM
        );
        assert!(svg.contains(&expected), "{svg}");
    }

    #[test]
    fn names_are_escaped_and_every_tag_is_closed() {
        let svg = plot("t", "x", "y", &[series(&[(1.0, 5.0)])]);

        assert!(svg.contains("a &lt; b &amp; c"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_to_draw_is_still_a_plot() {
        assert!(plot("t", "x", "y", &[]).contains("</svg>"));
        assert!(plot("t", "x", "y", &[series(&[(0.0, 0.0)])]).contains("</svg>"));
    }
}
