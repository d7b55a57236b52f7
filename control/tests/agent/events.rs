//! Events that the kernel could not deliver.

use super::Setup;
use super::netns::{Lab, TRACK_ONLY, may_run};
use super::recorder::wait;
use control::agent::flood::{Connection, Flood};

/// Connections between networks behind client and server.
pub fn connection(number: u32) -> Connection {
    let host = |network: u32, number: u32| std::net::Ipv4Addr::from(network | (number & 0xfffff));
    let port = 1024 + (number % 60_000) as u16;
    let (client, server) = (host(0x0a60_0000, number % 4099), host(0x0a70_0000, number % 67));
    let nat = std::net::Ipv4Addr::from(0x0a82_0100 + number / 60_000);
    Connection { client: (client, port), server: (server, 80), seen: (nat, port) }
}

/// Routes to the networks of [`connection`], by neighbours that are known.
pub const BEHIND: &str = "ip route add 10.96.0.0/12 via 10.81.0.5; ip route add 10.112.0.0/12 via 10.82.0.9
     ip neigh replace 10.81.0.5 lladdr 02:00:00:81:00:05 dev in0 nud permanent
     ip neigh replace 10.82.0.9 lladdr 02:00:00:82:00:09 dev out0 nud permanent";

/// Changes the table in the network function's namespace.
pub fn flood<T: Send + 'static>(lab: &Lab, work: impl FnOnce(&mut Flood) -> T + Send + 'static) -> T {
    lab.vnf.thread(move || work(&mut Flood::open().unwrap())).join().unwrap()
}

#[test]
fn lost_events_are_made_up_for_by_comparing_the_whole_table() {
    if !may_run("lost events") {
        return;
    }
    const COUNT: u32 = 5000;
    let setup = Setup::new(TRACK_ONLY);
    setup.lab.vnf.sh(BEHIND);
    let all: Vec<_> = (0..COUNT).map(connection).collect();
    let (first, made) = (vec![all[0]], all[1..].to_vec());
    flood(&setup.lab, move |flood| flood.insert(&first).unwrap());
    // No comparison but the first, which finds this one, and those for lost events; and hardly room for events.
    let agent = setup.agent_with("refresh_seconds = 60\nresync_seconds = 3600\nevent_buffer_kib = 4", "");
    setup.server.wait_for(1);
    flood(&setup.lab, move |flood| made.chunks(200).for_each(|some| flood.insert(some).unwrap()));
    wait("all sessions", || setup.server.sessions().len() == COUNT as usize);
    let gone = all[..2000].to_vec();
    flood(&setup.lab, move |flood| gone.chunks(200).for_each(|some| flood.delete(some).unwrap()));
    wait("the sessions of those that are left", || setup.server.sessions().len() == COUNT as usize - 2000);
    let counters = agent.stop();
    assert!(counters.overruns >= 2, "{counters}");
    assert!(counters.resyncs >= 3, "{counters}");
}
