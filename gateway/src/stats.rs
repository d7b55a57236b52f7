//! Statistics as `--json` prints them, and for people.

use proto::gateway::v1;
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use std::fmt::{self, Write};

/// The one object that `gateway stats --json` and `gateway replay --json` print. Keys stand in the order of the interface's
/// documentation.
#[derive(Clone, Debug)]
pub struct Stats(pub v1::Stats);

impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let v1::Stats { ports, lifs, drops, traps, trap_limited, sessions, other } = &self.0;
        let mut all = serializer.serialize_struct("Stats", 7)?;
        all.serialize_field("ports", &Map(ports, port))?;
        all.serialize_field("lifs", &Map(lifs, lif))?;
        for (name, counters) in [("drops", drops), ("traps", traps), ("trap_limited", trap_limited)] {
            all.serialize_field(name, &Map(counters, named))?;
        }
        all.serialize_field("sessions", &Numbers::from(&sessions.unwrap_or_default()))?;
        all.serialize_field("other", &Map(other, named))?;
        all.end()
    }
}

fn port(port: &v1::PortStats) -> (&str, Numbers) {
    (&port.name, port.into())
}

fn lif(lif: &v1::LifStats) -> (&str, Numbers) {
    (&lif.name, lif.into())
}

fn named(counter: &v1::Counter) -> (&str, u64) {
    (&counter.name, counter.value)
}

/// Items by name, in their order.
struct Map<'a, T, F>(&'a [T], F);

impl<'a, T, N: Serialize, V: Serialize, F: Fn(&'a T) -> (N, V)> Serialize for Map<'a, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for item in self.0 {
            let (name, value) = (self.1)(item);
            map.serialize_entry(&name, &value)?;
        }
        map.end()
    }
}

/// Named numbers in a fixed order.
struct Numbers(Vec<(&'static str, u64)>);

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl From<&v1::PortStats> for Numbers {
    fn from(port: &v1::PortStats) -> Self {
        Self(vec![
            ("rx_packets", port.rx_packets),
            ("rx_bytes", port.rx_bytes),
            ("tx_packets", port.tx_packets),
            ("tx_bytes", port.tx_bytes),
            ("tx_dropped", port.tx_dropped),
        ])
    }
}

impl From<&v1::LifStats> for Numbers {
    fn from(lif: &v1::LifStats) -> Self {
        Self(vec![
            ("rx_packets", lif.rx_packets),
            ("rx_bytes", lif.rx_bytes),
            ("tx_packets", lif.tx_packets),
            ("tx_bytes", lif.tx_bytes),
        ])
    }
}

impl From<&v1::SessionStats> for Numbers {
    fn from(sessions: &v1::SessionStats) -> Self {
        Self(vec![
            ("capacity", sessions.capacity),
            ("active", sessions.active),
            ("installed", sessions.installed),
            ("rejected", sessions.rejected),
            ("closed", sessions.closed),
        ])
    }
}

/// For people: traffic as tables, and of the counters those that count something.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.0;
        let row = |name: &str, numbers: Numbers| {
            let numbers = numbers.0.iter().map(|(_, number)| number.to_string());
            std::iter::once(name.to_owned()).chain(numbers).collect::<Vec<_>>()
        };
        let ports = stats.ports.iter().map(|port| row(&port.name, port.into())).collect::<Vec<_>>();
        let columns = ["port", "rx packets", "rx bytes", "tx packets", "tx bytes", "tx dropped"];
        f.write_str(&table(&columns, &ports))?;
        let lifs = stats.lifs.iter().map(|lif| row(&lif.name, lif.into())).collect::<Vec<_>>();
        f.write_str(&table(&["lif", "rx packets", "rx bytes", "tx packets", "tx bytes"], &lifs))?;
        let sessions = Numbers::from(&stats.sessions.unwrap_or_default());
        let (active, capacity) = stats.sessions.map_or((0, 0), |s| (s.active, s.capacity));
        let full = active.saturating_mul(100).checked_div(capacity).unwrap_or(0);
        writeln!(f, "sessions: {}, {full} % full", list(sessions.0.iter().copied()))?;
        let groups = [
            ("traps", &stats.traps),
            ("trap limited", &stats.trap_limited),
            ("drops", &stats.drops),
            ("other", &stats.other),
        ];
        for (title, counters) in groups {
            let counting = counters.iter().filter(|counter| counter.value != 0);
            let text = list(counting.map(|counter| (counter.name.as_str(), counter.value)));
            writeln!(f, "{title}: {}", if text.is_empty() { "none" } else { &text })?;
        }
        Ok(())
    }
}

fn list<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> String {
    counters.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// Columns as wide as they need be, the first to the left, numbers to the right.
pub fn table<const N: usize>(titles: &[&str; N], rows: &[impl AsRef<[String]>]) -> String {
    let mut widths = titles.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (column, (cell, width)) in cells.zip(widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    };
    line(&mut titles.iter().copied());
    for row in rows {
        line(&mut row.as_ref().iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        let counter = |name: &str, value| v1::Counter { name: name.to_owned(), value };
        Stats(v1::Stats {
            ports: vec![v1::PortStats {
                name: "uplink".into(),
                rx_packets: 12,
                tx_bytes: 99,
                ..Default::default()
            }],
            lifs: vec![v1::LifStats { name: "red".into(), id: 1, rx_bytes: 7, ..Default::default() }],
            drops: vec![counter("unknown_lif", 0), counter("malformed", 3)],
            traps: vec![counter("new", 1)],
            trap_limited: vec![counter("new", 0)],
            sessions: Some(v1::SessionStats { capacity: 10, active: 1, ..Default::default() }),
            other: vec![counter("established", 5)],
        })
    }

    #[test]
    fn json() {
        let expected = concat!(
            r#"{"ports":{"uplink":{"rx_packets":12,"rx_bytes":0,"tx_packets":0,"tx_bytes":99,"tx_dropped":0}},"#,
            r#""lifs":{"red":{"rx_packets":0,"rx_bytes":7,"tx_packets":0,"tx_bytes":0}},"#,
            r#""drops":{"unknown_lif":0,"malformed":3},"traps":{"new":1},"trap_limited":{"new":0},"#,
            r#""sessions":{"capacity":10,"active":1,"installed":0,"rejected":0,"closed":0},"other":{"established":5}}"#,
        );
        assert_eq!(serde_json::to_string(&stats()).unwrap(), expected);
    }

    #[test]
    fn for_people() {
        let expected = "\
port    rx packets  rx bytes  tx packets  tx bytes  tx dropped
uplink          12         0           0        99           0
lif  rx packets  rx bytes  tx packets  tx bytes
red           0         7           0         0
sessions: capacity 10, active 1, installed 0, rejected 0, closed 0, 10 % full
traps: new 1
trap limited: none
drops: malformed 3
other: established 5
";
        assert_eq!(stats().to_string(), expected);
    }
}
