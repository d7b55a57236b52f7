//! The generic SmartNIC architecture's packet flow: the same steps, over IPv6 here, and what that document adds to them.

use crate::common::{add, drain};
use crate::device::{Device, Flow, Segment};
use crate::steps;
use proto::openoffload::v2::SessionCloseCode;

const N: u32 = 1;

#[tokio::test]
async fn smartnic_step_1_a_packet_arrives() {
    steps::a_packet_arrives(Flow::tcp(N).v6()).await;
    steps::a_packet_arrives(Flow::udp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_2_a_session_is_looked_up_and_sent_out() {
    steps::a_session_is_looked_up_and_sent_out(Flow::tcp(N).v6()).await;
    steps::a_session_is_looked_up_and_sent_out(Flow::udp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_3_the_unknown_goes_to_the_network_function() {
    steps::the_unknown_goes_to_the_network_function(Flow::tcp(N).v6()).await;
    steps::the_unknown_goes_to_the_network_function(Flow::udp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_4_the_network_function_forwards_what_is_not_offloaded() {
    steps::the_network_function_forwards_what_is_not_offloaded(Flow::tcp(N).v6()).await;
    steps::the_network_function_forwards_what_is_not_offloaded(Flow::udp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_5_the_session_is_added() {
    steps::the_session_is_added(Flow::tcp(N).v6()).await;
    steps::the_session_is_added(Flow::udp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_6_a_timer_is_set_for_both_directions() {
    steps::a_timer_is_set_for_both_directions(Flow::tcp(N).v6()).await;
    steps::a_timer_is_set_for_both_directions(Flow::udp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_7_the_timer_keeps_or_ends_the_session() {
    steps::the_timer_keeps_or_ends_the_session(Flow::tcp(N).v6()).await;
}

#[tokio::test]
async fn smartnic_step_8_the_closed_session_is_received() {
    steps::the_closed_session_is_received(Flow::tcp(N).v6()).await;
}

/// "All TCP control packets are always sent to the firewall", which is how it keeps the session's state; the device only looks.
#[tokio::test]
async fn smartnic_step_3_tcp_control_always_goes_to_the_network_function() {
    for (segments, code) in [
        (&[Segment::Fin, Segment::Fin][..], SessionCloseCode::Finack),
        (&[Segment::Rst], SessionCloseCode::Rst),
    ] {
        let flow = Flow::tcp(N);
        let mut device = Device::start().await;
        let mut client = device.gateway.v2().await;
        add(&mut client, [flow.request()]).await;
        assert!(device.traps(&flow.there(Segment::Syn)) && device.traps(&flow.back(Segment::Syn)));
        assert!(device.forwards(&flow.there(Segment::Data(b"x"))), "a SYN ends nothing");
        for (n, segment) in segments.iter().enumerate() {
            assert!(device.traps(&if n == 0 { flow.there(*segment) } else { flow.back(*segment) }));
        }
        assert!(device.traps(&flow.there(Segment::Data(b"x"))), "over");
        device.gateway.closed(1).await;
        let records = drain(&mut client).await;
        assert_eq!((records[0].session_close_code(), records[0].in_packets), (code, 1));
    }
}
