//! `gateway sessions list`: filters, order, rates, and the same again each few seconds.

use super::client::{Client, ask, line, output, unreadable};
use super::{Code, Failure};
use crate::session::{Live, octets, protocol_number};
use crate::stats::table;
use proto::gateway::v1;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Time between the two samples of a rate, where nothing else says.
const SAMPLE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// Only sessions from or to this LIF
    #[arg(long, value_name = "NAME|ID")]
    lif: Option<String>,
    /// Only sessions with an address, original or translated, in this prefix
    #[arg(long, value_name = "IP[/LENGTH]")]
    address: Option<Prefix>,
    /// Only sessions that are translated to or from this address
    #[arg(long, value_name = "IP")]
    nat: Option<IpAddr>,
    /// Only sessions of this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = protocol_number)]
    protocol: Option<u8>,
    /// Only sessions in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only sessions with this port, or ICMP identifier, original or translated
    #[arg(long)]
    port: Option<u16>,
    /// Only sessions of this owner: the name in its certificate, or unix
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Order: the largest, or the oldest, first
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// Only so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Again each SECONDS [2], with rates
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = seconds)]
    watch: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum State {
    Established,
    #[value(name = "closing_1")]
    Closing1,
    #[value(name = "closing_2")]
    Closing2,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// Bits per second, of now
    Rate,
    Bytes,
    Packets,
    Age,
}

#[derive(Clone, Copy)]
struct Prefix {
    ip: IpAddr,
    length: u32,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
        let ip: IpAddr = ip.parse().map_err(|_| "write IP or IP/LENGTH".to_owned())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(longest), str::parse);
        match length {
            Ok(length) if length <= longest => Ok(Self { ip, length }),
            _ => Err(format!("the length is from 0 to {longest}")),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds from 0.1 to 3600".to_owned())
}

/// Prints the sessions asked for.
pub(super) async fn list(client: &mut Client, args: &ListArgs, json: bool) -> Result<(), Failure> {
    let filter = filter(client, args).await?;
    if args.sort.is_none() && args.watch.is_none() {
        return plain(client, &filter, args.limit.unwrap_or(u64::MAX), json).await;
    }
    let clear = args.watch.is_some() && !json && io::stdout().is_terminal();
    let mut before = None;
    if args.sort == Some(Sort::Rate) && args.watch.is_none() {
        before = Some(Sample::new(&all(client, &filter).await?));
        tokio::time::sleep(SAMPLE).await;
    }
    loop {
        let sessions = all(client, &filter).await?;
        let sample = Sample::new(&sessions);
        let mut rows = rows(&sessions, before.as_ref(), &sample)?;
        sort(&mut rows, args.sort);
        rows.truncate(args.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
        print(&rows, json, clear, sessions.len())?;
        let Some(interval) = args.watch else { return Ok(()) };
        before = Some(sample);
        tokio::time::sleep(interval).await;
    }
}

/// As they come, a page at a time.
async fn plain(
    client: &mut Client,
    filter: &v1::SessionFilter,
    mut left: u64,
    json: bool,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut cursor, mut cells) = (0, Vec::new());
    loop {
        let limit = u32::try_from(left).unwrap_or(u32::MAX);
        let page = page(client, filter, cursor, limit).await?;
        for info in &page.sessions {
            let live = Live::from_proto(info).ok_or_else(unreadable)?;
            match json {
                true => line(&mut out, &live)?,
                false => cells.push(live.cells()),
            }
        }
        left -= page.sessions.len() as u64;
        cursor = page.next_cursor;
        if cursor == 0 || left == 0 {
            break;
        }
    }
    if !json {
        out.write_all(table(&Live::TITLES, &cells).as_bytes()).map_err(output)?;
    }
    out.flush().map_err(output)
}

async fn page(
    client: &mut Client,
    filter: &v1::SessionFilter,
    cursor: u64,
    limit: u32,
) -> Result<v1::ListSessionsResponse, Failure> {
    let request = v1::ListSessionsRequest { cursor, limit, filter: Some(filter.clone()) };
    ask(client.list_sessions(request)).await
}

async fn all(client: &mut Client, filter: &v1::SessionFilter) -> Result<Vec<v1::SessionInfo>, Failure> {
    let (mut sessions, mut cursor) = (Vec::new(), 0);
    loop {
        let page = page(client, filter, cursor, u32::MAX).await?;
        sessions.extend(page.sessions);
        cursor = page.next_cursor;
        if cursor == 0 {
            return Ok(sessions);
        }
    }
}

async fn filter(client: &mut Client, args: &ListArgs) -> Result<v1::SessionFilter, Failure> {
    Ok(v1::SessionFilter {
        lif: match &args.lif {
            Some(lif) => lif_id(client, lif).await?,
            None => 0,
        },
        address: args.address.map(|prefix| octets(prefix.ip)).unwrap_or_default().into(),
        prefix: args.address.map(|prefix| prefix.length),
        nat: args.nat.map(octets).unwrap_or_default().into(),
        protocol: args.protocol.map(u32::from),
        state: args.state.map(|state| match state {
            State::Established => v1::SessionState::Established.into(),
            State::Closing1 => v1::SessionState::Closing1.into(),
            State::Closing2 => v1::SessionState::Closing2.into(),
        }),
        port: args.port.map(u32::from),
        owner: args.owner.clone(),
    })
}

