//! The control process of a node: it owns rules, topics, sessions and subscribers, and tells `tachyond` of them.
//!
//! It is the slow path, so that the fast one needs no text, no files and no second opinion: names become numbers here,
//! rules become one compiled image, grants become sessions with keys. All of it is in one registry on disk before anyone
//! is told of it. It may crash, restart or be upgraded under load: `tachyond` goes on with what it has, and is not
//! disturbed when control comes back.
//!
//! It deliberately judges no message and never links the engine: the truth log, which it writes, has frames as they were
//! received and decisions as the workers made them. It does not start or stop `tachyond`: it connects to it, and connects
//! again.
#![forbid(unsafe_code)]

mod apply;
mod attach;
mod control;
mod deny_list;
mod filters;
mod lanes;
mod log;
mod ports;
mod process;
mod record;
mod refusal;
mod registry;
mod report;
mod routes;
mod ruleset;
mod service;
mod session_ids;
mod sessions;
mod state;
mod subscribers;
mod topics;

use anyhow::Context;
use std::{fs, future::Future, os::unix::fs::DirBuilderExt, path::Path, pin::pin, time::Duration};
use tachyon_config::ControlFile;
use tachyon_proto::v1::{FILE_DESCRIPTOR_SET, control_server::ControlServer};
use tachyon_segment::handover::set_socket_rights;
use tokio::{net::UnixListener, sync::oneshot, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::info;

/// Most bytes of a request: a rules file, or 65,536 names of 255 bytes.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// How long calls that run already may go on when control is told to end: half of what service managers grant at least.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Runs until `end` is ready: opens the registry, serves `<run_dir>/control.sock`, keeps `tachyond` told.
///
/// # Errors
/// The registry or the socket cannot be used; the text says what to do.
pub async fn serve(config: ControlFile, end: impl Future<Output = ()>) -> anyhow::Result<()> {
    let own_uid = rustix::process::geteuid().as_raw();
    // The registry comes first: only one process can hold it, so whatever lies at the socket's path is left over.
    let (registry, stored) = registry::Registry::open(&config.state_dir)?;
    let (run_dir, socket_mode) = (config.run_dir.clone(), config.socket_mode);
    let socket = run_dir.join("control.sock");
    let listener = listen(&run_dir, &socket, socket_mode)?;
    let control = control::Control::new(state::State::new(config, own_uid, registry, stored)?);
    let service = ControlServer::new(service::Service::new(control.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(REQUEST_BYTES_MAX);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ControlServer<service::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the interface's description is damaged")?;
    info!("serving {}", socket.display());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(service)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async { drop(stopped.await) });
    let mut server = pin!(server);
    let served = tokio::select! {
        served = &mut server => served.context("the server ended"),
        () = control.clone().run(run_dir.join("tachyond.sock")) => Ok(()),
        () = end => {
            drop(stop);
            // Calls that take longer are cut off: what they changed is whole in the registry, or not there at all.
            timeout(LAST_CALLS, server).await.unwrap_or(Ok(())).context("the server ended badly")
        }
    };
    control.end();
    // A socket that stays behind is replaced at the next start, so a failure here changes nothing.
    let _ = fs::remove_file(&socket);
    served
}

fn listen(run_dir: &Path, socket: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    if !run_dir.exists() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(run_dir);
        made.with_context(|| format!("cannot make {}; set run_dir in the control file", run_dir.display()))?;
    }
    match fs::symlink_metadata(socket) {
        Ok(found) => {
            use std::os::unix::fs::FileTypeExt;
            anyhow::ensure!(
                found.file_type().is_socket(),
                "{} is in the way and is no socket; remove it",
                socket.display()
            );
            fs::remove_file(socket).with_context(|| format!("cannot replace {}", socket.display()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", socket.display())),
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    set_socket_rights(socket, mode).with_context(|| format!("cannot give {} its rights", socket.display()))?;
    Ok(listener)
}
