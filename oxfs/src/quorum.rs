//! Servers that can't be started, and whether those that can are enough.

use std::path::Path;

use anyhow::{Result, bail};
use shell::link::Role;
use shell::local::LocalServer;

/// A server that does not serve, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Missing {
    pub(crate) server: LocalServer,
    /// Its error, which ends with what to do about it.
    why: String,
    /// Its process runs.
    runs: bool,
}

impl Missing {
    /// One that has no process.
    pub(crate) fn dead(server: &LocalServer, why: impl Into<String>) -> Self {
        Self {
            server: server.clone(),
            why: why.into(),
            runs: false,
        }
    }

    /// One whose process runs and does not do what it should.
    pub(crate) fn running(server: &LocalServer, why: impl Into<String>) -> Self {
        Self {
            runs: true,
            ..Self::dead(server, why)
        }
    }

    /// Its name and error.
    pub(crate) fn why(&self) -> String {
        format!("{}: {}", self.server.name(), self.why)
    }

    /// Whether its process runs.
    pub(crate) const fn runs(&self) -> bool {
        self.runs
    }

    /// Who is missing, why, and what to do, in one sentence.
    pub(crate) fn sentence(&self, dir: &Path) -> String {
        let (name, why) = (self.server.name(), &self.why);
        if self.runs {
            return format!("{name} runs, but {why}");
        }
        let dir = dir.display();
        format!(
            "{name} does not run: {why}; once that is repaired, run `oxfs start --dir {dir} {name}`"
        )
    }
}

/// Refuses to go on if a role has no majority without those that are missing. The default volume has
/// a replica on each of three object servers, so that two of them must serve.
pub(crate) fn check(servers: &[LocalServer], missing: &[Missing]) -> Result<()> {
    for (role, what) in [
        (Role::Mrc, "metadata servers"),
        (Role::Osd, "object servers"),
    ] {
        let total = servers.iter().filter(|server| server.role == role).count();
        let of_role = missing.iter().filter(|missing| missing.server.role == role);
        let lost = of_role.clone().count();
        let needed = total / 2 + 1;
        if total - lost < needed {
            let why: Vec<_> = of_role.map(Missing::why).collect();
            bail!(
                "{} of {total} {what} can serve, and {needed} must ({})",
                total - lost,
                why.join("; ")
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(role: Role, id: u64) -> LocalServer {
        LocalServer {
            role,
            id,
            address: format!("127.0.0.1:{id}"),
        }
    }

    fn servers(per_role: u64) -> Vec<LocalServer> {
        let roles = [Role::Mrc, Role::Osd].into_iter();
        roles
            .flat_map(|role| (1..=per_role).map(move |id| server(role, id)))
            .collect()
    }

    #[test]
    fn one_of_three_of_each_role_may_be_missing_and_two_of_a_role_may_not() {
        let gone = |role, id| Missing::dead(&server(role, id), format!("broken {id}"));
        let mut missing = vec![gone(Role::Mrc, 1), gone(Role::Osd, 3)];
        assert!(check(&servers(3), &missing).is_ok());

        missing.push(Missing::running(&server(Role::Osd, 2), "it is slow"));
        let error = check(&servers(3), &missing).unwrap_err().to_string();

        assert_eq!(
            error,
            "1 of 3 object servers can serve, and 2 must (osd-3: broken 3; osd-2: it is slow)"
        );
    }

    #[test]
    fn the_only_server_of_a_role_may_not_be_missing() {
        assert!(check(&servers(1), &[]).is_ok());
        let missing = [Missing::dead(&server(Role::Mrc, 1), "no")];
        assert!(check(&servers(1), &missing).is_err());
    }

    #[test]
    fn missing_server_is_told_with_its_reason_and_the_command() {
        let dead = Missing::dead(&server(Role::Osd, 3), "its disk is gone; put it back");

        assert_eq!(
            dead.sentence(Path::new("/c")),
            "osd-3 does not run: its disk is gone; put it back; once that is repaired, run `oxfs \
             start --dir /c osd-3`"
        );
    }
}
