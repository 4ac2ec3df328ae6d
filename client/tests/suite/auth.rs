//! Users, roles, tokens.

use std::future::Future;
use std::time::Duration;

use kvorum_client::{Client, Code, Config, ErrorKind, EtcdError, EventExt, Header, Permission, WatchError};

use kvorum_interop::tools;

use crate::world::{World, tests_on};

tests_on!(crate::world::EVERY => users_and_roles, logging_in, tokens_are_renewed, given_tokens, authentication_turned_on_later);

/// Turns authentication on, with root and a user who may read and write below "app/".
async fn enable(client: &Client) {
    let auth = client.auth();
    auth.add_user("root", "root secret").await.unwrap();
    auth.add_role("root").await.unwrap();
    auth.grant_role("root", "root").await.unwrap();
    auth.add_role("app").await.unwrap();
    auth.grant_permission("app", Permission::read_write("app/").prefix()).await.unwrap();
    auth.add_user("app", "app secret").await.unwrap();
    auth.grant_role("app", "app").await.unwrap();
    auth.enable().await.unwrap();
}

async fn root(world: &World) -> Client {
    Client::connect_with(world.config().user("root", "root secret")).await.unwrap()
}

async fn app(world: &World) -> Client {
    Client::connect_with(world.config().user("app", "app secret")).await.unwrap()
}

async fn users_and_roles(world: World) {
    let auth = world.client.auth();
    assert!(auth.enable().await.unwrap_err().is(EtcdError::RootUserNotExist));
    assert!(auth.authenticate("a", "b").await.unwrap_err().is(EtcdError::AuthNotEnabled));
    enable(&world.client).await;
    let client = root(&world).await;
    let auth = client.auth();
    assert_eq!(auth.users().await.unwrap().users, ["app", "root"]);
    assert_eq!(auth.roles().await.unwrap().roles, ["app", "root"]);
    assert_eq!(auth.user("app").await.unwrap().roles, ["app"]);
    let permissions = auth.role("app").await.unwrap().perm;
    assert_eq!((permissions.len(), permissions[0].range_end.as_ref()), (1, &b"app0"[..]));
    assert!(auth.add_user("app", "x").await.unwrap_err().is(EtcdError::UserAlreadyExist));
    assert!(auth.add_role("app").await.unwrap_err().is(EtcdError::RoleAlreadyExist));
    auth.add_user_without_password("certificate").await.unwrap();
    auth.change_password("app", "other").await.unwrap();
    assert!(!auth.authenticate("app", "other").await.unwrap().token.is_empty());
    assert!(auth.authenticate("app", "app secret").await.unwrap_err().is(EtcdError::AuthFailed));
    auth.grant_permission("app", Permission::read("b")).await.unwrap();
    auth.revoke_permission("app", Permission::read("b")).await.unwrap();
    let error = auth.revoke_permission("app", Permission::read("b")).await.unwrap_err();
    assert!(error.is(EtcdError::PermissionNotGranted), "{error:?}");
    auth.revoke_role("app", "app").await.unwrap();
    auth.delete_user("app").await.unwrap();
    auth.delete_role("app").await.unwrap();
    assert!(auth.user("app").await.unwrap_err().is(EtcdError::UserNotFound));
    match auth.status().await {
        Ok(status) => assert!(status.enabled && status.auth_revision > 0),
        // 3.4 has no such call.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unimplemented),
    }
    auth.disable().await.unwrap();
    // Without authentication a password does no harm.
    client.put("a", "1").await.unwrap();
    root(&world).await.put("a", "1").await.unwrap();
}

async fn logging_in(world: World) {
    enable(&world.client).await;
    let error = world.client.put("app/a", "1").await.unwrap_err();
    assert!(error.is(EtcdError::UserEmpty) && !error.maybe_applied(), "{error:?}");
    let app = app(&world).await;
    app.put("app/a", "1").await.unwrap();
    let error = app.put("b", "1").await.unwrap_err();
    assert!(error.is(EtcdError::PermissionDenied) && !error.maybe_applied(), "{error:?}");
    // Tokens go with every call: members, leases, watches too.
    app.cluster().members().await.unwrap();
    let lease = app.lease().hold(60).await.unwrap();
    app.put("app/b", "1").with_lease(lease.id()).await.unwrap();
    let granted = app.lease().grant(60).await.unwrap();
    assert!(app.lease().keep_alive(granted.id).next().await.unwrap().is_ok());
    let mut watch = app.watch("app/").prefix().await.unwrap();
    app.put("app/a", "2").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].value(), "2");
    match app.watch("b").await {
        Err(WatchError::Cancelled(error)) => assert!(error.is(EtcdError::PermissionDenied), "{error:?}"),
        other => panic!("{:?}", other.err()),
    }
    // A wrong password is an error of the call, and is not in its text.
    let wrong = Client::lazy(world.config().user("app", "a wrong one")).unwrap();
    let error = wrong.get("app/a").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.text().contains("authentication failed") && !format!("{error:?}").contains("a wrong one"));
    for config in [Config::default().user("app", "app secret"), Config::default().token("app secret")] {
        assert!(!format!("{config:?}").contains("secret"));
    }
}

