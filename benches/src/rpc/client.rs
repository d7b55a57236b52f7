//! The client's process: prints one number, and ends.

use crate::cores;
use anyhow::{Context, Result, bail, ensure};
use control::Endpoint;
use control::client::{Target, connect};
use hdrhistogram::Histogram;
use proto::Bytes;
use proto::gateway::v1;
use proto::gateway::v1::gateway_client::GatewayClient;
use proto::openoffload::v2;
use proto::openoffload::v2::session_table_client::SessionTableClient;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// The argument that makes this process a client.
pub const CHILD: &str = "rpc-client";
/// Sessions in a message of gateway.v1.
pub const BATCH: u32 = 1000;
/// Sessions that load adds before it flushes.
const LOAD: u32 = 200_000;
/// Apart from the hot path's own.
const FIRST: u64 = 1 << 32;
const MAX_ANSWER: usize = 16 << 20;

/// `CORE SOCKET WHAT …`
pub fn main(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().context("another argument");
    cores::pin(next()?.parse()?)?;
    let endpoint = Endpoint::Unix(PathBuf::from(next()?));
    let what = next()?;
    let number = |text: Result<String>| -> Result<u32> { Ok(text?.parse()?) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = connect(&Target::from(endpoint)).await?;
        let mut v1 = GatewayClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let mut v2 = SessionTableClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let result = match what.as_str() {
            "add-v1" => add_v1(&mut v1, number(next())?).await?,
            "add-v2" => add_v2(&mut v2, number(next())?).await?,
            "list-v1" => list_v1(&mut v1, number(next())?).await?,
            "list-v2" => list_v2(&mut v2, number(next())?).await?,
            "get" => get(&mut v2, channel, number(next())?, number(next())?).await?,
            "load-v1" => load(&mut v1.clone(), async || add_v1(&mut v1.clone(), LOAD).await).await?,
            "load-v2" => load(&mut v1, async || add_v2(&mut v2.clone(), LOAD).await).await?,
            other => bail!("what is {other}?"),
        };
        println!("{result}");
        Ok(())
    })
}

/// Seconds for `count` sessions in batches.
async fn add_v1(client: &mut GatewayClient<Channel>, count: u32) -> Result<f64> {
    let start = Instant::now();
    let answer = client
        .add_sessions(tokio_stream::iter((0..count.div_ceil(BATCH)).map(move |n| batch_v1(n, count))))
        .await?;
    let elapsed = start.elapsed();
    let answer = answer.into_inner();
    ensure!(
        answer.accepted == u64::from(count),
        "{} of {count}: {:?}",
        answer.accepted,
        answer.errors.first()
    );
    Ok(elapsed.as_secs_f64())
}

/// Seconds for `count` sessions, a message each.
async fn add_v2(client: &mut SessionTableClient<Channel>, count: u32) -> Result<f64> {
    let start = Instant::now();
    let answer = client.add_session(tokio_stream::iter((0..count).map(session_v2))).await?;
    let elapsed = start.elapsed();
    let answer = answer.into_inner();
    ensure!(answer.response_error.is_empty(), "refused: {:?}", answer.response_error.first());
    Ok(elapsed.as_secs_f64())
}

