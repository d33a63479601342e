//! `restored`: what is left to do since the metadata was restored from a dump.

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{Restored, RestoredDiscard, RestoredShow};
use serde_json::json;
use shell::admin::Admin;

use crate::lists::odd;
use crate::outcome::{Done, Failure};

pub(crate) async fn show(admin: &Admin) -> Result<Done, Failure> {
    let Reply::Restored(restored) = admin.ask_leader(Op::RestoredShow(RestoredShow {})).await?
    else {
        return Err(odd());
    };
    Ok(Done {
        text: text(&restored),
        json: json!({
            "restored": restored.restored,
            "finished": restored.finished,
            "dumped_ns": restored.dumped_ns,
            "restored_ns": restored.restored_ns,
            "files_total": restored.files_total,
            "files_settled": restored.files_settled,
            "files_lost": restored.files_lost,
            "keeps_unknown_objects": restored.keeps,
        })
        .to_string(),
        missing: Vec::new(),
    })
}

fn text(restored: &Restored) -> String {
    if !restored.restored {
        return "this metadata cluster was never restored from a dump".to_owned();
    }
    if !restored.finished {
        return "a dump is being restored; `xfs-admin restore FILE` goes on with it".to_owned();
    }
    let mut lines = vec![format!(
        "{} of {} files were compared with their objects",
        restored.files_settled, restored.files_total
    )];
    if restored.files_lost > 0 {
        lines.push(format!(
            "{} of them have lost their content, which was deleted after the dump: opening them fails with EIO",
            restored.files_lost
        ));
    }
    lines.push(match restored.keeps {
        true => "objects of files made after the dump are kept; `xfs-admin restored discard` lets them be deleted"
            .to_owned(),
        false => "no objects of unknown files are kept".to_owned(),
    });
    lines.join("\n")
}

pub(crate) async fn discard(admin: &Admin) -> Result<Done, Failure> {
    let Reply::Done(_) = admin
        .ask_leader(Op::RestoredDiscard(RestoredDiscard {}))
        .await?
    else {
        return Err(odd());
    };
    Ok(Done {
        text: "objects that no file is known of are deleted when object servers find them, twice, in their rounds"
            .to_owned(),
        json: json!({ "discarded": true }).to_string(),
        missing: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_files_and_kept_objects_are_told_if_there_are_any() {
        let restored = Restored {
            restored: true,
            finished: true,
            files_total: 9,
            files_settled: 7,
            files_lost: 2,
            keeps: true,
            ..Restored::default()
        };
        let told = text(&restored);
        assert!(
            told.contains("7 of 9 files") && told.contains("2 of them"),
            "{told}"
        );
        assert!(told.contains("restored discard"), "{told}");

        let calm = Restored {
            files_lost: 0,
            keeps: false,
            ..restored
        };
        assert!(!text(&calm).contains("EIO") && !text(&calm).contains("discard"));
        assert!(text(&Restored::default()).contains("never"));
    }
}
