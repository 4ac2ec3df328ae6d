//! `user`: who may log in, and with which roles.

use std::io::BufRead as _;

use kvorum_client::response::{AuthUserGetResponse, AuthUserListResponse};
use prost::Message as _;

use super::auth::Done;
use super::messages::with_header;
use super::output::{Answer, Style, Text, print_bytes};
use super::role::RoleAnswer;
use super::{AUTHENTICATION, session, terminal};
use crate::command::{Action, Command, EXIT_BAD_ARGUMENTS, EXIT_INTERRUPTED, Failure, Flag, Parsed};
use crate::golang::json;

const INTERACTIVE: Flag =
    Flag::switch("interactive", "ask for the password at the terminal, twice; else it is read from standard input")
        .or("true");
const NEW_USER_PASSWORD: Flag = Flag::text("new-user-password", "the password of the new user");
const NO_PASSWORD: Flag = Flag::switch("no-password", "a user without password, who logs in by certificate only");
const DETAIL: Flag = Flag::switch("detail", "also what each role may do");

pub const COMMAND: Command = Command {
    name: "user",
    operands: "<subcommand>",
    about: "The users and their roles",
    heading: AUTHENTICATION,
    action: Action::Group(&[
        Command {
            name: "add",
            operands: "<user name or user:password> [options]",
            about: "Adds a user",
            flags: &[INTERACTIVE, NEW_USER_PASSWORD, NO_PASSWORD],
            action: Action::Perform(add),
            ..Command::EMPTY
        },
        Command {
            name: "delete",
            operands: "<user name>",
            about: "Deletes a user",
            action: Action::Perform(delete),
            ..Command::EMPTY
        },
        Command {
            name: "get",
            operands: "<user name> [options]",
            about: "Prints the roles of a user",
            flags: &[DETAIL],
            action: Action::Perform(get),
            ..Command::EMPTY
        },
        Command { name: "list", about: "Lists all users", action: Action::Perform(list), ..Command::EMPTY },
        Command {
            name: "passwd",
            operands: "<user name> [options]",
            about: "Changes the password of a user",
            flags: &[INTERACTIVE],
            action: Action::Perform(change_password),
            ..Command::EMPTY
        },
        Command {
            name: "grant-role",
            operands: "<user name> <role name>",
            about: "Gives a role to a user",
            action: Action::Perform(grant_role),
            ..Command::EMPTY
        },
        Command {
            name: "revoke-role",
            operands: "<user name> <role name>",
            about: "Takes a role from a user",
            action: Action::Perform(revoke_role),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

fn name(parsed: &Parsed, command: &str) -> Result<String, Failure> {
    match &parsed.operands[..] {
        [name] => Ok(name.to_string()),
        _ => Err(Failure::usage(format!("user {command} command requires user name as its argument"))),
    }
}

fn add(parsed: &Parsed) -> Result<(), Failure> {
    let name = name(parsed, "add")?;
    let (user, password) = match parsed.value(&NEW_USER_PASSWORD) {
        _ if parsed.is_set(&NO_PASSWORD) => (name, None),
        "" => match name.split_once(':') {
            Some(("", _)) => return Err(Failure::usage("empty user name is not allowed")),
            Some((user, password)) => (user.to_owned(), Some(password.to_owned())),
            None => {
                let password = new_password(parsed, &name)?;
                (name, Some(password))
            }
        },
        password => (name, Some(password.to_owned())),
    };
    session::run(parsed, async |session| {
        let auth = session.client.auth();
        let answer = match password {
            Some(password) => auth.add_user(&user, &password).await?,
            None => auth.add_user_without_password(&user).await?,
        };
        session.printer.print(&Done { text: format!("User {user} created"), header: answer.header })
    })
}

/// Asks for a new password, or reads the first word of standard input.
fn new_password(parsed: &Parsed, user: &str) -> Result<String, Failure> {
    if !parsed.is_set(&INTERACTIVE) {
        let mut line = String::new();
        // What cannot be read is an empty password, which the cluster judges.
        let _ = std::io::stdin().lock().read_line(&mut line);
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let ask = |prompt: String| {
        let refuse = |failure: Failure| match failure.exit_code {
            EXIT_INTERRUPTED => failure,
            _ => Failure::usage(format!("failed to ask password: {}", failure.message)),
        };
        terminal::ask_password(&prompt).map_err(refuse)
    };
    let password = ask(format!("Password of {user}: "))?;
    if password.is_empty() {
        return Err(Failure::usage("empty password"));
    }
    if ask(format!("Type password of {user} again for confirmation: "))? != password {
        return Err(Failure::new(EXIT_BAD_ARGUMENTS, "given passwords are different"));
    }
    Ok(password)
}

fn delete(parsed: &Parsed) -> Result<(), Failure> {
    let user = name(parsed, "delete")?;
    session::run(parsed, async |session| {
        let answer = session.client.auth().delete_user(&user).await?;
        session.printer.print(&Done { text: format!("User {user} deleted"), header: answer.header })
    })
}

fn get(parsed: &Parsed) -> Result<(), Failure> {
    let user = name(parsed, "get")?;
    session::run(parsed, async |session| {
        let auth = session.client.auth();
        let answer = auth.user(&user).await?;
        if !parsed.is_set(&DETAIL) {
            return session.printer.print(&UserAnswer { user, answer });
        }
        print_bytes(format!("User: {user}\n").as_bytes())?;
        for role in answer.roles {
            print_bytes(b"\n")?;
            let answer = auth.role(&role).await?;
            session.printer.print(&RoleAnswer { role, answer })?;
        }
        Ok(())
    })
}

fn list(parsed: &Parsed) -> Result<(), Failure> {
    if !parsed.operands.is_empty() {
        return Err(Failure::usage("user list command requires no arguments"));
    }
    session::run(parsed, async |session| {
        let answer = session.client.auth().users().await?;
        session.printer.print(&answer)
    })
}

fn change_password(parsed: &Parsed) -> Result<(), Failure> {
    let user = name(parsed, "passwd")?;
    let password = new_password(parsed, &user)?;
    session::run(parsed, async |session| {
        let answer = session.client.auth().change_password(&user, &password).await?;
        session.printer.print(&Done { text: "Password updated".to_owned(), header: answer.header })
    })
}

fn grant_role(parsed: &Parsed) -> Result<(), Failure> {
    let [user, role] = &parsed.operands[..] else {
        return Err(Failure::usage("user grant command requires user name and role name as its argument"));
    };
    session::run(parsed, async |session| {
        let answer = session.client.auth().grant_role(user, role).await?;
        let text = format!("Role {role} is granted to user {user}");
        session.printer.print(&Done { text, header: answer.header })
    })
}

fn revoke_role(parsed: &Parsed) -> Result<(), Failure> {
    let [user, role] = &parsed.operands[..] else {
        return Err(Failure::usage("user revoke-role requires user name and role name as its argument"));
    };
    session::run(parsed, async |session| {
        let answer = session.client.auth().revoke_role(user, role).await?;
        let text = format!("Role {role} is revoked from user {user}");
        session.printer.print(&Done { text, header: answer.header })
    })
}

struct UserAnswer {
    user: String,
    answer: AuthUserGetResponse,
}

impl Answer for UserAnswer {
    fn simple(&self, _: Style, text: &mut Text) {
        text.line(format!("User: {}", self.user));
        let roles = self.answer.roles.iter().map(|role| format!(" {role}"));
        text.line(format!("Roles:{}", roles.collect::<String>()));
    }

    fn json(&self, _: Style) -> Option<String> {
        let roles = self.answer.roles.iter().map(|role| json::text(role));
        Some(with_header(self.answer.header.as_ref()).list("roles", roles).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

impl Answer for AuthUserListResponse {
    fn simple(&self, _: Style, text: &mut Text) {
        self.users.iter().for_each(|user| text.line(user));
    }

    fn json(&self, _: Style) -> Option<String> {
        let users = self.users.iter().map(|user| json::text(user));
        Some(with_header(self.header.as_ref()).list("users", users).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}
