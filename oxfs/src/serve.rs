//! `oxfs mrc` and `oxfs osd`: one server.

use std::path::Path;

use anyhow::Result;

pub(crate) fn mrc(_: &Path) -> Result<()> {
    Ok(())
}
pub(crate) fn osd(_: &Path) -> Result<()> {
    Ok(())
}
pub(crate) fn store_sums(_: &Path) -> Result<()> {
    Ok(())
}
