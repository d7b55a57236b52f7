//! Who a client is, and what it may do.
//!
//! Clients are told apart where a client CA is configured. Then each acts on its own sessions, and those named as admins, as
//! well as whoever may open the unix socket, on all. Elsewhere everybody may do everything. Reading is open to all clients.

use super::connection::Peer;
use crate::session_manager::owners::{ANONYMOUS, LOCAL, MAX_NAME, Owners};
use rustls_pki_types::CertificateDer;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tonic::{Request, Status};

/// What a connection says of its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// Nothing but the network it comes from.
    Anonymous(IpAddr),
    /// It is on this machine and may open the unix socket.
    Local,
    /// It has a certificate with this name.
    Named(Arc<str>),
}

impl Default for Identity {
    fn default() -> Self {
        Self::Anonymous(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl Identity {
    /// Of whoever sent a request.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Peer>().map(Peer::identity).unwrap_or_default()
    }

    /// By the subject of a verified certificate.
    pub(super) fn named(certificate: &CertificateDer<'_>) -> Option<Self> {
        let name = name(certificate);
        if name.is_none() {
            tracing::warn!("a client's certificate has no usable name: it acts as nobody in particular");
        }
        name.map(|name| Self::Named(name.into()))
    }

    /// By the address alone. In IPv6 a host has all of its subnet (RFC 4291 section 2.5.4: the first 64 bits).
    pub(super) fn at(peer: io::Result<SocketAddr>) -> Self {
        let network = |address: SocketAddr| match address.ip().to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & u128::MAX << 64)),
            ip => ip,
        };
        peer.map(|address| Self::Anonymous(network(address))).unwrap_or_default()
    }
}

/// A certificate's first URI, else its first DNS name (RFC 5280 section 4.2.1.6), else its common name; names that are too
/// long or not printable are passed over.
fn name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let names = certificate.valid_uri_names().chain(certificate.valid_dns_names());
    let is_usable = |name: &&str| (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    names.into_iter().chain(common_name(certificate.subject())).find(is_usable).map(str::to_owned)
}

/// The last common name of a distinguished name's sets (RFC 5280 section 4.1.2.4).
fn common_name(mut sets: &[u8]) -> Option<&str> {
    const SET: u8 = 0x31;
    const SEQUENCE: u8 = 0x30;
    const OBJECT_ID: u8 = 0x06;
    const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
    const UTF8_PRINTABLE_IA5: [u8; 3] = [0x0c, 0x13, 0x16];
    let mut found = None;
    while let Some((SET, mut attributes, rest)) = der(sets) {
        sets = rest;
        while let Some((SEQUENCE, attribute, rest)) = der(attributes) {
            attributes = rest;
            if let Some((OBJECT_ID, object, value)) = der(attribute)
                && object == COMMON_NAME
                && let Some((tag, text, _)) = der(value)
                && UTF8_PRINTABLE_IA5.contains(&tag)
            {
                found = std::str::from_utf8(text).ok().or(found);
            }
        }
    }
    found
}

/// The tag and content of the first value, and what follows it (X.690 section 8.1, definite lengths).
fn der(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |len, &byte| len << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// Who may do what.
#[derive(Debug, Default)]
pub(super) struct Rights {
    told_apart: AtomicBool,
    admins: RwLock<Vec<String>>,
    refused: AtomicU64,
}

/// Whom a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Owns what it installs.
    pub(super) owner: u16,
    /// Whose sessions it may remove; None: everybody's.
    pub(super) scope: Option<u16>,
    /// Whose closed sessions it drains; None: everybody's.
    pub(super) drains: Option<u16>,
}

impl Rights {
    /// `told_apart`: whether clients must show certificates.
    pub(super) fn new(told_apart: bool, admins: Vec<String>) -> Self {
        Self { told_apart: told_apart.into(), admins: admins.into(), ..Self::default() }
    }

    pub(super) fn tell_apart(&self, told_apart: bool) {
        self.told_apart.store(told_apart, Ordering::Relaxed);
    }

    pub(super) fn set_admins(&self, admins: Vec<String>) {
        *self.admins.write().unwrap_or_else(PoisonError::into_inner) = admins;
    }

