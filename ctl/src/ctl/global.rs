//! The flags of all commands, the environment that stands for them, and the client's configuration that follows.
//!
//! A flag on the command line counts first, then `KVORUMCTL_<FLAG>`, then `ETCDCTL_<FLAG>`. As in etcdctl, a flag that is
//! given on the command line and as `ETCDCTL_<FLAG>` is an error, and other variables that begin so are warned about.

use std::collections::HashSet;
use std::time::Duration;

use kvorum_client::{Config, Tls};

use super::discovery::Discovery;
use super::output::{Format, Printer, Style};
use super::terminal;
use crate::command::{EXIT_BAD_ARGUMENTS, EXIT_BAD_CONNECTION, EXIT_ERROR, Failure, Flag, Parsed};
use crate::golang;

pub const ENDPOINTS: Flag = Flag {
    name: "endpoints",
    short: None,
    value: Some("strings"),
    default: "127.0.0.1:2379",
    about: "addresses of the members to speak with",
};
const DEBUG: Flag = Flag::switch("debug", "show on standard error with which settings the client works");
pub const WRITE_OUT: Flag =
    Flag::text("write-out", "the format of answers (fields, json, protobuf, simple, table)").short('w').or("simple");
const HEX: Flag = Flag::switch("hex", "print bytes and ids in hexadecimal");
const DIAL_TIMEOUT: Flag = Flag::duration("dial-timeout", "how long connecting and logging in may take").or("2s");
pub const COMMAND_TIMEOUT: Flag =
    Flag::duration("command-timeout", "how long a short command may take, without connecting").or("5s");
const KEEPALIVE_TIME: Flag = Flag::duration("keepalive-time", "how long a connection is silent before a ping").or("2s");
const KEEPALIVE_TIMEOUT: Flag = Flag::duration("keepalive-timeout", "how long an answer to a ping may take").or("6s");
const MAX_REQUEST_BYTES: Flag = Flag::number("max-request-bytes", "the longest request in bytes (0 is 2 MiB)");
const MAX_RECV_BYTES: Flag = Flag::number("max-recv-bytes", "the longest answer in bytes (0 is 2 GiB)");
const INSECURE_TRANSPORT: Flag =
    Flag::switch("insecure-transport", "speak without TLS where an endpoint does not ask for it").or("true");
const INSECURE_DISCOVERY: Flag =
    Flag::switch("insecure-discovery", "take insecure SRV records for addresses of members").or("true");
const INSECURE_SKIP_TLS_VERIFY: Flag =
    Flag::switch("insecure-skip-tls-verify", "take any certificate of a server (for tests only)");
const CERT: Flag = Flag::text("cert", "the file of the client's certificate");
const KEY: Flag = Flag::text("key", "the file of the key to the client's certificate");
const CACERT: Flag = Flag::text("cacert", "the file of the authorities that servers' certificates are checked with");
const AUTH_JWT_TOKEN: Flag = Flag::text("auth-jwt-token", "a token to show instead of logging in");
const USER: Flag = Flag::text("user", "who to log in as, name[:password] (a missing password is asked for)");
const PASSWORD: Flag = Flag::text("password", "the password of --user");
const DISCOVERY_SRV: Flag = Flag::text("discovery-srv", "the domain whose SRV records name the members").short('d');
const DISCOVERY_SRV_NAME: Flag = Flag::text("discovery-srv-name", "a suffix of the names of SRV records");

pub const FLAGS: &[Flag] = &[
    ENDPOINTS,
    DEBUG,
    WRITE_OUT,
    HEX,
    DIAL_TIMEOUT,
    COMMAND_TIMEOUT,
    KEEPALIVE_TIME,
    KEEPALIVE_TIMEOUT,
    MAX_REQUEST_BYTES,
    MAX_RECV_BYTES,
    INSECURE_TRANSPORT,
    INSECURE_DISCOVERY,
    INSECURE_SKIP_TLS_VERIFY,
    CERT,
    KEY,
    CACERT,
    AUTH_JWT_TOKEN,
    USER,
    PASSWORD,
    DISCOVERY_SRV,
    DISCOVERY_SRV_NAME,
];

/// Variables that are read by commands themselves, without the beginning.
const OF_COMMANDS: [&str; 2] = ["WATCH_KEY", "WATCH_RANGE_END"];

const ETCDCTL: &str = "ETCDCTL_";
const KVORUMCTL: &str = "KVORUMCTL_";

