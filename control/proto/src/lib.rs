//! The management interface as protobuf: package `tachyon.v1`, its generated client and server.
//!
//! Everything that manages a node, from the command line to a program in another language, speaks this and nothing
//! else; the `.proto` file beside this crate is its manual. The crate deliberately holds no logic: what a call does is
//! for `tachyon-control`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint, Uri};

/// Version 1 of the interface.
#[expect(missing_docs, reason = "generated from the .proto file, where every field is documented")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
#[allow(clippy::too_many_lines, clippy::wildcard_imports, unused_qualifications, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("tachyon.v1");

    /// The compiled `.proto` file, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("tachyon.v1");
}

mod secret {
    use super::v1::{
        ConnectLaneRequest, ConnectLaneResponse, EgressSession, OpenSessionResponse, connect_lane_request::Owner,
    };
    use std::fmt::{Debug, Formatter, Result};

    impl Debug for OpenSessionResponse {
        /// Names the session; never prints a key.
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("OpenSessionResponse")
                .field("session_id", &self.session_id)
                .field("reply_session_id", &self.reply_session_id)
                .field("epoch", &self.epoch)
                .finish_non_exhaustive()
        }
    }

    impl Debug for EgressSession {
        /// Names the session; never prints a key.
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("EgressSession")
                .field("worker", &self.worker)
                .field("session_id", &self.session_id)
                .field("epoch", &self.epoch)
                .finish_non_exhaustive()
        }
    }

    impl Debug for ConnectLaneRequest {
        /// Names the owner and the worker; never prints the details.
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("ConnectLaneRequest")
                .field("owner", &self.owner)
                .field("worker", &self.worker)
                .finish_non_exhaustive()
        }
    }

    impl Debug for Owner {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            match self {
                Self::SessionId(id) => write!(f, "SessionId({id})"),
                Self::Subscriber(slot) => write!(f, "Subscriber({slot})"),
            }
        }
    }

    impl Debug for ConnectLaneResponse {
        /// Tells the number of workers; never prints the details.
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("ConnectLaneResponse").field("workers", &self.workers).finish_non_exhaustive()
        }
    }
}

/// The generated client over one connection.
pub type Client = v1::control_client::ControlClient<Channel>;

/// Connects to the control process.
///
/// # Errors
/// When nothing listens on `socket` or this user may not open it.
pub async fn connect(socket: &Path) -> Result<Client, tonic::transport::Error> {
    // A subscription to all of 65,536 topics, each with a name of 255 bytes, is 18 MB; the default limit is 4 MiB.
    Ok(Client::new(channel(socket).await?).max_decoding_message_size(64 << 20))
}

/// The connection by itself, for the other services on the same socket: gRPC health and reflection.
///
/// # Errors
/// When nothing listens on `socket` or this user may not open it.
pub async fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket: PathBuf = socket.to_path_buf();
    // The URI is only what HTTP/2 carries as authority; a Unix socket has none.
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await
}
