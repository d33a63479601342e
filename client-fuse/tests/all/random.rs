//! Random operations on files of a mount against a model in memory, while primaries move and
//! connections break; the idea is that of Apple's fsx.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::{Cluster, Mood, Objects, blocking, read};

/// Largest file. 3 MiB: several chunks and windows.
const FILE_BYTES: u64 = 3 << 20;

fn open(path: &std::path::Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

/// One program; panics where the mount shows anything but the model.
fn exercise(path: &std::path::Path, seed: u64, steps: usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut model: Vec<u8> = Vec::new();
    let mut file = open(path);
    for step in 0..steps {
        let offset = rng.random_range(0..FILE_BYTES);
        let length = match rng.random_range(0..3) {
            0 => rng.random_range(1..100),
            1 => rng.random_range(1..10_000),
            _ => rng.random_range(1..FILE_BYTES - offset + 1),
        };
        match rng.random_range(0..20) {
            0..=7 => {
                let end = (offset + length) as usize;
                let data = vec![rng.random(); length as usize];
                file.write_all_at(&data, offset).unwrap();
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[offset as usize..end].copy_from_slice(&data);
            }
            8..=14 => {
                let mut buffer = vec![0; length as usize];
                let mut got = 0;
                while got < buffer.len() {
                    let more = file
                        .read_at(&mut buffer[got..], offset + got as u64)
                        .unwrap();
                    if more == 0 {
                        break;
                    }
                    got += more;
                }
                let from = (offset as usize).min(model.len());
                let to = (from + length as usize).min(model.len());
                assert!(
                    buffer[..got] == model[from..to],
                    "seed {seed} step {step}: read {offset}+{length}"
                );
            }
            15 => {
                file.set_len(offset).unwrap();
                model.resize(offset as usize, 0);
            }
            16 => file.sync_all().unwrap(),
            17 => {
                drop(file);
                file = open(path);
            }
            _ => {
                let size = file.metadata().unwrap().len();
                assert_eq!(size, model.len() as u64, "seed {seed} step {step}");
            }
        }
    }
    drop(file);
    assert!(read(path) == model, "seed {seed}: at the end");
}

/// Moves primaries and breaks connections until told to stop.
async fn disturb(objects: Arc<Objects>, stop: Arc<AtomicBool>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let primary = rng.random_range(1..=3);
        let broken = rng.random_range(1..=3);
        objects.set_mood(primary, Mood::Well);
        objects.primary.store(primary, Ordering::Relaxed);
        if broken != primary {
            objects.set_mood(broken, Mood::Breaking);
        }
        tokio::time::sleep(std::time::Duration::from_millis(rng.random_range(1..40))).await;
        objects.set_mood(broken, Mood::Well);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_show_what_a_local_file_would() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;

    let programs = (0..3_u64).map(|seed| {
        let path = mounted.path().join(format!("file{seed}"));
        blocking(move || exercise(&path, seed, 250))
    });
    futures::future::join_all(programs).await;

    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_notice_nothing_of_moving_primaries_and_breaking_connections() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let stop = Arc::new(AtomicBool::new(false));
    let disturbing = tokio::spawn(disturb(cluster.objects.clone(), stop.clone(), 7));

    let programs = (10..13_u64).map(|seed| {
        let path = mounted.path().join(format!("file{seed}"));
        blocking(move || exercise(&path, seed, 120))
    });
    futures::future::join_all(programs).await;

    stop.store(true, Ordering::Relaxed);
    disturbing.await.unwrap();
    mounted.unmount().await;
}
