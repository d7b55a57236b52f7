//! The gateway's gRPC interfaces, generated from the files in `proto/`.
#![forbid(unsafe_code)]

/// The descriptors of all three packages, as a serialized `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What addresses and MACs are in [`gateway::v1`]: slices of the message they came in.
pub use prost::bytes::Bytes;

/// `openoffload`: what any OpenOffload client speaks.
pub mod openoffload {
    /// Version 2: the session table.
    #[expect(missing_docs, reason = "documented in openoffload_v2.proto")]
    #[allow(clippy::all, reason = "generated")]
    pub mod v2 {
        tonic::include_proto!("openoffload.v2");
    }

    /// Version 1alpha5: activation of a device.
    #[expect(missing_docs, reason = "documented in openoffload_v1alpha5.proto")]
    #[allow(clippy::all, reason = "generated")]
    pub mod v1alpha5 {
        tonic::include_proto!("openoffload.v1alpha5");
    }
}

/// `gateway.v1`: what openoffload.v2 cannot say. The command line and the agent speak it.
pub mod gateway {
    /// Version 1.
    #[expect(missing_docs, reason = "documented in gateway_v1.proto")]
    #[allow(clippy::all, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("gateway.v1");

        /// The server's side. Where a message has many sessions, each is left as it is on the wire, so that a server reads
        /// and writes them without a message in memory for each.
        pub mod wire {
            include!(concat!(env!("OUT_DIR"), "/server/gateway.v1.rs"));
        }
    }
}
