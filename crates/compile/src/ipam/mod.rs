//! Which address of a pool is given out next.
