//! The network function's side of activation (openoffload.v1alpha5 `Activation`): devices register here, the agent installs
//! sessions in the one that is activated.

mod devices;

use super::config;
use crate::server::{Door, Limits, ServerError, SocketFile};
use devices::{Devices, Refusal};
use proto::openoffload::v1alpha5 as api;
use proto::openoffload::v1alpha5::activation_server::{Activation, ActivationServer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const MAX_REQUEST: usize = 64 << 10;
const CALLS_PER_CONNECTION: u32 = 16;

/// The service, until dropped.
pub(super) struct Service {
    /// The name of the device to use.
    pub(super) activated: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    kill: CancellationToken,
    limits: Limits,
    serving: JoinHandle<()>,
    _sockets: Vec<SocketFile>,
}

impl Service {
    /// Listens and serves.
    pub(super) fn start(config: &config::Activation) -> Result<Self, ServerError> {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let limits = Limits { connections: 64, ..Limits::default() };
        let tls = config.tls.as_ref();
        let door = Door::open(&config.listen, tls, config.plaintext, &limits, &stop, &kill)?;
        let allowed = config.devices.iter().map(|device| device.name.clone()).collect();
        let (announce, activated) = watch::channel(None);
        let shared = Shared { devices: Mutex::new(Devices::new(allowed)), announce };
        let service = ActivationServer::new(Handler(Arc::new(shared))).max_decoding_message_size(MAX_REQUEST);
        let Door { endpoints, incoming, sockets, .. } = door;
        for endpoint in endpoints {
            tracing::info!(%endpoint, "devices may register");
        }
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(CALLS_PER_CONNECTION)
            .http2_keepalive_interval(Some(limits.keepalive))
            .http2_keepalive_timeout(Some(limits.keepalive))
            .http2_max_header_list_size(16 << 10)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.clone().cancelled_owned());
        let serving = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the activation service ended");
            }
        });
        Ok(Self { activated, stop, kill, limits, serving, _sockets: sockets })
    }

    /// Takes no more connections and lets calls end.
    pub(super) async fn shutdown(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(self.limits.shutdown, &mut self.serving).await.is_err() {
            self.kill.cancel();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill.cancel();
    }
}

struct Shared {
    devices: Mutex<Devices>,
    announce: watch::Sender<Option<String>>,
}

impl Shared {
    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `change`, and tells whoever uses the activated device if it is another one then.
    fn change<T>(&self, change: impl FnOnce(&mut Devices) -> T) -> T {
        let mut devices = self.devices();
        let result = change(&mut devices);
        let now = devices.activated().map(|device| device.name.clone());
        self.announce.send_if_modified(|activated| {
            let changed = *activated != now;
            *activated = now;
            changed
        });
        result
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Name => Self::invalid_argument(text),
            Refusal::NotAllowed => Self::permission_denied(text),
            Refusal::Full => Self::resource_exhausted(text),
            Refusal::Unknown => Self::not_found(text),
        }
    }
}

struct Handler(Arc<Shared>);

fn registration(status: api::RegistrationStatusType) -> Response<api::RegistrationStatus> {
    Response::new(api::RegistrationStatus { status: status.into() })
}

#[tonic::async_trait]
impl Activation for Handler {
    async fn register_offload_device(
        &self,
        request: Request<api::DeviceDescription>,
    ) -> Result<Response<api::RegistrationStatus>, Status> {
        let device = request.into_inner();
        let (name, capacity) = (device.name.clone(), device.session_capacity);
        match self.0.change(|devices| devices.register(device)) {
            Ok(()) => tracing::info!(device = name, capacity, "registered"),
            Err(refusal) => {
                tracing::warn!(device = name, %refusal, "not registered");
                return Err(refusal.into());
            }
        }
        Ok(registration(api::RegistrationStatusType::DeviceRegistered))
    }

    async fn deregister_offload_device(
        &self,
        request: Request<api::DeviceDescription>,
    ) -> Result<Response<api::RegistrationStatus>, Status> {
        let name = request.into_inner().name;
        self.0.change(|devices| devices.deregister(&name));
        tracing::info!(device = name, "deregistered");
        Ok(registration(api::RegistrationStatusType::DeviceDeregistered))
    }

    async fn get_registered_offload_devices(
        &self,
        _: Request<()>,
    ) -> Result<Response<api::DeviceList>, Status> {
        Ok(Response::new(api::DeviceList { devices: self.0.devices().registered().to_vec() }))
    }

    async fn activate_offload(
        &self,
        request: Request<api::DeviceDescription>,
    ) -> Result<Response<api::ActivationStatus>, Status> {
        let device = self.0.change(|devices| devices.activate(&request.get_ref().name))?;
        let status = api::ActivationStatusType::DeviceActivated.into();
        Ok(Response::new(api::ActivationStatus { status, device: Some(device) }))
    }

    async fn deactivate_offload(
        &self,
        request: Request<api::DeviceDescription>,
    ) -> Result<Response<api::ActivationStatus>, Status> {
        let device = self.0.change(|devices| devices.deactivate(&request.get_ref().name))?;
        let status = api::ActivationStatusType::DeviceDeactivated.into();
        Ok(Response::new(api::ActivationStatus { status, device: Some(device) }))
    }

    async fn get_activated_offload(
        &self,
        _: Request<()>,
    ) -> Result<Response<api::DeviceDescription>, Status> {
        let activated = self.0.devices().activated().cloned();
        activated.map(Response::new).ok_or_else(|| Status::not_found("no device is activated"))
    }
}
