//! What an operator writes: a file in the part of YAML that is read, or variables of the environment, and the command line
//! of the server. The first byte says which; words and variables are separated by line ends.
//!
//! Nothing stops the process, and whatever is taken makes sense: it passes the checks that a program's own configuration has
//! to pass.

use kvorum_server::config::{Command, Failure, parse};
use kvorum_server::from_outside::configuration::parse_text;
use kvorum_server::urls::Url;

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte() % 4;
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    match choice {
        0 => check(parse_text("file.yml", &text, Vec::new())),
        1 => {
            let variables = text.lines().filter_map(|line| line.split_once('='));
            // It would open a file.
            let variables = variables.filter(|(name, _)| *name != "CONFIG_FILE" && *name != "ETCD_CONFIG_FILE");
            let with_prefix = |(name, value): (&str, &str)| {
                let name = if name.starts_with("ETCD_") { name.to_owned() } else { format!("ETCD_{name}") };
                (name, value.to_owned())
            };
            check(parse(&[], &variables.map(with_prefix).collect::<Vec<_>>()));
        }
        2 => {
            let words: Vec<String> = text.lines().map(str::to_owned).collect();
            if !words.iter().any(|word| word.contains("config-file")) {
                check(parse(&words, &[]));
            }
        }
        _ => {
            if let Ok(url) = Url::parse(&text) {
                let again = Url::parse(url.as_str()).expect("what was read is a URL");
                assert_eq!((again.as_str(), again.host(), again.port()), (url.as_str(), url.host(), url.port()));
            }
        }
    }
}

fn check(parsed: Result<Command, Failure>) {
    if let Ok(Command::Serve { config, .. }) = parsed {
        assert_eq!(config.validate(), Ok(()), "what is taken makes sense");
        drop(config.log_fields());
    }
}
