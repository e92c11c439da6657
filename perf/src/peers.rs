//! Others under the same load or on the same file system. Owns starting them, with the whole command and version for
//! the report. What is not installed is said with the line that installs it; nothing is measured by memory.

pub(crate) mod db_bench;
pub(crate) mod etcd;
pub(crate) mod fio;
pub(crate) mod memcached;
pub(crate) mod redis;
mod server;

/// A program that is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Its name.
    pub(crate) program: &'static str,
    /// The line that installs it.
    pub(crate) get: &'static str,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not installed, its figures are missing; get it with: {}", self.program, self.get)
    }
}
