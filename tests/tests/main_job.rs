//! The main job: real programs on a mounted cluster while every server dies and freezes in turn.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster, Probe, Stall, Tree, dependency_sources, make_git_repository,
    make_sparse_and_odd_files, run, shell,
};

/// How long each server stays frozen. Longer than every lease and election time-out.
const FREEZE: Duration = Duration::from_secs(10);

/// Between a fault and the next look at the probes, besides what the fault itself takes.
const WATCH: Duration = Duration::from_secs(4);

/// Names in the copied sources: real input, and not more than a minute or two of it.
const NAMES_ENOUGH: usize = 9_000;

#[test]
fn real_programs_see_no_error_while_every_server_dies_and_freezes_in_turn() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mount = cluster.mount();
    let probes = mount.join("probes");
    fs::create_dir(&probes)?;
    let probe = Probe::start(&probes)?;
    let servers = [cluster.names("mrc")?, cluster.names("osd")?].concat();
    ensure!(servers.len() == 6, "{servers:?}");

    let faults_over = Arc::new(AtomicBool::new(false));
    let scratch = cluster.scratch().to_owned();
    let (jobs_mount, over) = (mount.clone(), Arc::clone(&faults_over));
    let jobs = std::thread::spawn(move || {
        // At least one whole round; then rounds until the last fault is over, so that each fault
        // meets work under way.
        let mut rounds = 0;
        while rounds == 0 || !over.load(Ordering::Relaxed) {
            let started = Instant::now();
            all_programs(
                &jobs_mount.join(format!("round-{rounds}")),
                &scratch.join(format!("round-{rounds}")),
                rounds == 0,
            )
            .with_context(|| format!("round {rounds}"))?;
            println!(
                "round {rounds} of all programs: {:.1} s",
                started.elapsed().as_secs_f64()
            );
            rounds += 1;
        }
        Ok::<_, anyhow::Error>(rounds)
    });

    let mut stalls: BTreeMap<String, Stall> = BTreeMap::new();
    let faults = every_fault(&mut cluster, &servers, &probe, &mut stalls);
    faults_over.store(true, Ordering::Relaxed);
    let rounds = jobs
        .join()
        .map_err(|_| anyhow::anyhow!("the jobs panicked"))?;
    let probed = probe.end();
    println!("longest stall per fault, in milliseconds: append+fsync, stat, create+unlink");
    for (fault, stall) in &stalls {
        println!(
            "  {fault:<16} {:>6} {:>6} {:>6}",
            stall.append.as_millis(),
            stall.stat.as_millis(),
            stall.create.as_millis()
        );
    }
    faults?;
    println!(
        "{} rounds of all programs, {} operations of the probes",
        rounds?, probed?
    );
    cluster.down()
}

fn every_fault(
    cluster: &mut Cluster,
    servers: &[String],
    probe: &Probe,
    stalls: &mut BTreeMap<String, Stall>,
) -> Result<()> {
    cluster.wait_full()?;
    watch(WATCH);
    stalls.insert("none".to_owned(), probe.look());
    for name in servers {
        let role = cluster.server(name)?.state;
        cluster.signal(name, libc::SIGKILL)?;
        watch(WATCH);
        cluster.start_server(name)?;
        cluster
            .wait_full()
            .with_context(|| format!("after kill -9 of {name}"))?;
        stalls.insert(format!("kill {name} {role}"), probe.look());
    }
    for name in servers {
        let role = cluster.server(name)?.state;
        cluster.signal(name, libc::SIGSTOP)?;
        watch(FREEZE);
        cluster.signal(name, libc::SIGCONT)?;
        cluster
            .wait_full()
            .with_context(|| format!("after freezing {name}"))?;
        stalls.insert(format!("freeze {name} {role}"), probe.look());
    }
    Ok(())
}

