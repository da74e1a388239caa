//! Owns how figures are shown: a table for people, a JSON line each for programs. It measures nothing.

use serde_json::{Value, json};

use crate::runner::{Goal, Measured};
use crate::stats::{Round, median, range};

/// What is derived from the rounds of one pair.
struct Figures {
    hive: Option<f64>,
    hive_p99: Option<f64>,
    floor: Option<f64>,
    floor_p99: Option<f64>,
    ratio: Option<f64>,
    ratio_p99: Option<f64>,
    /// Least and greatest of the rounds' ratios, or of hive's figures where there is no floor.
    spread: Option<(f64, f64)>,
}

/// The columns after the name, with their widths.
const COLUMNS: [(&str, usize); 9] = [
    ("hive p50", 10),
    ("hive p99", 10),
    ("floor p50", 10),
    ("floor p99", 10),
    ("ratio", 7),
    ("p99", 7),
    ("spread", 13),
    ("goal", 12),
    ("", 6),
];
const NAME_WIDTH: usize = 46;

pub fn table_head(group: &str, about: &str) -> String {
    let mut line = format!("{:<NAME_WIDTH$}", "");
    for (title, width) in COLUMNS {
        line.push_str(&format!(" {title:>width$}"));
    }
    format!("\n{group}: {about}\n{}", line.trim_end())
}

pub fn table_row(measured: &Measured) -> String {
    let figures = Figures::of(measured);
    let spread = figures.spread.map(|(least, greatest)| format!("{}-{}", short(least), short(greatest)));
    let cells = [
        number(figures.hive),
        number(figures.hive_p99),
        number(figures.floor),
        number(figures.floor_p99),
        number(figures.ratio),
        number(figures.ratio_p99),
        spread.unwrap_or_else(|| "-".into()),
        goal_text(measured.goal),
        verdict(measured.goal, &figures).into(),
    ];
    let mut line = format!("{:<NAME_WIDTH$}", format!("{} ({})", measured.name, measured.unit));
    for ((_, width), cell) in COLUMNS.iter().zip(cells) {
        line.push_str(&format!(" {cell:>width$}"));
    }
    line.trim_end().to_string()
}

pub fn json_line(group: &str, measured: &Measured) -> String {
    let figures = Figures::of(measured);
    let (goal, goal_p99, sense) = match measured.goal {
        Goal::None => (None, None, "none"),
        Goal::Cost { p50, p99 } => (Some(p50), p99, "at-most"),
        Goal::Rate(least) => (Some(least), None, "at-least"),
        Goal::SpeedUp(least) => (least, None, "speed-up"),
        Goal::Ceiling(most) => (Some(most), None, "ceiling"),
    };
    // Not a map: what a reader looks for first comes first.
    let fields = [
        ("group", json!(group)),
        ("name", json!(measured.name)),
        ("unit", json!(measured.unit)),
        ("hive", rounded(figures.hive)),
        ("floor", rounded(figures.floor)),
        ("ratio", rounded(figures.ratio)),
        ("hive_p99", rounded(figures.hive_p99)),
        ("ratio_p99", rounded(figures.ratio_p99)),
        ("goal", json!(goal)),
        ("rounds", json!(measured.hive.len().max(measured.floor.len()))),
        ("floor_p99", rounded(figures.floor_p99)),
        ("goal_p99", json!(goal_p99)),
        ("sense", json!(sense)),
        ("spread", json!(figures.spread.map(|(least, greatest)| [rounded(Some(least)), rounded(Some(greatest))]))),
        ("load", json!(measured.load)),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

impl Figures {
    fn of(measured: &Measured) -> Figures {
        let hive = median(measured.hive.iter().map(|round| round.p50));
        let floor = median(measured.floor.iter().map(|round| round.p50));
        let hive_p99 = median(measured.hive.iter().filter_map(|round| round.p99));
        let floor_p99 = median(measured.floor.iter().filter_map(|round| round.p99));
        let turned = matches!(measured.goal, Goal::SpeedUp(_));
        let ratio = divide(hive, floor, turned);
        let ratio_p99 = divide(hive_p99, floor_p99, turned);
        Figures { hive, hive_p99, floor, floor_p99, ratio, ratio_p99, spread: spread(measured, turned) }
    }
}

fn spread(measured: &Measured, turned: bool) -> Option<(f64, f64)> {
    let p50 = |round: &Round| round.p50;
    if measured.hive.is_empty() {
        return range(measured.floor.iter().map(p50));
    }
    if measured.floor.is_empty() {
        return range(measured.hive.iter().map(p50));
    }
    let pairs = measured.hive.iter().zip(&measured.floor);
    range(pairs.filter_map(|(hive, floor)| divide(Some(hive.p50), Some(floor.p50), turned)))
}

fn divide(hive: Option<f64>, floor: Option<f64>, turned: bool) -> Option<f64> {
    let (hive, floor) = (hive?, floor?);
    let (above, below) = if turned { (floor, hive) } else { (hive, floor) };
    (below > 0.0).then(|| above / below)
}

fn goal_text(goal: Goal) -> String {
    match goal {
        Goal::None | Goal::SpeedUp(None) => "-".into(),
        Goal::Cost { p50, p99: None } => format!("<= {p50}"),
        Goal::Cost { p50, p99: Some(p99) } => format!("<= {p50}, {p99}"),
        Goal::Rate(least) | Goal::SpeedUp(Some(least)) => format!(">= {least}"),
        Goal::Ceiling(most) => format!("<= {most} {}", if most == 0.0 { "" } else { "abs" }).trim_end().into(),
    }
}

fn verdict(goal: Goal, figures: &Figures) -> &'static str {
    let Some(hive) = figures.hive else { return "" };
    let met = match goal {
        Goal::None | Goal::SpeedUp(None) => return "",
        Goal::Cost { p50, p99 } => {
            figures.ratio.is_some_and(|ratio| ratio <= p50)
                && p99.is_none_or(|most| figures.ratio_p99.is_some_and(|ratio| ratio <= most))
        }
        Goal::Rate(least) | Goal::SpeedUp(Some(least)) => figures.ratio.is_some_and(|ratio| ratio >= least),
        Goal::Ceiling(most) => hive <= most,
    };
    if met { "met" } else { "missed" }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), short)
}

/// Three or four digits that matter, and no more.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn rounded(value: Option<f64>) -> Value {
    json!(value.map(|value| (value * 10_000.0).round() / 10_000.0))
}
