//! Two mounts of one volume see each other's work.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use tests::{Cluster, shell};

#[test]
fn each_mount_sees_at_once_what_the_other_finished() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let here = cluster.mount();
    let there = cluster.mount_again("second")?;

    for (one, other) in [(&here, &there), (&there, &here)] {
        fs::create_dir(one.join("dir"))?;
        ensure!(other.join("dir").is_dir(), "mkdir is not seen");
        for round in 0..50_u32 {
            let text = format!("round {round} ").repeat(round as usize + 1);
            fs::write(one.join("dir/file"), &text)?;
            ensure!(
                fs::read_to_string(other.join("dir/file"))? == text,
                "round {round}: contents after close"
            );
            ensure!(
                fs::metadata(other.join("dir/file"))?.len() == text.len() as u64,
                "round {round}: size after close"
            );
            fs::rename(one.join("dir/file"), one.join("dir/renamed"))?;
            ensure!(
                other.join("dir/renamed").exists() && !other.join("dir/file").exists(),
                "round {round}: rename"
            );
            fs::remove_file(one.join("dir/renamed"))?;
            ensure!(!other.join("dir/renamed").exists(), "round {round}: unlink");
            ensure!(
                fs::read_dir(other.join("dir"))?.count() == 0,
                "round {round}: listing"
            );
        }
        fs::remove_dir(one.join("dir"))?;
        ensure!(!other.join("dir").exists(), "rmdir is not seen");
    }

    reading_through_an_open_descriptor(&here, &there)?;
    unlinked_file_stays_readable(&here, &there)?;
    cluster.down()
}

/// A descriptor opened before sees what the other mount wrote and synced afterwards.
fn reading_through_an_open_descriptor(here: &Path, there: &Path) -> Result<()> {
    fs::write(here.join("open"), "before")?;
    let mut reader = File::open(there.join("open"))?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    ensure!(text == "before");
    let mut writer = File::options().append(true).open(here.join("open"))?;
    writer.write_all(b" after")?;
    writer.sync_all()?;
    text.clear();
    reader.read_to_string(&mut text)?;
    ensure!(text == " after", "the reader's descriptor shows {text:?}");
    Ok(())
}

fn unlinked_file_stays_readable(here: &Path, there: &Path) -> Result<()> {
    let body = vec![42; 3 << 20];
    fs::write(here.join("doomed"), &body)?;
    let mut reader = File::open(there.join("doomed"))?;
    fs::remove_file(here.join("doomed"))?;
    let mut read = Vec::new();
    reader.read_to_end(&mut read)?;
    ensure!(read == body, "an unlinked open file lost its contents");
    Ok(())
}

#[test]
fn appends_from_both_mounts_keep_every_record() -> Result<()> {
    const RECORDS: usize = 400;
    let mut cluster = Cluster::start()?;
    let mounts = [cluster.mount(), cluster.mount_again("second")?];
    File::create(mounts[0].join("log"))?;

    let writers: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(mount, root)| {
            let path = root.join("log");
            std::thread::spawn(move || {
                let mut log = File::options().append(true).open(path)?;
                for record in 0..RECORDS {
                    log.write_all(format!("mount {mount} record {record:06}\n").as_bytes())?;
                }
                Ok::<_, std::io::Error>(())
            })
        })
        .collect();
    for writer in writers {
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    }

    for root in &mounts {
        let text = fs::read_to_string(root.join("log"))?;
        for mount in 0..mounts.len() {
            let expected: Vec<_> = (0..RECORDS)
                .map(|record| format!("mount {mount} record {record:06}"))
                .collect();
            let found: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with(&format!("mount {mount} ")))
                .collect();
            ensure!(
                found == expected,
                "mount {mount}: {} of {RECORDS} records, or out of order",
                found.len()
            );
        }
        ensure!(
            text.lines().count() == RECORDS * mounts.len(),
            "{} records in all",
            text.lines().count()
        );
    }
    // With shells, as scripts do it.
    for root in &mounts {
        shell(
            root,
            "for i in $(seq 50); do echo \"$i\" >> shell.log; done",
        )?;
    }
    ensure!(
        fs::read_to_string(mounts[0].join("shell.log"))?
            .lines()
            .count()
            == 100
    );
    cluster.down()
}

#[test]
fn name_that_is_replaced_all_the_time_can_always_be_opened() -> Result<()> {
    const REPLACED: u32 = 400;
    let mut cluster = Cluster::start()?;
    let (here, there) = (cluster.mount(), cluster.mount_again("second")?);
    fs::write(here.join("name"), "0")?;

    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [here.join("name"), there.join("name")]
        .into_iter()
        .map(|name| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                let mut opened = 0;
                while !done.load(Ordering::Relaxed) || opened == 0 {
                    let text = fs::read_to_string(&name)?;
                    ensure!(text.parse::<u32>().is_ok(), "read {text:?}");
                    opened += 1;
                }
                Ok(opened)
            })
        })
        .collect();
    for number in 1..=REPLACED {
        let new = here.join(format!("new-{number}"));
        fs::write(&new, number.to_string())?;
        fs::rename(&new, here.join("name"))?;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        let opened = reader
            .join()
            .map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        println!("opened {opened} times while it was replaced {REPLACED} times");
    }
    cluster.down()
}

#[test]
fn sizes_are_true_whoever_writes_and_truncates() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mounts = [cluster.mount(), cluster.mount_again("second")?];
    let [here, there] = &mounts;

    // One mount has told nobody yet what it wrote, and closes after the other's truncation.
    let mut writer = File::create(here.join("truncated"))?;
    writer.write_all(&[7; 1 << 20])?;
    cluster.wait_for("the bytes to arrive", |_| {
        Ok(fs::read(there.join("truncated"))?.len() == 1 << 20)
    })?;
    File::options()
        .write(true)
        .open(there.join("truncated"))?
        .set_len(10)?;
    ensure!(writer.metadata()?.len() == 10, "the writer's own fstat");
    drop(writer);
    for root in &mounts {
        let path = root.join("truncated");
        let size = fs::metadata(&path)?.len();
        ensure!(size == 10, "{}: {size} bytes", path.display());
        ensure!(fs::read(&path)? == [7; 10], "{}", path.display());
    }

    // In any order: when both are done, size and contents agree.
    for round in 0..60_usize {
        let name = format!("raced-{}", round % 4);
        let (written, cut) = (here.join(&name), there.join(&name));
        File::options().create(true).append(true).open(&written)?;
        let writer = std::thread::spawn(move || {
            let mut file = File::options().write(true).open(&written)?;
            file.write_all(&vec![7; 1000 * (1 + round)])
        });
        let cutter = std::thread::spawn(move || {
            let file = File::options().write(true).open(&cut)?;
            file.set_len(round as u64 % 3 * 500)
        });
        for thread in [writer, cutter] {
            let done = thread.join();
            done.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        for root in &mounts {
            let path = root.join(&name);
            let (size, read) = (fs::metadata(&path)?.len(), fs::read(&path)?.len());
            ensure!(
                size == read as u64,
                "round {round}: {size} bytes, {read} can be read"
            );
        }
    }
    cluster.down()
}
