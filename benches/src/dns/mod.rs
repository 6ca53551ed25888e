//! Two name servers with the same records, and the load for them.

pub(crate) mod load;
pub(crate) mod servers;
