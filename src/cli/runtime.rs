//! The threads of a command, and the signals that end it.

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use super::errors::Failure;
use crate::base::FaultKind;
use crate::base::budget::Budget;

/// Threads for what waits for files, processes and sockets.
pub(super) fn runtime(budget: Budget) -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(budget.cpus.clamp(2, 8))
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FaultKind::Internal, format!("cannot start threads: {e}")))
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
pub(super) async fn interrupted() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let waits = kinds.into_iter().filter_map(|kind| signal(kind).ok()).map(|mut s| {
        Box::pin(async move {
            s.recv().await;
        })
    });
    futures_util::future::select_all(waits).await;
}
