//! CNI requests (CNI specification 1.1.0).
