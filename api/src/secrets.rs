//! How messages that hold passwords, their hashes or tokens show themselves: without these. So no log line and no failed
//! assertion can give one away.

use std::fmt::{Debug, Formatter, Result};

use crate::authpb::User;
use crate::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, AuthenticateResponse,
    InternalAuthenticateRequest,
};

macro_rules! without_secrets {
    ($($message:ident { $($shown:ident),* })*) => {
        $(impl Debug for $message {
            fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
                formatter.debug_struct(stringify!($message))$(.field(stringify!($shown), &self.$shown))*.finish_non_exhaustive()
            }
        })*
    };
}

without_secrets! {
    User { name, roles, options }
    AuthUserAddRequest { name, options }
    AuthUserChangePasswordRequest { name }
    AuthenticateRequest { name }
    AuthenticateResponse { header }
    InternalAuthenticateRequest { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::InternalRaftRequest;

    #[test]
    fn nothing_secret_is_shown() {
        let secret = || "secret".to_owned();
        let add =
            AuthUserAddRequest { name: "u".to_owned(), password: secret(), options: None, hashed_password: secret() };
        let change =
            AuthUserChangePasswordRequest { name: "u".to_owned(), password: secret(), hashed_password: secret() };
        let login = InternalAuthenticateRequest { name: "u".to_owned(), password: secret(), simple_token: secret() };
        let entry = InternalRaftRequest {
            auth_user_add: Some(add),
            auth_user_change_password: Some(change),
            authenticate: Some(login),
            ..InternalRaftRequest::default()
        };
        let user = User { name: "u".into(), password: secret().into(), ..User::default() };
        let asked = AuthenticateRequest { name: "u".to_owned(), password: secret() };
        let told = AuthenticateResponse { header: None, token: secret() };
        let shown = format!("{entry:?} {entry:#?} {user:?} {asked:?} {told:?}");
        assert!(shown.contains("\"u\"") && !shown.contains("secret"), "{shown}");
    }
}
