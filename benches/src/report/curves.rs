//! Curves over load, on a logarithmic scale.

use super::charts::{LEFT, PLOT, RIGHT};
use super::number::{digits, round};
use super::svg::{Anchor, GREY, GRID, INK, Svg, WIDTH};

/// One curve.
pub struct Curve {
    /// In the legend.
    pub label: String,
    /// Of the line.
    pub colour: &'static str,
    /// As in SVG; empty = drawn through.
    pub dashes: &'static str,
    /// Load in percent, value.
    pub points: Vec<(f64, f64)>,
}

/// Curves over load, 0 to 100 % of `whole`.
pub fn curves((title, subtitle): (&str, &str), whole: &str, unit: &str, curves: &[Curve]) -> String {
    let rows = curves.len().div_ceil(3);
    let top = 92.0 + 22.0 * f64::from(u8::try_from(rows).unwrap_or(u8::MAX));
    let mut svg = Svg::new(title, subtitle, top + PLOT + 52.0);
    legend(&mut svg, curves, rows);
    let all = || curves.iter().flat_map(|curve| curve.points.iter().map(|(_, value)| value.max(1e-3)));
    let (lowest, highest) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN_POSITIVE, f64::max));
    let marks = decades(lowest, highest);
    let (bottom, ceiling) = (marks[0].log10(), marks[marks.len() - 1].log10());
    let y = |value: f64| top + PLOT * (1.0 - (value.max(1e-3).log10() - bottom) / (ceiling - bottom));
    let x = |load: f64| LEFT + (WIDTH - RIGHT - LEFT) * load / 100.0;
    for mark in &marks {
        svg.line(&[[LEFT, y(*mark)], [WIDTH - RIGHT, y(*mark)]], 1.0, GRID, "");
        svg.text([LEFT - 8.0, y(*mark) + 4.0], Anchor::End, GREY, &round(*mark));
    }
    svg.text([LEFT - 8.0, top - 12.0], Anchor::End, GREY, unit);
    let mut loads: Vec<f64> =
        curves.iter().flat_map(|curve| curve.points.iter().map(|(load, _)| *load)).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    for load in loads {
        svg.line(&[[x(load), top], [x(load), top + PLOT]], 1.0, GRID, "");
        svg.text([x(load), top + PLOT + 20.0], Anchor::Middle, INK, &format!("{load} %"));
    }
    svg.text([WIDTH / 2.0, top + PLOT + 40.0], Anchor::Middle, GREY, &format!("load, share of {whole}"));
    for curve in curves {
        let points: Vec<_> = curve.points.iter().map(|(load, value)| [x(*load), y(*value)]).collect();
        svg.line(&points, 2.0, curve.colour, curve.dashes);
        for (point, (load, value)) in points.iter().zip(&curve.points) {
            svg.dot(*point, curve.colour, &format!("{} at {load} %: {} {unit}", curve.label, digits(*value)));
        }
    }
    svg.finish()
}

fn legend(svg: &mut Svg, curves: &[Curve], rows: usize) {
    for (number, curve) in curves.iter().enumerate() {
        let column = f64::from(u8::try_from(number / rows).unwrap_or(u8::MAX));
        let row = f64::from(u8::try_from(number % rows).unwrap_or(u8::MAX));
        let [x, y] = [24.0 + 236.0 * column, 80.0 + 22.0 * row];
        svg.line(&[[x, y - 4.0], [x + 30.0, y - 4.0]], 2.0, curve.colour, curve.dashes);
        svg.text([x + 37.0, y], Anchor::Start, INK, &curve.label);
    }
}

/// 1, 2, 5, 10, … from below the lowest to above the highest.
fn decades(lowest: f64, highest: f64) -> Vec<f64> {
    let steps =
        (-12..36).map(|n: i32| [1.0, 2.0, 5.0][n.rem_euclid(3) as usize] * 10_f64.powi(n.div_euclid(3)));
    let steps: Vec<f64> = steps.collect();
    let first = steps.iter().rposition(|step| *step <= lowest).unwrap_or(0);
    let last = steps.iter().position(|step| *step >= highest).unwrap_or(steps.len() - 1);
    steps[first..=last.max(first + 1)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_their_values() {
        assert_eq!(decades(12.0, 480.0), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert_eq!(decades(10.0, 10.0), [10.0, 20.0]);
    }

    #[test]
    fn each_point_is_a_dot_higher_for_more() {
        let curve = |label: &str, points| Curve { label: label.into(), colour: INK, dashes: "", points };
        let points = vec![(10.0, 20.0), (50.0, 30.0), (90.0, 400.0)];
        let file = curves_of(&[curve("p99", points)]);
        let height = |line: &str| line.split("cy=\"").nth(1)?.split('"').next()?.parse::<f64>().ok();
        let dots: Vec<f64> = file.lines().filter_map(height).collect();
        assert!(dots.len() == 3 && dots[0] > dots[1] && dots[1] > dots[2], "{dots:?}");
    }

    fn curves_of(list: &[Curve]) -> String {
        curves(("t", "s"), "whole", "µs", list)
    }
}
