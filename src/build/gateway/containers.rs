//! Containers of front ends (SPEC C3.16): what they may be, and programs in them.

use std::sync::Arc;

use rootless::StepSignal;
use tokio::sync::mpsc;

use super::ends::{Ends, resize};
use super::host::FrontHost;
use crate::exec::run::Attachment;
use crate::frontend::gateway::exec::{Control, GatewayContainer, Running};
use crate::grpc::{Status, code};
use crate::llb::containers::{InitMessage, NewContainerRequest};
use crate::llb::op::{Meta, Mount, NetMode, SecurityMode};
use crate::llb::{Graph, strict};
use crate::solver::{Container, ContainerProcess, ContainerRequest};

fn invalid(message: impl Into<String>) -> Status {
    Status::new(code::INVALID_ARGUMENT, message)
}

/// Refuses what steps of this build may not have either.
fn entitled(name: &str, wanted: bool, allowed: bool) -> Result<(), Status> {
    if wanted && !allowed {
        return Err(Status::new(code::PERMISSION_DENIED, format!("{name} is not allowed")));
    }
    Ok(())
}

impl FrontHost<'_> {
    /// Makes a container of results that this build has.
    pub(super) async fn container(
        &self,
        request: NewContainerRequest,
        mounts: Vec<(Mount, Option<Arc<Graph>>)>,
    ) -> Result<Arc<dyn GatewayContainer>, Status> {
        let network = NetMode::try_from(request.network);
        let network = network.map_err(|e| invalid(format!("NewContainer: the network {}", e.0)))?;
        let all: Vec<Mount> = mounts.iter().map(|(mount, _)| mount.clone()).collect();
        strict::mounts_mean(&all).map_err(|what| invalid(format!("NewContainer: {what}")))?;
        let entitlements = &self.job.request.entitlements;
        entitled("network.host", network == NetMode::Host, entitlements.network_host)?;
        let request = ContainerRequest {
            name: format!("[container] {}", request.container_id),
            mounts,
            platform: request.platform.filter(|platform| !platform.os.is_empty()),
            network,
            extra_hosts: request.extra_hosts,
            hostname: request.hostname,
        };
        let container = self.job.solver.open_container(request).await.map_err(|e| self.told(e))?;
        Ok(Arc::new(Opened { container: Arc::new(container), may_be_insecure: entitlements.security_insecure }))
    }
}

/// A container of this build.
struct Opened {
    container: Arc<Container>,
    may_be_insecure: bool,
}

#[async_trait::async_trait]
impl GatewayContainer for Opened {
    async fn start(&self, init: InitMessage) -> Result<Running, Status> {
        let security = SecurityMode::try_from(init.security);
        let security = security.map_err(|e| invalid(format!("ExecProcess: the security {}", e.0)))?;
        entitled("security.insecure", security == SecurityMode::Insecure, self.may_be_insecure)?;
        let meta = meta(init.meta.unwrap_or_default())?;
        if let Some(fd) = init.fds.iter().find(|fd| **fd > 2) {
            return Err(invalid(format!("ExecProcess: there is no descriptor {fd}")));
        }
        let ends = if init.tty { Ends::terminal() } else { Ends::pipes(&init.fds) };
        let ends = ends.map_err(|e| Status::new(code::UNKNOWN, format!("cannot connect a process: {e}")))?;
        let (signals, passed_on) = mpsc::unbounded_channel();
        let Ends { io, console, input, outputs, terminal } = ends;
        let attachment = Attachment { io, terminal: init.tty, console, signals: passed_on };
        let process = ContainerProcess { meta, security, secretenv: init.secretenv, attachment };
        let control = move |control| match (control, &terminal) {
            (Control::Resize(rows, columns), Some(terminal)) => resize(terminal, rows, columns),
            (Control::Resize(..), None) => {}
            // An error means that it has ended.
            (Control::Signal(number), _) => drop(signals.send(StepSignal::Send(number))),
        };
        // In this order: the container ends with the first.
        let ending = Arc::clone(&self.container).start(process).await;
        let end = async move {
            let result = ending.await.map_err(|e| Status::new(code::UNKNOWN, e.to_string()))?;
            Ok(u32::try_from(result.code).unwrap_or(u32::MAX))
        };
        Ok(Running { input, outputs, control: Box::new(control), end: Box::pin(end) })
    }

    async fn end(&self) {
        self.container.end().await;
    }
}

/// A process, if it makes sense; without a working directory it begins in the root.
fn meta(mut meta: Meta) -> Result<Meta, Status> {
    if meta.args.is_empty() {
        return Err(invalid("ExecProcess: a process without arguments"));
    }
    if meta.cwd.is_empty() {
        meta.cwd = "/".into();
    }
    if !meta.cwd.starts_with('/') {
        return Err(invalid(format!("ExecProcess: the working directory {} is not absolute", meta.cwd)));
    }
    Ok(meta)
}
