//! What a query is answered with, before it becomes bytes.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use sheetbend_model::plan;

/// An answer's code and sections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    /// AA, RFC 1035 §4.1.1.
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    /// Left out first where the answer does not fit.
    pub(crate) additionals: Vec<Record>,
}

impl Answer {
    /// No records.
    pub(crate) fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

/// A name of a table, which has neither escapes nor a dot at its end; `None` where DNS cannot hold it.
pub(crate) fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Type and data of a table's record.
pub(crate) fn data(record: &plan::Record) -> Option<RData> {
    Some(match record {
        plan::Record::A(addr) => RData::A(rdata::A(*addr)),
        plan::Record::Aaaa(addr) => RData::AAAA(rdata::AAAA(*addr)),
        plan::Record::Cname(target) => RData::CNAME(rdata::CNAME(name(target)?)),
        plan::Record::Srv { port, target } => RData::SRV(rdata::SRV::new(0, 100, port.get(), name(target)?)),
        plan::Record::Txt(text) => RData::TXT(rdata::TXT::from_bytes(vec![text.as_bytes()])),
    })
}

/// The type of a table's record.
pub(crate) fn record_type(record: &plan::Record) -> RecordType {
    match record {
        plan::Record::A(_) => RecordType::A,
        plan::Record::Aaaa(_) => RecordType::AAAA,
        plan::Record::Cname(_) => RecordType::CNAME,
        plan::Record::Srv { .. } => RecordType::SRV,
        plan::Record::Txt(_) => RecordType::TXT,
    }
}
