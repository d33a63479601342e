//! Bad input gets one clear sentence with the value and the remedy; nothing panics, nothing is lost.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, binary};

/// Runs one of our programs, which must fail, and checks what it says.
fn must_say(program: &str, args: &[&str], expected: &[&str]) -> Result<()> {
    let output = Command::new("timeout")
        .arg("60")
        .arg(binary(program)?)
        .args(args)
        .stdin(Stdio::null())
        .env_remove("RUST_LOG")
        .env_remove("OXFS_DIR")
        .env_remove("OXFS_MRC")
        .output()?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let line = format!("{program} {}", args.join(" "));
    let code = output
        .status
        .code()
        .with_context(|| format!("`{line}` died: {}", output.status))?;
    ensure!(code == 1 || code == 2, "`{line}` ended with {code}: {said}");
    ensure!(!said.contains("panicked"), "`{line}` panicked: {said}");
    for word in expected {
        ensure!(
            said.contains(word),
            "`{line}` does not say {word:?}: {said}"
        );
    }
    Ok(())
}

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// A configuration of each server in `dir`, with the lines given added or replaced.
fn config(dir: &Path, role: &str, changes: &[(&str, &str)]) -> Result<String> {
    let secret = dir.join("secret");
    fs::write(&secret, "ab".repeat(32))?;
    let state = dir.join(format!("{role}-state"));
    let mut lines = vec![
        ("cluster", format!("\"{CLUSTER}\"")),
        ("secret_file", format!("{secret:?}")),
        ("id", "1".to_owned()),
        ("listen", "\"127.0.0.1:0\"".to_owned()),
        ("dir", format!("{state:?}")),
        match role {
            "mrc" => (
                "members",
                "[{ id = 1, address = \"127.0.0.1:1\" }]".to_owned(),
            ),
            _ => ("mrc", "[\"127.0.0.1:1\"]".to_owned()),
        },
    ];
    for (key, value) in changes {
        lines.retain(|(name, _)| name != key);
        if !value.is_empty() {
            lines.push((key, (*value).to_owned()));
        }
    }
    let text: String = lines
        .iter()
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect();
    let path = dir.join(format!("{role}.toml"));
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[test]
fn bad_configuration_is_refused_with_the_key_and_the_value() -> Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path();
    for role in ["mrc", "osd"] {
        let says = |changes: &[(&str, &str)], expected: &[&str]| {
            let path = config(dir, role, changes)?;
            must_say("oxfs", &[role, "--config", &path], expected)
        };
        says(&[("lisen", "\"127.0.0.1:0\"")], &["lisen", "toml"])?;
        says(&[("cluster", "\"123\"")], &["123", "32 hexadecimal"])?;
        says(&[("cluster", "")], &["key `cluster` is missing"])?;
        for listen in ["\"127.0.0.1\"", "\"localhost:7000\""] {
            says(&[("listen", listen)], &[listen, "IP:PORT"])?;
        }
        says(
            &[("listen", "\"0.0.0.0:0\"")],
            &["0.0.0.0", "insecure_network"],
        )?;
        says(&[("id", "\"one\"")], &["id"])?;
        says(
            &[("secret_file", "\"/nowhere/secret\"")],
            &["/nowhere/secret"],
        )?;
        let short = dir.join("short-secret");
        fs::write(&short, "abc")?;
        says(
            &[("secret_file", &format!("{short:?}"))],
            &["64 hexadecimal"],
        )?;
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?;
        says(
            &[("listen", &format!("\"{address}\""))],
            &[&address.port().to_string(), "in use"],
        )?;
        says(&[("dir", "\"/proc/none\"")], &["/proc/none"])?;
    }
    must_say(
        "oxfs",
        &["mrc", "--config", "/nowhere.toml"],
        &["/nowhere.toml"],
    )?;
    let path = config(dir, "osd", &[("lease_ttl_ms", "\"1 s\"")])?;
    for (program, args) in [
        ("oxfs", ["osd", "--config", &path].as_slice()),
        ("xfs-admin", &["config", "check", &path]),
    ] {
        must_say(program, args, &["lease_ttl_ms", "1 s", "milliseconds"])?;
    }
    let members = "[{ id = 1, address = \"127.0.0.1\" }]";
    let path = config(dir, "mrc", &[("members", members)])?;
    must_say(
        "oxfs",
        &["mrc", "--config", &path],
        &["127.0.0.1", "HOST:PORT"],
    )
}

