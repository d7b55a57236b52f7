//! The proof of concept's demo steps: 5-tuple UDP and TCP flows.

use crate::device::Flow;
use crate::steps;

const N: u32 = 1;

#[tokio::test]
async fn poc_step_1_a_packet_arrives() {
    steps::a_packet_arrives(Flow::udp(N)).await;
    steps::a_packet_arrives(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_2_a_session_is_looked_up_and_sent_out() {
    steps::a_session_is_looked_up_and_sent_out(Flow::udp(N)).await;
    steps::a_session_is_looked_up_and_sent_out(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_3_the_unknown_goes_to_the_network_function() {
    steps::the_unknown_goes_to_the_network_function(Flow::udp(N)).await;
    steps::the_unknown_goes_to_the_network_function(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_4_the_network_function_forwards_what_is_not_offloaded() {
    steps::the_network_function_forwards_what_is_not_offloaded(Flow::udp(N)).await;
    steps::the_network_function_forwards_what_is_not_offloaded(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_5_the_session_is_added() {
    steps::the_session_is_added(Flow::udp(N)).await;
    steps::the_session_is_added(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_6_a_timer_is_set_for_both_directions() {
    steps::a_timer_is_set_for_both_directions(Flow::udp(N)).await;
    steps::a_timer_is_set_for_both_directions(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_7_the_timer_keeps_or_ends_the_session() {
    steps::the_timer_keeps_or_ends_the_session(Flow::udp(N)).await;
    steps::the_timer_keeps_or_ends_the_session(Flow::tcp(N)).await;
}

#[tokio::test]
async fn poc_step_8_the_closed_session_is_received() {
    steps::the_closed_session_is_received(Flow::udp(N)).await;
    steps::the_closed_session_is_received(Flow::tcp(N)).await;
}
