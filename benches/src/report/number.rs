//! Numbers as people read them.

/// Three digits that matter.
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.1.. => format!("{value:.3}"),
        0.001.. => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// The same without zeros at the end: of numbers that somebody chose.
pub fn round(value: f64) -> String {
    let text = digits(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// With its unit, as `write` writes numbers.
pub fn with_unit(value: f64, unit: &str, write: fn(f64) -> String) -> String {
    match unit {
        "share" => format!("{} %", write(value * 100.0)),
        "ratio" => write(value),
        "1/s" if value.abs() >= 1e6 => format!("{} M/s", write(value / 1e6)),
        "1/s" if value.abs() >= 1e3 => format!("{} k/s", write(value / 1e3)),
        "1/s" => format!("{}/s", write(value)),
        _ => format!("{} {unit}", write(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_read_them() {
        assert_eq!(with_unit(139.4, "cycles", digits), "139 cycles");
        assert_eq!(with_unit(0.017, "share", digits), "1.70 %");
        assert_eq!(with_unit(0.0, "share", digits), "0 %");
        assert_eq!(with_unit(0.6, "ratio", digits), "0.600");
        assert_eq!(with_unit(0.6, "ratio", round), "0.6");
        assert_eq!(with_unit(2_410_000.0, "1/s", digits), "2.41 M/s");
        assert_eq!(with_unit(2_000_000.0, "1/s", round), "2 M/s");
        assert_eq!(with_unit(310_400.0, "1/s", digits), "310 k/s");
        assert_eq!(with_unit(12.2, "Mpps", digits), "12.2 Mpps");
        assert_eq!(digits(0.000_03), "3.0e-5");
    }
}
