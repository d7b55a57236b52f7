//! Making this device known to network functions (openoffload.v1alpha5 `Activation`). The VNF serves, the device asks:
//! it registers, then looks each second whether it is the device that the VNF's administrator has activated.

use crate::client::{ClientError, Target, connect};
use proto::openoffload::v1alpha5::activation_client::ActivationClient;
use proto::openoffload::v1alpha5::{DeviceDescription, InterfaceType, RegistrationStatusType};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Whom to register with, and as what.
#[derive(Clone, Debug)]
pub struct ActivationConfig {
    /// The VNFs. One that has activated this device is enough to serve.
    pub vnfs: Vec<Target>,
    /// What they are told.
    pub device: Device,
    /// How often, and how patiently.
    pub pacing: Pacing,
}

/// A device as VNFs' administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, by which a VNF tells devices apart.
    pub name: String,
    /// Vendor and whatever else helps to choose.
    pub description: String,
    /// Sessions it holds.
    pub capacity: u32,
    /// Sessions it can install in a second.
    pub rate: u32,
    /// Default timeout of TCP sessions in seconds.
    pub tcp_timeout: u32,
    /// Default timeout of UDP sessions in seconds.
    pub udp_timeout: u32,
}

/// Times of the conversation with a VNF.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// Between two looks.
    pub poll: Duration,
    /// For each call.
    pub call: Duration,
    /// After the first failure; doubled after each, up to `backoff_max`.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How long a VNF's activation holds while that VNF does not answer.
    pub hold: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            call: Duration::from_secs(5),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            hold: Duration::from_secs(30),
        }
    }
}

impl From<&Device> for DeviceDescription {
    fn from(device: &Device) -> Self {
        let int32 = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        Self {
            name: device.name.clone(),
            r#type: InterfaceType::Software.into(),
            description: device.description.clone(),
            session_capacity: int32(device.capacity),
            session_rate: int32(device.rate),
            tcp_session_timeout: int32(device.tcp_timeout),
            udp_session_timeout: int32(device.udp_timeout),
        }
    }
}

/// What the VNFs have decided; always active without any. Each VNF has a task.
pub(crate) struct Activation {
    vnfs: Vec<Arc<AtomicBool>>,
}

impl Activation {
    /// Starts the tasks. They end at `stop`, after they have deregistered.
    pub(crate) fn start(
        config: Option<ActivationConfig>,
        stop: &CancellationToken,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let Some(config) = config else { return (Self { vnfs: Vec::new() }, Vec::new()) };
        let start = |target: &Target| {
            let active = Arc::new(AtomicBool::new(false));
            let vnf = Vnf {
                target: target.clone(),
                device: (&config.device).into(),
                pacing: config.pacing,
                active: active.clone(),
                seen: Instant::now(),
                registered: false,
            };
            (active, tokio::spawn(vnf.run(stop.clone())))
        };
        let (vnfs, tasks) = config.vnfs.iter().map(start).unzip();
        (Self { vnfs }, tasks)
    }

    /// Whether sessions are taken.
    pub(crate) fn is_active(&self) -> bool {
        self.vnfs.is_empty() || self.count() > 0
    }

    /// VNFs that have activated this device.
    pub(crate) fn count(&self) -> u64 {
        self.vnfs.iter().filter(|active| active.load(Ordering::Relaxed)).count() as u64
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Connect(#[from] ClientError),
    #[error("{}: {}", .0.code(), .0.message())]
    Call(#[from] Status),
    #[error("it does not register this device; its administrator may know why")]
    NotRegistered,
}

struct Vnf {
    target: Target,
    device: DeviceDescription,
    pacing: Pacing,
    active: Arc<AtomicBool>,
    /// When it last answered.
    seen: Instant,
    registered: bool,
}

impl Vnf {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = self.pacing.backoff;
        loop {
            let begun = self.seen;
            let failure = tokio::select! {
                () = stop.cancelled() => break,
                failure = self.attend() => failure,
            };
            if self.seen > begun {
                pause = self.pacing.backoff;
            }
            if self.seen.elapsed() >= self.pacing.hold {
                self.set_active(false);
            }
            tracing::warn!(vnf = %self.target.endpoint, %failure, again_in = ?pause, "activation");
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(self.pacing.backoff_max);
        }
        self.set_active(false);
        if self.registered {
            self.deregister().await;
        }
    }

    /// Registers, and looks again and again, until something fails.
    async fn attend(&mut self) -> Failure {
        let channel = match timeout(self.pacing.call, connect(&self.target)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return error.into(),
            Err(_) => return Status::deadline_exceeded("no connection").into(),
        };
        let mut client = ActivationClient::new(channel);
        if let Err(failure) = self.register(&mut client).await {
            return failure;
        }
        loop {
            if let Err(failure) = self.look(&mut client).await {
                return failure;
            }
            sleep(self.pacing.poll).await;
        }
    }

    async fn register(&mut self, client: &mut ActivationClient<Channel>) -> Result<(), Failure> {
        let answer = client.register_offload_device(self.request(self.device.clone())).await?.into_inner();
        if answer.status() != RegistrationStatusType::DeviceRegistered {
            return Err(Failure::NotRegistered);
        }
        self.registered = true;
        self.seen = Instant::now();
        tracing::info!(vnf = %self.target.endpoint, device = self.device.name, "registered");
        Ok(())
    }

    /// Whether this device is the one activated. A VNF that has forgotten it, as after a restart, is told again.
    async fn look(&mut self, client: &mut ActivationClient<Channel>) -> Result<(), Failure> {
        let active = match client.get_activated_offload(self.request(())).await {
            Ok(device) => device.get_ref().name == self.device.name,
            Err(status) if unanswered(&status) => return Err(status.into()),
            // VNFs differ in how they say that no device is.
            Err(_) => false,
        };
        self.seen = Instant::now();
        self.set_active(active);
        if active {
            return Ok(());
        }
        match client.get_registered_offload_devices(self.request(())).await {
            Ok(list) if list.get_ref().devices.iter().all(|device| device.name != self.device.name) => {
                self.register(client).await
            }
            Err(status) if unanswered(&status) => Err(status.into()),
            _ => Ok(()),
        }
    }

    async fn deregister(&self) {
        let call = async {
            let mut client = ActivationClient::new(connect(&self.target).await?);
            client.deregister_offload_device(self.request(self.device.clone())).await?;
            Ok::<_, Failure>(())
        };
        match timeout(self.pacing.call, call).await {
            Ok(Ok(())) => tracing::info!(vnf = %self.target.endpoint, "deregistered"),
            Ok(Err(failure)) => tracing::warn!(vnf = %self.target.endpoint, %failure, "not deregistered"),
            Err(_) => tracing::warn!(vnf = %self.target.endpoint, "not deregistered: it does not answer"),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.pacing.call);
        request
    }

    fn set_active(&self, active: bool) {
        if self.active.swap(active, Ordering::Relaxed) != active {
            let state = if active { "activated" } else { "deactivated" };
            tracing::info!(vnf = %self.target.endpoint, device = self.device.name, state, "activation");
        }
    }
}

/// Whether the VNF was not reached, or did not say anything in time.
fn unanswered(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}