/// What the global flags and the environment say together.
#[derive(Clone)]
pub struct Settings {
    parsed: Parsed,
    pub printer: Printer,
    /// Without empty space around them.
    pub endpoints: Vec<String>,
    pub command_timeout: Duration,
    pub dial_timeout: Duration,
    credentials: Credentials,
    pub tls: TlsFiles,
}

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    None,
    Token(String),
    Password { user: String, password: String },
}

/// What TLS is spoken with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: String,
    pub key: String,
    pub authorities: String,
    /// `--insecure-transport=false`: also with endpoints that do not say so.
    pub always: bool,
    /// What certificates of servers must be for; empty for their addresses.
    pub server_name: String,
    pub skip_verify: bool,
}

impl Settings {
    /// Reads the environment into what was not given on the command line.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn read(parsed: &Parsed) -> Result<Self, Failure> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        let (parsed, warnings) = with_environment(parsed, &environment)?;
        warnings.iter().for_each(|warning| eprintln!("{warning}"));
        if parsed.is_set(&DEBUG) {
            for flag in FLAGS {
                let value = if flag.name == PASSWORD.name { "(not shown)" } else { parsed.value(flag) };
                eprintln!("{KVORUMCTL}{}={value}", variable(flag));
            }
        }
        Self::from_flags(parsed)
    }

    /// From flags alone.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_flags(parsed: Parsed) -> Result<Self, Failure> {
        for flag in [&CERT, &KEY, &CACERT] {
            if parsed.is_given(flag) && parsed.value(flag).is_empty() {
                return Err(Failure::usage(format!("empty string is passed to --{} option", flag.name)));
            }
        }
        let discovery = Discovery {
            domain: parsed.value(&DISCOVERY_SRV),
            suffix: parsed.value(&DISCOVERY_SRV_NAME),
            is_insecure_allowed: parsed.is_set(&INSECURE_DISCOVERY),
        };
        let found = if discovery.domain.is_empty() { Vec::new() } else { discovery.endpoints()? };
        let given = parsed.value(&ENDPOINTS).split(',').map(|endpoint| endpoint.trim().to_owned());
        let given = given.filter(|endpoint| !endpoint.is_empty());
        let style = Style { is_hex: parsed.is_set(&HEX), value_only: false };
        Ok(Self {
            endpoints: if found.is_empty() { given.collect() } else { found },
            command_timeout: parsed.duration(&COMMAND_TIMEOUT),
            dial_timeout: parsed.duration(&DIAL_TIMEOUT),
            credentials: credentials(
                parsed.value(&USER),
                parsed.value(&PASSWORD),
                parsed.value(&AUTH_JWT_TOKEN),
                "Password: ",
            )?,
            tls: TlsFiles {
                certificate: parsed.value(&CERT).to_owned(),
                key: parsed.value(&KEY).to_owned(),
                authorities: parsed.value(&CACERT).to_owned(),
                always: !parsed.is_set(&INSECURE_TRANSPORT),
                // Who trusts no insecure records expects certificates of the domain.
                server_name: if discovery.is_insecure_allowed { String::new() } else { discovery.domain.to_owned() },
                skip_verify: parsed.is_set(&INSECURE_SKIP_TLS_VERIFY),
            },
            printer: Printer { format: Format::parse(parsed.value(&WRITE_OUT))?, style },
            parsed,
        })
    }

    /// Whether `--command-timeout` was given, here or in the environment.
    pub fn has_command_timeout(&self) -> bool {
        self.parsed.is_given(&COMMAND_TIMEOUT)
    }

    /// The configuration of a client of the cluster.
    ///
    /// # Errors
    /// When files of TLS cannot be used.
    pub fn config(&self) -> Result<Config, Failure> {
        self.config_of(&self.endpoints, &self.credentials, &self.tls)
    }

    /// The configuration of a client of other endpoints: the rest is as the flags say.
    ///
    /// # Errors
    /// When files of TLS cannot be used.
    pub fn config_at(&self, endpoints: &[String]) -> Result<Config, Failure> {
        self.config_of(endpoints, &self.credentials, &self.tls)
    }

    /// The configuration of a client of other endpoints, with other credentials: the rest is as the flags say.
    ///
    /// # Errors
    /// When files of TLS cannot be used.
    pub fn config_of(
        &self,
        endpoints: &[String],
        credentials: &Credentials,
        tls: &TlsFiles,
    ) -> Result<Config, Failure> {
        if endpoints.is_empty() {
            return Err(Failure::new(EXIT_BAD_CONNECTION, "etcdclient: no available endpoints"));
        }
        let tls_for_all = tls.is_for_all();
        let is_secure = |endpoint: &String| endpoint.starts_with("https://") || endpoint.starts_with("unixs:");
        let needs_tls = tls_for_all || endpoints.iter().any(is_secure);
        let mut endpoints: Vec<String> = endpoints.iter().map(|endpoint| with_host(endpoint)).collect();
        if needs_tls && !tls_for_all {
            // TLS is only for the endpoints that ask for it.
            let undecided = |endpoint: &&mut String| !endpoint.contains("://") && !endpoint.starts_with("unix");
            endpoints.iter_mut().filter(undecided).for_each(|endpoint| endpoint.insert_str(0, "http://"));
        }
        let mut config = Config::new(endpoints)
            .dial_timeout(self.dial_timeout)
            .request_timeout(self.command_timeout)
            .keepalive(self.parsed.duration(&KEEPALIVE_TIME), self.parsed.duration(&KEEPALIVE_TIMEOUT));
        if let Ok(bytes @ 1..) = usize::try_from(self.parsed.number(&MAX_REQUEST_BYTES)) {
            config = config.max_send_bytes(bytes);
        }
        if let Ok(bytes @ 1..) = usize::try_from(self.parsed.number(&MAX_RECV_BYTES)) {
            config = config.max_receive_bytes(bytes);
        }
        config = match credentials {
            Credentials::None => config,
            Credentials::Token(token) => config.token(token),
            Credentials::Password { user, password } => config.user(user, password),
        };
        if needs_tls {
            let refuse = |error: kvorum_client::Error| Failure::new(EXIT_BAD_ARGUMENTS, error.to_string());
            config = config.tls(tls.load()?).map_err(refuse)?;
        }
        Ok(config)
    }

    /// Whether the client logs in with a password.
    pub fn logs_in(&self) -> bool {
        matches!(self.credentials, Credentials::Password { .. })
    }
}

