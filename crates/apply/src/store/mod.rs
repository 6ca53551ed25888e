//! Leases and attachments, as files.
