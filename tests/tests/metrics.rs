//! Every process of a cluster serves its numbers to Prometheus, the numbers are those that docs/metrics.md lists, and
//! they move; `xfs-admin top` and `status` show what is behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Cluster;

const DOCUMENT: &str = include_str!("../../docs/metrics.md");

const FILES: usize = 20;
const FILE_BYTES: usize = 100 << 10;

/// Names of families with their kind, as documented or served, by role.
type Families = BTreeMap<(String, String), String>;

/// What one process served.
#[derive(Debug)]
struct Scrape {
    process: String,
    kinds: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(process: &str, address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).with_context(|| process.to_owned())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let host = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(host.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{process}: {answer}");
        ensure!(answer.ends_with("# EOF\n"), "{process}: {answer}");
        let mut kinds = BTreeMap::new();
        let mut values = BTreeMap::new();
        for line in answer.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').context("a type")?;
                let twice = kinds.insert(name.to_owned(), kind.to_owned());
                ensure!(twice.is_none(), "{process}: {name} stands in two places");
            } else if !line.starts_with('#')
                && let Some((name, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
            {
                values.insert(name.to_owned(), value);
            }
        }
        Ok(Self {
            process: process.to_owned(),
            kinds,
            values,
        })
    }

    fn value(&self, name: &str) -> Result<f64> {
        let found = self.values.get(name).copied();
        found.with_context(|| format!("{} has no {name}", self.process))
    }

    fn role(&self) -> &str {
        self.process.split('-').next().unwrap_or_default()
    }
}

fn json(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let text = cluster.admin(&[&["--output", "json"], args].concat())?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// Scrapes everybody whom `xfs-admin metrics` names.
fn scrape_all(cluster: &Cluster) -> Result<Vec<Scrape>> {
    let targets = json(cluster, &["metrics"])?;
    let targets = targets.as_array().context("no list")?;
    let scrapes = targets.iter().map(|target| {
        let address = target["targets"][0].as_str().context("no address")?;
        let process = target["labels"]["process"].as_str().context("no process")?;
        Scrape::of(process, address)
    });
    scrapes.collect()
}

/// The table of the document: name, kind, processes, meaning.
fn documented() -> Result<Families> {
    let mut found = Families::new();
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `oxfs_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, roles, meaning] = cells[..] else {
            anyhow::bail!("not four cells: {line}");
        };
        ensure!(!meaning.is_empty(), "{line}");
        for role in roles.split(", ") {
            let name = name.trim_matches('`').to_owned();
            let before = found.insert((role.to_owned(), name), kind.to_owned());
            ensure!(before.is_none(), "twice: {line}");
        }
    }
    Ok(found)
}

fn sum(scrapes: &[Scrape], role: &str, name: &str) -> Result<f64> {
    let of_role = scrapes.iter().filter(|scrape| scrape.role() == role);
    of_role.map(|scrape| scrape.value(name)).sum()
}

fn work(cluster: &Cluster, round: usize) -> Result<()> {
    for file in 0..FILES {
        let path = cluster.mount().join(format!("file-{round}-{file}"));
        let bytes = vec![7; FILE_BYTES];
        let mut written = fs::File::create(&path)?;
        written.write_all(&bytes)?;
        written.sync_all()?;
        ensure!(fs::read(&path)? == bytes, "another content");
    }
    ensure!(fs::metadata(cluster.mount().join("missing")).is_err());
    Ok(())
}

fn says(cluster: &Cluster, words: &str) -> Result<bool> {
    let status = cluster.status()?;
    let wrong = status["wrong"].as_array().context("no sentences")?;
    let mut sentences = wrong.iter().filter_map(Value::as_str);
    Ok(sentences.any(|sentence| sentence.contains(words)))
}

