//! Why a command did not do what it was asked, and the exit codes of all commands.
//!
//! Owns the shape of every error message: what is wrong and where, then what to do about it.

use std::fmt;

/// How a command ended. The numbers are what scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The answer is no: not found, differs.
    No = 1,
    /// Wrong use: an option, an argument or a setting that cannot be.
    WrongUse = 2,
    /// It was tried and failed.
    Failed = 3,
}

/// Why a command ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What is wrong, and where.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) mend: String,
}

impl Failure {
    /// The command was used wrongly.
    pub(crate) fn wrong_use(what: impl Into<String>, mend: impl Into<String>) -> Failure {
        Failure { exit: Exit::WrongUse, what: what.into(), mend: mend.into() }
    }

    /// The command was tried and failed.
    pub(crate) fn failed(what: impl Into<String>, mend: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, what: what.into(), mend: mend.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "\n  what to do: {}", self.mend) }
    }
}

impl std::error::Error for Failure {}
