//! `lock` and `elect`: waiting in line, commands, signals.

use super::world::{Going, World};
use rustix::process::Signal;

#[test]
fn a_lock_is_held_until_a_signal() {
    let world = World::start();
    let line = world.spawn("watch l/ --prefix --rev 2");
    let first = world.spawn("lock l");
    let key = first.line();
    assert!(key.starts_with("l/"), "{key}");
    assert_eq!(first.line(), "");
    let second = world.spawn("lock l -w json");
    // It is in line once its key is there: type, key and value.
    line.lines(6);
    first.signal(Signal::TERM);
    assert_eq!(first.finish().code, 0);
    assert!(second.line().contains("\"kvs\":[{\"key\":"), "the second has it now");
    let third = world.spawn("lock l");
    // The first one's key is deleted, and the third's comes.
    line.lines(6);
    // Who gives up while waiting leaves no place behind.
    third.signal(Signal::INT);
    let answer = third.finish();
    assert_eq!((answer.code, answer.errors.as_str()), (1, "Error: context canceled"));
    second.signal(Signal::INT);
    assert_eq!(second.finish().code, 0);
    assert_eq!(world.output("get --prefix l/"), "");
    assert_eq!(world.output("lease list"), "found 0 leases\n");
}

#[test]
fn a_command_runs_under_the_lock() {
    let world = World::start();
    let arguments = ["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; exit 3"];
    let answer = world.run_words(&arguments, "");
    assert_eq!((answer.code, answer.errors.as_str()), (3, "Error: exit status 3\n"));
    assert!(answer.output.starts_with("l/") && answer.output.ends_with(" 2\n"), "{answer:?}");
    let answer = world.run("lock l /nonexistent/command");
    assert_eq!(answer.code, 1);
    let answer = world.run("lock l true");
    assert_eq!((answer.code, answer.output.as_str(), answer.errors.as_str()), (0, "", ""));
    assert_eq!(world.run("lock").code, 128);
    assert_eq!(world.output("get --prefix l/"), "");
    // The signals that end a lock leave the command alone, which ends by itself.
    let pipe = world.folder().join("pipe");
    let script = format!("mkfifo {0}; echo begun; cat {0}; echo ended", pipe.display());
    let going = Going::start(world.command(&["lock", "l", "--", "sh", "-c", &script]));
    assert_eq!(going.line(), "begun");
    going.signal(Signal::TERM);
    assert_ne!(world.output("get --prefix l/"), "");
    std::fs::write(&pipe, "").expect("it is read");
    assert_eq!(going.line(), "ended");
    assert_eq!(going.finish().code, 0);
}

#[test]
fn one_leads_and_the_others_watch() {
    let world = World::start();
    let line = world.spawn("watch e/ --prefix --rev 2");
    let observer = world.spawn("elect e -l");
    let first = world.spawn("elect e one");
    let key = first.line();
    assert_eq!(first.line(), "one");
    assert_eq!(observer.lines(2), [key.as_str(), "one"]);
    let second = world.spawn("elect e two");
    line.lines(6);
    first.signal(Signal::INT);
    assert_eq!(first.finish().code, 0);
    assert_eq!((second.line(), second.line()), (observer.line(), "two".to_owned()));
    assert_eq!(observer.line(), "two");
    observer.signal(Signal::TERM);
    assert_eq!(observer.finish().code, 0);
    second.signal(Signal::TERM);
    assert_eq!(second.finish().code, 0);
    assert_eq!(world.output("get --prefix e/"), "");
    for (line, text) in [
        ("elect e", "no proposal argument but -l not set"),
        ("elect e x -l", "proposal given but -l is set"),
        ("elect", "elect takes one election name argument and an optional proposal argument"),
    ] {
        let answer = world.run(line);
        assert_eq!((answer.code, answer.errors), (128, format!("Error: {text}\n")), "{line}");
    }
}