#[test]
fn every_process_serves_the_documented_numbers_and_they_move() -> Result<()> {
    let mut cluster = Cluster::start()?;
    work(&cluster, 0)?;
    cluster.wait_full()?;
    // The mount tells where with its first sign of life.
    cluster.wait_for("all seven to serve", |cluster| {
        Ok(scrape_all(cluster)?.len() == 7)
    })?;
    // Those that only a leader has are there when it has planned once.
    cluster.wait_for("the leader to look", |cluster| {
        let scrapes = scrape_all(cluster)?;
        Ok(scrapes
            .iter()
            .any(|it| it.kinds.contains_key("oxfs_mrc_pgs_healthy")))
    })?;

    let before = scrape_all(&cluster)?;
    let mut served = Families::new();
    for scrape in &before {
        for (name, kind) in &scrape.kinds {
            let key = (scrape.role().to_owned(), name.clone());
            served.insert(key, kind.clone());
        }
    }
    let mut listed = documented()?;
    // Only of stores on ZFS; a unit test has it.
    listed.remove(&("osd on ZFS".to_owned(), "oxfs_osd_pool_healthy".to_owned()));
    let (served_set, listed_set): (BTreeSet<_>, BTreeSet<_>) =
        (served.iter().collect(), listed.iter().collect());
    let missing: Vec<_> = served_set.difference(&listed_set).collect();
    let untrue: Vec<_> = listed_set.difference(&served_set).collect();
    ensure!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    ensure!(untrue.is_empty(), "only in docs/metrics.md: {untrue:?}");

    work(&cluster, 1)?;
    let after = scrape_all(&cluster)?;
    let grows = [
        ("mrc", r#"oxfs_served_seconds_count{service="mrc"}"#, FILES),
        ("osd", r#"oxfs_served_seconds_count{service="osd"}"#, FILES),
        (
            "osd",
            r#"oxfs_served_received_bytes_total{service="osd"}"#,
            FILES * FILE_BYTES,
        ),
        (
            "osd",
            r#"oxfs_served_sent_bytes_total{service="osd"}"#,
            FILES * FILE_BYTES,
        ),
        (
            "osd",
            r#"oxfs_served_received_bytes_total{service="peer"}"#,
            FILES * FILE_BYTES,
        ),
        ("osd", "oxfs_lease_acquired_total", FILES),
        ("mount", "oxfs_client_seconds_count", 4 * FILES),
        (
            "mount",
            "oxfs_client_written_bytes_total",
            FILES * FILE_BYTES,
        ),
        ("mount", "oxfs_client_read_bytes_total", FILES * FILE_BYTES),
        ("mount", r#"oxfs_client_errors_total{errno="other"}"#, 1),
    ];
    for (role, name, least) in grows {
        let grown = sum(&after, role, name)? - sum(&before, role, name)?;
        ensure!(
            grown >= least as f64,
            "{name} of {role} grew by {grown}, not by {least}"
        );
    }
    ensure!(sum(&after, "mount", r#"oxfs_client_errors_total{errno="EIO"}"#)? == 0.0);
    ensure!(sum(&after, "osd", "oxfs_osd_free_bytes")? > 0.0);

    top_shows_everybody(&mut cluster)?;
    status_says_what_will_happen(&mut cluster)?;
    cluster.down()
}

fn top_shows_everybody(cluster: &mut Cluster) -> Result<()> {
    // Without a terminal it prints once, too.
    let shown = cluster.admin(&["top"])?;
    for process in ["mrc-1", "mrc-3", "osd-1", "osd-3", "mount-", "healthy"] {
        ensure!(shown.contains(process), "no {process}: {shown}");
    }
    eprintln!("{shown}");
    // A mount reports every ten seconds.
    let mut round = 2;
    cluster.wait_for("the mount's operations to be shown", |cluster| {
        work(cluster, round)?;
        round += 1;
        let rows = json(cluster, &["top", "--once"])?;
        let rows = rows.as_array().context("no rows")?;
        let of = |prefix: &str, key: &str| {
            let mut rows = rows.iter().filter(|row| {
                let process = row["process"].as_str();
                process.is_some_and(|process| process.starts_with(prefix))
            });
            rows.any(|row| row[key].as_u64() > Some(0))
        };
        ensure!(rows.len() == 7, "{rows:?}");
        Ok(of("mount-", "operations_per_s")
            && of("mount-", "written_bytes_per_s")
            && of("osd-", "free_bytes"))
    })
}

fn status_says_what_will_happen(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_for("nothing to be wrong", |cluster| {
        let status = cluster.status()?;
        Ok(status["wrong"].as_array().is_some_and(Vec::is_empty))
    })?;
    cluster.admin(&["job", "pause"])?;
    cluster.wait_for("the pause to be told", |cluster| {
        says(cluster, "paused by an administrator")
    })?;
    cluster.admin(&["job", "resume"])?;
    let dead = cluster.server("osd-3")?;
    tests::kill(dead.pid)?;
    cluster.wait_for("the death to be told", |cluster| {
        says(cluster, "osd-3 is down: run `oxfs start")
    })?;
    cluster.wait_for("what will happen to be told", |cluster| {
        says(
            cluster,
            "no further object server that could take its place",
        )
    })?;
    cluster.start_server("osd-3")?;
    cluster.wait_full()
}