/// A restart forgets every simple token: what is called next, and what streams go on with, needs a new one.
async fn tokens_are_renewed(mut world: World) {
    enable(&world.client).await;
    let app = app(&world).await;
    let mut watch = app.watch("app/a").await.unwrap();
    let guard = app.lease().hold(60).await.unwrap();
    let mut seen = Vec::new();
    for round in 0..2 {
        world.restart();
        // Several at once: they log in once, and all of them succeed, the write too.
        let (put, get, leases, made) = tokio::join!(
            patiently(|| app.put("app/a", round.to_string()).into_future()),
            patiently(|| app.get("app/a").into_future()),
            patiently(|| app.lease().leases()),
            patiently(|| async { app.watch("app/b").await.map_err(kvorum_client::Error::from) }),
        );
        let _ = (get, leases, made);
        seen.push(put.revision());
        let mut revisions = Vec::new();
        while revisions.last() != Some(&put.revision()) {
            revisions.extend(watch.next().await.unwrap().unwrap().events.iter().map(EventExt::revision));
        }
    }
    assert!(seen.is_sorted() && !guard.is_lost());
    // Users change while a stream is open: new watches on it need a token of the new state.
    let root = root(&world).await;
    root.auth().change_password("root", "root secret").await.unwrap();
    let mut other = app.watch("app/c").await.unwrap();
    app.put("app/c", "1").await.unwrap();
    assert_eq!(other.next().await.unwrap().unwrap().events[0].key(), b"app/c");
}

/// JSON web tokens run out after a while however much they are used, and when users change: a client with a password renews
/// them, in the middle of its streams too; a token that was given stays what it is.
#[test]
fn json_web_tokens_are_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (private, public) = (path("key"), path("key.pub"));
    let openssl = |arguments: &[&str]| tools::run(std::process::Command::new("openssl").args(arguments));
    let made = openssl(&["genrsa", "-out", &private, "2048"])
        .and_then(|_| openssl(&["rsa", "-in", &private, "-pubout", "-out", &public]));
    if tools::or_skip(made.map_err(|error| format!("openssl: {error}"))).is_none() {
        return;
    }
    let flag = format!("--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=1s");
    crate::world::on(crate::world::EVERY, &[&flag], json_web_tokens);
}

async fn json_web_tokens(world: World) {
    enable(&world.client).await;
    let app = app(&world).await;
    let mut watch = app.watch("app/").prefix().await.unwrap();
    let guard = app.lease().hold(60).await.unwrap();
    // Younger than the one that the streams were opened with.
    let given = async || {
        let token = world.client.auth().authenticate("app", "app secret").await.unwrap().token;
        Client::connect_with(world.config().token(token)).await.unwrap()
    };
    let fixed = given().await;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let error = loop {
        look.tick().await;
        if let Err(error) = fixed.get("app/a").await {
            break error;
        }
    };
    assert!(error.is(EtcdError::InvalidAuthToken) && !error.maybe_applied(), "{error:?}");
    // Many at once log in once; the streams go on, and take new watches.
    let puts = (0..20).map(|number| app.put(format!("app/{number}"), "1").into_future());
    futures_util::future::try_join_all(puts).await.unwrap();
    let mut seen = 0;
    while seen < 20 {
        seen += watch.next().await.unwrap().unwrap().events.len();
    }
    let mut made_later = app.watch("app/later").await.unwrap();
    app.put("app/later", "1").await.unwrap();
    assert_eq!(made_later.next().await.unwrap().unwrap().events[0].key(), b"app/later");

    // Any change of users makes every token old.
    let fixed = given().await;
    let root = root(&world).await;
    root.auth().add_user("somebody", "else").await.unwrap();
    let error = fixed.put("app/a", "1").await.unwrap_err();
    assert!(error.is(EtcdError::AuthOldRevision) && !error.maybe_applied(), "{error:?}");
    app.put("app/a", "2").await.unwrap();
    root.auth().delete_user("somebody").await.unwrap();
    let mut made_later = app.watch("app/last").await.unwrap();
    app.put("app/last", "1").await.unwrap();
    assert_eq!(made_later.next().await.unwrap().unwrap().events[0].key(), b"app/last");
    assert!(!guard.is_lost());
}

/// Tries again what the end of the connection interrupted.
async fn patiently<T, F: Future<Output = kvorum_client::Result<T>>>(call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}

async fn given_tokens(world: World) {
    enable(&world.client).await;
    let token = world.client.auth().authenticate("app", "app secret").await.unwrap().token;
    let client = Client::connect_with(world.config().token(token)).await.unwrap();
    client.put("app/a", "1").await.unwrap();
    let client = Client::connect_with(world.config().token("nonsense.1")).await.unwrap();
    let error = client.put("app/a", "1").await.unwrap_err();
    assert!(error.is(EtcdError::InvalidAuthToken) && !error.maybe_applied(), "{error:?}");
}

async fn authentication_turned_on_later(world: World) {
    let app = app(&world).await;
    app.put("app/a", "1").await.unwrap();
    enable(&world.client).await;
    app.put("app/a", "2").await.unwrap();
    let mut watch = app.watch("app/a").await.unwrap();
    app.put("app/a", "3").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].value(), "3");
}
