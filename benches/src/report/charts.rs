//! Columns, bars and stacks.

use super::number::round;
use super::svg::{Anchor, GREY, GRID, INK, Svg, WIDTH, text_width, ticks};

/// Space left of a plot for its scale.
pub const LEFT: f64 = 56.0;
/// Space right of a plot.
pub const RIGHT: f64 = 24.0;
/// Height of a plot with a scale.
pub const PLOT: f64 = 220.0;

/// Values of one kind, by group.
pub struct Series {
    /// In the legend.
    pub label: String,
    /// Of its columns.
    pub colour: &'static str,
    /// In the order of the groups.
    pub values: Vec<Option<f64>>,
}

/// Columns in groups, and where given, by group, a mark at what they are to reach.
pub fn columns(
    (title, subtitle): (&str, &str),
    unit: &str,
    groups: &[String],
    series: &[Series],
    goals: &[Option<(f64, String)>],
) -> String {
    let legend_rows = if series.len() > 1 { 1.0 + f64::from(u8::from(legend_wraps(series))) } else { 0.0 };
    let top = 94.0 + legend_rows * 22.0;
    let mut svg = Svg::new(title, subtitle, top + PLOT + 44.0);
    if series.len() > 1 {
        svg.legend(80.0, series.iter().map(|series| (series.label.as_str(), series.colour)));
    }
    let shown = series.iter().flat_map(|series| series.values.iter().flatten().copied());
    let highest = shown.chain(goals.iter().flatten().map(|(goal, _)| *goal)).fold(0.0, f64::max);
    let (step, steps) = ticks(highest * 1.06);
    let end = WIDTH - RIGHT;
    let height = |value: f64| value / (step * float(steps)) * PLOT;
    for tick in 0..=steps {
        let y = top + PLOT - height(step * float(tick));
        svg.line(&[[LEFT, y], [end, y]], 1.0, if tick == 0 { GREY } else { GRID }, "");
        svg.text([LEFT - 8.0, y + 4.0], Anchor::End, GREY, &round(step * float(tick)));
    }
    svg.text([LEFT - 8.0, top - 16.0], Anchor::End, GREY, unit);
    let room = (end - LEFT) / float(groups.len().max(1));
    for (number, group) in groups.iter().enumerate() {
        let middle = LEFT + room * (float(number) + 0.5);
        svg.text([middle, top + PLOT + 20.0], Anchor::Middle, INK, group);
        let present: Vec<_> =
            series.iter().filter_map(|s| Some((s, s.values.get(number).copied()??))).collect();
        let step = (room * 0.86 / float(present.len().max(1))).min(56.0);
        let start = middle - step * float(present.len()) / 2.0;
        for (position, (series, value)) in present.iter().enumerate() {
            let x = start + step * float(position);
            let (y, width) = (top + PLOT - height(*value), step - 4.0);
            let hint = format!("{}, {group}: {} {unit}", series.label, round(*value));
            svg.rect([x + 2.0, y], [width, height(*value)], series.colour, &hint);
            svg.bold([x + step / 2.0, y - 6.0], Anchor::Middle, &round(*value));
        }
        if let Some(Some((goal, words))) = goals.get(number) {
            let y = top + PLOT - height(*goal);
            svg.line(&[[middle - step, y], [middle + step, y]], 2.0, "#cf222e", "5 3");
            svg.text([middle + step + 5.0, y + 4.0], Anchor::Start, "#cf222e", words);
        }
    }
    svg.finish()
}

fn legend_wraps(series: &[Series]) -> bool {
    series.iter().map(|series| text_width(&series.label) + 36.0).sum::<f64>() > WIDTH - 44.0
}

