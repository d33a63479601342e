//! The words for versions that can do more than zfs-fuse: scripts stand in for their programs, answer in
//! the format of OpenZFS 2.2, and write down what they were called with.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;
use types::{ClusterId, PgId, PgKey, VolumeId};
use zfs_driver::{
    Base, Changes, DatasetName, Error, NewDataset, Pool, PoolName, Remains, ResumeToken,
    StreamOptions, Tools, Tree,
};

/// Knows `tank/oxfs/3/7` of cluster 7 with a snapshot `a`, and `tank/theirs`.
const ZFS: &str = r#"
echo "$@" >>"$0.log"
row() { printf '%s\t%s\t%s\t%s\n' "$@"; }
for name; do :; done
case "$*" in
'')
    printf 'usage:\n\tbookmark <snapshot> <bookmark>\n\tget [-rHp] [-t type[,...]]\n' >&2
    printf '\tsend [-DnPpRvLecwhb] <snapshot>\n\tsend [-nvPe] -t <receive_resume_token>\n' >&2
    printf '\treceive [-vnsFhu] <snapshot>\n' >&2
    exit 2 ;;
'send -nvP -t 1-ours') printf 'token:\n\ttoname = tank/oxfs/3/7@a\nsize\t5\n' ;;
'send -nvP -t 1-theirs') printf 'token:\n\ttoname = tank/theirs@a\nsize\t5\n' ;;
'send -nvP -t'*) echo 'cannot resume send: resume token is corrupt' >&2; exit 1 ;;
'send -nvP'*) printf 'full\t%s\t5\nsize\t5\n' "$name" ;;
send*) printf bytes ;;
'receive -A'*) ;;
receive*) cat >/dev/null; exit 1 ;;
get*tank/theirs*) row "$name" oxfs:cluster - - ;;
get*guid,creation*@b) echo "cannot open '$name': dataset does not exist" >&2; exit 1 ;;
get*guid,creation*)
    row tank/oxfs/3/7@a guid 11 -
    for property in creation used referenced createtxg; do row tank/oxfs/3/7@a $property 1 -; done ;;
get*'-t bookmark'*) row 'tank/oxfs/3/7#k' guid 11 -; row 'tank/oxfs/3/7#k' createtxg 1 - ;;
get*receive_resume_token*) row "$name" receive_resume_token 1-abc - ;;
get*)
    row "$name" oxfs:cluster 00000000000000000000000000000007 local
    for property in used referenced available; do row "$name" $property 1 -; done
    row "$name" mounted no -; row "$name" readonly off default ;;
esac
"#;

const ZPOOL: &str = r#"
echo "$@" >>"$0.log"
case "$*" in
'') printf 'usage:\n\tlist [-gHLpPv] [pool]\n\tstatus [-igLpPstvxD] [pool]\n' >&2; exit 2 ;;
'list -Hp'*) printf '1000\t1\t999\n' ;;
'status -p'*) printf '  pool: tank\n state: ONLINE\nconfig:\n\n\ttank  ONLINE  0  0  0\n' ;;
'get all'*)
    printf 'NAME  PROPERTY  VALUE  SOURCE\n'
    for feature in large_blocks lz4_compress zstd_compress; do
        printf 'tank  feature@%s  active  local\n' $feature
    done ;;
esac
"#;

fn install(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh{script}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

struct Stand {
    dir: TempDir,
    tools: Tools,
    tree: Tree,
}

impl Stand {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), "zfs", ZFS);
        install(dir.path(), "zpool", ZPOOL);
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
