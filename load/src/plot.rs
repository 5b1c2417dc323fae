//! Line charts as inline SVG: two axes, series, marks of what happened. Colours come from the page's style.

use std::fmt::Write as _;

/// What an axis shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By powers of ten.
    Log,
    /// Shares of pods (0 to 1) by the number of nines: 0, 90, 99, 99.9 %.
    Nines,
}

/// A line.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Which of the page's colours: 0 to 5.
    pub(crate) colour: usize,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<(f64, f64)>,
    /// Show each point: there are few.
    pub(crate) dots: bool,
}

/// A chart.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) x: (Scale, &'static str),
    pub(crate) y: (Scale, &'static str),
    pub(crate) series: Vec<Series>,
    /// Vertical lines with words.
    pub(crate) marks: Vec<(f64, String)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Points of a line at most: more than a screen has pixels says nothing.
const POINTS_MAX: usize = 700;
/// Marks that can be told apart.
const MARKS_MAX: usize = 60;

/// Values to pixels.
struct Axis {
    scale: Scale,
    min: f64,
    max: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(scale: Scale, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let (min, max) = match scale {
            Scale::Linear => (0.0, if high > 0.0 { *ticks(high).last().unwrap_or(&high) } else { 1.0 }),
            Scale::Log => {
                let low = if low > 0.0 && low < f64::MAX { low.log10().floor() } else { 0.0 };
                (low, if high > 0.0 { high.log10().ceil().max(low + 1.0) } else { low + 1.0 })
            }
            Scale::Nines => (0.0, if high < 1.0 && high > 0.0 { nines(high).max(1.0) } else { 3.0 }),
        };
        Self { scale, min, max, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10().max(self.min),
            Scale::Nines => nines(value),
        };
        self.from + (value - self.min) / (self.max - self.min) * (self.to - self.from)
    }

    /// Values with their words.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => ticks(self.max).into_iter().map(|value| (value, short(value))).collect(),
            Scale::Log => {
                let powers = std::iter::successors(Some(self.min), |power| Some(power + 1.0));
                let powers = powers.take_while(|power| *power <= self.max);
                powers.map(|power| (10_f64.powf(power), short(10_f64.powf(power)))).collect()
            }
            Scale::Nines => {
                let shares = [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];
                let inside = shares.into_iter().filter(|(share, _)| nines(*share) <= self.max + 1e-9);
                inside.map(|(share, text)| (share, format!("{text} %"))).collect()
            }
        }
    }
}

fn nines(share: f64) -> f64 {
    -(1.0 - share.clamp(0.0, 0.999_999)).log10()
}

/// From 0 to at least `max`, in steps of 1, 2 or 5 times a power of ten: four to eight of them.
fn ticks(max: f64) -> Vec<f64> {
    let rough = max / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let mut all = vec![0.0];
    let mut n = 0.0;
    while n * step < max - step * 1e-9 {
        n += 1.0;
        all.push(n * step);
    }
    all
}

/// `1.5k`, `20M`, `0.25`.
fn short(value: f64) -> String {
    let of = |value: f64, unit: &str| {
        let text = format!("{value:.2}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match value.abs() {
        v if v >= 1e6 => of(value / 1e6, "M"),
        v if v >= 1e3 => of(value / 1e3, "k"),
        v if v >= 0.01 || v == 0.0 => of(value, ""),
        _ => format!("{value}"),
    }
}

/// Text as XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Draws a chart.
pub(crate) fn svg(chart: &Chart) -> String {
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let x = Axis::of(chart.x.0, points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Axis::of(chart.y.0, points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for (value, text) in y.ticks() {
        let at = y.place(value);
        let _ =
            write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - RIGHT);
        let _ = write!(
            out,
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            at + 3.5
        );
    }
    for (value, text) in x.ticks() {
        let at = x.place(value);
        let _ =
            write!(out, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/>", HEIGHT - BOTTOM);
        let _ = write!(
            out,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            HEIGHT - BOTTOM + 15.0
        );
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    let _ = write!(
        out,
        "<text class=\"label\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 6.0,
        escape(chart.x.1)
    );
    let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
    let _ = write!(
        out,
        "<text class=\"label\" transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(chart.y.1)
    );
    for (value, text) in chart.marks.iter().take(MARKS_MAX) {
        let at = x.place(*value);
        let _ = write!(
            out,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"><title>{}</title></line>",
            HEIGHT - BOTTOM,
            escape(text)
        );
    }
    for series in &chart.series {
        out += &line(series, &x, &y);
    }
    out + "</svg>"
}

fn line(series: &Series, x: &Axis, y: &Axis) -> String {
    let every = series.points.len().div_ceil(POINTS_MAX).max(1);
    let last = series.points.len().saturating_sub(1);
    let shown = series.points.iter().enumerate().filter(|(index, _)| index % every == 0 || *index == last);
    let places: Vec<_> = shown.map(|(_, (a, b))| (x.place(*a), y.place(*b), *a, *b)).collect();
    let path: Vec<_> = places.iter().map(|(a, b, ..)| format!("{a:.1},{b:.1}")).collect();
    let class = format!("line c{}{}", series.colour % 6, if series.dashed { " dashed" } else { "" });
    let mut out = format!(
        "<polyline class=\"{class}\" points=\"{}\"><title>{}</title></polyline>",
        path.join(" "),
        escape(&series.name)
    );
    if series.dots {
        for (a, b, value_x, value_y) in places {
            let _ = write!(
                out,
                "<circle class=\"dot c{}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3.5\"><title>{}: {}, {}</title></circle>",
                series.colour % 6,
                escape(&series.name),
                short(value_x),
                short(value_y)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_largest_value() {
        let cases: [(f64, &[f64]); 4] = [
            (10.0, &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
            (7.3, &[0.0, 2.0, 4.0, 6.0, 8.0]),
            (100_000.0, &[0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]),
            (1.0, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ];
        for (max, expected) in cases {
            let got = ticks(max);
            assert_eq!(got.len(), expected.len(), "{max}: {got:?}");
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{max}: {got:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.25"), (1500.0, "1.5k"), (20e6, "20M"), (10.0, "10"), (0.001, "0.001")]
        {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn every_point_lies_inside_the_frame_whatever_the_scale() {
        for scale in [Scale::Linear, Scale::Log, Scale::Nines] {
            let values = [0.0, 0.5, 0.9, 0.999];
            let axis = Axis::of(scale, values.into_iter(), 10.0, 20.0);
            assert!(values.iter().all(|value| (9.9..=20.1).contains(&axis.place(*value))), "{scale:?}");
        }
    }

    #[test]
    fn what_a_user_named_is_text_and_no_markup() {
        let points = vec![(0.0, 1.0), (1.0, 2.0)];
        let series = Series { name: "<b>&".into(), colour: 0, dashed: false, points, dots: true };
        let chart = Chart {
            x: (Scale::Linear, "x"),
            y: (Scale::Linear, "y"),
            series: vec![series],
            marks: vec![(0.5, "\"<".into())],
        };
        let drawn = svg(&chart);
        assert!(drawn.contains("&lt;b&gt;&amp;") && !drawn.contains("<b>"), "{drawn}");
        assert!(drawn.contains("&quot;&lt;"));
    }
}