/// Bars from left to right, one a row.
pub fn bars((title, subtitle): (&str, &str), unit: &str, rows: &[(String, f64, &'static str)]) -> String {
    let mut svg = Svg::new(title, subtitle, 88.0 + 38.0 * float(rows.len()));
    let left = rows.iter().map(|(label, ..)| text_width(label)).fold(0.0, f64::max) + 40.0;
    let highest = rows.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let room = WIDTH - RIGHT - 90.0 - left;
    for (number, (label, value, colour)) in rows.iter().enumerate() {
        let y = 76.0 + 38.0 * float(number);
        let text = format!("{} {unit}", round(*value));
        svg.text([left - 12.0, y + 18.0], Anchor::End, INK, label);
        svg.rect([left, y], [value / highest * room, 26.0], colour, &text);
        svg.bold([left + value / highest * room + 8.0, y + 18.0], Anchor::Start, &text);
    }
    svg.finish()
}

/// What parts make up a whole, in their order.
pub fn stack((title, subtitle): (&str, &str), unit: &str, parts: &[(String, f64)]) -> String {
    const COLOURS: [&str; 8] =
        ["#0b7a75", "#3d9be0", "#6f5bd6", "#d9822b", "#b8a125", "#c2477f", "#5f9e4a", "#8c959f"];
    let rows = parts.len().div_ceil(3);
    let mut svg = Svg::new(title, subtitle, 142.0 + 22.0 * float(rows));
    let whole = parts.iter().map(|(_, value)| value).sum::<f64>().max(f64::MIN_POSITIVE);
    let mut x = 24.0;
    for (number, (label, value)) in parts.iter().enumerate() {
        let colour = COLOURS[number.min(COLOURS.len() - 1)];
        let share = format!("{} {unit}, {:.0} %", round(*value), value / whole * 100.0);
        let width = value / whole * (WIDTH - 48.0);
        svg.rect([x, 74.0], [width - 1.5, 34.0], colour, &format!("{label}: {share}"));
        if width > 40.0 {
            svg.text([x + width / 2.0, 95.0], Anchor::Middle, "#ffffff", &round(*value));
        }
        x += width;
        let (column, row) = (number / rows, number % rows);
        let at = [24.0 + 240.0 * float(column), 134.0 + 22.0 * float(row)];
        svg.rect([at[0], at[1] - 9.0], [11.0, 11.0], colour, label);
        svg.text([at[0] + 17.0, at[1]], Anchor::Start, INK, label);
        svg.text([at[0] + 216.0, at[1]], Anchor::End, GREY, &share);
    }
    svg.finish()
}

/// For coordinates.
#[expect(clippy::cast_precision_loss, reason = "small counts")]
pub fn float(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heights or widths of what carries `hint`.
    fn extents(file: &str, attribute: &str, hint: &str) -> Vec<f64> {
        let lines = file.lines().filter(|line| line.starts_with("<rect") && line.contains(hint));
        let value =
            |line: &str| line.split(&format!(" {attribute}=\"")).nth(1)?.split('"').next()?.parse().ok();
        lines.filter_map(value).collect()
    }

    #[test]
    fn columns_are_as_high_as_their_values() {
        let series = |label: &str, values| Series { label: label.into(), colour: INK, values };
        let series = [series("ours", vec![Some(8.0), None]), series("theirs", vec![Some(2.0), Some(4.0)])];
        let goals = [None, Some((6.0, "≥ 6".to_owned()))];
        let file = columns(("t", "s"), "Mpps", &["1k".into(), "1M".into()], &series, &goals);
        let ours = extents(&file, "height", "ours, ");
        let theirs = extents(&file, "height", "theirs, ");
        assert_eq!((ours.len(), theirs.len()), (1, 2), "{file}");
        assert!((ours[0] / theirs[0] - 4.0).abs() < 0.02 && (theirs[1] / theirs[0] - 2.0).abs() < 0.02);
        assert!(file.contains("≥ 6"));
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let rows = [("a".to_owned(), 10.0, INK), ("b".to_owned(), 5.0, GREY)];
        let file = bars(("t", "s"), "Mpps", &rows);
        let (long, short) = (extents(&file, "width", "10 Mpps"), extents(&file, "width", "5 Mpps"));
        assert!((long[0] / short[0] - 2.0).abs() < 0.01, "{file}");
    }

    #[test]
    fn stacks_fill_the_width() {
        let parts: Vec<_> = (1..=10).map(|n| (format!("part {n}"), f64::from(n))).collect();
        let file = stack(("t", "s"), "cycles", &parts);
        let widths: f64 = extents(&file, "width", ": ").iter().sum();
        assert!((widths + 10.0 * 1.5 - (WIDTH - 48.0)).abs() < 1.0, "{widths}");
    }
}
