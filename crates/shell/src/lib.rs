//! What every daemon needs around its work: configuration, logging, readiness, drain and the admin server.

pub mod admin;
pub mod config;
pub mod drain;
pub mod exit;
pub mod log;
pub mod ready;
