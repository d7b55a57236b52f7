//! The gateway's gRPC interfaces, generated from the files in `proto/`.
#![forbid(unsafe_code)]

/// `gateway.v1`: what openoffload.v2 cannot say. The command line and the agent speak it.
pub mod gateway {
    /// Version 1.
    #[expect(missing_docs, reason = "documented in gateway_v1.proto")]
    #[allow(clippy::all, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("gateway.v1");
    }
}
