//! `oxfs mount`.
use crate::arguments::MountArguments;
use anyhow::Result;
pub(crate) fn run(_: MountArguments) -> Result<()> {
    Ok(())
}
