//! Ranges of files that are punched, zeroed, allocated, copied and looked for: on the mount as on the
//! local file system.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::Cluster;

/// Offsets are below this; files end up at most twice as long.
const REACH: u64 = 600_000;

/// Steps of one run.
const STEPS: u32 = 1_500;

/// What a call gave: the same number on both file systems, or the errno.
type Outcome = Result<i64, i32>;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn offset(&mut self) -> i64 {
        let offset = self.below(REACH).cast_signed();
        // Half of them where blocks begin.
        if self.below(2) == 0 {
            offset & !4095
        } else {
            offset
        }
    }

    fn length(&mut self) -> i64 {
        let any = 1 + self.below(100_000).cast_signed();
        let lengths = [1, 100, 4096, 65_536, any];
        lengths[self.below(5) as usize]
    }
}

/// The two files of one file system.
struct Pair([File; 2]);

impl Pair {
    fn new(root: &Path) -> io::Result<Self> {
        let open = |name| {
            let mut options = File::options();
            options.create_new(true).read(true).write(true);
            options.open(root.join(name))
        };
        Ok(Self([open("one")?, open("other")?]))
    }

    fn fallocate(&self, file: usize, mode: i32, offset: i64, length: i64) -> Outcome {
        #[expect(unsafe_code, reason = "fallocate has no safe interface in std")]
        // SAFETY: the descriptor is open; no memory is touched.
        let done = unsafe { libc::fallocate(self.0[file].as_raw_fd(), mode, offset, length) };
        answer(i64::from(done))
    }

    fn seek(&self, file: usize, offset: i64, whence: i32) -> Outcome {
        #[expect(unsafe_code, reason = "holes can't be sought with std")]
        // SAFETY: the descriptor is open; no memory is touched.
        let found = unsafe { libc::lseek(self.0[file].as_raw_fd(), offset, whence) };
        answer(found)
    }

    fn copy(
        &self,
        (from, mut at): (usize, i64),
        (to, mut put): (usize, i64),
        length: i64,
    ) -> Outcome {
        let (from, to) = (self.0[from].as_raw_fd(), self.0[to].as_raw_fd());
        let length = length.unsigned_abs() as usize;
        #[expect(unsafe_code, reason = "copy_file_range has no safe interface in std")]
        // SAFETY: both descriptors are open, both offsets outlive the call.
        let copied = unsafe { libc::copy_file_range(from, &mut at, to, &mut put, length, 0) };
        answer(copied as i64)
    }

    fn contents(&self, file: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 4 * REACH as usize];
        let mut end = 0;
        loop {
            match self.0[file].read_at(&mut bytes[end..], end as u64)? {
                0 => break,
                more => end += more,
            }
        }
        bytes.truncate(end);
        Ok(bytes)
    }
}

fn answer(number: i64) -> Outcome {
    if number < 0 {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(number)
    }
}

fn outcome(result: io::Result<()>) -> Outcome {
    result
        .map(|()| 0)
        .map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// Modes and ranges that are refused, some only by the kernel and some by the file system.
const REFUSED: [(i32, i64, i64); 8] = [
    (libc::FALLOC_FL_PUNCH_HOLE, 0, 4096),
    (0, 0, 0),
    (0, -1, 10),
    (3, 0, -1),
    (libc::FALLOC_FL_ZERO_RANGE, 1 << 62, 1 << 62),
    (0, 1 << 62, 4096),
    (libc::FALLOC_FL_UNSHARE_RANGE, 0, 0),
    (libc::FALLOC_FL_ZERO_RANGE | 3, 0, 4096),
];

#[test]
fn ranges_are_changed_and_found_as_on_the_local_file_system() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let local = cluster.scratch().join("local");
    fs::create_dir(&local)?;
    let pairs = [Pair::new(&cluster.mount())?, Pair::new(&local)?];
    let mut random = Random(0x2545_f491_4f6c_dd1d);

    for step in 0..STEPS {
        step_on_both(&pairs, &mut random, step)?;
    }

    for file in 0..2 {
        let [mount, local] = [pairs[0].contents(file)?, pairs[1].contents(file)?];
        ensure!(mount == local, "contents of file {file} differ");
    }
    drop(pairs);
    cluster.down()
}

fn step_on_both(pairs: &[Pair; 2], random: &mut Random, step: u32) -> Result<()> {
    let (file, offset, length) = (random.below(2) as usize, random.offset(), random.length());
    let target = (random.below(2) as usize, random.offset());
    let choice = random.below(13);
    let refused = REFUSED[random.below(REFUSED.len() as u64) as usize];
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let fill = random.below(255) as u8 + 1;
    let run = |pair: &Pair| match choice {
        0..=2 => {
            let bytes = vec![fill; length.unsigned_abs() as usize];
            outcome(pair.0[file].write_all_at(&bytes, offset.unsigned_abs()))
        }
        3 => pair.fallocate(file, 0, offset, length),
        4 => pair.fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | keep, offset, length),
        5 => pair.fallocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, length),
        6 => pair.fallocate(file, libc::FALLOC_FL_ZERO_RANGE | keep, offset, length),
        7 => pair.fallocate(file, refused.0, refused.1, refused.2),
        8 => outcome(pair.0[file].set_len(offset.unsigned_abs())),
        9 => pair.copy((file, offset), target, length),
        10 => pair.seek(file, offset, libc::SEEK_DATA),
        11 => pair.seek(file, offset, libc::SEEK_HOLE),
        _ => outcome(pair.0[file].sync_all()),
    };
    let label =
        format!("step {step}: {choice} file {file} at {offset}, {length}, {target:?}, {refused:?}");
    let [mount, local] = [run(&pairs[0]), run(&pairs[1])];
    if !(10..=11).contains(&choice) {
        ensure!(
            mount == local,
            "{label}: the mount says {mount:?}, the local file system {local:?}"
        );
    } else if choice == 11 {
        // Where holes are is each file system's affair, but not whether there is an end.
        let found = (mount.is_ok(), local.is_ok());
        ensure!(found.0 == found.1, "{label}: {mount:?}, locally {local:?}");
    } else {
        let contents = pairs[1].contents(file)?;
        let from = (offset.unsigned_abs() as usize).min(contents.len());
        let to = mount.map_or(contents.len(), |data| data.unsigned_abs() as usize);
        let skipped = contents.get(from..to.max(from)).unwrap_or_default();
        ensure!(
            skipped.iter().all(|byte| *byte == 0),
            "{label}: data is skipped, {mount:?}"
        );
        if from == contents.len() {
            ensure!(mount == local, "{label}: {mount:?}, locally {local:?}");
        }
    }
    if step.is_multiple_of(50) {
        let sizes = [&pairs[0], &pairs[1]].map(|pair| pair.0[file].metadata().map(|it| it.len()));
        let [mount, local] = sizes;
        ensure!(mount? == local?, "{label}: sizes differ");
        ensure!(
            pairs[0].contents(file)? == pairs[1].contents(file)?,
            "{label}: contents differ"
        );
    }
    Ok(())
}
