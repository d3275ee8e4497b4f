//! Compiles the contract with protox: no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 4] = [
        "prexorcloud/backup/v1/types.proto",
        "prexorcloud/backup/v1/backup.proto",
        "prexorcloud/agent/v1/agent.proto",
        "prexorcloud/enroll/v1/enroll.proto",
    ];
    println!("cargo:rerun-if-changed=prexorcloud");
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .bytes(".prexorcloud.agent.v1.Chunk")
        .skip_debug([".prexorcloud.backup.v1.CreateTokenResponse", ".prexorcloud.enroll.v1.EnrolRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
