//! The devices that have registered, and which of them is activated: at most one.

use proto::openoffload::v1alpha5::DeviceDescription;

/// Devices at once.
const LIMIT: usize = 64;
/// Bytes of a name, and of a description.
const TEXT_LIMIT: usize = 1024;

/// Why a device is turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Devices are told apart by it.
    #[error("a device needs a name, of at most 1024 bytes as its description")]
    Name,
    /// Not in the configuration.
    #[error("this name may not register: add it as [[activation.device]] in the agent's configuration")]
    NotAllowed,
    /// There are too many.
    #[error("64 devices have registered: no more are taken")]
    Full,
    /// It has to register first.
    #[error("no device of this name has registered")]
    Unknown,
}

/// The list, and the choice.
#[derive(Default, Debug)]
pub struct Devices {
    /// Names that may register, the preferred first; empty: any.
    allowed: Vec<String>,
    registered: Vec<DeviceDescription>,
    activated: Option<String>,
    /// Somebody has deactivated: nothing is activated by itself any more.
    held: bool,
}

impl Devices {
    /// An empty list.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// A device has come, or has come again. The preferred one is activated if none is.
    pub fn register(&mut self, device: DeviceDescription) -> Result<(), Refusal> {
        if device.name.is_empty() || device.name.len() > TEXT_LIMIT || device.description.len() > TEXT_LIMIT {
            return Err(Refusal::Name);
        }
        if !self.allowed.is_empty() && !self.allowed.contains(&device.name) {
            return Err(Refusal::NotAllowed);
        }
        let full = self.registered.len() >= LIMIT;
        match self.registered.iter_mut().find(|known| known.name == device.name) {
            Some(known) => *known = device,
            None if full => return Err(Refusal::Full),
            None => self.registered.push(device),
        }
        self.choose();
        Ok(())
    }

    /// A device goes; one that was not there is as gone. The next one is activated in its place.
    pub fn deregister(&mut self, name: &str) {
        self.registered.retain(|device| device.name != name);
        if self.activated.as_deref() == Some(name) {
            self.activated = None;
            self.choose();
        }
    }

    /// An administrator's choice.
    pub fn activate(&mut self, name: &str) -> Result<DeviceDescription, Refusal> {
        let device = self.registered.iter().find(|device| device.name == name).ok_or(Refusal::Unknown)?;
        self.activated = Some(name.to_owned());
        self.held = false;
        Ok(device.clone())
    }

    /// No device is to be used until one is activated by [`Self::activate`]. Nothing happens if `name` is not the one.
    pub fn deactivate(&mut self, name: &str) -> Result<DeviceDescription, Refusal> {
        let device = self.registered.iter().find(|device| device.name == name).ok_or(Refusal::Unknown)?;
        if self.activated.as_deref() == Some(name) {
            self.activated = None;
            self.held = true;
        }
        Ok(device.clone())
    }

    /// All that have registered.
    pub fn registered(&self) -> &[DeviceDescription] {
        &self.registered
    }

    /// The one to use.
    pub fn activated(&self) -> Option<&DeviceDescription> {
        let name = self.activated.as_ref()?;
        self.registered.iter().find(|device| device.name == *name)
    }

    fn choose(&mut self) {
        if self.held || self.activated.is_some() {
            return;
        }
        let preferred =
            self.allowed.iter().find(|name| self.registered.iter().any(|device| device.name == **name));
        self.activated = preferred.or(self.registered.first().map(|device| &device.name)).cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceDescription {
        DeviceDescription { name: name.to_owned(), ..Default::default() }
    }

    fn activated(devices: &Devices) -> Option<&str> {
        devices.activated().map(|device| device.name.as_str())
    }

    #[test]
    fn the_first_is_activated_and_the_next_takes_its_place() {
        let mut devices = Devices::new(Vec::new());
        assert_eq!(activated(&devices), None);
        devices.register(device("a")).unwrap();
        devices.register(device("b")).unwrap();
        devices.register(DeviceDescription { session_capacity: 9, ..device("a") }).unwrap();
        assert_eq!((devices.registered().len(), devices.activated().unwrap().session_capacity), (2, 9));
        devices.deregister("a");
        devices.deregister("c");
        assert_eq!(activated(&devices), Some("b"));
        devices.deregister("b");
        assert_eq!((activated(&devices), devices.registered().len()), (None, 0));
    }

    #[test]
    fn only_those_allowed_register_and_the_preferred_follows() {
        let mut devices = Devices::new(vec!["b".to_owned(), "c".to_owned(), "d".to_owned()]);
        assert_eq!(devices.register(device("a")), Err(Refusal::NotAllowed));
        for name in ["d", "c", "b"] {
            devices.register(device(name)).unwrap();
        }
        assert_eq!(activated(&devices), Some("d"), "what works is not changed");
        devices.deregister("d");
        assert_eq!(activated(&devices), Some("b"));
    }

    #[test]
    fn an_administrators_decision_stands() {
        let mut devices = Devices::new(Vec::new());
        devices.register(device("a")).unwrap();
        devices.register(device("b")).unwrap();
        assert_eq!(devices.activate("c"), Err(Refusal::Unknown));
        devices.activate("b").unwrap();
        devices.deactivate("a").unwrap();
        assert_eq!(activated(&devices), Some("b"));
        devices.deactivate("b").unwrap();
        devices.register(device("a")).unwrap();
        assert_eq!(activated(&devices), None);
        devices.activate("a").unwrap();
        assert_eq!(activated(&devices), Some("a"));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut devices = Devices::new(Vec::new());
        for number in 0..LIMIT {
            devices.register(device(&number.to_string())).unwrap();
        }
        assert_eq!(devices.register(device("one more")), Err(Refusal::Full));
        assert_eq!(devices.register(device("")), Err(Refusal::Name));
        assert_eq!(devices.register(device(&"x".repeat(TEXT_LIMIT + 1))), Err(Refusal::Name));
    }
}
