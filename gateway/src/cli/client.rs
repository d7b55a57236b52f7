//! Commands that ask a running gateway.

use super::list::{ListArgs, list};
use super::show::show;
use super::{Code, Failure};
use crate::config::{Config, read};
use crate::session::{self, ClosedSession};
use crate::stats::{Stats, table};
use clap::Subcommand;
use control::Endpoint;
use control::client::{ClientTls, Target, connect};
use proto::gateway::v1;
use proto::gateway::v1::gateway_client::GatewayClient;
use serde::Serialize;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::Channel;

/// Sessions in one message.
const BATCH: usize = 1000;
/// Time to connect, and for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// Time for an answer about all sessions, and, where they are sent, for each of them.
const LONG_ANSWER: Duration = Duration::from_secs(60);
const PER_SESSION: Duration = Duration::from_micros(100);
/// Answers with a page of sessions: below what tonic takes by default.
const MAX_ANSWER: usize = 16 << 20;

#[derive(clap::Args)]
pub(super) struct Connection {
    /// The gateway's control endpoint: IP:PORT or unix:/PATH [default: from the configuration, else the default socket]
    #[arg(long, value_name = "ENDPOINT", global = true)]
    connect: Option<Endpoint>,
    /// The gateway's configuration, to find the endpoint
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Speak TLS, and trust certificates signed by this one (PEM)
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// Client certificate for mutual TLS (PEM)
    #[arg(long, value_name = "FILE", global = true, requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", global = true, requires = "cert")]
    key: Option<PathBuf>,
    /// Name in the gateway's certificate, where it is not the address
    #[arg(long, value_name = "NAME", global = true)]
    server_name: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
pub(super) enum Sessions {
    /// Live sessions
    List(ListArgs),
    /// One session, with the rates of a second
    Show {
        /// Its id
        id: u64,
    },
    /// Install sessions
    Add {
        /// One JSON object per line; - is standard input
        file: PathBuf,
    },
    /// Remove sessions and show their final counters
    Delete {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<u64>,
    },
    /// Remove every session
    Flush,
}

pub(super) fn stats(connection: &Connection) -> Result<(), Failure> {
    connection.block_on(async |client| {
        let stats = Stats(ask(client.get_stats(v1::GetStatsRequest {})).await?);
        match connection.json {
            true => print_json(&stats),
            false => print_text(&stats.to_string()),
        }
    })
}

pub(super) fn sessions(connection: &Connection, command: &Sessions) -> Result<(), Failure> {
    match command {
        Sessions::List(args) => connection.block_on(async |client| list(client, args, connection.json).await),
        Sessions::Show { id } => connection.block_on(async |client| show(client, *id, connection.json).await),
        Sessions::Add { file } => {
            // Before connecting: a file that is wrong installs nothing.
            let lines = lines(file)?;
            connection.block_on(async |client| add(client, file, &lines, connection.json).await)
        }
        Sessions::Delete { ids } => {
            connection.block_on(async |client| delete(client, ids, connection.json).await)
        }
        Sessions::Flush => connection.block_on(async |client| {
            let removed =
                within(LONG_ANSWER, client.flush_sessions(v1::FlushSessionsRequest {})).await?.removed;
            match connection.json {
                true => print_json(&serde_json::json!({ "removed": removed })),
                false => print_text(&format!("{removed} sessions removed\n")),
            }
        }),
    }
}

pub(super) type Client = GatewayClient<Channel>;

impl Connection {
    /// Connects, and runs `work`.
    fn block_on(&self, work: impl AsyncFnOnce(&mut Client) -> Result<(), Failure>) -> Result<(), Failure> {
        let target = self.target()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        runtime.block_on(async {
            let channel = soon(ANSWER, connect(&target)).await?;
            let channel = channel.map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
            let mut client = GatewayClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            work(&mut client).await
        })
    }

