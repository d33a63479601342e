//! Reads the one TOML file of a process; whatever is wrong becomes one sentence with file and line.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use types::{ClusterId, Secret, SecretError};

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read {}: {cause}; give the path of a readable file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The text is not TOML, a key is unknown, or a value has the wrong type or unit.
    #[error("{}, line {line}{}: {reason}", path.display(), in_key(key))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Key on that line, if there is one.
        key: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A key that has no default is not there.
    #[error("{}{}: the key `{key}` is missing; add {}", path.display(), in_line(*line), example(key))]
    Missing {
        /// The file.
        path: PathBuf,
        /// Line of the table that lacks it, from 1; none: the file as a whole.
        line: Option<usize>,
        /// The key.
        key: String,
    },
    /// A value is understood but can't be right, alone or with others.
    #[error("{}, key {key}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The secret's file does not hold a secret.
    #[error("{}: {cause}; `oxfs up` makes such a file", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: SecretError,
    },
}

fn in_key(key: &Option<String>) -> String {
    key.as_ref()
        .map(|key| format!(", key {key}"))
        .unwrap_or_default()
}

fn in_line(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}"))
        .unwrap_or_default()
}

/// What to write for a key that is missing.
fn example(key: &str) -> String {
    let value = match key {
        "cluster" => "\"0123456789abcdef0123456789abcdef\"",
        "secret_file" => "\"/etc/oxfs/secret\"",
        "id" => "1",
        "listen" => "\"127.0.0.1:7000\"",
        "dir" => "\"/var/lib/oxfs/osd-1\"",
        "address" => "\"10.0.0.1:7000\"",
        "mrc" => "[\"10.0.0.1:7000\", \"10.0.0.2:7000\", \"10.0.0.3:7000\"]",
        "members" => "[{ id = 1, address = \"10.0.0.1:7000\" }]",
        _ => return "it".to_owned(),
    };
    format!("it, such as `{key} = {value}`")
}

/// Reads a configuration file. `T` should refuse unknown fields.
///
/// # Errors
///
/// [`ConfigError::Unreadable`] or [`ConfigError::Invalid`].
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable {
        path: path.to_owned(),
        cause,
    })?;
    parse(&text, path)
}

/// Reads a configuration from text; `path` is only for the error.
///
/// # Errors
///
/// [`ConfigError::Invalid`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let at = span.start.min(text.len());
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        if let Some(key) = missing(error.message()) {
            return ConfigError::Missing {
                path: path.to_owned(),
                // The table without a name begins with the file.
                line: (at > 0).then_some(line),
                key,
            };
        }
        let key = text
            .lines()
            .nth(line - 1)
            .and_then(|line| line.split_once('='))
            .map(|(key, _)| key.trim().to_owned());
        let mut reason = error.message().replace('\n', " ");
        let found = text.get(span).unwrap_or_default();
        if let Some(wanted) = wanted(&reason, key.as_deref()) {
            return ConfigError::Invalid {
                path: path.to_owned(),
                line,
                key,
                reason: format!("it is {found}; {wanted}"),
            };
        }
        // The text it is about, unless that is a whole table or named anyway.
        if !found.is_empty() && !found.contains('\n') && !reason.contains(found.trim_matches('"')) {
            reason = format!("{reason}: {found}");
        }
        ConfigError::Invalid {
            path: path.to_owned(),
            line,
            key,
            reason,
        }
    })
}

/// The key that an error of the parser misses.
fn missing(message: &str) -> Option<String> {
    let rest = message.strip_prefix("missing field `")?;
    let (key, _) = rest.split_once('`')?;
    Some(key.to_owned())
}

/// What a value of the wrong type or form should be; nothing if the parser's words say it.
fn wanted(message: &str, key: Option<&str>) -> Option<String> {
    let expected = |word: &str| message.contains(&format!("expected {word}"));
    if message.contains("socket address") {
        return Some(
            "give IP:PORT, such as \"127.0.0.1:7000\" or \"[::1]:7000\", since names are not \
             looked up"
                .to_owned(),
        );
    }
    if ["u64", "u32", "u16", "u8", "usize"]
        .map(expected)
        .contains(&true)
    {
        let key = key.unwrap_or("key");
        return Some(match unit(key) {
            Some((unit, example)) => format!(
                "give a whole number of {unit} without unit and quotes, such as `{key} = {example}`"
            ),
            None => format!("give a whole number without quotes, such as `{key} = 1`"),
        });
    }
    if expected("a string") || expected("path string") {
        return Some("give text in double quotes".to_owned());
    }
    expected("a boolean").then(|| "give true or false, without quotes".to_owned())
}

/// What the number in a key counts, by the end of the key's name, and a number of about that size.
fn unit(key: &str) -> Option<(&'static str, &'static str)> {
    let (_, end) = key.rsplit_once('_')?;
    match end {
        "ms" => Some(("milliseconds", "1500")),
        "bytes" => Some(("bytes", "16777216")),
        _ => None,
    }
}

/// Reads the cluster's secret, and warns if others can.
///
/// # Errors
///
/// [`ConfigError::Unreadable`] or [`ConfigError::Secret`].
pub fn load_secret(path: &Path) -> Result<Secret, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(), mode = format_args!("{mode:04o}"),
            "others on this machine can read the cluster's secret; run `chmod 600` on it"
        );
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Secret::from_hex(text.trim()).map_err(|cause| ConfigError::Secret {
        path: path.to_owned(),
        cause,
    })
}