impl TlsFiles {
    /// Whether TLS is spoken with endpoints that do not say whether they want it.
    pub fn is_for_all(&self) -> bool {
        let files = [&self.certificate, &self.key, &self.authorities];
        self.always || self.skip_verify || files.iter().any(|file| !file.is_empty())
    }

    /// # Errors
    /// When a file cannot be read, or is missing.
    pub fn load(&self) -> Result<Tls, Failure> {
        let read = |path: &str| {
            let refuse = |error: std::io::Error| {
                Failure::new(EXIT_BAD_ARGUMENTS, format!("open {path}: {}", golang::io_error_text(&error)))
            };
            std::fs::read(path).map_err(refuse)
        };
        let mut tls = Tls::new();
        match (self.certificate.is_empty(), self.key.is_empty()) {
            (true, true) => {}
            (false, false) => tls = tls.identity_pem(read(&self.certificate)?, read(&self.key)?),
            _ => {
                let text =
                    format!("KeyFile and CertFile must both be present[key: {}, cert: {}]", self.key, self.certificate);
                return Err(Failure::new(EXIT_BAD_ARGUMENTS, text));
            }
        }
        if !self.authorities.is_empty() {
            tls = tls.ca_pem(read(&self.authorities)?);
        }
        if !self.server_name.is_empty() {
            tls = tls.server_name(&self.server_name);
        }
        if self.skip_verify {
            tls = tls.insecure_skip_verify();
        }
        Ok(tls)
    }
}

/// From `--user`, `--password` and `--auth-jwt-token`, asking for a password that is missing.
///
/// # Errors
/// When it cannot be asked for.
pub fn credentials(user: &str, password: &str, token: &str, prompt: &str) -> Result<Credentials, Failure> {
    if !token.is_empty() {
        return Ok(Credentials::Token(token.to_owned()));
    }
    if user.is_empty() {
        return Ok(Credentials::None);
    }
    let (user, password) = match (password, user.split_once(':')) {
        ("", Some((user, password))) => (user, password.to_owned()),
        ("", None) => (user, terminal::ask_password(prompt)?),
        (password, _) => (user, password.to_owned()),
    };
    if user.is_empty() || password.is_empty() {
        // As clientv3: half of a login is none.
        return Ok(Credentials::None);
    }
    Ok(Credentials::Password { user: user.to_owned(), password })
}

