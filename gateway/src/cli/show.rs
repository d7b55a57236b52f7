//! `gateway sessions show`: one session, both directions of it.

use super::client::{ANSWER, Client, ask, print_json, print_text, refused, soon, unreadable};
use super::{Code, Failure};
use crate::session::Live;
use proto::gateway::v1;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

/// Time between the two samples of the rates.
const SAMPLE: Duration = Duration::from_secs(1);

/// What `--json` prints.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    live: Live,
    age_ms: u64,
    timeout_left_ms: u64,
    rates: Rates,
}

/// Of the last second.
#[derive(Clone, Copy, Default, Serialize)]
struct Rates {
    in_packets_per_second: f64,
    in_bits_per_second: f64,
    out_packets_per_second: f64,
    out_bits_per_second: f64,
}

pub(super) async fn show(client: &mut Client, id: u64, json: bool) -> Result<(), Failure> {
    let before = get(client, id).await?;
    let start = Instant::now();
    tokio::time::sleep(SAMPLE).await;
    // If it has closed meanwhile, its last second is not known.
    let (info, rates) = match get(client, id).await {
        Ok(after) if after.start_time == before.start_time => {
            let rates = rates(&before, &after, start.elapsed());
            (after, rates)
        }
        _ => (before, Rates::default()),
    };
    let shown = Shown {
        live: Live::from_proto(&info).ok_or_else(unreadable)?,
        age_ms: age(&info),
        timeout_left_ms: left(&info),
        rates,
    };
    if json {
        return print_json(&shown);
    }
    let lifs = ask(client.list_lifs(v1::ListLifsRequest {})).await?.lifs;
    let lifs = lifs.into_iter().map(|lif| (lif.id, lif.name)).collect();
    print_text(&text(&shown, &info, &lifs).ok_or_else(unreadable)?)
}

async fn get(client: &mut Client, id: u64) -> Result<v1::SessionInfo, Failure> {
    let answer = soon(ANSWER, client.get_session(v1::GetSessionRequest { session_id: id })).await?;
    answer.map(tonic::Response::into_inner).map_err(|status| match status.code() {
        tonic::Code::NotFound => Failure::new(Code::Failed, format!("there is no session {id}")),
        _ => refused(status),
    })
}

fn rates(before: &v1::SessionInfo, after: &v1::SessionInfo, elapsed: Duration) -> Rates {
    let (before, after) = (before.counters.unwrap_or_default(), after.counters.unwrap_or_default());
    let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / elapsed.as_secs_f64();
    Rates {
        in_packets_per_second: rate(before.in_packets, after.in_packets),
        in_bits_per_second: rate(before.in_bytes, after.in_bytes) * 8.0,
        out_packets_per_second: rate(before.out_packets, after.out_packets),
        out_bits_per_second: rate(before.out_bytes, after.out_bytes) * 8.0,
    }
}

fn age(info: &v1::SessionInfo) -> u64 {
    let start = info.start_time.and_then(|start| SystemTime::try_from(start).ok());
    let age = start.and_then(|start| SystemTime::now().duration_since(start).ok());
    age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds to the end of a session without packets, or whatever its traffic if that comes first.
fn left(info: &v1::SessionInfo) -> u64 {
    let Some(session) = &info.session else { return 0 };
    let until = |seconds: u32, passed: u64| (u64::from(seconds) * 1000).saturating_sub(passed);
    let idle = until(session.idle_timeout, info.idle_ms);
    if session.hard_timeout == 0 { idle } else { idle.min(until(session.hard_timeout, age(info))) }
}

fn text(shown: &Shown, info: &v1::SessionInfo, lifs: &HashMap<u32, String>) -> Option<String> {
    let Shown { live, age_ms, timeout_left_ms, rates } = shown;
    let session = info.session.as_ref()?;
    let counters = info.counters.unwrap_or_default();
    let lif = |id: u32| lifs.get(&id).map_or(id.to_string(), |name| format!("{name} ({id})"));
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "session {}: {}", session.session_id, live.summary());
    for (name, direction) in live.directions() {
        let forward = name == "forward";
        let (from, to) =
            if forward { (session.in_lif, session.out_lif) } else { (session.out_lif, session.in_lif) };
        let _ = writeln!(out, "{name}  {} to {}", lif(from), lif(to));
        let _ = writeln!(out, "  arrives   {}", direction.arrives);
        let _ = writeln!(out, "  leaves    {}", direction.leaves);
        let _ = writeln!(out, "  rewrites  {}", direction.rewrites);
        let (packets, bytes, pps, bps) = if forward {
            (counters.in_packets, counters.in_bytes, rates.in_packets_per_second, rates.in_bits_per_second)
        } else {
            (
                counters.out_packets,
                counters.out_bytes,
                rates.out_packets_per_second,
                rates.out_bits_per_second,
            )
        };
        let _ = writeln!(
            out,
            "  passed    {packets} packets, {bytes} bytes; now {pps:.0} packets/s, {bps:.0} bit/s"
        );
    }
    if let Some(limit) = &session.limit {
        let part =
            |number: u64, unit| if number == 0 { String::new() } else { format!(" {number} {unit}/s") };
        let (packets, bytes) = (part(limit.packets.into(), "packets"), part(limit.bytes, "bytes"));
        let _ = writeln!(out, "limited to{packets}{bytes}, bursts of {} ms", limit.burst_ms);
    }
    let owner = if session.owner.is_empty() { "nobody in particular" } else { &session.owner };
    let _ = writeln!(out, "installed by {owner}");
    let _ = writeln!(
        out,
        "age {}, last packet {} ago, times out in {} without any (of {} s)",
        seconds(*age_ms),
        seconds(info.idle_ms),
        seconds(*timeout_left_ms),
        session.idle_timeout,
    );
    Some(out)
}
