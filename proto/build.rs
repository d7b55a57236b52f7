//! Compiles the proto files in Rust (protox), so that no system protoc is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["gateway_v1.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
