//! A nats-server for one row: on loopback, with a folder of its own, gone when dropped.

use anyhow::{Context, Result, bail};
use async_nats::Client;
use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// How often a server that starts is asked, ten milliseconds apart.
const TRIES: u32 = 1_000;

/// When the server syncs what it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Before each acknowledgement.
    Always,
    /// As it does if nobody says anything: every two minutes.
    Default,
}

impl Sync {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Default => "default",
        }
    }
}

/// A folder that goes away with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn new(directory: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tachyon-nats-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A configuration for a server here.
    fn configure(&self, port: u16, sync: Sync) -> Result<PathBuf> {
        let path = self.0.join("nats.conf");
        let interval = if sync == Sync::Always { "sync_interval: always" } else { "" };
        let store = self.0.join("store");
        let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{\n store_dir: {store:?}\n {interval}\n}}\n");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    port: u16,
    /// As the server says it.
    pub(crate) version: String,
    /// Declared last, so that it goes after the server.
    _folder: Folder,
}

impl Server {
    /// Whether this server knows the setting that has it sync before it acknowledges; version 2.9 does not.
    pub(crate) fn can_sync_always(directory: &Path) -> Result<bool> {
        let folder = Folder::new(directory)?;
        let config = folder.configure(4222, Sync::Always)?;
        let checked = Command::new(program()?).arg("-t").arg("-c").arg(config).output();
        Ok(checked.context("cannot run nats-server")?.status.success())
    }

    pub(crate) fn start(directory: &Path, sync: Sync) -> Result<Self> {
        let folder = Folder::new(directory)?;
        // A port that was free a moment ago; if another program takes it, connecting fails and says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.configure(port, sync)?;
        let program = program()?;
        let said = Command::new(&program).arg("--version").output().context("cannot run nats-server")?;
        let version = String::from_utf8_lossy(&said.stdout).rsplit(['v', ' ']).next().unwrap_or("").trim().to_owned();
        let child = Command::new(program).arg("-c").arg(config).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("cannot start nats-server")?, port, version, _folder: folder })
    }

    /// Connects, as soon as the server is ready.
    pub(crate) async fn connect(&self) -> Result<Client> {
        for _ in 0..TRIES {
            if let Ok(client) = async_nats::connect(format!("nats://127.0.0.1:{}", self.port)).await {
                return Ok(client);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("nats-server does not take connections on port {}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where nats-server is; Debian puts it where only root looks.
fn program() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut files = places.map(|folder| folder.join("nats-server"));
    files.find(|file| file.is_file()).context("nats-server is not installed (apt-get install nats-server)")
}
