//! Quotas of volumes.

use proto::mrc::request::Op;
use proto::mrc::{self, VolumeSet};
use serde::Serialize;
use shell::admin::Admin;

use crate::outcome::{Done, Failure};
use crate::render::{self, Row};
use crate::{units, volumes};

/// What a volume uses and may use.
#[derive(Debug, Serialize)]
struct Quota {
    volume: String,
    used_bytes: u64,
    /// None: as much as fits.
    quota_bytes: Option<u64>,
    used_files: u64,
    quota_files: Option<u64>,
}

impl From<&mrc::Volume> for Quota {
    fn from(volume: &mrc::Volume) -> Self {
        let limit = |quota: u64| (quota > 0).then_some(quota);
        Self {
            volume: volume.name.clone(),
            used_bytes: volume.used_bytes,
            quota_bytes: limit(volume.quota_bytes),
            used_files: volume.used_files,
            quota_files: limit(volume.quota_files),
        }
    }
}

impl Row for Quota {
    const HEADINGS: &'static [&'static str] =
        &["volume", "used", "quota", "files", "quota of files"];

    fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        vec![
            self.volume.clone(),
            render::bytes(self.used_bytes),
            self.quota_bytes.map_or_else(none, render::bytes),
            self.used_files.to_string(),
            self.quota_files
                .map_or_else(none, |files| files.to_string()),
        ]
    }
}

/// Changes the quotas that are given; 0 takes one away.
pub(crate) async fn set(
    admin: &Admin,
    name: &str,
    bytes: Option<u64>,
    files: Option<u64>,
) -> Result<Done, Failure> {
    let op = Op::VolumeSet(VolumeSet {
        name: name.to_owned(),
        quota_bytes: bytes,
        quota_files: files,
        ..VolumeSet::default()
    });
    admin.ask_leader(op).await?;
    show(admin, Some(name)).await
}

/// One volume's quotas, or those of all.
pub(crate) async fn show(admin: &Admin, name: Option<&str>) -> Result<Done, Failure> {
    match name {
        Some(name) => {
            let volume = volumes::find(admin, name).await?;
            Ok(render::one(&Quota::from(&volume)))
        }
        None => {
            let volumes = volumes::known(admin).await?;
            let rows: Vec<Quota> = volumes.iter().map(Quota::from).collect();
            Ok(render::list(&rows))
        }
    }
}

/// A quota of bytes as `500GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    units::bytes(text).ok_or_else(|| {
        format!(
            "{text:?} is no size; give bytes as 1073741824, 500MiB or 2T; `quota clear` takes a quota away"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_without_a_quota_has_none_and_no_zero() {
        let volume = mrc::Volume {
            name: "home".to_owned(),
            quota_bytes: 3 << 20,
            used_bytes: 1 << 20,
            used_files: 7,
            ..mrc::Volume::default()
        };

        let row = Quota::from(&volume);

        assert_eq!(row.cells(), ["home", "1.0 MiB", "3.0 MiB", "7", "-"]);
        assert!(render::json(&row).ends_with(r#""used_files":7,"quota_files":null}"#));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(size("5G"), Ok(5 << 30));
        assert!(size("5 gigabytes").unwrap_err().contains("5 gigabytes"));
    }
}
