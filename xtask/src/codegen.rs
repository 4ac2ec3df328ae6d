//! Turns `api/proto` into `api/src/generated`. The result is committed, so that building Kvorum needs neither `protoc`
//! nor a build script; `check` keeps it honest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

type Files = BTreeMap<String, String>;

/// Regenerates the committed files.
pub fn write() -> Result<(), String> {
    let target = generated_folder();
    fs::create_dir_all(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    for (name, text) in generate()? {
        let path = target.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Fails when a committed file differs from what `write` would produce.
pub fn check() -> Result<(), String> {
    for (name, text) in generate()? {
        let path = generated_folder().join(name);
        let committed = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if committed != text {
            return Err(format!("{} is stale: run `cargo xtask codegen`", path.display()));
        }
    }
    Ok(())
}

/// Messages that hold passwords, their hashes or tokens. `api/src/secrets.rs` shows them without.
const SECRETS: [&str; 6] = [
    ".authpb.User",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthenticateResponse",
    ".etcdserverpb.InternalAuthenticateRequest",
];

fn generate() -> Result<Files, String> {
    let source = workspace_root().join("api/proto");
    let mut protos: Vec<PathBuf> = fs::read_dir(&source)
        .map_err(|error| format!("{}: {error}", source.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    protos.sort();
    let descriptors = protox::compile(&protos, [&source]).map_err(|error| format!("{error:?}"))?;
    let scratch = workspace_root().join("target/codegen");
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    tonic_prost_build::configure()
        .out_dir(&scratch)
        .bytes(".")
        .skip_debug(SECRETS)
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .disable_comments(["."])
        .compile_fds(descriptors)
        .map_err(|error| error.to_string())?;
    let mut files = Files::new();
    for entry in fs::read_dir(&scratch).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        files.insert(name, readable_names(&text));
    }
    Ok(files)
}

/// etcd's `peerURLs` becomes `peer_ur_ls` under mechanical snake case; the name on the wire is unaffected by this.
fn readable_names(text: &str) -> String {
    text.replace("peer_ur_ls", "peer_urls").replace("client_ur_ls", "client_urls")
}

fn generated_folder() -> PathBuf {
    workspace_root().join("api/src/generated")
}

pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace").to_path_buf()
}
