//! Why a call was refused, with a sentence for a person.

use tachyon_segment::handover::CallError;
use tonic::Status;

/// Why a call was refused. The text says what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What was asked for makes no sense.
    Invalid(String),
    /// The rules do not grant it.
    Denied(String),
    /// There is no such thing.
    NotFound(String),
    /// A limit is reached.
    Exhausted(String),
    /// The rules or the node stand against it.
    Precondition(String),
    /// `tachyond` cannot do it now and can in a moment.
    Busy(String),
    /// `tachyond` is not connected.
    Unavailable(String),
    /// The registry could not be written, or worse.
    Internal(String),
}

impl Refusal {
    /// The sentence.
    #[must_use]
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Invalid(text)
            | Self::Denied(text)
            | Self::NotFound(text)
            | Self::Exhausted(text)
            | Self::Precondition(text)
            | Self::Busy(text)
            | Self::Unavailable(text)
            | Self::Internal(text) => text,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(text) => Self::invalid_argument(text),
            Refusal::Denied(text) => Self::permission_denied(text),
            Refusal::NotFound(text) => Self::not_found(text),
            Refusal::Exhausted(text) => Self::resource_exhausted(text),
            Refusal::Precondition(text) => Self::failed_precondition(text),
            Refusal::Busy(text) | Refusal::Unavailable(text) => Self::unavailable(text),
            Refusal::Internal(text) => Self::internal(text),
        }
    }
}

impl From<redb::Error> for Refusal {
    fn from(error: redb::Error) -> Self {
        Self::Internal(format!("the registry could not be written: {error}; check the disk under state_dir"))
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(text) => Self::Precondition(format!("tachyond refused: {text}")),
            CallError::Busy(_) => Self::Busy(error.to_string()),
            CallError::Lost(_) => Self::Unavailable(error.to_string()),
        }
    }
}