/// An endpoint without a host is of this machine, as in Go.
pub fn with_host(endpoint: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, rest)) if rest.starts_with(':') => format!("{scheme}://localhost{rest}"),
        None if endpoint.starts_with(':') => format!("localhost{endpoint}"),
        _ => endpoint.to_owned(),
    }
}

fn variable(flag: &Flag) -> String {
    flag.name.to_uppercase().replace('-', "_")
}

/// The flags with what the environment adds, and warnings about what it has besides.
fn with_environment(parsed: &Parsed, environment: &[(String, String)]) -> Result<(Parsed, Vec<String>), Failure> {
    let mut parsed = parsed.clone();
    let given: HashSet<&str> = FLAGS.iter().filter(|flag| parsed.is_given(flag)).map(|flag| flag.name).collect();
    let mut warnings = Vec::new();
    // The later wins.
    for beginning in [ETCDCTL, KVORUMCTL] {
        for flag in FLAGS.iter().filter(|flag| !given.contains(flag.name)) {
            let name = format!("{beginning}{}", variable(flag));
            let value = environment.iter().find(|(other, value)| *other == name && !value.is_empty());
            if let Some((_, value)) = value {
                // As etcdctl, it goes on without.
                if let Err(error) = parsed.set(flag, value) {
                    let value = golang::quote(value.as_bytes());
                    warnings.push(format!("Warning: invalid value {value} for {name}: {error}"));
                }
            }
        }
    }
    for (name, _) in environment {
        for beginning in [ETCDCTL, KVORUMCTL] {
            let Some(rest) = name.strip_prefix(beginning) else { continue };
            let flag = FLAGS.iter().find(|flag| variable(flag) == rest);
            if beginning == ETCDCTL && flag.is_some_and(|flag| given.contains(flag.name)) {
                let text = format!("the variable {name} and its flag are both given: take one of them away");
                return Err(Failure::new(EXIT_ERROR, text));
            }
            if flag.is_none() && !OF_COMMANDS.contains(&rest) {
                warnings.push(format!("Warning: unrecognized environment variable {name}"));
            }
        }
    }
    Ok((parsed, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(given: &[(&Flag, &str)], environment: &[(&str, &str)]) -> Result<(Parsed, Vec<String>), Failure> {
        let mut parsed = Parsed::default();
        for (flag, value) in given {
            parsed.set(flag, value).expect("a value");
        }
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        with_environment(&parsed, &environment)
    }

    #[test]
    fn the_environment_stands_for_flags() {
        let environment = [("ETCDCTL_ENDPOINTS", "a,b"), ("KVORUMCTL_ENDPOINTS", "c"), ("ETCDCTL_WRITE_OUT", "json")];
        let (parsed, warnings) = with(&[], &environment).expect("it is fine");
        assert_eq!((parsed.value(&ENDPOINTS), parsed.value(&WRITE_OUT)), ("c", "json"));
        assert!(warnings.is_empty());
        let (parsed, _) = with(&[(&ENDPOINTS, "d")], &[("KVORUMCTL_ENDPOINTS", "c")]).expect("the flag counts");
        assert_eq!(parsed.value(&ENDPOINTS), "d");
    }

    #[test]
    fn an_endpoint_without_a_host_is_here() {
        assert_eq!(with_host(":2379"), "localhost:2379");
        assert_eq!(with_host("https://:2379"), "https://localhost:2379");
        assert_eq!(with_host("http://[::1]:2379"), "http://[::1]:2379");
    }

    #[test]
    fn what_is_wrong_with_the_environment_is_said() {
        let (_, warnings) =
            with(&[], &[("ETCDCTL_NO", "x"), ("ETCDCTL_WATCH_KEY", "k"), ("OTHER", "y")]).expect("only warned");
        assert_eq!(warnings, ["Warning: unrecognized environment variable ETCDCTL_NO"]);
        let failure = with(&[(&HEX, "true")], &[("ETCDCTL_HEX", "true")]).expect_err("both are given");
        assert_eq!(failure.exit_code, EXIT_ERROR);
        assert!(failure.message.contains("ETCDCTL_HEX and its flag"), "{failure:?}");
        let (parsed, warnings) = with(&[], &[("ETCDCTL_DIAL_TIMEOUT", "x")]).expect("only warned");
        assert_eq!(parsed.value(&DIAL_TIMEOUT), "2s");
        assert_eq!(warnings, ["Warning: invalid value \"x\" for ETCDCTL_DIAL_TIMEOUT: time: invalid duration \"x\""]);
    }
}
