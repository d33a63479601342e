//! Compiles the .proto files with protox, so that no protoc is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/link.proto",
        "proto/dump.proto",
        "proto/mrc.proto",
        "proto/osd.proto",
        "proto/peer.proto",
        "proto/index.proto",
        "proto/raft.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .skip_protoc_run()
        .compile_fds(descriptors)?;
    Ok(())
}
