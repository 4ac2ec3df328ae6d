//! A lease that is held: granted, kept alive, and told about when it is lost.

use std::future::IntoFuture;
use std::time::Duration;

use tokio::sync::watch;

use super::{Grant, Lease, LeaseEnd};
use crate::error::Result;
use crate::response::LeaseId;
use crate::transport::BoxFuture;

/// A lease to be granted and held. It comes from [`Lease::hold`]; `.await` asks for it.
#[derive(Clone)]
#[must_use = "a lease is not granted until it is awaited"]
pub struct Hold {
    grant: Grant,
    revoke_on_drop: bool,
}

impl Hold {
    pub(super) fn new(lease: &Lease, ttl_seconds: i64) -> Self {
        Self { grant: lease.grant(ttl_seconds), revoke_on_drop: false }
    }

    /// Asks for this id.
    pub fn with_id(mut self, id: impl Into<LeaseId>) -> Self {
        self.grant = self.grant.with_id(id);
        self
    }

    /// Revokes the lease when the guard is dropped, in the background and without waiting for it. Without this, the lease
    /// lasts for the rest of its time then.
    pub fn revoke_on_drop(mut self) -> Self {
        self.revoke_on_drop = true;
        self
    }
}

impl IntoFuture for Hold {
    type Output = Result<LeaseGuard>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let lease = self.grant.lease.clone();
            let granted = self.grant.await?;
            let ttl = u64::try_from(granted.ttl).unwrap_or(0);
            Ok(LeaseGuard::new(lease, LeaseId(granted.id), Duration::from_secs(ttl), self.revoke_on_drop))
        })
    }
}

/// A lease that is kept alive as long as this lives.
#[must_use = "a lease is held only as long as this lives"]
pub struct LeaseGuard {
    lease: Lease,
    id: LeaseId,
    end: watch::Receiver<Option<LeaseEnd>>,
    /// Told on drop, so that the lease is let go.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    revoke_on_drop: bool,
    runtime: tokio::runtime::Handle,
}

impl LeaseGuard {
    fn new(lease: Lease, id: LeaseId, ttl: Duration, revoke_on_drop: bool) -> Self {
        let mut keep_alive = lease.keep_alive_for(id, ttl);
        let (sender, end) = watch::channel(None);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let reading = async {
                while let Some(answer) = keep_alive.next().await {
                    if let Err(end) = answer {
                        sender.send_replace(Some(end));
                    }
                }
            };
            tokio::select! {
                () = reading => {}
                _ = stopped => {}
            }
        });
        Self { lease, id, end, stop: Some(stop), revoke_on_drop, runtime: tokio::runtime::Handle::current() }
    }

    /// The lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Ends when the lease is lost, and says why. Any number may wait for it, also after it happened.
    pub async fn lost(&self) -> LeaseEnd {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(LeaseEnd::Expired),
            // The runtime that kept it alive has ended.
            Err(_) => LeaseEnd::Expired,
        }
    }

    /// Whether the lease is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Lets the lease be, without revoking it, and gives its id.
    pub fn release(mut self) -> LeaseId {
        self.revoke_on_drop = false;
        self.id
    }

    /// Revokes the lease and waits for it.
    ///
    /// # Errors
    /// What [`Lease::revoke`] may fail with; the lease is let go anyway.
    pub async fn revoke(mut self) -> Result<()> {
        self.revoke_on_drop = false;
        self.stop = None;
        self.lease.revoke(self.id).await.map(drop)
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if self.revoke_on_drop && !self.is_lost() {
            let (lease, id) = (self.lease.clone(), self.id);
            self.runtime.spawn(async move {
                if let Err(error) = lease.revoke(id).await {
                    tracing::debug!(%error, "a lease was not revoked");
                }
            });
        }
    }
}