/// Reads a cluster id.
///
/// # Errors
///
/// [`ConfigError::Unusable`].
pub fn cluster_id(text: &str, path: &Path) -> Result<ClusterId, ConfigError> {
    text.parse()
        .map_err(|error: types::IdError| ConfigError::Unusable {
            path: path.to_owned(),
            key: "cluster",
            reason: error.to_string(),
        })
}

/// Whether a text is `HOST:PORT`; an IPv6 address stands in brackets.
#[must_use]
pub fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let name = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let sound = match name {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']),
    };
    sound && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// An address that others can reach, although traffic is not encrypted yet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{key}` is {listen}, which is not loopback, and there is no TLS yet; set `insecure_network = true` to accept that anyone on the network can read and forge messages"
)]
pub struct PublicAddress {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub listen: SocketAddr,
}

/// Refuses addresses that others can reach, unless the configuration accepts that.
///
/// # Errors
///
/// [`PublicAddress`], the first one.
pub fn check_listen(
    addresses: &[(&'static str, Option<SocketAddr>)],
    insecure_network: bool,
) -> Result<(), PublicAddress> {
    let mut given = addresses
        .iter()
        .filter_map(|(key, listen)| Some((*key, (*listen)?)));
    match given.find(|(_, listen)| !listen.ip().is_loopback()) {
        Some((key, listen)) if !insecure_network => Err(PublicAddress { key, listen }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: SocketAddr,
        #[serde(default)]
        lease_ttl_ms: u64,
    }

    fn refusal(text: &str) -> String {
        parse::<Sample>(text, Path::new("/etc/osd.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn good_file_is_read() {
        let sample: Sample = parse(
            "listen = \"127.0.0.1:1\"\nlease_ttl_ms = 7\n",
            Path::new("x"),
        )
        .unwrap();

        assert_eq!(sample.lease_ttl_ms, 7);
    }

    #[test]
    fn unknown_key_is_named_with_file_line_and_the_known_ones() {
        let text = refusal("listen = \"127.0.0.1:1\"\n# why\nlease_ttl = 1500\n");

        assert!(
            text.starts_with("/etc/osd.toml, line 3, key lease_ttl: "),
            "{text}"
        );
        assert!(text.contains("unknown field `lease_ttl`"), "{text}");
        assert!(text.contains("lease_ttl_ms"), "{text}");
    }

    #[test]
    fn wrong_unit_and_wrong_syntax_are_one_line_each() {
        let unit = refusal("listen = \"127.0.0.1:1\"\nlease_ttl_ms = \"1.5 s\"\n");
        assert!(
            unit.starts_with("/etc/osd.toml, line 2, key lease_ttl_ms: "),
            "{unit}"
        );
        assert!(
            unit.contains("1.5 s") && unit.contains("milliseconds") && unit.ends_with("= 1500`"),
            "{unit}"
        );

        let syntax = refusal("listen = \n");
        assert!(syntax.starts_with("/etc/osd.toml, line 1"), "{syntax}");
        for text in [unit, syntax] {
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn address_without_port_or_with_a_name_is_told_the_form() {
        for listen in ["\"127.0.0.1\"", "\"localhost:7000\"", "7000"] {
            let address = refusal(&format!("listen = {listen}\n"));
            assert!(
                address.contains(&format!("it is {listen}; give IP:PORT")),
                "{address}"
            );
        }
    }

    #[test]
    fn missing_key_is_named_without_a_line_unless_its_table_has_one() {
        let missing = refusal("# why\nlease_ttl_ms = 3\n");
        assert_eq!(
            missing,
            "/etc/osd.toml: the key `listen` is missing; add it, such as `listen = \
             \"127.0.0.1:7000\"`"
        );

        #[derive(Debug, Deserialize)]
        struct Outer {
            #[expect(dead_code, reason = "only its absence is looked at")]
            members: Vec<Sample>,
        }
        let inner = "\nmembers = [\n  { lease_ttl_ms = 1 },\n]\n";
        let inner = parse::<Outer>(inner, Path::new("x")).unwrap_err();
        assert!(
            inner.to_string().starts_with("x, line 3: the key `listen`"),
            "{inner}"
        );
    }

    #[test]
    fn missing_file_says_which() {
        let error = load::<Sample>(Path::new("/nonexistent/osd.toml")).unwrap_err();

        assert!(error.to_string().contains("/nonexistent/osd.toml"));
    }

    #[test]
    fn secret_must_be_64_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, format!("{}\n", "a".repeat(64))).unwrap();
        assert!(load_secret(&path).is_ok());

        fs::write(&path, "abc").unwrap();
        assert!(matches!(
            load_secret(&path),
            Err(ConfigError::Secret { .. })
        ));
    }

    #[test]
    fn open_network_must_be_asked_for() {
        let local = ("listen", Some("[::1]:80".parse().unwrap()));
        let public = ("metrics_listen", Some("192.0.2.1:80".parse().unwrap()));
        let absent = ("metrics_listen", None);

        assert_eq!(check_listen(&[local, absent], false), Ok(()));
        assert_eq!(check_listen(&[local, public], true), Ok(()));
        let refused = check_listen(&[local, public], false).unwrap_err();
        assert_eq!(refused.key, "metrics_listen");
        assert!(refused.to_string().contains("insecure_network"));
    }
}
