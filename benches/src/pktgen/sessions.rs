//! Sessions as the gateway takes them: over `gateway.v1`, and as files of JSON lines.

use super::flows::{Session, Tuple};
use super::profile::{Profile, Side};
use anyhow::{Context, Result, ensure};
use proto::gateway::v1;
use std::io::Write;
use std::path::Path;

/// Session number `n` of a profile for the gateway; its id is `n` + 1, its idle timeout `seconds`.
pub fn to_proto(profile: &Profile, n: usize, session: &Session, seconds: u32) -> v1::Session {
    let macs = |side: &Side| v1::MacPair {
        source: side.gateway_mac.0.to_vec().into(),
        destination: side.mac.0.to_vec().into(),
    };
    v1::Session {
        session_id: n as u64 + 1,
        in_lif: profile.inside.lif,
        out_lif: profile.outside.lif,
        protocol: profile.protocol.number().into(),
        original: Some(tuple(session.original)),
        translated: (session.translated != session.original).then(|| tuple(session.translated)),
        l2: profile
            .routed
            .then(|| v1::L2 { forward: Some(macs(&profile.outside)), reverse: Some(macs(&profile.inside)) }),
        action: v1::Action::Forward.into(),
        idle_timeout: seconds,
        ..v1::Session::default()
    }
}

fn tuple(tuple: Tuple) -> v1::Tuple {
    v1::Tuple {
        source: tuple.source.to_be_bytes().to_vec().into(),
        destination: tuple.destination.to_be_bytes().to_vec().into(),
        source_port: tuple.source_port.into(),
        destination_port: tuple.destination_port.into(),
    }
}

/// Writes a profile's sessions as lines of JSON.
pub fn write(out: &mut impl Write, profile: &Profile, sessions: &[Session], seconds: u32) -> Result<()> {
    for (n, session) in sessions.iter().enumerate() {
        let session = gateway::session::Session::from_proto(&to_proto(profile, n, session, seconds));
        serde_json::to_writer(&mut *out, &session.context("a session is no session")?)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads the sessions that a gateway was given; their LIFs and protocol must be the profile's.
pub fn read(path: &Path, profile: &Profile) -> Result<Vec<Session>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = gateway::session::read_lines(path, &text)?;
    ensure!(!lines.is_empty(), "{}: holds no sessions", path.display());
    lines
        .iter()
        .map(|(line, session)| {
            from_proto(profile, session).with_context(|| format!("{}:{line}", path.display()))
        })
        .collect()
}

fn from_proto(profile: &Profile, session: &v1::Session) -> Result<Session> {
    let lifs = (session.in_lif, session.out_lif);
    let wanted = (profile.inside.lif, profile.outside.lif);
    ensure!(lifs == wanted, "LIFs {lifs:?} are not the profile's {wanted:?}");
    ensure!(session.protocol == u32::from(profile.protocol.number()), "protocol is not the profile's");
    ensure!(
        session.l2.is_some() == profile.routed,
        "l2 must be there if, and only if, the profile is routed"
    );
    let read = |tuple: &v1::Tuple| {
        let address = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        Some(Tuple {
            source: address(&tuple.source)?,
            destination: address(&tuple.destination)?,
            source_port: u16::try_from(tuple.source_port).ok()?,
            destination_port: u16::try_from(tuple.destination_port).ok()?,
        })
    };
    let original = session.original.as_ref().and_then(read).context("IPv4 only")?;
    let translated = match &session.translated {
        Some(translated) => read(translated).context("IPv4 only")?,
        None => original,
    };
    Ok(Session { original, translated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::flows;
    use crate::pktgen::profile::{Protocol, tests::VLAN_TO_VXLAN};

    #[test]
    fn sessions_go_to_a_file_and_back() {
        let mut profile = Profile::parse(VLAN_TO_VXLAN).unwrap();
        for (protocol, nat) in [(Protocol::Udp, true), (Protocol::Icmp, true), (Protocol::Tcp, false)] {
            (profile.protocol, profile.sessions) = (protocol, 100);
            if !nat {
                profile.nat = None;
            }
            let sessions = flows::sessions(&profile).unwrap();
            let file = std::env::temp_dir().join(format!("pktgen-{}-{protocol:?}.jsonl", std::process::id()));
            let mut text = Vec::new();
            write(&mut text, &profile, &sessions, 60).unwrap();
            std::fs::write(&file, text).unwrap();
            let back = read(&file, &profile);
            std::fs::remove_file(&file).unwrap();
            assert_eq!(back.unwrap(), sessions);
        }
    }
}
