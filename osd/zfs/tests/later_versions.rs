//! The words for versions that can do more than zfs-fuse: scripts stand in for their programs, answer in
//! the format of OpenZFS 2.2, and write down what they were called with.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use types::{ClusterId, PgId, PgKey, VolumeId};
use zfs_driver::{
    Base, Changes, DatasetName, Error, NewDataset, Pool, PoolName, Remains, ResumeToken,
    StreamOptions, Tools, Tree,
};

/// The scripts. They are linked to, not written: a process that another thread starts meanwhile would inherit
/// the open file, and a file that somebody may write cannot be run (ETXTBSY in execve(2)).
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/later");

struct Stand {
    dir: TempDir,
    tools: Tools,
    tree: Tree,
}

impl Stand {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for program in ["zfs", "zpool"] {
            symlink(Path::new(PROGRAMS).join(program), dir.path().join(program)).unwrap();
        }
        let tools = Tools::find_in([dir.path().to_owned()]).unwrap();
        let root = DatasetName::new("tank/oxfs").unwrap();
        let tree = Tree::new(tools.clone(), root, ClusterId(7)).unwrap();
        Self { dir, tools, tree }
    }

    /// Whether a program was called with these words.
    fn was_called(&self, program: &str, words: &str) -> bool {
        let log = fs::read_to_string(self.dir.path().join(format!("{program}.log"))).unwrap();
        log.lines().any(|line| line == words)
    }
}

const PG: PgKey = PgKey {
    volume: VolumeId(3),
    pg: PgId(7),
};

#[test]
fn streams_use_what_both_pools_can() {
    let stand = Stand::new();
    let pool = Pool::new(stand.tools.clone(), PoolName::new("tank").unwrap());
    let name = stand.tree.group(PG);
    let snapshot = name.snapshot("a").unwrap();
    let bookmark = name.bookmark("k").unwrap();

    let options = pool.stream_options().unwrap();
    let base = Some(Base::Bookmark(&bookmark));
    let mut sending = stand.tree.send(&snapshot, base, options).unwrap();
    assert_eq!(sending.estimated_bytes(), Some(5));
    assert_eq!(sending.next_piece().unwrap().unwrap(), b"bytes");
    assert_eq!(sending.next_piece().unwrap(), None);
    let plain = options.shared(StreamOptions::default());
    drop(stand.tree.send(&snapshot, None, plain).unwrap());

    assert!(stand.was_called("zfs", "send -L -c -i tank/oxfs/3/7#k tank/oxfs/3/7@a"));
    assert!(stand.was_called("zfs", "send -nvP tank/oxfs/3/7@a"));
    assert_eq!(stand.tree.bookmarks(&name).unwrap()[0].guid, 11);
    assert!(pool.space().unwrap().is_exact);
    assert!(stand.was_called("zpool", "list -Hp -o size,allocated,free tank"));
    pool.status().unwrap();
}

#[test]
fn receive_that_was_cut_gives_a_token_that_the_sender_goes_on_with() {
    let stand = Stand::new();
    let target = stand.tree.group(PG).snapshot("b").unwrap();

    let receiving = stand.tree.receive_increment(&target, 11, Changes::Discard);
    let mut receiving = receiving.unwrap();
    receiving.write_all(b"begin").unwrap();
    let remains = receiving.cancel().unwrap();

    let token = ResumeToken::new("1-abc").unwrap();
    assert_eq!(remains, Remains::Resumable(token));
    assert!(stand.was_called("zfs", "receive -u -s -F tank/oxfs/3/7@b"));
    drop(stand.tree.receive_resumed(&target).unwrap());
    stand.tree.discard_partial(&target.dataset()).unwrap();
    assert!(stand.was_called("zfs", "receive -A tank/oxfs/3/7"));
    let error = stand
        .tree
        .receive_full(&target, &NewDataset::default(), Changes::Discard);
    assert!(matches!(error, Err(Error::HasSnapshots { .. })));
}

#[test]
fn token_is_used_only_if_it_names_a_dataset_of_the_cluster() {
    let stand = Stand::new();
    let send = |token| stand.tree.send_resumed(&ResumeToken::new(token).unwrap());

    let mut sending = send("1-ours").unwrap();
    assert_eq!(sending.estimated_bytes(), Some(5));
    while sending.next_piece().unwrap().is_some() {}
    let error = send("1-theirs").unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    let error = send("1-nonsense").unwrap_err();
    assert!(error.to_string().contains("corrupt"), "{error}");

    assert!(stand.was_called("zfs", "send -t 1-ours"));
    assert!(!stand.was_called("zfs", "send -t 1-theirs"));
}
