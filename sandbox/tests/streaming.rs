//! Exec, attach and port-forward, as clients of CRI speak them, with a real daemon.

mod attach;
mod exec;
mod forward;
mod spdy;
