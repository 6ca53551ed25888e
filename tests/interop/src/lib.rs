//! Strangers' programs against ours: `cargo xtask test interop`.