/// The id of the LIF that somebody means.
async fn lif_id(client: &mut Client, lif: &str) -> Result<u32, Failure> {
    let lifs = ask(client.list_lifs(v1::ListLifsRequest {})).await?.lifs;
    let named = lifs.iter().find(|known| known.name == lif);
    let found = named.or_else(|| lifs.iter().find(|known| Ok(known.id) == lif.parse()));
    found.map(|known| known.id).ok_or_else(|| {
        let known = lifs.iter().map(|known| format!("{} ({})", known.name, known.id)).collect::<Vec<_>>();
        Failure::new(Code::Failed, format!("there is no LIF {lif}: there are {}", known.join(", ")))
    })
}

/// Counters at one time.
pub(super) struct Sample {
    at: Instant,
    /// By id and start, as ids are used again: packets and bytes both ways.
    counters: HashMap<(u64, Start), (u64, u64)>,
}

type Start = Option<(i64, i32)>;

fn key(info: &v1::SessionInfo) -> (u64, Start) {
    let start = info.start_time.as_ref().map(|time| (time.seconds, time.nanos));
    (info.session.as_ref().map_or(0, |session| session.session_id), start)
}

fn totals(info: &v1::SessionInfo) -> (u64, u64) {
    let c = info.counters.unwrap_or_default();
    (c.in_packets + c.out_packets, c.in_bytes + c.out_bytes)
}

impl Sample {
    pub(super) fn new(sessions: &[v1::SessionInfo]) -> Self {
        let counters = sessions.iter().map(|info| (key(info), totals(info))).collect();
        Self { at: Instant::now(), counters }
    }

    /// Packets and bits per second of a session since an earlier sample; None if it was not there.
    fn rate(&self, info: &v1::SessionInfo, before: &Self) -> Option<(f64, f64)> {
        let (packets, bytes) = before.counters.get(&key(info))?;
        let seconds = (self.at - before.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let (now_packets, now_bytes) = totals(info);
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Some((per_second(now_packets, *packets), per_second(now_bytes, *bytes) * 8.0))
    }
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    live: Live,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_second: Option<f64>,
    #[serde(skip)]
    totals: (u64, u64),
    #[serde(skip)]
    start: Start,
}

fn rows(sessions: &[v1::SessionInfo], before: Option<&Sample>, now: &Sample) -> Result<Vec<Row>, Failure> {
    let row = |info: &v1::SessionInfo| {
        let rate = before.and_then(|before| now.rate(info, before));
        Some(Row {
            live: Live::from_proto(info)?,
            packets_per_second: rate.map(|(packets, _)| packets),
            bits_per_second: rate.map(|(_, bits)| bits),
            totals: totals(info),
            start: key(info).1,
        })
    };
    sessions.iter().map(row).collect::<Option<Vec<_>>>().ok_or_else(unreadable)
}

fn sort(rows: &mut [Row], by: Option<Sort>) {
    match by {
        Some(Sort::Rate) => {
            let rate = |row: &Row| row.bits_per_second.unwrap_or(-1.0);
            rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        }
        Some(Sort::Bytes) => rows.sort_by_key(|row| Reverse(row.totals.1)),
        Some(Sort::Packets) => rows.sort_by_key(|row| Reverse(row.totals.0)),
        Some(Sort::Age) => rows.sort_by_key(|row| row.start),
        None => {}
    }
}

fn print(rows: &[Row], json: bool, clear: bool, of: usize) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    if json {
        rows.iter().try_for_each(|row| line(&mut out, row))?;
        return out.flush().map_err(output);
    }
    let number = |value: Option<f64>| value.map_or(String::from("-"), |value| format!("{value:.0}"));
    let cells = rows.iter().map(|row| {
        let mut cells = row.live.cells().to_vec();
        cells.extend([number(row.packets_per_second), number(row.bits_per_second)]);
        cells
    });
    let [a, b, c, d, e, f, g, h, i, j] = Live::TITLES;
    let titles = [a, b, c, d, e, f, g, h, i, j, "packets/s", "bit/s"];
    // To the top left corner, and nothing below.
    let start = if clear { "\x1b[H\x1b[2J" } else { "" };
    let cells = cells.collect::<Vec<_>>();
    write!(out, "{start}{}{} of {of} sessions\n\n", table(&titles, &cells), rows.len()).map_err(output)?;
    out.flush().map_err(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_intervals() {
        let prefix: Prefix = "10.1.0.0/16".parse().unwrap();
        assert_eq!((prefix.ip.to_string(), prefix.length), ("10.1.0.0".to_owned(), 16));
        assert_eq!("2001:db8::1".parse::<Prefix>().unwrap().length, 128);
        for bad in ["10.1.0.0/33", "x", "10.0.0.1/", "::/129", "10.0.0.1/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(["0", "x", "-1", "4000", "nan"].iter().all(|bad| seconds(bad).is_err()));
    }
}
