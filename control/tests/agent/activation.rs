//! The network function's side of activation: a real gateway registers with the agent.

use super::common;
use super::netns::{Lab, MASQUERADE, Talker, exchange, may_run};
use super::recorder::wait;
use super::{Agent, EAGER, SETTLE, config};
use control::activation::{ActivationConfig, Device, Pacing};
use control::client::{Target, connect};
use control::{Endpoint, Limits};
use proto::openoffload::v1alpha5::DeviceDescription;
use proto::openoffload::v1alpha5::activation_client::ActivationClient;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::Channel;

/// A gateway that registers with the VNF at `vnf` as `name`, with the agent's LIFs.
async fn gateway(name: &str, vnf: &Path) -> common::Gateway {
    let device = Device {
        name: name.to_owned(),
        description: "test".to_owned(),
        capacity: 1000,
        rate: 1000,
        tcp_timeout: 7440,
        udp_timeout: 300,
    };
    let pacing = Pacing {
        poll: Duration::from_millis(20),
        call: Duration::from_secs(5),
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        hold: Duration::from_secs(60),
    };
    let vnfs = vec![Target::from(Endpoint::Unix(vnf.to_owned()))];
    let activation = Some(ActivationConfig { vnfs, device, pacing });
    let limits = Limits { shutdown: Duration::from_secs(10), ..Limits::default() };
    common::Setup { activation, limits, lifs: [11, 12], ..Default::default() }.start().await
}

fn active(gateway: &common::Gateway) -> u64 {
    gateway.handles.table.stats().active
}

fn socket(gateway: &common::Gateway) -> String {
    gateway.server.endpoints()[0].to_string()
}

async fn administrator(vnf: &Path) -> ActivationClient<Channel> {
    let target = Target::from(Endpoint::Unix(vnf.to_owned()));
    ActivationClient::new(connect(&target).await.unwrap())
}

fn named(name: &str) -> DeviceDescription {
    DeviceDescription { name: name.to_owned(), ..Default::default() }
}

struct Stand {
    lab: Lab,
    directory: tempfile::TempDir,
    runtime: Runtime,
}

impl Stand {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { lab: Lab::new(MASQUERADE), directory: tempfile::tempdir().unwrap(), runtime }
    }

    fn vnf(&self) -> std::path::PathBuf {
        self.directory.path().join("vnf.sock")
    }

    /// An agent that takes `devices`, and else would look for a gateway at `elsewhere`.
    fn agent(&self, elsewhere: &str, devices: &str) -> Agent {
        let activation = format!("[activation]\nlisten = [\"unix:{}\"]\n{devices}", self.vnf().display());
        Agent::start(&self.lab, config(elsewhere, EAGER, &activation))
    }

    fn names(&self) -> Vec<String> {
        self.runtime.block_on(async {
            // Between bind and listen nobody answers yet.
            let target = Target::from(Endpoint::Unix(self.vnf()));
            let Ok(channel) = connect(&target).await else { return vec!["nobody answers".to_owned()] };
            let list = ActivationClient::new(channel).get_registered_offload_devices(()).await.unwrap();
            list.into_inner().devices.into_iter().map(|device| device.name).collect()
        })
    }

    fn visit(&self) -> Talker {
        let mut client = self.lab.connect(&self.lab.client, "udp", "10.82.0.9", 7000, 0);
        exchange(&mut client, 1);
        client
    }
}

#[test]
fn a_gateway_registers_gets_sessions_while_activated_and_deregisters() {
    if !may_run("activation") {
        return;
    }
    let stand = Stand::new();
    let gateway = stand.runtime.block_on(gateway("red-gateway", &stand.vnf()));
    let agent = stand.agent(&socket(&gateway), "");
    wait("the registration", || stand.vnf().exists() && stand.names() == ["red-gateway"]);
    let _listener = stand.lab.listen(&stand.lab.server, "udp", "10.82.0.9", 7000);
    let _first = stand.visit();
    wait("a session", || active(&gateway) == 1);

    stand.runtime.block_on(async {
        let mut administrator = administrator(&stand.vnf()).await;
        let activated = administrator.get_activated_offload(()).await.unwrap().into_inner();
        assert_eq!((activated.name.as_str(), activated.session_capacity), ("red-gateway", 1000));
        let unknown = administrator.activate_offload(named("blue-gateway")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        administrator.deactivate_offload(named("red-gateway")).await.unwrap();
        assert_eq!(administrator.get_activated_offload(()).await.unwrap_err().code(), Code::NotFound);
    });
    let _second = stand.visit();
    std::thread::sleep(SETTLE * 4);
    let stats = gateway.handles.table.stats();
    assert_eq!((stats.active, stats.rejected), (1, 0), "nothing is even asked of a deactivated device");
    stand.lab.vnf.sh("conntrack -F 2>/dev/null");
    wait("what was installed to be looked after", || active(&gateway) == 0);

    stand.runtime.block_on(async {
        administrator(&stand.vnf()).await.activate_offload(named("red-gateway")).await.unwrap();
    });
    let _third = stand.visit();
    wait("sessions again", || active(&gateway) == 1);

    let handles = gateway.handles.clone();
    stand.runtime.block_on(gateway.server.shutdown());
    assert!(stand.names().is_empty(), "{:?}", stand.names());
    drop(handles);
    agent.stop();
    assert!(!stand.vnf().exists(), "the agent's socket is removed");
}

#[test]
fn the_agent_goes_to_the_device_that_is_activated() {
    if !may_run("activated device") {
        return;
    }
    let stand = Stand::new();
    let (red, blue) = stand
        .runtime
        .block_on(async { (gateway("red", &stand.vnf()).await, gateway("blue", &stand.vnf()).await) });
    let devices = |gateways: [(&str, &common::Gateway); 2]| {
        gateways.map(|(name, gateway)| {
            format!("[[activation.device]]\nname = \"{name}\"\nconnect = \"{}\"\n", socket(gateway))
        })
    };
    let devices = devices([("red", &red), ("blue", &blue)]).concat();
    let agent = stand.agent("unix:/nowhere/gateway.sock", &devices);
    wait("the registrations", || stand.vnf().exists() && stand.names().len() == 2);
    let _listener = stand.lab.listen(&stand.lab.server, "udp", "10.82.0.9", 7000);
    let _client = stand.visit();
    let activate = |name: &str| {
        stand.runtime.block_on(async {
            administrator(&stand.vnf()).await.activate_offload(named(name)).await.unwrap();
        });
    };
    activate("red");
    wait("the session in one", || (active(&red), active(&blue)) == (1, 0));
    activate("blue");
    wait("the session in the other, and only there", || (active(&red), active(&blue)) == (0, 1));
    stand.runtime.block_on(async {
        let stranger = administrator(&stand.vnf()).await.register_offload_device(named("stranger")).await;
        assert_eq!(stranger.unwrap_err().code(), Code::PermissionDenied);
    });
    agent.stop();
}
