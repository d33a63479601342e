//! What `oxfs up` tells a user to try.

use std::path::Path;

/// Commands to try on a running cluster, a line each.
pub(crate) fn lines(dir: &Path, point: &Path, osd_1: Option<u32>) -> Vec<String> {
    let (oxfs, admin) = (program("oxfs"), program("xfs-admin"));
    let (dir, point) = (dir.display(), point.display());
    let mut lines = vec![
        format!("cp -r /etc/. {point}/ ; ls -l {point}"),
        format!("{admin} --dir {dir} status"),
    ];
    if let Some(pid) = osd_1 {
        lines.push(format!(
            "kill -9 {pid}      # object server osd-1: nothing stops"
        ));
        lines.push(format!("{oxfs} start --dir {dir} osd-1"));
    }
    lines
}

/// A program as it can be typed: by its name if a shell finds it, else by its path beside ours.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let ours = std::env::current_exe().ok();
    let beside = ours.and_then(|ours| Some(ours.parent()?.join(name)));
    match beside.filter(|beside| !found && beside.is_file()) {
        Some(beside) => beside.display().to_string(),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_server_is_not_to_be_killed_and_unknown_programs_have_their_name() {
        let (dir, point) = (Path::new("/c"), Path::new("/m"));

        let many = lines(dir, point, Some(7)).join("\n");
        assert!(many.contains("kill -9 7 ") && many.contains("start --dir /c osd-1"));
        assert!(!lines(dir, point, None).join("\n").contains("kill"));
        assert_eq!(
            program("no-program-of-this-name"),
            "no-program-of-this-name"
        );
    }
}
