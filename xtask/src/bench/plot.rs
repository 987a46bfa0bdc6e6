//! Plots as SVG: costs over a range, both axes logarithmic, so that an exponent is a slope.
use anyhow::{Result, anyhow};
use plotters::coord::combinators::BindKeyPoints as _;
use plotters::prelude::*;

const SIZE: (u32, u32) = (860, 520);
const COLOURS: [RGBColor; 3] = [RGBColor(31, 90, 166), RGBColor(200, 80, 20), RGBColor(40, 130, 60)];

pub struct Plot<'a> {
    pub title: String,
    /// What the axes show, with units.
    pub x: &'a str,
    pub y: &'a str,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Lines of one colour belong together; the floor's is dashed.
    pub colour: usize,
    pub dashed: bool,
}

impl Plot<'_> {
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| anyhow!("cannot draw {:?}: {error}", self.title))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let (x_low, x_high) = bounds(all().map(|point| point.0), 1.15);
        let (y_low, y_high) = bounds(all().map(|point| point.1), 1.6);
        // Room above the lines for the legend.
        let y_high = y_high * (y_high / y_low).powf(0.55);
        let x: LogCoord<f64> = (x_low..x_high).log_scale().into();
        let mut marks: Vec<f64> = all().map(|point| point.0).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(76)
            .build_cartesian_2d(x.with_key_points(marks), (y_low..y_high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 14))
            .light_line_style(RGBColor(238, 238, 238))
            .bold_line_style(RGBColor(215, 215, 215))
            .x_label_formatter(&|value| plain(*value))
            .y_label_formatter(&|value| plain(*value))
            .draw()?;
        for line in &self.lines {
            let colour = COLOURS[line.colour % COLOURS.len()];
            let points = line.points.iter().copied();
            let series = if line.dashed {
                let style = ShapeStyle { color: colour.mix(0.75), filled: false, stroke_width: 2 };
                chart.draw_series(DashedLineSeries::new(points.clone(), 6, 5, style))?
            } else {
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(3)))?
            };
            let dashed = line.dashed;
            series.label(&line.name).legend(move |(x, y)| {
                let (width, opacity) = if dashed { (1, 0.75) } else { (3, 1.0) };
                PathElement::new(vec![(x, y), (x + 26, y)], colour.mix(opacity).stroke_width(width))
            });
            chart.draw_series(points.map(|point| Circle::new(point, 4, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 14))
            .legend_area_size(34)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

/// The least and the largest with a margin; whatever there is, they differ.
fn bounds(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let above_zero: Vec<f64> = values.filter(|value| *value > 0.0).collect();
    let low = above_zero.iter().copied().fold(f64::INFINITY, f64::min);
    let high = above_zero.iter().copied().fold(0.0, f64::max);
    if above_zero.is_empty() { (1.0, 10.0) } else { (low / margin, high * margin) }
}

fn plain(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_title_axes_and_legend() {
        let line = |name: &str, dashed| Line {
            name: name.into(),
            points: vec![(100.0, 2.0), (1000.0, 30.0)],
            colour: 0,
            dashed,
        };
        let lines = vec![line("Weft", false), line("the floor", true)];
        let svg = Plot { title: "storm".into(), x: "proxies", y: "ms", lines }.svg().unwrap();
        for word in ["<svg", "storm", "proxies", "ms", "Weft", "the floor", "1000"] {
            assert!(svg.contains(word), "{word}");
        }
        let empty = Plot { title: "nothing".into(), x: "x", y: "y", lines: vec![] };
        assert!(empty.svg().is_ok());
    }
}
