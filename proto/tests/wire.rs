//! The public definitions' names and numbers, as clients have them compiled in.

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::fmt::Write;

fn package(name: &str) -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    set.file.into_iter().find(|file| file.package() == name).expect("package")
}

fn type_name(field: &FieldDescriptorProto) -> String {
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    let name = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().rsplit('.').next().unwrap_or_default().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    format!("{repeated}{name}")
}

fn message(out: &mut String, message: &DescriptorProto) {
    let fields: Vec<_> =
        message.field.iter().map(|f| format!("{} {} {}", f.number(), f.name(), type_name(f))).collect();
    writeln!(out, "{}: {}", message.name(), fields.join(", ")).expect("string");
}

fn enumeration(out: &mut String, e: &EnumDescriptorProto) {
    let values: Vec<_> = e.value.iter().map(|v| format!("{}={}", v.name(), v.number())).collect();
    let reserved: Vec<_> =
        e.reserved_range.iter().map(|r| format!(" reserved {}-{}", r.start(), r.end())).collect();
    writeln!(out, "{}: {}{}", e.name(), values.join(" "), reserved.concat()).expect("string");
}

fn describe(name: &str) -> String {
    let file = package(name);
    let mut out = String::new();
    for service in &file.service {
        for m in &service.method {
            let stream = |on: bool| if on { "stream " } else { "" };
            let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
            writeln!(
                out,
                "{}/{}: {}{} -> {}{}",
                service.name(),
                m.name(),
                stream(m.client_streaming()),
                last(m.input_type()),
                stream(m.server_streaming()),
                last(m.output_type())
            )
            .expect("string");
        }
    }
    file.enum_type.iter().for_each(|e| enumeration(&mut out, e));
    file.message_type.iter().for_each(|m| message(&mut out, m));
    out
}

#[test]
fn openoffload_v2_is_the_public_definition() {
    let expected = "\
SessionTable/AddSession: stream SessionRequest -> AddSessionResponse
SessionTable/GetSession: SessionId -> SessionResponse
SessionTable/DeleteSession: SessionId -> SessionResponse
SessionTable/GetAllSessions: SessionRequestArgs -> SessionResponses
SessionTable/GetClosedSessions: SessionRequestArgs -> stream SessionResponse
IpVersion: _IPV4=0 _IPV6=1
ProtocolId: _HOPOPT=0 _TCP=6 _UDP=17 reserved 1-5 reserved 7-16 reserved 18-255
SessionState: _ESTABLISHED=0 _CLOSING_1=1 _CLOSING_2=2 _CLOSED=3 _UNKNOWN_STATE=4
SessionCloseCode: _NOT_CLOSED=0 _FINACK=1 _RST=2 _TIMEOUT=3 _UNKNOWN_CLOSE_CODE=4
AddSessionStatus: _SESSION_ACCEPTED=0 _SESSION_REJECTED=1 _SESSION_TABLE_FULL=2 _SESSION_TABLE_UNAVAILABLE=3 _SESSION_ALREADY_EXISTS=4
RequestStatus: _ACCEPTED=0 _REJECTED=1 _REJECTED_SESSION_NONEXISTENT=2 _REJECTED_SESSION_TABLE_FULL=3 _REJECTED_SESSION_ALREADY_EXISTS=4 _NO_CLOSED_SESSIONS=5 _REJECTED_INTERNAL_ERROR=6
ActionType: _DROP=0 _FORWARD=1 _MIRROR=2 _SNOOP=3
Uuid: 1 value string
SessionId: 1 session_id uint64
ActionParameters: 1 action_type ActionType, 2 action_next_hop uint32, 3 action_next_hop_v6 bytes
SessionRequest: 1 session_id uint64, 2 in_lif int32, 3 out_lif int32, 4 ip_version IpVersion, 5 source_ip uint32, 6 source_ipv6 bytes, 7 source_port uint32, 8 destination_ip uint32, 9 destination_ipv6 bytes, 10 destination_port uint32, 11 protocol_id ProtocolId, 12 action ActionParameters, 13 cache_timeout uint32
SessionResponseError: 1 session_id uint64, 2 error_status int32
SessionResponses: 1 session_info repeated SessionResponse, 2 next_key uint64
AddSessionResponse: 1 request_status AddSessionStatus, 2 error_status uint64, 3 start_time Timestamp, 4 response_error repeated SessionResponseError
SessionResponse: 1 session_id uint64, 2 in_packets uint64, 3 out_packets uint64, 4 in_bytes uint64, 5 out_bytes uint64, 6 session_state SessionState, 7 session_close_code SessionCloseCode, 8 request_status RequestStatus, 9 start_time Timestamp, 10 end_time Timestamp
SessionRequestArgs: 1 page_size uint32, 2 page uint32, 3 start_session uint64
";
    assert_eq!(describe("openoffload.v2"), expected);
}

#[test]
fn openoffload_v1alpha5_is_the_public_definition() {
    let expected = "\
Activation/registerOffloadDevice: deviceDescription -> registrationStatus
Activation/deregisterOffloadDevice: deviceDescription -> registrationStatus
Activation/getRegisteredOffloadDevices: Empty -> deviceList
Activation/activateOffload: deviceDescription -> activationStatus
Activation/deactivateOffload: deviceDescription -> activationStatus
Activation/getActivatedOffload: Empty -> deviceDescription
INTERFACE_TYPE: _NONE=0 _SOFTWARE=1 _SMARTNIC=2 _NOS=3
ACTIVATION_STATUS_TYPE: _DEVICE_ACTIVATED=0 _DEVICE_DEACTIVATED=1
REGISTRATION_STATUS_TYPE: _DEVICE_REGISTERED=0 _DEVICE_DEREGISTERED=1
deviceDescription: 1 name string, 2 type INTERFACE_TYPE, 3 description string, 4 sessionCapacity int32, 5 sessionRate int32, 6 tcpSessionTimeout int32, 7 udpSessionTimeout int32
deviceList: 1 devices repeated deviceDescription
registrationStatus: 1 status REGISTRATION_STATUS_TYPE
activationStatus: 1 status ACTIVATION_STATUS_TYPE, 2 device deviceDescription
";
    assert_eq!(describe("openoffload.v1alpha5"), expected);
}

#[test]
fn generated_names_keep_the_wire_names() {
    use proto::openoffload::v2::{AddSessionStatus, ProtocolId, SessionState};
    assert_eq!(AddSessionStatus::SessionTableFull.as_str_name(), "_SESSION_TABLE_FULL");
    assert_eq!(SessionState::Closing1.as_str_name(), "_CLOSING_1");
    assert_eq!(ProtocolId::try_from(6), Ok(ProtocolId::Tcp));
    assert!(ProtocolId::try_from(7).is_err());
}

#[test]
fn bytes_on_the_wire() {
    use proto::openoffload::v2::{ActionParameters, SessionRequest};
    let request = SessionRequest {
        session_id: 12_345_678_910,
        in_lif: 1,
        source_ip: 0x0100_000A,
        protocol_id: 17,
        action: Some(ActionParameters { action_type: 1, ..Default::default() }),
        ..Default::default()
    };
    let expected = [
        0x08, 0xbe, 0xb8, 0xf0, 0xfe, 0x2d, 0x10, 0x01, 0x28, 0x8a, 0x80, 0x80, 0x08, 0x58, 0x11, 0x62, 0x02,
        0x08, 0x01,
    ];
    assert_eq!(request.encode_to_vec(), expected);
}
