//! Drawing in SVG, on a white card that is seen on light and on dark pages.

use std::fmt::Write;

/// Text and axes.
pub const INK: &str = "#1f2328";
/// What is said by the way.
pub const GREY: &str = "#656d76";
/// Lines of the grid.
pub const GRID: &str = "#e6e9ed";
/// Width of all drawings.
pub const WIDTH: f64 = 760.0;

/// Where a text stands on its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// Begins there.
    Start,
    /// Is centred there.
    Middle,
    /// Ends there.
    End,
}

/// A drawing; y grows downwards.
pub struct Svg {
    height: f64,
    body: String,
}

impl Svg {
    /// A card with a title and what was measured.
    pub fn new(title: &str, subtitle: &str, height: f64) -> Self {
        let mut svg = Self { height, body: String::new() };
        let _ = write!(svg.body, "<title>{}</title>", escape(title));
        let (w, h) = (WIDTH - 1.0, height - 1.0);
        let _ = writeln!(
            svg.body,
            "<rect x=\"0.5\" y=\"0.5\" width=\"{w}\" height=\"{h}\" rx=\"10\" fill=\"#ffffff\" stroke=\"#d0d7de\"/>"
        );
        svg.styled(24.0, 34.0, Anchor::Start, "font-size=\"17\" font-weight=\"600\"", INK, title);
        svg.styled(24.0, 54.0, Anchor::Start, "font-size=\"12\"", GREY, subtitle);
        svg
    }

    /// A filled rectangle with slightly round corners; `hint` shows when pointed at.
    pub fn rect(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], fill: &str, hint: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" fill=\"{fill}\">\
             <title>{}</title></rect>",
            width.max(0.0),
            height.max(0.0),
            escape(hint)
        );
    }

    /// A line through points.
    pub fn line(&mut self, points: &[[f64; 2]], width: f64, colour: &str, dashes: &str) {
        let points: Vec<_> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"{dashes}\"/>",
            points.join(" ")
        );
    }

    /// A dot.
    pub fn dot(&mut self, [x, y]: [f64; 2], colour: &str, hint: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{}</title></circle>",
            escape(hint)
        );
    }

    /// A text of 12 units.
    pub fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, colour: &str, text: &str) {
        self.styled(x, y, anchor, "font-size=\"12\"", colour, text);
    }

    /// The same, bold.
    pub fn bold(&mut self, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        self.styled(x, y, anchor, "font-size=\"12\" font-weight=\"600\"", INK, text);
    }

    /// Swatches with names, in as many rows as they need from `y` on; the last row's y.
    pub fn legend<'a>(&mut self, y: f64, items: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
        let (mut x, mut y) = (24.0, y);
        for (name, colour) in items {
            let width = 18.0 + text_width(name);
            if x + width > WIDTH - 20.0 {
                (x, y) = (24.0, y + 20.0);
            }
            self.rect([x, y - 9.0], [11.0, 11.0], colour, name);
            self.text([x + 16.0, y], Anchor::Start, INK, name);
            x += width + 18.0;
        }
        y
    }

    fn styled(&mut self, x: f64, y: f64, anchor: Anchor, style: &str, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style} fill=\"{colour}\">{}</text>",
            escape(text)
        );
    }

    /// The file.
    pub fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {h}\" width=\"{WIDTH}\" height=\"{h}\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">\n{}</svg>\n",
            self.body,
            h = self.height
        )
    }
}

/// About how wide a text of 12 units is.
#[expect(clippy::cast_precision_loss, reason = "short texts")]
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.9
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Round numbers from 0 to a little over `highest`: step and count of steps.
pub fn ticks(highest: f64) -> (f64, usize) {
    let rough = (highest / 5.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    (step, (highest / step).ceil().max(1.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new("a < b & \"c\"", "", 100.0);
        svg.text([0.0, 0.0], Anchor::End, INK, "<script>");
        let file = svg.finish();
        assert!(file.contains("a &lt; b &amp; &quot;c&quot;") && !file.contains("<script>"), "{file}");
    }

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        for (highest, step, count) in [(9.7, 2.0, 5), (139.0, 50.0, 3), (0.43, 0.1, 5), (12.2, 2.5, 5)] {
            let (found, steps) = ticks(highest);
            assert!((found - step).abs() < 1e-9 && steps == count, "{highest}: {found} {steps}");
        }
    }

    #[test]
    fn long_legends_go_on_in_the_next_row() {
        let mut svg = Svg::new("t", "s", 100.0);
        let names = vec![("a contender with a long name", INK); 8];
        assert!(svg.legend(80.0, names) >= 100.0);
    }
}
