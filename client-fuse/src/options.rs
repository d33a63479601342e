//! Mount options, as in `-o a,b=c` and in fstab.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use fuser::MountOption;

use crate::config::KERNEL_BACKGROUND;

/// Options of one mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flags {
    /// Requests give up with EIO after this long. Default: never (`hard`).
    pub soft: Option<Duration>,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Others than the mounting user may use it. Default: if root mounts.
    pub allow_other: bool,
    /// Device files work.
    pub dev: bool,
    /// Set-user-id bits work.
    pub suid: bool,
    /// Programs may be run from it. Default: yes.
    pub exec: bool,
    /// Requests of the kernel that no program waits for one by one. Default 64.
    pub max_background: u16,
    /// Age at which bytes read ahead are thrown away; 0 switches reading ahead off. Default 100 ms.
    pub read_ahead_age: Duration,
    /// Where to serve numbers about the mount, on this machine only. Default: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The cluster's id, if it is given here.
    pub cluster: Option<String>,
    /// File with the cluster's secret, if it is given here.
    pub secret_file: Option<PathBuf>,
    /// File with settings that are read again at SIGHUP. Default: none.
    pub config: Option<PathBuf>,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            soft: None,
            read_only: false,
            allow_other: nix::unistd::geteuid().is_root(),
            dev: false,
            suid: false,
            exec: true,
            max_background: KERNEL_BACKGROUND,
            read_ahead_age: Duration::from_millis(100),
            metrics_listen: None,
            cluster: None,
            secret_file: None,
            config: None,
        }
    }
}

/// An option that can't be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// Its name is not known.
    #[error(
        "mount option {0:?} is not known; known are soft=SECONDS, hard, ro, rw, allow_other, \
         dev, nodev, suid, nosuid, exec, noexec, max_background=COUNT, \
         read_ahead_age_ms=MILLISECONDS, metrics_listen=IP:PORT, cluster=ID, secret_file=PATH, \
         config=PATH"
    )]
    Unknown(String),
    /// Its value is not usable.
    #[error("mount option {name}={value:?} is wrong: {expected}")]
    Value {
        /// Which.
        name: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl FromStr for Flags {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut flags = Self::default();
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some((name, value)) => flags.set_value(option, name, value)?,
                None => flags.set_switch(option)?,
            }
        }
        Ok(flags)
    }
}

impl Flags {
    fn set_switch(&mut self, option: &str) -> Result<(), OptionError> {
        match option {
            "hard" => self.soft = None,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            // What mount(8) passes on from fstab and what is always so here.
            "defaults" | "_netdev" | "auto" | "noauto" | "nofail" | "noatime" | "nodiratime"
            | "relatime" | "async" => {}
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    fn set_value(&mut self, option: &str, name: &str, value: &str) -> Result<(), OptionError> {
        let wrong = |expected| OptionError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected,
        };
        match name {
            "soft" => {
                let expected = "a number of seconds from 1 to 86400";
                let seconds: u64 = value.parse().map_err(|_| wrong(expected))?;
                if !(1..=86_400).contains(&seconds) {
                    return Err(wrong(expected));
                }
                self.soft = Some(Duration::from_secs(seconds));
            }
            "max_background" => {
                let expected = "a number from 1 to 65535";
                self.max_background = value.parse().map_err(|_| wrong(expected))?;
                if self.max_background == 0 {
                    return Err(wrong(expected));
                }
            }
            "read_ahead_age_ms" => {
                let expected = "a number of milliseconds from 0 to 10000";
                let ms: u64 = value.parse().map_err(|_| wrong(expected))?;
                if ms > 10_000 {
                    return Err(wrong(expected));
                }
                self.read_ahead_age = Duration::from_millis(ms);
            }
            "metrics_listen" => {
                let expected = "an address of this machine alone, as 127.0.0.1:9464";
                let address: SocketAddr = value.parse().map_err(|_| wrong(expected))?;
                if !address.ip().is_loopback() {
                    return Err(wrong(expected));
                }
                self.metrics_listen = Some(address);
            }
            "cluster" => self.cluster = Some(value.to_owned()),
            "secret_file" => self.secret_file = Some(PathBuf::from(value)),
            "config" => self.config = Some(PathBuf::from(value)),
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    /// As the FUSE library wants them.
    pub(crate) fn to_fuse(&self, volume: &str) -> Vec<MountOption> {
        let pick = |choice, yes, no| if choice { yes } else { no };
        vec![
            MountOption::FSName(format!("oxfs:{volume}")),
            MountOption::Subtype("oxfs".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
            pick(self.read_only, MountOption::RO, MountOption::RW),
            pick(self.dev, MountOption::Dev, MountOption::NoDev),
            pick(self.suid, MountOption::Suid, MountOption::NoSuid),
            pick(self.exec, MountOption::Exec, MountOption::NoExec),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_options_are_taken_over() {
        let flags: Flags = "ro,soft=5,noexec,dev,max_background=7,_netdev"
            .parse()
            .unwrap();

        assert!(flags.read_only && flags.dev && !flags.exec);
        assert_eq!(flags.soft, Some(Duration::from_secs(5)));
        assert_eq!(flags.max_background, 7);
    }

    #[test]
    fn later_option_wins() {
        let flags: Flags = "soft=5,hard,ro,rw".parse().unwrap();

        assert_eq!((flags.soft, flags.read_only), (None, false));
    }

    #[test]
    fn unknown_option_and_wrong_value_are_named() {
        let unknown = "ro,sofft=5".parse::<Flags>().unwrap_err().to_string();
        let wrong = "soft=soon".parse::<Flags>().unwrap_err().to_string();

        assert!(unknown.contains("\"sofft=5\""), "{unknown}");
        assert!(
            wrong.contains("soft=\"soon\"") && wrong.contains("seconds"),
            "{wrong}"
        );
        assert!("max_background=0".parse::<Flags>().is_err());
        assert!("metrics_listen=10.0.0.1:9".parse::<Flags>().is_err());
    }
}