    /// What was asked for, else the configuration's first unix socket, else its first address, else the default socket.
    fn target(&self) -> Result<Target, Failure> {
        let config = self.config.as_deref().map(Config::load).transpose()?;
        let control = config.as_ref().map(|config| &config.control);
        let listen = control.map_or(&[][..], |control| &control.listen);
        let unix = listen.iter().find(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
        let configured = unix.or(listen.first()).cloned().map(reachable);
        let default = || Endpoint::Unix(crate::DEFAULT_SOCKET.into());
        let endpoint = self.connect.clone().or(configured).unwrap_or_else(default);
        let tls = [("--ca", self.ca.is_some()), ("--cert", self.cert.is_some())];
        let tls = tls.into_iter().chain([("--server-name", self.server_name.is_some())]);
        if let (Endpoint::Unix(_), Some((option, _))) = (&endpoint, tls.into_iter().find(|(_, given)| *given))
        {
            let message = format!(
                "{option} is for TLS over TCP, {endpoint} has none: leave {option} out, or --connect IP:PORT"
            );
            return Err(Failure::new(Code::Usage, message));
        }
        // Of a certificate that signed itself; another one's authority has to be named.
        let own = control.and_then(|control| control.tls.as_ref()).map(|tls| tls.cert.clone());
        let tls = match self.ca.clone().or(own) {
            Some(ca) if matches!(endpoint, Endpoint::Tcp(_)) => Some(ClientTls {
                ca,
                identity: self.cert.clone().zip(self.key.clone()),
                server_name: self.server_name.clone(),
            }),
            _ => None,
        };
        Ok(Target { endpoint, tls })
    }
}

/// A listener on all addresses is also on the local one.
fn reachable(endpoint: Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp(mut address) if address.ip().is_unspecified() => {
            let local =
                if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(local);
            Endpoint::Tcp(address)
        }
        other => other,
    }
}

fn lines(file: &Path) -> Result<Vec<(usize, v1::Session)>, Failure> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text);
        read.map_err(|error| Failure::new(Code::Failed, format!("standard input: {error}")))?;
        text
    } else {
        read(file)?
    };
    session::read_lines(file, &text).map_err(|error| Failure::new(Code::Config, error.to_string()))
}

async fn add(
    client: &mut Client,
    file: &Path,
    lines: &[(usize, v1::Session)],
    json: bool,
) -> Result<(), Failure> {
    let batches = lines.chunks(BATCH).map(|batch| v1::AddSessionsRequest {
        sessions: batch.iter().map(|(_, session)| session.clone()).collect(),
    });
    let requests = tokio_stream::iter(batches.collect::<Vec<_>>());
    let limit = LONG_ANSWER + PER_SESSION * u32::try_from(lines.len()).unwrap_or(u32::MAX);
    let answer = within(limit, client.add_sessions(requests)).await?;
    for error in &answer.errors {
        let position = usize::try_from(error.index).unwrap_or(usize::MAX);
        let at = lines.get(position).map_or(0, |(line, _)| *line);
        eprintln!("{}:{at}: session {}: {}", file.display(), error.session_id, error.message);
    }
    let v1::AddSessionsResponse { accepted, failed, .. } = answer;
    match json {
        true => print_json(&serde_json::json!({ "accepted": accepted, "failed": failed }))?,
        false => print_text(&format!("{accepted} sessions added, {failed} refused\n"))?,
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(Code::Failed, format!("{failed} sessions were refused"))),
    }
}

async fn delete(client: &mut Client, ids: &[u64], json: bool) -> Result<(), Failure> {
    let request = v1::DeleteSessionsRequest { session_ids: ids.to_vec() };
    let answer = ask(client.delete_sessions(request)).await?;
    let closed = answer.closed.iter().map(ClosedSession::from_proto);
    let closed = closed.collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
    match json {
        true => {
            let mut out = io::stdout().lock();
            closed.iter().try_for_each(|session| line(&mut out, session))?;
        }
        false => {
            let rows = closed.iter().map(ClosedSession::cells).collect::<Vec<_>>();
            print_text(&table(&ClosedSession::TITLES, &rows))?;
        }
    }
    let unknown = answer.unknown.iter().map(|id| format!("there is no session {id}"));
    let refused = answer.refused.iter().map(|id| format!("session {id} belongs to another client"));
    match unknown.chain(refused).collect::<Vec<_>>() {
        failed if failed.is_empty() => Ok(()),
        failed => Err(Failure::new(Code::Failed, failed.join("\n"))),
    }
}

pub(super) fn line(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value).map_err(|error| output(error.into()))?;
    out.write_all(b"\n").map_err(output)
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    line(&mut io::stdout().lock(), value)
}

pub(super) fn print_text(text: &str) -> Result<(), Failure> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(output)
}

/// What the gateway answers, soon.
pub(super) async fn ask<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    within(ANSWER, call).await
}

/// The same for what takes the gateway longer.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    soon(limit, call).await?.map(tonic::Response::into_inner).map_err(refused)
}

/// What comes within `limit`.
pub(super) async fn soon<T>(limit: Duration, what: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(limit, what).await.map_err(|_| {
        let limit = limit.as_secs();
        Failure::new(
            Code::Failed,
            format!("no answer from the gateway within {limit} s: is it stopped or overloaded?"),
        )
    })
}

pub(super) fn refused(status: tonic::Status) -> Failure {
    Failure::new(Code::Failed, format!("the gateway answers: {} ({:?})", status.message(), status.code()))
}

pub(super) fn unreadable() -> Failure {
    Failure::new(Code::Failed, "the gateway's answer makes no sense: is it of another version?")
}

pub(super) fn output(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // Whoever reads has seen enough.
        return Failure::new(Code::Failed, "");
    }
    Failure::new(Code::Failed, format!("standard output: {error}"))
}
