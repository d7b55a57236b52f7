//! The fast path is a cache: losing it costs speed, never a connection.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use netns_lab::config::{AgentConfig, GatewayConfig};
use netns_lab::gateway::find_program;
use netns_lab::plan::{A, BLUE1, RED1};

use crate::bench::{Bench, LIMIT, wait};
use crate::tcp::Transfer;
use crate::udp;

/// Packets of the transfer that went through this gateway's hot path.
fn hot(bench: &Bench, to: SocketAddr) -> u64 {
    bench.sessions(|s| s.destination == to).iter().map(|s| s.packets()).sum()
}

#[test]
fn a_transfer_survives_the_gateways_death_and_is_offloaded_again() {
    let mut bench = Bench::with_agents(&[A]);
    let to = SocketAddr::new(BLUE1.ipv4().into(), 7000);
    let transfer = Transfer::start(bench.ns(&RED1), bench.ns(&BLUE1), to);
    wait("the transfer is offloaded", || hot(&bench, to) > 1000);

    bench.kill_gateway();
    bench.start_gateway();
    wait("the transfer is offloaded again", || hot(&bench, to) > 1000);

    let bytes = transfer.finish();
    assert!(bytes > 1_000_000, "{bytes}");
    wait("the session ends with the connection", || bench.control().sessions().unwrap().is_empty());
}

/// With the same configuration, by mistake: it goes, and what runs goes on.
#[test]
fn a_second_gateway_harms_nobody() {
    let bench = Bench::with_agents(&[A]);
    let to = SocketAddr::new(BLUE1.ipv4().into(), 7000);
    let transfer = Transfer::start(bench.ns(&RED1), bench.ns(&BLUE1), to);
    wait("the transfer is offloaded", || hot(&bench, to) > 1000);

    let config = GatewayConfig::default().write(&bench.lab).unwrap();
    let program = find_program().unwrap();
    let second = [program.to_str().unwrap(), "run", "--config", config.to_str().unwrap()];
    let refused = bench.lab.ns("gw").unwrap().run(&second, LIMIT).unwrap_err().to_string();
    assert!(refused.contains("interface up-gw is used by another gateway, process "), "{refused}");

    let before = hot(&bench, to);
    wait("the transfer stays offloaded", || hot(&bench, to) > before + 1000);
    transfer.finish();
}

/// Without any gateway for seconds, as in an upgrade gone wrong.
#[test]
fn a_transfer_survives_an_outage() {
    let mut bench = Bench::with_agents(&[A]);
    let to = SocketAddr::new(BLUE1.ipv6().into(), 7000);
    let transfer = Transfer::start(bench.ns(&RED1), bench.ns(&BLUE1), to);
    wait("the transfer is offloaded", || hot(&bench, to) > 1000);

    bench.kill_gateway();
    thread::sleep(Duration::from_secs(3));
    bench.start_gateway();
    wait("the transfer is offloaded again", || hot(&bench, to) > 1000);
    transfer.finish();
}

#[test]
fn flows_survive_the_agents_death_and_are_taken_over() {
    let mut bench = Bench::with_agents(&[A]);
    let server = SocketAddr::new(BLUE1.ipv4().into(), 7000);
    let echo = udp::Echo::start(bench.ns(&BLUE1), server);
    let client = udp::connect(bench.ns(&RED1), IpAddr::from(RED1.ipv4()), server);
    udp::offload(&bench, &client);

    bench.kill_agents();
    for _ in 0..5 {
        assert!(udp::comes_back(&client, 100), "without an agent");
    }
    bench.start_agents(&[A], &AgentConfig::default());
    let session = udp::offload(&bench, &client);
    assert_eq!(echo.peers().len(), 1, "the mapping changed: {:?}", echo.peers());
    // And it ends what it took over, once the kernel's entry is gone.
    bench.lab.ns(A.name).unwrap().run(&["conntrack", "-F"], LIMIT).unwrap();
    wait("the session goes with the kernel's entry", || {
        bench.control().sessions().unwrap().iter().all(|s| s.id != session.id || s.source != session.source)
    });
}
