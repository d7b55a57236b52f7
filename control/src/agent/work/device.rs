//! Which gateway is used: the device that is activated.

use super::super::activation::Service;
use super::super::link::Link;
use super::gateway::remove;
use super::{Agent, AgentError};

/// Waits until another device is activated, or none; for ever without activation.
pub(super) async fn changed(activation: &mut Option<Service>) {
    let ended = match activation {
        Some(service) => service.activated.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending().await
    }
}

impl Agent {
    /// Whether sessions may be installed. Those that are there are looked after in any case.
    pub(super) fn has_device(&self) -> bool {
        self.activation.as_ref().is_none_or(|service| service.activated.borrow().is_some())
    }

    /// Goes to where the activated device is. What was installed elsewhere is taken back: nobody would look after it.
    pub(super) fn device_changed(&mut self) -> Result<(), AgentError> {
        let name = self.activation.as_mut().and_then(|service| service.activated.borrow_and_update().clone());
        let Some(name) = name else {
            tracing::info!("no device is activated: no more sessions are installed");
            return Ok(());
        };
        let devices = self.config.activation.iter().flat_map(|activation| &activation.devices);
        let own =
            devices.into_iter().find(|device| device.name == name).and_then(|device| device.gateway.as_ref());
        let endpoint = own.unwrap_or(&self.config.gateway);
        tracing::info!(device = name, gateway = endpoint.address, "activated");
        if *endpoint == self.endpoint {
            return Ok(());
        }
        self.endpoint = endpoint.clone();
        let link = Link::start(&self.endpoint)?;
        if let Some(client) = self.client.take() {
            tokio::spawn(remove(client, std::mem::take(&mut self.running), self.tracker.installed_ids()));
        }
        self.go_offline();
        self.link = link;
        Ok(())
    }
}
