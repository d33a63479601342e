//! `osd show`: all that is known of one object server, a line for each thing.

use proto::mrc;
use shell::admin::Admin;

use crate::lists::{Osd, Pool, osds_known};
use crate::outcome::{Done, Failure};
use crate::render::{self, Row};

pub(crate) async fn show(admin: &Admin, id: u64) -> Result<Done, Failure> {
    let mut known = osds_known(admin).await?.into_iter();
    match known.find(|osd| osd.osd == id) {
        Some(osd) => Ok(shown(osd)),
        None => Err(Failure::failed(format!(
            "there is no object server {id}; `xfs-admin osd list` shows which there are"
        ))),
    }
}

fn shown(osd: mrc::Osd) -> Done {
    let osd = Osd::from(osd);
    let cells = Osd::HEADINGS.iter().map(|heading| (*heading).to_owned());
    let mut lines: Vec<(String, String)> = cells.zip(osd.cells()).collect();
    let store = match &osd.pool {
        None => "directory".to_owned(),
        Some(pool) => format!("zfs {}", pool.dataset),
    };
    lines.push(("store".to_owned(), store));
    lines.extend(osd.pool.iter().flat_map(of_pool));
    let coming = osd.seedings.iter().map(|one| {
        let group = format!("{}.{}", one.volume, one.pg);
        (
            "receives".to_owned(),
            format!("{group} as a whole, {}", one.progress()),
        )
    });
    lines.extend(coming);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let text: Vec<String> = lines
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned())
        .collect();
    Done {
        text: text.join("\n"),
        json: render::json(&osd),
        missing: Vec::new(),
    }
}

fn of_pool(pool: &Pool) -> [(String, String); 3] {
    let or = |text: &str, otherwise: &str| match text {
        "" => otherwise.to_owned(),
        text => text.to_owned(),
    };
    [
        ("pool".to_owned(), pool.state.clone()),
        ("errors".to_owned(), or(&pool.problem, "none")),
        ("scrub".to_owned(), or(&pool.scan, "never")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_of_a_store_on_zfs_is_shown_with_its_errors_and_last_scrub() {
        let osd = mrc::Osd {
            osd: 3,
            state: "up".to_owned(),
            pool: Some(mrc::PoolState {
                dataset: "tank/oxfs/osd-3".to_owned(),
                state: "degraded".to_owned(),
                healthy: false,
                problem: "sda is faulted".to_owned(),
                scan: String::new(),
            }),
            seedings: vec![mrc::Seeding {
                volume: 1,
                pg: 7,
                osd: 3,
                done_bytes: 3 << 20,
                total_bytes: 9 << 20,
            }],
            ..mrc::Osd::default()
        };

        let done = shown(osd.clone());

        for line in [
            "state      up",
            "store      zfs tank/oxfs/osd-3",
            "pool       degraded",
            "errors     sda is faulted",
            "scrub      never",
            "receives   1.7 as a whole, 3.0 MiB of about 9.0 MiB",
        ] {
            assert!(
                done.text.lines().any(|shown| shown == line),
                "{}",
                done.text
            );
        }
        assert!(done.json.contains(r#""problem":"sda is faulted""#));
        let plain = shown(mrc::Osd {
            pool: None,
            seedings: Vec::new(),
            ..osd
        });
        assert!(plain.text.ends_with("store      directory"));
        assert!(plain.json.contains(r#""pool":null"#));
    }
}