/// Lets a fault last; nothing is waited *for*, so there is no condition to poll.
fn watch(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Copies, clones, compiles, queries and archives on the mount, comparing with `scratch` outside it.
fn all_programs(on_mount: &Path, scratch: &Path, whole: bool) -> Result<()> {
    fs::create_dir_all(on_mount)?;
    fs::create_dir_all(scratch)?;
    copy_and_archive(on_mount, scratch, whole).context("copy and archive")?;
    clone(on_mount, scratch).context("git")?;
    compile(on_mount).context("compile")?;
    query(on_mount).context("sqlite")?;
    fs::remove_dir_all(on_mount).context("removing everything from the mount")?;
    fs::remove_dir_all(scratch).context("removing the copies")
}

fn copy_and_archive(on_mount: &Path, scratch: &Path, whole: bool) -> Result<()> {
    let mut sources = dependency_sources()?;
    if !whole {
        // Later rounds only keep the programs running while the remaining faults happen.
        sources.truncate(10);
    }
    let original = scratch.join("original");
    fs::create_dir_all(&original)?;
    for source in &sources {
        run(
            scratch,
            "cp",
            &[
                "-a",
                &source.display().to_string(),
                &original.display().to_string(),
            ],
        )?;
        if Tree::count(&original)? >= NAMES_ENOUGH {
            break;
        }
    }
    make_sparse_and_odd_files(&original.join("odd"))?;
    let expected = Tree::read(&original)?;
    let started = Instant::now();
    run(
        scratch,
        "cp",
        &[
            "-a",
            "--sparse=always",
            &original.display().to_string(),
            &on_mount.display().to_string(),
        ],
    )?;
    println!(
        "copied {} names in {:.1} s",
        expected.len(),
        started.elapsed().as_secs_f64()
    );
    if whole {
        ensure!(
            expected.len() > 5_000,
            "only {} names: no real input",
            expected.len()
        );
    }
    expected
        .must_equal(&Tree::read(&on_mount.join("original"))?)
        .context("the copy on the mount")?;
    shell(
        on_mount,
        &format!(
            "tar -cf - --format=posix --sparse original | tar -C {} -xf - --transform s/^original/back/",
            scratch.display()
        ),
    )?;
    expected
        .must_equal(&Tree::read(&scratch.join("back"))?)
        .context("what tar brought back")?;
    fs::remove_dir_all(&original)?;
    fs::remove_dir_all(scratch.join("back"))?;
    Ok(())
}

fn clone(on_mount: &Path, scratch: &Path) -> Result<()> {
    let origin = scratch.join("origin.git");
    make_git_repository(&origin, 1_100)?;
    let origin = format!("file://{}", origin.display());
    run(on_mount, "git", &["clone", "-q", &origin, "clone"])?;
    let clone = on_mount.join("clone");
    run(&clone, "git", &["fsck", "--full", "--strict"])?;
    let status = run(&clone, "git", &["status", "--porcelain"])?;
    ensure!(status.is_empty(), "git status: {status}");
    let commits = run(&clone, "git", &["rev-list", "--count", "HEAD"])?;
    ensure!(commits.trim() == "1100", "{commits} commits");
    shell(
        &clone,
        "echo more >> dir1/added && git add -A && git commit -q -m more && git gc -q && git fsck",
    )?;
    Ok(())
}

/// A crate without dependencies of its own, and a program that uses it, built on the mount.
fn compile(on_mount: &Path) -> Result<()> {
    let library = dependency_sources()?
        .into_iter()
        .find(|source| {
            source
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("fnv-"))
        })
        .context("the crate fnv is no dependency any more; choose another without dependencies")?;
    let project = on_mount.join("project");
    fs::create_dir_all(project.join("src"))?;
    run(
        &project,
        "cp",
        &["-a", &library.display().to_string(), "fnv"],
    )?;
    fs::write(
        project.join("Cargo.toml"),
        "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nfnv = { path = \"fnv\" }\n[workspace]\n",
    )?;
    fs::write(
        project.join("src/main.rs"),
        "use std::hash::Hasher;\nfn main() { let mut h = fnv::FnvHasher::default(); h.write(b\"hello\"); println!(\"{:x}\", h.finish()); }\n",
    )?;
    shell(
        &project,
        "env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo build -q --offline 2>&1",
    )?;
    let said = run(&project, "./target/debug/hello", &[])?;
    ensure!(
        said.trim() == "a430d84680aabd0b",
        "the program built on the mount says {said}"
    );
    Ok(())
}

fn query(on_mount: &Path) -> Result<()> {
    let script = "PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, body BLOB); \
        BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) \
        INSERT INTO t SELECT i, 'name' || i, randomblob(200) FROM n; COMMIT; \
        CREATE INDEX by_name ON t(name); DELETE FROM t WHERE id % 3 = 0; VACUUM; PRAGMA integrity_check; SELECT count(*) FROM t;";
    let said = run(on_mount, "sqlite3", &["base.db", script])?;
    ensure!(
        said.lines().any(|line| line == "ok") && said.lines().any(|line| line == "3334"),
        "{said}"
    );
    for number in 0..20 {
        run(
            on_mount,
            "sqlite3",
            &[
                "base.db",
                &format!("INSERT INTO t(name) VALUES('after {number}');"),
            ],
        )?;
    }
    let said = run(
        on_mount,
        "sqlite3",
        &["base.db", "PRAGMA integrity_check; SELECT count(*) FROM t;"],
    )?;
    ensure!(said == "ok\n3354\n", "{said}");
    Ok(())
}
