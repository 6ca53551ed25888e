//! Bytes → query, answer → bytes.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::answer::Answer;

/// The largest UDP payload sent or asked for, bytes: below it nothing is fragmented on any path that IPv6 allows
/// (DNS flag day 2020; RFC 9715 §3).
pub(crate) const UDP_PAYLOAD: u16 = 1232;

/// The largest UDP payload without EDNS(0), bytes (RFC 1035 §4.2.1).
const UDP_PAYLOAD_WITHOUT_EDNS: u16 = 512;

/// Bytes of an OPT record without options (RFC 6891 §6.1.2).
const OPT_LEN: u16 = 11;

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u16,
    /// Its name is spelled as the client did, for clients compare it letter by letter.
    pub(crate) question: Query,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) edns: Option<ClientEdns>,
}

/// What a client's OPT record says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientEdns {
    /// The largest UDP payload that it takes, bytes.
    pub(crate) payload: u16,
    /// RFC 3225.
    pub(crate) dnssec_ok: bool,
}

impl Request {
    pub(crate) fn query_type(&self) -> RecordType {
        self.question.query_type
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The most bytes that a UDP answer may have.
    pub(crate) fn udp_limit(&self) -> u16 {
        let asked = self.edns.map_or(UDP_PAYLOAD_WITHOUT_EDNS, |edns| edns.payload);
        asked.clamp(UDP_PAYLOAD_WITHOUT_EDNS, UDP_PAYLOAD)
    }
}

/// Why bytes are no query that can be answered.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// An answer to it might begin a loop, or nobody could match it.
    Silence,
    /// What to answer.
    Answer(ResponseCode, Vec<u8>),
}

/// Reads a query.
pub(crate) fn read(bytes: &[u8]) -> Result<Request, Unreadable> {
    let [high, low, flags, ..] = *bytes else { return Err(Unreadable::Silence) };
    // QR: answers are not answered. A whole header is twelve bytes (RFC 1035 §4.1.1).
    if flags & 0x80 != 0 || bytes.len() < 12 {
        return Err(Unreadable::Silence);
    }
    let id = u16::from_be_bytes([high, low]);
    let Ok(message) = Message::from_vec(bytes) else {
        return Err(refusal(&Message::new(id, MessageType::Query, OpCode::Query), ResponseCode::FormErr));
    };
    if message.metadata.op_code != OpCode::Query {
        return Err(refusal(&message, ResponseCode::NotImp));
    }
    // RFC 6891 §6.1.3.
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(refusal(&message, ResponseCode::BADVERS));
    }
    // RFC 9619 §4: one question, no more, no less.
    let [question] = message.queries.as_slice() else {
        return Err(refusal(&message, ResponseCode::FormErr));
    };
    Ok(Request {
        id,
        question: question.clone(),
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message
            .edns
            .as_ref()
            .map(|edns| ClientEdns { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok }),
    })
}

fn refusal(request: &Message, code: ResponseCode) -> Unreadable {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.response_code = code;
    // More than one would not fit a datagram.
    if request.queries.len() == 1 {
        message.queries.clone_from(&request.queries);
    }
    if request.edns.is_some() {
        message.edns = Some(server_edns(false));
    }
    message.to_vec().map_or(Unreadable::Silence, |bytes| Unreadable::Answer(code, bytes))
}

fn server_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_version(0).set_dnssec_ok(dnssec_ok);
    edns
}

/// The bytes of `answer`, at most `limit`. What does not fit: first the additional records go, then answers, and TC
/// tells the client to ask by TCP (RFC 2181 §9).
pub(crate) fn write(request: &Request, answer: Answer, limit: u16) -> Option<Vec<u8>> {
    let mut message = Message::response(request.id, OpCode::Query);
    message.metadata.authoritative = answer.authoritative;
    message.metadata.recursion_desired = request.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = request.checking_disabled;
    message.metadata.response_code = answer.code;
    message.queries.push(request.question.clone());
    message.answers = answer.answers;
    message.authorities = answer.authorities;
    message.additionals = answer.additionals;
    message.edns = request.edns.map(|edns| server_edns(edns.dnssec_ok));
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(limit) {
        return Some(bytes);
    }
    message.additionals.clear();
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(limit) {
        return Some(bytes);
    }
    message.authorities.clear();
    let fits = fitting_answers(&message, limit - OPT_LEN)?;
    message.answers.truncate(fits);
    message.metadata.truncation = true;
    message.to_vec().ok()
}

/// How many of the answers fit into `limit` bytes.
fn fitting_answers(message: &Message, limit: u16) -> Option<usize> {
    let mut without_opt = message.clone();
    without_opt.edns = None;
    let mut bytes = Vec::with_capacity(limit.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    without_opt.emit(&mut encoder).ok()?;
    // ANCOUNT, RFC 1035 §4.1.1.
    let count = bytes.get(6..8)?;
    Some(u16::from_be_bytes([count[0], count[1]]).into())
}

/// The bytes of a query to an upstream server.
pub(crate) fn query(id: u16, question: &Query, dnssec_ok: bool, checking_disabled: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = checking_disabled;
    message.queries.push(question.clone());
    message.edns = Some(server_edns(dnssec_ok));
    message.to_vec().ok()
}

/// An upstream server's answer to [`query`], and whether it is truncated; `None` where it answers something else.
pub(crate) fn read_answer(bytes: &[u8], id: u16, question: &Query) -> Option<(Answer, bool)> {
    let message = Message::from_vec(bytes).ok()?;
    let Metadata { id: answered, message_type, truncation, response_code, .. } = message.metadata;
    // RFC 5452 §9.1: what does not match was not asked for.
    let matches = answered == id
        && message_type == MessageType::Response
        && matches!(message.queries.as_slice(), [asked] if asked == question);
    let answer = Answer {
        code: response_code,
        authoritative: false,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    };
    matches.then_some((answer, truncation))
}

/// The records of all sections.
pub(crate) fn records_mut(answer: &mut Answer) -> impl Iterator<Item = &mut Record> {
    answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
}
