//! A message of an earlier chain that was still on its way: it is stored after the exporter has read where the stream ends
//! and before the first message of its own chain arrives. Everything of that chain has to be refused, or the second message
//! would be stored without the first.

mod support;

use async_nats::HeaderMap;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};
use support::{Folder, Server, UNIX_NS, Writer, Written, compare, export_well, nats_server, settings};

const SEED: u64 = 8;

/// Stands between the exporter and the server at `port`, and calls `before_first` once, just before the first message of any
/// connection passes. Returns its own port. Its threads end with their connections, or with the test.
fn stand_between(port: u16, before_first: impl FnOnce() + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let ours = listener.local_addr().expect("a port").port();
    let mut before_first = Some(before_first);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", port)).expect("the server");
            let (mut from_server, mut to_client) =
                (server.try_clone().expect("a handle"), client.try_clone().expect("a handle"));
            thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            let (mut client, mut server) = (client, server);
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = client.read(&mut buffer) {
                // A publish has headers and the exporter's requests have none, so its first letters are enough.
                let publishes = buffer[..bytes].windows(5).any(|word| word == b"HPUB ");
                if publishes && let Some(before_first) = before_first.take() {
                    before_first();
                }
                if server.write_all(&buffer[..bytes]).is_err() {
                    break;
                }
            }
        }
    });
    ours
}

/// What an exporter sends for this message.
fn headers(message: &Written, log: &str, last_sequence: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message.id.as_str());
    headers.insert("Nats-Expected-Last-Sequence", last_sequence.to_string());
    headers.insert("Tachyon-Log", log);
    headers.insert("Tachyon-Record", message.record.to_string());
    headers.insert("Tachyon-Tick", message.tick.to_string());
    headers.insert("Tachyon-Unix-Ns", (UNIX_NS + message.tick).to_string());
    headers.insert("Tachyon-Sender", message.sender.to_string());
    headers
}

#[test]
fn a_straggler_leaves_no_hole() {
    let Some(program) = nats_server() else { return };
    let folder = Folder::new("straggler");
    let mut server = Server::new(&program, &folder);
    server.start();
    server.wait();
    let mut writers: Vec<Writer> = (0..2).map(|shard| Writer::new(&folder.0.join("log"), shard, SEED)).collect();
    for writer in &mut writers {
        (0..50).for_each(|_| writer.frame());
        writer.finish();
    }
    // The right next message, of the shard whose turn it is not.
    let straggler = writers[1].messages[0].clone();
    let port = server.port;
    let between = stand_between(port, move || {
        let headers = headers(&straggler, &"02".repeat(16), 0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = async_nats::connect(format!("127.0.0.1:{port}")).await.expect("the server answers");
            let context = async_nats::jetstream::new(client);
            let sent = context.publish_with_headers(straggler.subject, headers, straggler.payload.into()).await;
            assert_eq!(sent.expect("sent").await.expect("stored").sequence, 1);
        });
    });
    export_well(&settings(&folder, between, ""), &[]);
    let stored = server.read("TACHYON");
    assert_eq!(stored[0].subject, writers[1].messages[0].subject, "the straggler came first");
    for (shard, writer) in (0..2).zip(&writers) {
        compare(&stored, shard, &writer.messages);
    }
}
