//! Compiles the proto files in Rust (protox), so that no system protoc is needed.
use std::{env, fs, path::Path};
use tonic_prost_build::FileDescriptorSet;

/// Messages of gateway.v1 with many sessions: the server takes and gives their sessions as bytes.
const BATCHES: [&str; 2] = ["AddSessionsRequest", "ListSessionsResponse"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["gateway_v1.proto", "openoffload_v2.proto", "openoffload_v1alpha5.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors: FileDescriptorSet = protox::compile(files, ["proto"])?;
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    let out = Path::new(&out);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    compile_server(&descriptors, &out.join("server"))?;
    // Addresses and MACs are slices of the message they came in: no allocation each.
    let builder = || tonic_prost_build::configure().bytes(".gateway.v1");
    builder().build_server(false).compile_fds(without(&descriptors, "openoffload"))?;
    builder().compile_fds(without(&descriptors, "gateway"))?;
    Ok(())
}

fn without(descriptors: &FileDescriptorSet, package: &str) -> FileDescriptorSet {
    let files = descriptors.file.iter().filter(|file| !file.package().starts_with(package));
    FileDescriptorSet { file: files.cloned().collect() }
}

/// The server of gateway.v1. A message's field `repeated M` and one of `repeated bytes` are the same on the wire.
fn compile_server(descriptors: &FileDescriptorSet, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let gateway = descriptors.file.iter().find(|file| file.package() == "gateway.v1");
    let mut file = gateway.cloned().ok_or("gateway.v1 is missing")?;
    let mut builder = tonic_prost_build::configure().build_client(false).bytes(".").out_dir(out);
    for message in file.message_type.iter().filter(|message| !BATCHES.contains(&message.name())) {
        let name = message.name();
        builder = builder.extern_path(format!(".gateway.v1.{name}"), format!("crate::gateway::v1::{name}"));
    }
    // It speaks of messages by their position.
    file.source_code_info = None;
    file.enum_type.clear();
    file.message_type.retain(|message| BATCHES.contains(&message.name()));
    let sessions = file.message_type.iter_mut().flat_map(|message| &mut message.field);
    for field in sessions.filter(|field| field.name() == "sessions") {
        field.set_type(prost_types::field_descriptor_proto::Type::Bytes);
        field.type_name = None;
    }
    fs::create_dir_all(out)?;
    builder.compile_fds(FileDescriptorSet { file: vec![file] })?;
    Ok(())
}