async fn list_v1(client: &mut GatewayClient<Channel>, expected: u32) -> Result<f64> {
    let start = Instant::now();
    let (mut seen, mut cursor) = (0, 0);
    loop {
        let request = v1::ListSessionsRequest { cursor, limit: u32::MAX, filter: None };
        let page = client.list_sessions(request).await?.into_inner();
        seen += page.sessions.len();
        cursor = page.next_cursor;
        if cursor == 0 {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(seen == expected as usize, "{seen} of {expected} sessions listed");
    Ok(seconds)
}

async fn list_v2(client: &mut SessionTableClient<Channel>, expected: u32) -> Result<f64> {
    let start = Instant::now();
    let (mut seen, mut cursor) = (0, 0);
    loop {
        let request = v2::SessionRequestArgs { start_session: cursor, ..Default::default() };
        let page = client.get_all_sessions(request).await?.into_inner();
        seen += page.session_info.len();
        cursor = page.next_key;
        if cursor == 0 {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(seen == expected as usize, "{seen} of {expected} sessions listed");
    Ok(seconds)
}

/// The 99th percentile of GetSession in milliseconds, one call after the other, while `rate` sessions are added each second
/// for `seconds`.
async fn get(
    client: &mut SessionTableClient<Channel>,
    channel: Channel,
    rate: u32,
    seconds: u32,
) -> Result<f64> {
    let (per_tick, total) = (rate / 1000, rate * seconds);
    let (to, from) = tokio::sync::mpsc::channel(2 * per_tick.max(1) as usize);
    tokio::spawn(async move {
        // After a late tick the next ones come at once: the rate is kept.
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        for n in 0..total {
            if n % per_tick == 0 {
                ticks.tick().await;
            }
            if to.send(session_v2(n)).await.is_err() {
                return;
            }
        }
    });
    let requests = tokio_stream::wrappers::ReceiverStream::new(from);
    let adding = tokio::spawn(async move {
        let start = Instant::now();
        let answer = SessionTableClient::new(channel).add_session(requests).await?.into_inner();
        ensure!(answer.response_error.is_empty(), "refused: {:?}", answer.response_error.first());
        Ok(start.elapsed())
    });
    let mut histogram = Histogram::<u64>::new(3)?;
    let end = Instant::now() + Duration::from_secs(seconds.into());
    while Instant::now() < end || !adding.is_finished() {
        let start = Instant::now();
        client.get_session(v2::SessionId { session_id: FIRST }).await?;
        histogram.record(u64::try_from(start.elapsed().as_nanos())?)?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let elapsed = adding.await??.as_secs_f64();
    ensure!(elapsed < f64::from(seconds) * 1.1, "{total} sessions took {elapsed} s: fewer than {rate}/s");
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds")]
    Ok(histogram.value_at_quantile(0.99) as f64 / 1e6)
}

/// Adds and flushes until SIGINT; sessions per second of the time spent adding.
async fn load(flush: &mut GatewayClient<Channel>, add: impl AsyncFn() -> Result<f64>) -> Result<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let told = stop.clone();
    tokio::spawn(async move {
        signal.recv().await;
        told.store(true, Ordering::Relaxed);
    });
    println!("ready");
    std::io::stdout().flush()?;
    let (mut rounds, mut seconds) = (0.0, 0.0);
    while !stop.load(Ordering::Relaxed) || rounds == 0.0 {
        seconds += add().await?;
        rounds += 1.0;
        // Only what was added here: the hot path's sessions stay.
        let mut id = FIRST;
        while id < FIRST + u64::from(LOAD) {
            let end = (id + 10_000).min(FIRST + u64::from(LOAD));
            let request = v1::DeleteSessionsRequest { session_ids: (id..end).collect() };
            flush.delete_sessions(request).await?;
            id = end;
        }
    }
    Ok(rounds * f64::from(LOAD) / seconds)
}

/// Its own source address and port, TCP, not those of the hot path's sessions.
fn tenant(n: u32) -> (u32, u32) {
    (0x0a40_0000 + n / 32_768, 1024 + n % 32_768)
}

/// The `number`th batch of `count` sessions. Its addresses share a buffer: the client is to be faster than the server.
fn batch_v1(number: u32, count: u32) -> v1::AddSessionsRequest {
    const DESTINATION: Bytes = Bytes::from_static(&[198, 51, 100, 10]);
    const L2: [v1::MacPair; 2] = [
        v1::MacPair {
            source: Bytes::from_static(&[2, 0, 0, 0, 0, 1]),
            destination: Bytes::from_static(&[2, 0, 0, 0, 1, 1]),
        },
        v1::MacPair {
            source: Bytes::from_static(&[2, 0, 0, 0, 0, 2]),
            destination: Bytes::from_static(&[2, 0, 0, 0, 1, 2]),
        },
    ];
    let numbers = number * BATCH..((number + 1) * BATCH).min(count);
    let addresses = |n: u32| [tenant(n).0.to_be_bytes(), (0xc633_0000 + n / 32_768).to_be_bytes()];
    let addresses = Bytes::from(numbers.clone().flat_map(addresses).flatten().collect::<Vec<u8>>());
    let session = |(n, at): (u32, usize)| {
        let source_port = tenant(n).1;
        let tuple = |at| v1::Tuple {
            source: addresses.slice(at..at + 4),
            destination: DESTINATION,
            source_port,
            destination_port: 443,
        };
        let [forward, reverse] = L2;
        v1::Session {
            session_id: FIRST + u64::from(n),
            in_lif: 1,
            out_lif: 2,
            protocol: 6,
            original: Some(tuple(at)),
            translated: Some(tuple(at + 4)),
            l2: Some(v1::L2 { forward: Some(forward), reverse: Some(reverse) }),
            idle_timeout: 3600,
            ..Default::default()
        }
    };
    v1::AddSessionsRequest { sessions: numbers.zip((0..).step_by(8)).map(session).collect() }
}

fn session_v2(n: u32) -> v2::SessionRequest {
    let (source, source_port) = tenant(n);
    v2::SessionRequest {
        session_id: FIRST + u64::from(n),
        in_lif: 1,
        out_lif: 2,
        source_ip: source.swap_bytes(),
        source_port,
        destination_ip: u32::from_le_bytes([198, 51, 100, 10]),
        destination_port: 443,
        protocol_id: v2::ProtocolId::Tcp.into(),
        action: Some(v2::ActionParameters {
            action_type: v2::ActionType::Forward.into(),
            ..Default::default()
        }),
        cache_timeout: 3600,
        ..Default::default()
    }
}
