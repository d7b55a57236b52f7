//! A network function's side of activation.

use control::Endpoint;
use control::activation::{ActivationConfig, Device, Pacing};
use control::client::Target;
use proto::openoffload::v1alpha5::activation_server::{Activation, ActivationServer};
use proto::openoffload::v1alpha5::{
    ActivationStatus, ActivationStatusType, DeviceDescription, DeviceList, RegistrationStatus,
    RegistrationStatusType,
};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A VNF with an administrator.
#[derive(Clone, Default)]
pub struct Vnf(pub Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    pub registered: Vec<DeviceDescription>,
    pub activated: Option<DeviceDescription>,
}

impl Vnf {
    pub async fn serve(&self, address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(address).await.expect("address");
        let address = listener.local_addr().expect("address");
        let service = ActivationServer::new(self.clone());
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        (address, tokio::spawn(async move { server.await.expect("serves") }))
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().registered.iter().map(|device| device.name.clone()).collect()
    }

    pub fn activate(&self, name: Option<&str>) {
        let name = name.unwrap_or_default();
        self.0.lock().unwrap().activated =
            (!name.is_empty()).then(|| DeviceDescription { name: name.to_owned(), ..Default::default() });
    }

    pub async fn registered(&self) {
        until(async || self.names() == ["red-gateway"]).await;
    }
}

#[tonic::async_trait]
impl Activation for Vnf {
    async fn register_offload_device(
        &self,
        request: Request<DeviceDescription>,
    ) -> Result<Response<RegistrationStatus>, Status> {
        self.0.lock().unwrap().registered.push(request.into_inner());
        Ok(Response::new(RegistrationStatus { status: RegistrationStatusType::DeviceRegistered.into() }))
    }

    async fn deregister_offload_device(
        &self,
        request: Request<DeviceDescription>,
    ) -> Result<Response<RegistrationStatus>, Status> {
        self.0.lock().unwrap().registered.retain(|device| device != request.get_ref());
        Ok(Response::new(RegistrationStatus { status: RegistrationStatusType::DeviceDeregistered.into() }))
    }

    async fn get_registered_offload_devices(&self, _: Request<()>) -> Result<Response<DeviceList>, Status> {
        Ok(Response::new(DeviceList { devices: self.0.lock().unwrap().registered.clone() }))
    }

    async fn activate_offload(
        &self,
        request: Request<DeviceDescription>,
    ) -> Result<Response<ActivationStatus>, Status> {
        let device = request.into_inner();
        self.0.lock().unwrap().activated = Some(device.clone());
        let status = ActivationStatusType::DeviceActivated.into();
        Ok(Response::new(ActivationStatus { status, device: Some(device) }))
    }

    async fn deactivate_offload(
        &self,
        _: Request<DeviceDescription>,
    ) -> Result<Response<ActivationStatus>, Status> {
        let device = self.0.lock().unwrap().activated.take();
        Ok(Response::new(ActivationStatus { status: ActivationStatusType::DeviceDeactivated.into(), device }))
    }

    async fn get_activated_offload(&self, _: Request<()>) -> Result<Response<DeviceDescription>, Status> {
        let activated = self.0.lock().unwrap().activated.clone();
        activated.map(Response::new).ok_or_else(|| Status::not_found("none is activated"))
    }
}

pub async fn until(condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s");
}

/// What makes a gateway a device "red-gateway" of these VNFs.
pub fn activation(vnfs: &[SocketAddr], hold: Duration) -> ActivationConfig {
    let device = Device {
        name: "red-gateway".to_owned(),
        description: "software, rack 7".to_owned(),
        capacity: 20_000,
        rate: u32::MAX,
        tcp_timeout: 7440,
        udp_timeout: 300,
    };
    let pacing = Pacing {
        poll: Duration::from_millis(20),
        call: Duration::from_secs(2),
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        hold,
    };
    let vnfs = vnfs.iter().map(|address| Target::from(Endpoint::Tcp(*address))).collect();
    ActivationConfig { vnfs, device, pacing }
}
