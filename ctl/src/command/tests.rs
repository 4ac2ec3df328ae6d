use super::*;

const LEVEL: Flag = Flag { name: "level", short: Some('l'), value: Some("int"), default: "3", about: "how much" };
const FORCE: Flag = Flag { name: "force", short: None, value: None, default: "", about: "whatever happens" };

static PROGRAM: Program = Program {
    root: Command {
        name: "tool",
        about: "A tool",
        flags: &[LEVEL],
        action: Action::Group(&[
            Command {
                name: "do",
                operands: "<what>",
                about: "Does it",
                flags: &[FORCE],
                action: Action::Run(|parsed| {
                    Ok(format!(
                        "{} {:?} {:?}",
                        parsed.value(&LEVEL),
                        parsed.value(&FORCE),
                        parsed.operands.iter().map(|word| &**word).collect::<Vec<_>>()
                    ))
                }),
                ..Command::EMPTY
            },
            Command {
                name: "double",
                about: "Does it twice",
                action: Action::Run(|_| Ok("twice".to_owned())),
                ..Command::EMPTY
            },
        ]),
        ..Command::EMPTY
    },
    headings: &[],
    footer: "",
};

fn execute_line(line: &str) -> Result<String, Failure> {
    let arguments: Vec<Word> = line.split_whitespace().map(Word::from).collect();
    execute(&PROGRAM, &arguments)
}

#[test]
fn flags_are_read_in_all_their_shapes() {
    for line in
        ["do -l 5 x", "-l 5 do x", "do --level 0x5 x", "do -l5 x", "do -l=5 x", "--level 5 do x", "do x --level=5"]
    {
        assert_eq!(execute_line(line), Ok("5 \"\" [\"x\"]".to_owned()), "{line}");
    }
    assert_eq!(execute_line("do --force -- -x --level=5"), Ok("3 \"true\" [\"-x\", \"--level=5\"]".to_owned()));
    assert_eq!(execute_line("dou"), Ok("twice".to_owned()));
    assert_eq!(execute_line("do -"), Ok("3 \"\" [\"-\"]".to_owned()));
}

#[test]
fn what_is_unknown_is_named() {
    let message = |line| execute_line(line).map_err(|failure| failure.message.lines().next().map(str::to_owned));
    let unknown = execute_line("doo").expect_err("no command");
    let text = "unknown command \"doo\" for \"tool\"\n\nDid you mean this?\n\tdo\n\nRun 'tool --help' for usage.";
    assert_eq!((unknown.exit_code, unknown.message.as_str()), (EXIT_ERROR, text));
    assert_eq!(message("be"), Err(Some("unknown command \"be\" for \"tool\"".to_owned())));
    assert_eq!(message("do --no"), Err(Some("unknown flag: --no".to_owned())));
    assert_eq!(message("--force do"), Err(Some("unknown flag: --force".to_owned())));
    assert_eq!(message("do -x"), Err(Some("unknown shorthand flag: 'x' in -x".to_owned())));
    let invalid = "invalid argument \"x\" for \"-l, --level\" flag: strconv.ParseInt: parsing \"x\": invalid syntax";
    assert_eq!(message("do -l x"), Err(Some(invalid.to_owned())));
    assert_eq!(message("do --level"), Err(Some("flag needs an argument: --level".to_owned())));
}

#[test]
fn help_is_drawn_from_the_tree() {
    let help = "Does it

Usage:
  tool do <what> [flags]

Flags:
      --force   whatever happens
  -h, --help    help for do

Global Flags:
  -l, --level int   how much (default 3)
";
    assert_eq!(execute_line("do x --help"), Ok(help.to_owned()));
    assert_eq!(execute_line("help do"), Ok(help.to_owned()));
    let text = execute_line("").expect("the help");
    assert!(text.contains("Available Commands:\n  do          Does it\n"), "{text}");
}
