//! Programs on a mount: what they see is what a local file system shows.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use crate::common::{Cluster, blocking, read};

#[tokio::test(flavor = "multi_thread")]
async fn files_directories_and_links_behave() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "hello").unwrap();
        assert_eq!(read(&dir.join("a/b/file")), b"hello");
        symlink("b/file", dir.join("a/link")).unwrap();
        assert_eq!(read(&dir.join("a/link")), b"hello");
        fs::hard_link(dir.join("a/b/file"), dir.join("a/second")).unwrap();
        assert_eq!(fs::metadata(dir.join("a/second")).unwrap().nlink(), 2);
        fs::rename(dir.join("a/second"), dir.join("c")).unwrap();
        fs::set_permissions(dir.join("c"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(dir.join("c")).unwrap().mode() & 0o7777, 0o600);
        let mut names: Vec<_> = fs::read_dir(dir.join("a"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["b", "link"]);
        assert!(fs::remove_dir(dir.join("a")).is_err());
        fs::remove_dir_all(dir.join("a")).unwrap();
        assert_eq!(read(&dir.join("c")), b"hello");
        fs::remove_file(dir.join("c")).unwrap();
        assert!(File::open(dir.join("c")).is_err());
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn big_files_come_back_in_order_and_in_part() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        let content: Vec<u8> = (0..9_000_000_u32).map(|at| (at / 7) as u8).collect();
        let path = dir.join("big");
        fs::write(&path, &content).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), content.len() as u64);
        assert!(read(&path) == content);
        let file = File::open(&path).unwrap();
        let mut part = vec![0; 100_000];
        file.read_exact_at(&mut part, 3_333_333).unwrap();
        assert!(part == content[3_333_333..3_433_333]);
        let mut small = File::open(&path).unwrap();
        let mut copied = Vec::new();
        let mut buffer = [0; 40_000];
        loop {
            let got = small.read(&mut buffer).unwrap();
            if got == 0 {
                break;
            }
            copied.extend_from_slice(&buffer[..got]);
        }
        assert!(copied == content);
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_seen_before_they_are_acknowledged() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        let path = dir.join("file");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.write_all(b"abcdef").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 6);
        file.write_all_at(b"XY", 2).unwrap();
        file.write_all_at(b"end", 10_000).unwrap();
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 10_003);
        assert_eq!(&all[..6], b"abXYef");
        assert!(all[6..10_000].iter().all(|byte| *byte == 0));
        file.set_len(3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        file.set_len(5).unwrap();
        assert_eq!(read(&path), b"abX\0\0");
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(read(&path), b"abX\0\0");
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_set_after_writing_survive_the_close() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        let path = dir.join("file");
        let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789);
        let mut file = File::create(&path).unwrap();
        file.write_all(b"content").unwrap();
        file.set_modified(then).unwrap();
        drop(file);

        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.modified().unwrap(), then);
        assert_eq!(metadata.len(), 7);
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_file_outlives_its_name() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        let path = dir.join("file");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.write_all(b"still here").unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(b" and growing").unwrap();
        let mut all = vec![0; 22];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all, b"still here and growing");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_of_a_large_directory_is_complete_and_can_seek() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();

    blocking(move || {
        let mut made: Vec<_> = (0..2_500).map(|number| format!("f{number}")).collect();
        for name in &made {
            // mkdir: one round trip and no descriptor.
            fs::create_dir(dir.join(name)).unwrap();
        }
        made.sort();

        let mut names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();

        assert_eq!(names, made);
    })
    .await;
    mounted.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_two_mounts_lose_nothing() {
    let cluster = Cluster::start().await;
    let (one, two) = (cluster.mount().await, cluster.mount().await);
    let paths = [one.path().join("log"), two.path().join("log")];
    let log = paths[0].clone();
    fs::write(&log, "").unwrap();

    let writers = paths.map(|path| {
        blocking(move || {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            for number in 0..100 {
                let record = format!("{number:>4} {}\n", path.display());
                file.write_all(record.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;

    let text = blocking(move || String::from_utf8(read(&log)).unwrap()).await;
    let mut lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 200);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 200);
    one.unmount().await;
    two.unmount().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_mount_sees_names_data_and_sizes_at_once() {
    let cluster = Cluster::start().await;
    let (one, two) = (cluster.mount().await, cluster.mount().await);
    let (here, there) = (one.path(), two.path());

    blocking(move || {
        for round in 0..20_u8 {
            let content = vec![round; 5_000 + usize::from(round)];
            fs::write(here.join("file"), &content).unwrap();
            assert!(read(&there.join("file")) == content, "round {round}");
            assert_eq!(
                fs::metadata(there.join("file")).unwrap().len(),
                content.len() as u64
            );
            fs::rename(there.join("file"), there.join("moved")).unwrap();
            assert!(!here.join("file").exists());
            fs::remove_file(here.join("moved")).unwrap();
            assert!(!there.join("moved").exists());
        }
        // A descriptor that is open sees what the other mount synced.
        fs::write(here.join("shared"), "first").unwrap();
        let reader = File::open(there.join("shared")).unwrap();
        let mut five = [0; 5];
        reader.read_exact_at(&mut five, 0).unwrap();
        let writer = OpenOptions::new()
            .write(true)
            .open(here.join("shared"))
            .unwrap();
        writer.write_all_at(b"later", 0).unwrap();
        writer.sync_all().unwrap();
        reader.read_exact_at(&mut five, 0).unwrap();
        assert_eq!(&five, b"later");
    })
    .await;
    one.unmount().await;
    two.unmount().await;
}

/// Compilers and databases map files, shared and private.
#[tokio::test(flavor = "multi_thread")]
async fn mapped_files_show_and_store_bytes() {
    let cluster = Cluster::start().await;
    let (one, two) = (cluster.mount().await, cluster.mount().await);
    let (here, there) = (one.path(), two.path());

    blocking(move || {
        let script = r#"
import mmap, sys
path, other = sys.argv[1], sys.argv[2]
open(path, "wb").write(b"a" * 20000)
with open(path, "r+b") as f:
    private = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    shared = mmap.mmap(f.fileno(), 0)
    assert private[:3] == b"aaa" and shared[19999:] == b"a"
    shared[5000:5003] = b"xyz"
    shared.flush()
    assert open(other, "rb").read()[4999:5004] == b"axyza"
    private[0:1] = b"q"
    assert open(other, "rb").read(1) == b"a"
    shared[0:4] = b"last"
    shared.close()
assert open(other, "rb").read(4) == b"last"
# What the other mount wrote before is seen by a mapping made afterwards.
open(other, "r+b").write(b"news")
with open(path, "r+b") as f:
    assert mmap.mmap(f.fileno(), 0)[:4] == b"news"
"#;
        let output = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(here.join("mapped"))
            .arg(there.join("mapped"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    })
    .await;
    one.unmount().await;
    two.unmount().await;
}

/// Round trips are what a network makes slow.
#[tokio::test(flavor = "multi_thread")]
async fn calls_cost_few_round_trips() {
    let cluster = Cluster::start().await;
    let mounted = cluster.mount().await;
    let dir = mounted.path();
    let metadata = cluster.metadata.clone();

    blocking(move || {
        let served = || metadata.served.load(std::sync::atomic::Ordering::Relaxed);
        // The least of many: a thread that is not scheduled for long has to ask again, and files
        // are closed in the background.
        let cost = |work: &dyn Fn(u32)| {
            let one = |round| {
                let before = served();
                work(round);
                served() - before
            };
            (0..40).map(one).min().unwrap()
        };
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        let file = |round: u32| sub.join(format!("file{round}"));

        // The root's permissions, the directory's name, the file's name; then what is asked for.
        assert!(cost(&|round| drop(File::create(file(round)).unwrap())) <= 4);
        assert!(cost(&|round| assert!(file(round).exists())) <= 3);
        assert!(cost(&|round| drop(File::open(file(round)).unwrap())) <= 4);
        assert!(cost(&|round| fs::remove_file(file(round)).unwrap()) <= 4);
    })
    .await;
    mounted.unmount().await;
}
