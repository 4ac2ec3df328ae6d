//! Users, roles, tokens.

use std::future::Future;

use kvorum_client::{Client, Code, Config, ErrorKind, EtcdError, EventExt, Header, Permission, WatchError};

use crate::world::{World, on_every_server};

on_every_server!(users_and_roles, logging_in, tokens_are_renewed, given_tokens, authentication_turned_on_later);

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
    assert!(app.lease().keep_alive(lease.id()).next().await.unwrap().is_ok());
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
    for round in 0..3 {
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
