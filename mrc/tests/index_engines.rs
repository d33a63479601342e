//! The engines that were not chosen keep the contract, too, so that the comparison stays fair.

#[path = "../examples/index_engines/fjall_index.rs"]
mod fjall_index;
#[path = "../examples/index_engines/sled_index.rs"]
mod sled_index;

use fjall_index::FjallIndex;
use sled_index::SledIndex;

#[test]
fn contract_sled_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;

    mrc_core::contract::run(&mut || {
        number += 1;
        let path = dir.path().join(number.to_string());
        Box::new(SledIndex::open(&path, 1 << 20).unwrap())
    })
    .unwrap();
    mrc_core::contract::reopen(&mut || {
        Box::new(SledIndex::open(&dir.path().join("again"), 1 << 20).unwrap())
    })
    .unwrap();
}

#[test]
fn contract_fjall_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;

    mrc_core::contract::run(&mut || {
        number += 1;
        let path = dir.path().join(number.to_string());
        Box::new(FjallIndex::open(&path, 1 << 20).unwrap())
    })
    .unwrap();
    mrc_core::contract::reopen(&mut || {
        Box::new(FjallIndex::open(&dir.path().join("again"), 1 << 20).unwrap())
    })
    .unwrap();
}