#[test]
fn bad_mount_points_and_directories_are_refused() -> Result<()> {
    let home = tempfile::tempdir()?;
    let path = |name: &str| home.path().join(name).display().to_string();
    let (dir, full, file) = (path("cluster"), path("full"), path("file"));
    fs::create_dir(&full)?;
    fs::write(home.path().join("full/child"), "")?;
    fs::write(&file, "")?;
    let none = path("none");
    must_say(
        "oxfs",
        &["up", "--dir", &dir, "--mount", &none],
        &[&none, "mkdir"],
    )?;
    must_say(
        "oxfs",
        &["up", "--dir", &dir, "--mount", &file],
        &[&file, "not a directory"],
    )?;
    must_say(
        "oxfs",
        &["up", "--dir", &dir, "--mount", &full],
        &[&full, "not empty"],
    )?;
    must_say("oxfs", &["up", "--dir", &file, "--mount", &full], &[&file])?;
    must_say("oxfs", &["down", "--dir", &dir], &[&dir])?;
    must_say("oxfs", &["start", "--dir", &dir, "osd-1"], &[&dir])?;
    must_say("xfs-admin", &["--dir", &dir, "status"], &[&dir])?;
    must_say(
        "xfs-admin",
        &["--mrc", "127.0.0.1:1", "status"],
        &["127.0.0.1:1"],
    )?;
    must_say("xfs-admin", &["frobnicate"], &["frobnicate"])
}

#[test]
fn a_running_cluster_refuses_what_does_not_belong_to_it() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let dir = cluster.dir().display().to_string();
    let other = cluster.scratch().join("other");
    fs::create_dir(&other)?;
    let other = other.display().to_string();

    must_say(
        "oxfs",
        &["up", "--dir", &dir, "--mount", &other],
        &[&dir, "running"],
    )?;
    must_say(
        "oxfs",
        &["start", "--dir", &dir, "osd-1"],
        &["osd-1", "running"],
    )?;
    must_say("oxfs", &["start", "--dir", &dir, "osd-9"], &["osd-9"])?;
    let status = cluster.status()?;
    let address = status["servers"][0]["address"]
        .as_str()
        .context("an address")?
        .to_owned();
    must_say(
        "oxfs",
        &[
            "mount",
            &format!("{address}/nonsense"),
            &other,
            "--dir",
            &dir,
        ],
        &["nonsense", "default"],
    )?;
    let mounted = cluster.mount().display().to_string();
    must_say(
        "oxfs",
        &[
            "mount",
            &format!("{address}/default"),
            &mounted,
            "--dir",
            &dir,
        ],
        &[&mounted],
    )?;
    must_say(
        "oxfs",
        &[
            "mount",
            &format!("{address}/default"),
            &other,
            "--dir",
            &dir,
            "-o",
            "fast=yes",
        ],
        &["fast"],
    )?;
    must_say(
        "xfs-admin",
        &["--dir", &dir, "volume", "show", "nonsense"],
        &["nonsense"],
    )?;
    must_say(
        "xfs-admin",
        &["--dir", &dir, "volume", "create", "default"],
        &["default", "exists"],
    )?;
    must_say(
        "xfs-admin",
        &["--dir", &dir, "volume", "delete", "nonsense"],
        &["nonsense"],
    )?;

    a_store_of_another_cluster(&cluster)?;
    cluster.wait_full()?;
    fs::write(cluster.mount().join("still"), "works")?;
    ensure!(fs::read_to_string(cluster.mount().join("still"))? == "works");
    cluster.down()
}

/// A server's directory is taken to another cluster: refused, and unharmed.
fn a_store_of_another_cluster(cluster: &Cluster) -> Result<()> {
    for name in ["osd-3", "mrc-3"] {
        let server = cluster.server(name)?;
        cluster.signal(name, libc::SIGKILL)?;
        let role = server.role.as_str();
        let dir = format!("{:?}", server.dir);
        let members = "[{ id = 3, address = \"127.0.0.1:1\" }]";
        let mut changes = vec![("dir", dir.as_str()), ("id", "3")];
        if role == "mrc" {
            changes.push(("members", members));
        }
        let path = config(cluster.scratch(), role, &changes)?;
        must_say(
            "oxfs",
            &[role, "--config", &path],
            &[CLUSTER, &server.dir.display().to_string()],
        )?;
        cluster.start_server(name)?;
    }
    Ok(())
}
