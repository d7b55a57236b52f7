//! Compiles the proto files in Rust (protox), so that no system protoc is needed.
use std::{env, fs, path::Path};
use tonic_prost_build::FileDescriptorSet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["gateway_v1.proto", "openoffload_v2.proto", "openoffload_v1alpha5.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors: FileDescriptorSet = protox::compile(files, ["proto"])?;
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    fs::write(Path::new(&out).join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Addresses and MACs are slices of the message they came in: no allocation each.
    tonic_prost_build::configure().bytes(".gateway.v1").compile_fds(descriptors)?;
    Ok(())
}
