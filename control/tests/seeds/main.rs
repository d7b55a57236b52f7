//! OpenOffload step by step, as its public documents number the steps: a network function that speaks openoffload.v2, the real
//! server, and the real pipeline with two workers, over packets in memory.

#[path = "../common/mod.rs"]
mod common;
mod device;
mod guide;
mod load;
mod poc;
mod simulator;
mod smartnic;
mod steps;
