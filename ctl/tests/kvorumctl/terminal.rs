//! What is different when somebody sits at a terminal: passwords that are not shown, progress that is.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::world::World;

/// A command at a terminal of its own.
struct Terminal {
    screen: File,
    keyboard: File,
    child: Child,
    shown: String,
    /// Kept so that the terminal outlives the command.
    line: File,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("it is ours");
        let name = ptsname(&controller, Vec::new()).expect("it has a name");
        let path = std::ffi::OsStr::from_bytes(name.as_bytes());
        let line = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
        let end = || Stdio::from(line.try_clone().expect("it can be shared"));
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it starts");
        let screen = File::from(controller);
        let keyboard = screen.try_clone().expect("it can be shared");
        Self { screen, keyboard, child, shown: String::new(), line }
    }

    /// Reads the screen until it shows a text behind what was read before; gives what came before it.
    fn until(&mut self, text: &str) -> String {
        let mut piece = [0; 1024];
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let length = self.screen.read(&mut piece).expect("the terminal is open");
            self.shown.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    }

    fn write(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("the terminal is open");
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.line).expect("it is a terminal").local_modes.contains(LocalModes::ECHO)
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn passwords_are_not_shown() {
    let world = World::start();
    let mut terminal = Terminal::start(world.command(&["user", "passwd", "somebody"]));
    terminal.until("Password of somebody: ");
    assert!(!terminal.echoes());
    terminal.write(b"secrex\x7ft\n");
    let shown = terminal.until("Type password of somebody again for confirmation: ");
    assert!(!shown.contains("secr"), "{shown}");
    terminal.write(b"other\r");
    let shown = terminal.until("Error: given passwords are different");
    assert!(!shown.contains("other"), "{shown}");
    assert!(terminal.echoes());
    assert_eq!(terminal.code(), Some(128));
}

#[test]
fn an_interrupt_leaves_the_terminal_as_it_was() {
    let world = World::start();
    let mut terminal = Terminal::start(world.command(&["get", "a", "--user", "root"]));
    terminal.until("Password: ");
    terminal.write(b"sec\x03");
    terminal.until("Error: interrupted");
    assert!(terminal.echoes());
    assert_eq!(terminal.code(), Some(5));
}

#[test]
fn progress_is_shown_and_wiped() {
    let world = World::start();
    let path = world.folder().join("backup.db");
    let path = path.to_str().expect("a plain name");
    let mut terminal = Terminal::start(world.command(&["snapshot", "save", path]));
    let shown = terminal.until("Snapshot saved at ");
    assert!(shown.starts_with("\r[") && shown.contains(" kB, "), "{shown:?}");
    assert!(shown.ends_with("\r\u{1b}[KSnapshot saved at "), "{shown:?}");
    assert_eq!(terminal.code(), Some(0));
}