    /// So many sessions were left to the clients they belong to.
    pub(super) fn count_refused(&self, sessions: u64) {
        self.refused.fetch_add(sessions, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn caller<T>(&self, owners: &Owners, request: &Request<T>) -> Result<Caller, Status> {
        self.judge(owners, &Identity::of(request))
    }

    fn judge(&self, owners: &Owners, identity: &Identity) -> Result<Caller, Status> {
        let (owner, is_admin) = match identity {
            Identity::Anonymous(_) => (ANONYMOUS, false),
            Identity::Local => (LOCAL, true),
            Identity::Named(name) => {
                let full =
                    || Status::resource_exhausted("too many clients of different names: restart the gateway");
                let admins = self.admins.read().unwrap_or_else(PoisonError::into_inner);
                (owners.enroll(name).ok_or_else(full)?, admins.iter().any(|admin| **admin == **name))
            }
        };
        let apart = self.told_apart.load(Ordering::Relaxed);
        Ok(Caller {
            owner,
            scope: (apart && !is_admin).then_some(owner),
            // A drain takes records from whom they are for: nobody may have others'.
            drains: apart.then_some(owner),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn named(names: &[SanType], common_names: &[&str]) -> Option<String> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "o".repeat(300));
        common_names.iter().for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
        let certificate = params.self_signed(&KeyPair::generate().expect("key")).expect("certificate");
        name(certificate.der())
    }

    #[test]
    fn the_first_uri_then_dns_then_the_common_name() {
        let text = |text: &str| Ia5String::try_from(text).expect("ASCII");
        let (dns, uri) = (|name| SanType::DnsName(text(name)), |name| SanType::URI(text(name)));
        let found = named(&[dns("a.example"), uri("spiffe://b/c"), uri("spiffe://d")], &["e"]);
        assert_eq!(found.as_deref(), Some("spiffe://b/c"));
        assert_eq!(named(&[dns("a.example"), dns("b.example")], &["e"]).as_deref(), Some("a.example"));
        assert_eq!(named(&[], &["vnf ü"]).as_deref(), Some("vnf ü"));
        let long = format!("{}.example", "x".repeat(60)) + &".y".repeat(40);
        assert_eq!(named(&[dns(&long)], &["e"]).as_deref(), Some("e"), "{} bytes", long.len());
        assert_eq!(named(&[], &["line\nbreak"]), None);
        assert_eq!(named(&[], &[]), None);
    }

    #[test]
    fn nothing_that_is_cut_short_has_a_name() {
        let set = [&[0x31, 12, 0x30, 10, 6, 3, 0x55, 4, 3, 0x0c, 3][..], b"abc"].concat();
        assert_eq!(common_name(&set), Some("abc"));
        for end in 0..set.len() {
            assert_eq!(common_name(&set[..end]), None);
        }
        for length in [0x80, 0x85, 0xff] {
            assert_eq!(der(&[0x30, length, 0, 0, 0, 0, 0, 0]), None);
        }
        assert_eq!(der(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }

    #[test]
    fn strangers_are_told_apart_by_network() {
        let at = |ip: &str| Identity::at(Ok(SocketAddr::new(ip.parse().expect("address"), 1)));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
    }

    #[test]
    fn rights() {
        let owners = Owners::default();
        let judge = |rights: &Rights, identity| rights.judge(&owners, &identity).expect("room");
        let named = |name: &str| Identity::Named(name.into());
        let open = Rights::new(false, vec!["boss".to_owned()]);
        for identity in [Identity::default(), Identity::Local, named("a"), named("boss")] {
            let caller = judge(&open, identity);
            assert_eq!((caller.scope, caller.drains), (None, None));
        }
        let apart = Rights::new(true, vec!["boss".to_owned()]);
        let (a, b, boss) =
            (judge(&apart, named("a")), judge(&apart, named("b")), judge(&apart, named("boss")));
        assert_eq!((a.scope, b.scope), (Some(a.owner), Some(b.owner)));
        assert_ne!(a.owner, b.owner);
        assert_eq!((boss.scope, boss.drains), (None, Some(boss.owner)));
        assert_eq!(judge(&apart, Identity::default()).scope, Some(ANONYMOUS));
        assert_eq!(judge(&apart, Identity::Local), Caller { owner: LOCAL, scope: None, drains: Some(LOCAL) });
        apart.set_admins(vec!["a".to_owned()]);
        assert_eq!(
            (judge(&apart, named("a")).scope, judge(&apart, named("boss")).scope),
            (None, Some(boss.owner))
        );
        apart.tell_apart(false);
        assert_eq!(judge(&apart, named("b")).scope, None);
    }
}
