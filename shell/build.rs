//! Generates client and server of the Link service; its messages are those of the crate `proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "link.proto";
    let folder = "../proto/proto";
    println!("cargo:rerun-if-changed={folder}/{file}");
    let descriptors = protox::compile([file], [folder])?;
    tonic_prost_build::configure()
        .extern_path(".oxfs.link", "::proto::link")
        .codec_path("crate::link::codec::FrameCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
