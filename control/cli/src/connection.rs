//! The calls to `tachyon-control`, and what their errors mean to a person.

use crate::failure::{Exit, Failure};
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tachyon_proto::{Client, v1};
use tonic::{Code, Response, Status};

/// Longest wait for one answer. Compiling rules for a million topics takes seconds; a control process that is silent for
/// longer than this hangs.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A connection to the control process.
pub(crate) struct Connection {
    client: Client,
    socket: PathBuf,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(socket: &Path) -> Result<Self, Failure> {
        let client = tachyon_proto::connect(socket).await.map_err(|error| not_connected(socket, &error))?;
        Ok(Self { client, socket: socket.to_path_buf() })
    }

    pub(crate) async fn status(&mut self) -> Result<v1::StatusResponse, Failure> {
        answer(&self.socket, self.client.status(v1::StatusRequest {})).await
    }

    pub(crate) async fn stats(&mut self) -> Result<v1::StatsResponse, Failure> {
        answer(&self.socket, self.client.stats(v1::StatsRequest {})).await
    }

    pub(crate) async fn drops(&mut self) -> Result<v1::DropsResponse, Failure> {
        answer(&self.socket, self.client.drops(v1::DropsRequest {})).await
    }

    pub(crate) async fn check_rules(&mut self, call: v1::CheckRulesRequest) -> Result<v1::CheckRulesResponse, Failure> {
        answer(&self.socket, self.client.check_rules(call)).await
    }

    pub(crate) async fn apply_rules(&mut self, call: v1::ApplyRulesRequest) -> Result<v1::ApplyRulesResponse, Failure> {
        answer(&self.socket, self.client.apply_rules(call)).await
    }

    pub(crate) async fn show_rules(&mut self) -> Result<v1::ShowRulesResponse, Failure> {
        answer(&self.socket, self.client.show_rules(v1::ShowRulesRequest {})).await
    }

    pub(crate) async fn list_ports(&mut self) -> Result<v1::ListPortsResponse, Failure> {
        answer(&self.socket, self.client.list_ports(v1::ListPortsRequest {})).await
    }

    pub(crate) async fn list_lanes(&mut self) -> Result<v1::ListLanesResponse, Failure> {
        answer(&self.socket, self.client.list_lanes(v1::ListLanesRequest { owner: None })).await
    }

    pub(crate) async fn list_filters(&mut self) -> Result<v1::ListFiltersResponse, Failure> {
        answer(&self.socket, self.client.list_filters(v1::ListFiltersRequest {})).await
    }

    pub(crate) async fn set_filter(&mut self, call: v1::SetFilterRequest) -> Result<v1::SetFilterResponse, Failure> {
        answer(&self.socket, self.client.set_filter(call)).await
    }

    pub(crate) async fn list_denied(&mut self, call: v1::ListDeniedRequest) -> Result<v1::ListDeniedResponse, Failure> {
        answer(&self.socket, self.client.list_denied(call)).await
    }

    pub(crate) async fn change_denied(
        &mut self,
        call: v1::ChangeDeniedRequest,
    ) -> Result<v1::ChangeDeniedResponse, Failure> {
        answer(&self.socket, self.client.change_denied(call)).await
    }

    pub(crate) async fn set_port(&mut self, call: v1::SetPortRequest) -> Result<v1::SetPortResponse, Failure> {
        answer(&self.socket, self.client.set_port(call)).await
    }
}

async fn answer<T>(socket: &Path, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_MAX, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(socket, &status)),
        Err(_) => Err(Failure {
            exit: Exit::Unreachable,
            what: format!("tachyon-control did not answer within {} s", ANSWER_MAX.as_secs()),
            place: socket.display().to_string(),
            help: "it hangs or is overloaded: look at its log, then restart it; tachyond goes on meanwhile".to_owned(),
        }),
    }
}

/// A call that was answered with an error, or whose connection broke.
fn refused(socket: &Path, status: &Status) -> Failure {
    // Only a status that was made on this side has a source: the connection broke.
    let broken = status.source().is_some();
    let (exit, help) = match status.code() {
        _ if broken => (Exit::Unreachable, "tachyon-control ended while it was asked; try again once it is back"),
        Code::Unavailable | Code::DeadlineExceeded => (Exit::Unreachable, ""),
        Code::Unimplemented => {
            (Exit::Refused, "tachyon and tachyon-control are of different versions; install the same one")
        }
        _ => (Exit::Refused, ""),
    };
    let what = if broken { "the connection to tachyon-control broke".to_owned() } else { said(status) };
    Failure { exit, what, place: socket.display().to_string(), help: help.to_owned() }
}

/// What control says; its texts also say what to do.
fn said(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() }
}

fn not_connected(socket: &Path, error: &tonic::transport::Error) -> Failure {
    let cause = io_cause(error);
    let (why, help) = match cause.map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => (
            "there is no such socket",
            "start tachyon-control, or name its socket with --socket PATH or TACHYON_SOCKET",
        ),
        Some(io::ErrorKind::ConnectionRefused) => {
            ("nothing listens there any more", "tachyon-control has ended: look at its log and start it again")
        }
        Some(io::ErrorKind::PermissionDenied) => {
            ("this user may not open it", "run this as root or as the user that tachyon-control runs as")
        }
        _ => ("it does not answer as tachyon-control does", "check that --socket names the socket of tachyon-control"),
    };
    Failure {
        exit: Exit::Unreachable,
        what: format!("cannot reach tachyon-control: {why}"),
        place: socket.display().to_string(),
        help: help.to_owned(),
    }
}

/// The error of the operating system at the bottom of a chain of errors.
fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
