//! `gateway run`, configured for a profile, with the profile's sessions installed over `gateway.v1`.

use super::process::{Process, Scratch, sibling};
use super::{WORKER_CORE, memif_server};
use crate::pktgen::profile::Side;
use crate::pktgen::{Profile, Session, sessions};
use anyhow::{Context, Result, ensure};
use control::client::{Target, connect};
use proto::gateway::v1;
use proto::gateway::v1::gateway_client::GatewayClient;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use tonic::transport::Channel;

/// Sessions in one message.
const BATCH: usize = 1000;
/// Idle timeout of installed sessions, seconds.
const TIMEOUT: u32 = 3600;

/// A running gateway.
pub struct Gateway {
    /// To be paused and resumed.
    pub process: Rc<Process>,
    /// The uplink's memif.
    pub socket: String,
    control: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// What a profile needs of a gateway: one uplink with both sides' LIFs, and a trap port.
pub fn configuration(profile: &Profile, uplink: &str, trap: &str) -> String {
    let mut text = String::new();
    let mac = profile.underlay.as_ref().map(|underlay| format!("mac = \"{}\"\n", underlay.gateway_mac));
    let _ = write!(
        text,
        "[[port]]\nname = \"uplink\"\ndevice = \"{uplink}\"\n{}[[port]]\nname = \"kernel\"\ndevice = \"{trap}\"\n",
        mac.unwrap_or_default()
    );
    if let Some(underlay) = &profile.underlay {
        let _ = write!(
            text,
            "[underlay]\nport = \"uplink\"\nvlan = {}\nlocal_ip = \"{}\"\nudp_port = {}\n\
             neighbors = [{{ ip = \"{}\", mac = \"{}\" }}]\n",
            underlay.vlan, underlay.gateway_ip, underlay.udp_port, underlay.ip, underlay.mac
        );
    }
    for (name, side) in [("inside", &profile.inside), ("outside", &profile.outside)] {
        let _ = write!(text, "[[lif]]\nid = {}\nname = \"{name}\"\nport = \"uplink\"\n", side.lif);
        text.push_str(&encapsulation(profile, side));
    }
    text.push_str(
        "[trap]\nport = \"kernel\"\nlocal_ip = \"169.254.10.1\"\nkernel_ip = \"169.254.10.2\"\n\
         kernel_mac = \"02:00:00:00:10:02\"\n",
    );
    let _ = write!(text, "[sessions]\ncapacity = {}\n", profile.sessions.max(1024));
    text
}

fn encapsulation(profile: &Profile, side: &Side) -> String {
    let trap = format!("trap_vni = {}\n", 10_000 + side.lif);
    match (side.vlan, side.vni, &profile.underlay) {
        (Some(vlan), _, _) => format!("vlan = {vlan}\n{trap}"),
        (None, Some(vni), Some(underlay)) => format!("vni = {vni}\nvteps = [\"{}\"]\n", underlay.ip),
        _ => format!("untagged = true\n{trap}"),
    }
}

impl Gateway {
    /// Starts one with its worker on core 1, on a memif of one queue; there is nobody behind its trap port.
    pub fn start(profile: &Profile, hugepages: bool, scratch: &Scratch, name: &str) -> Result<Self> {
        let socket = format!("benches-{name}-{}", std::process::id());
        let control = scratch.path(&format!("{name}.sock"));
        let config = scratch.path(&format!("{name}.toml"));
        let text = format!(
            "{}[eal]\nworkers = [{WORKER_CORE}]\nmain_lcore = 0\nhugepages = {hugepages}\nmemory_mib = 64\n\
             [control]\nlisten = [\"unix:{}\"]\n",
            configuration(profile, &memif_server(0, &socket), "net_null0,no-rx=1"),
            control.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(sibling("gateway", "GATEWAY_BIN")?);
        command.args(["run", "--config"]).arg(&config).env_remove("RUST_LOG");
        let mut process = Process::start(command, scratch, name)?;
        process.wait_until(Duration::from_secs(60), |log| log.contains(" ready "))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { process: Rc::new(process), socket, control, runtime })
    }

    async fn client(control: PathBuf) -> Result<GatewayClient<Channel>> {
        let target = Target::from(control::Endpoint::Unix(control));
        Ok(GatewayClient::new(connect(&target).await?))
    }

    /// Installs the sessions.
    pub fn install(&self, profile: &Profile, list: &[Session]) -> Result<()> {
        let to_proto = |(n, session): (usize, &Session)| sessions::to_proto(profile, n, session, TIMEOUT);
        let batch = |(at, batch): (usize, &[Session])| v1::AddSessionsRequest {
            sessions: batch
                .iter()
                .enumerate()
                .map(|(n, session)| to_proto((at * BATCH + n, session)))
                .collect(),
        };
        let batches: Vec<_> = list.chunks(BATCH).enumerate().map(batch).collect();
        self.runtime.block_on(async {
            let mut client = Self::client(self.control.clone()).await?;
            let answer = client.add_sessions(tokio_stream::iter(batches)).await?.into_inner();
            let first = answer.errors.first().map(|error| error.message.as_str()).unwrap_or_default();
            ensure!(answer.failed == 0, "{} sessions were refused: {first}", answer.failed);
            Ok(())
        })
    }

    /// Nanoseconds in which its worker had packets, and how many arrived on the uplink.
    pub fn work(&self) -> Result<(u64, u64)> {
        let stats = self.stats()?;
        let busy = stats.other.iter().find(|counter| counter.name == "worker_busy_ns");
        let busy = busy.context("the gateway does not count worker_busy_ns")?.value;
        Ok((busy, stats.ports.first().context("no uplink")?.rx_packets))
    }

    /// Its counters.
    pub fn stats(&self) -> Result<v1::Stats> {
        self.runtime.block_on(async {
            let mut client = Self::client(self.control.clone()).await?;
            Ok(client.get_stats(v1::GetStatsRequest {}).await.context("statistics")?.into_inner())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::config::Config;
    use std::path::Path;

    /// What the documentation has readers run is what the benches run.
    #[test]
    fn the_example_is_for_the_profile() {
        let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share/bench");
        let profile = Profile::load(&share.join("vlan-to-vxlan.toml")).unwrap();
        let example = Config::load(&share.join("gateway.toml")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = configuration(&profile, &example.ports[0].device, &example.ports[1].device);
        std::fs::write(&file, text + "[control]\nlisten = [\"unix:/nowhere.sock\"]\n").unwrap();
        let needed = Config::load(file.path()).unwrap();
        let parts = |config: &Config| format!("{:#?} {:#?}", config.pipeline, config.sessions);
        assert_eq!(parts(&example), parts(&needed));
    }
}
