//! The newest flows of a node in a file: who, whom, what port, whether it passed. No payload, and no more than so many.
//!
//! Records have one size, and the place of each follows from its number, so that the newest takes the place of the
//! oldest. One that was written in part does not have the sum that it says, and counts as absent.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sheetbend_ebpf_abi::{Event, EventKind, Reason};

/// Length of a record, bytes.
const RECORD: usize = 64;
/// Where the sum is; all before it counts.
const SUM: usize = 60;
/// Begins the sum of the records of this form; another form gets another number.
const FORM: u32 = 0x5b46_4c31;

/// The key of a flow, and what became of it.
///
/// ```text
///  0  number, from 1        u64    16  source       16 bytes (IPv4 as ::ffff:a.b.c.d)
///  8  seconds since 1970    u64    32  destination  16 bytes
/// 48  network u32 · 52  destination port u16 · 54  protocol u8 · 55  1 = denied u8 · 56  zero u32 · 60  sum u32
/// ```
/// Numbers are little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Seconds since 1970.
    pub time: u64,
    /// Source, as the client's policy saw it.
    pub source: IpAddr,
    /// Destination, behind Service translation.
    pub destination: IpAddr,
    /// Network number.
    pub network: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; ICMP: type × 256 + code.
    pub port: u16,
    /// A policy denied it; else it passed.
    pub denied: bool,
}

impl FlowRecord {
    /// What `event` says at `time`, seconds since 1970; `None` for what no policy denied and that did not pass.
    pub fn of(event: &Event, time: u64) -> Option<Self> {
        let denied = event.reason == Reason::PolicyDenied as u16;
        if !denied && event.kind != EventKind::Flow as u8 {
            return None;
        }
        let addr = |addr: [u8; 16]| Ipv6Addr::from(addr).to_canonical();
        Some(Self {
            time,
            source: addr(event.src),
            destination: addr(event.dst),
            network: event.network,
            protocol: event.protocol,
            port: event.dst_port,
            denied,
        })
    }

    fn bytes(&self, number: u64) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        };
        put(0, &number.to_le_bytes());
        put(8, &self.time.to_le_bytes());
        put(16, &mapped(self.source).octets());
        put(32, &mapped(self.destination).octets());
        put(48, &self.network.to_le_bytes());
        put(52, &self.port.to_le_bytes());
        put(54, &[self.protocol, u8::from(self.denied)]);
        let sum = sum(&bytes);
        bytes[SUM..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// A record and its number; `None` where there is none, or it was written in part.
    fn read(bytes: &[u8]) -> Option<(u64, Self)> {
        let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
        let own = u32::from_le_bytes(bytes[SUM..].try_into().ok()?);
        let number = u64::from_le_bytes(bytes[..8].try_into().ok()?);
        if number == 0 || own != sum(bytes) {
            return None;
        }
        let addr = |field: &[u8]| -> Option<IpAddr> {
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(field).ok()?).to_canonical())
        };
        let record = Self {
            time: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            source: addr(&bytes[16..32])?,
            destination: addr(&bytes[32..48])?,
            network: u32::from_le_bytes(bytes[48..52].try_into().ok()?),
            port: u16::from_le_bytes(bytes[52..54].try_into().ok()?),
            protocol: bytes[54],
            denied: bytes[55] == 1,
        };
        Some((number, record))
    }
}

fn mapped(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
        IpAddr::V6(addr) => addr,
    }
}

/// FNV-1a of all before the sum (draft-eastlake-fnv, 32 bits).
fn sum(bytes: &[u8; RECORD]) -> u32 {
    bytes[..SUM]
        .iter()
        .fold(0x811c_9dc5 ^ FORM, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The file, for who writes it. One process at a time.
#[derive(Debug)]
pub struct FlowRing {
    file: File,
    records: u64,
    /// The number of the next record.
    next: u64,
}

impl FlowRing {
    /// Opens the file at `path` with room for `records` (at least 1), or makes it. Of a file of another size, the newest
    /// records are kept.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, records: u32) -> io::Result<Self> {
        let records = u64::from(records.max(1));
        let known = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut kept = if known == 0 { Vec::new() } else { numbered(path)? };
        let size = records * RECORD as u64;
        let mut open = OpenOptions::new();
        // Who talks to whom is nobody else's business.
        open.read(true).write(true).create(true).mode(0o600);
        if known == size || known == 0 {
            let file = open.truncate(false).open(path)?;
            file.set_len(size)?;
            return Ok(Self { file, records, next: kept.last().map_or(0, |(number, _)| *number) + 1 });
        }
        let fresh = path.with_extension("new");
        let file = open.truncate(true).open(&fresh)?;
        file.set_len(size)?;
        let mut ring = Self { file, records, next: 1 };
        let spare = kept.len().saturating_sub(usize::try_from(records).unwrap_or(usize::MAX));
        let newest: Vec<FlowRecord> = kept.drain(spare..).map(|(_, record)| record).collect();
        ring.write(&newest)?;
        fs::rename(&fresh, path)?;
        Ok(ring)
    }

    /// Writes `flows` in the place of the oldest.
    ///
    /// # Errors
    /// What the file system says. Of the flows some may be written.
    pub fn write(&mut self, flows: &[FlowRecord]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut at = None;
        for flow in flows {
            let place = (self.next - 1) % self.records;
            if place == 0 && !bytes.is_empty() {
                self.flush(&mut bytes, &mut at)?;
            }
            at = at.or(Some(place));
            bytes.extend_from_slice(&flow.bytes(self.next));
            self.next += 1;
        }
        self.flush(&mut bytes, &mut at)
    }

    fn flush(&self, bytes: &mut Vec<u8>, at: &mut Option<u64>) -> io::Result<()> {
        if let Some(place) = at.take() {
            self.file.write_all_at(bytes, place * RECORD as u64)?;
        }
        bytes.clear();
        Ok(())
    }
}

/// The flows in the file at `path`, oldest first; none where there is no file.
///
/// # Errors
/// It cannot be read.
pub fn recorded_flows(path: &Path) -> io::Result<Vec<FlowRecord>> {
    match numbered(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => Ok(read?.into_iter().map(|(_, record)| record).collect()),
    }
}

fn numbered(path: &Path) -> io::Result<Vec<(u64, FlowRecord)>> {
    let bytes = fs::read(path)?;
    let mut found: Vec<(u64, FlowRecord)> = bytes.chunks(RECORD).filter_map(FlowRecord::read).collect();
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found)
}

#[cfg(test)]
mod tests;
