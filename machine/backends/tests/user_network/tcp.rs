//! Connections from the guest to the host.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use backends::net::user::UserConfig;
use smoltcp::socket::tcp::{Socket, State};

use crate::guest::{Guest, PATIENCE, gateway, pattern};

/// A server for one connection.
fn serve<T: Send + 'static>(
    address: &str,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        serve(stream)
    });
    (gateway(address), thread)
}

#[test]
fn an_end_of_one_direction_leaves_the_other() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (server, thread) = serve(address, |mut stream| {
            let mut question = Vec::new();
            stream.read_to_end(&mut question).unwrap();
            stream.write_all(b"you said: ").unwrap();
            stream.write_all(&question).unwrap();
        });
        let mut guest = Guest::new(&UserConfig::default());
        let handle = guest.connect(server);
        guest.write(handle, b"hello");
        guest.close(handle);
        assert_eq!(guest.read_to_end(handle), b"you said: hello");
        thread.join().unwrap();
        guest.until("the end of both", |sockets| {
            (sockets.get::<Socket>(handle).state() == State::TimeWait).then_some(())
        });
    }
}

#[test]
fn the_peer_may_end_first() {
    let (server, thread) = serve("127.0.0.1:0", |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.connect(server);
    assert_eq!(guest.read_to_end(handle), b"bye");
    assert_eq!(guest.state(handle), State::CloseWait);
    guest.write(handle, b"one more thing");
    guest.close(handle);
    guest.until("the end of both", |sockets| {
        (sockets.get::<Socket>(handle).state() == State::Closed).then_some(())
    });
    assert_eq!(thread.join().unwrap(), b"one more thing");
}

#[test]
fn a_refusal_is_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = gateway(listener.local_addr().unwrap());
    drop(listener);
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.call(nobody, 4096);
    // A timeout would come later than any test waits.
    guest.until("the refusal", |sockets| (!sockets.get::<Socket>(handle).is_open()).then_some(()));
}

#[test]
fn a_reset_passes_both_ways() {
    let (server, thread) = serve("127.0.0.1:0", |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.read(&mut byte).unwrap_err().kind()
    });
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.connect(server);
    guest.write(handle, b"x");
    guest.until("an acknowledgement", |sockets| {
        (sockets.get::<Socket>(handle).send_queue() == 0).then_some(())
    });
    guest.sockets.get_mut::<Socket>(handle).abort();
    guest.until("the reset to be sent", |_| thread.is_finished().then_some(()));
    assert_eq!(thread.join().unwrap(), ErrorKind::ConnectionReset);

    let (server, thread) = serve("127.0.0.1:0", |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        host::socket::reset_on_close(&stream).unwrap();
    });
    let handle = guest.connect(server);
    guest.write(handle, b"x");
    guest.until("the reset", |sockets| (!sockets.get::<Socket>(handle).is_open()).then_some(()));
    thread.join().unwrap();
}

const LARGE: usize = 100 << 20;

#[test]
fn a_large_upload_arrives_whole() {
    let (server, thread) = serve("127.0.0.1:0", |mut stream| {
        let mut all = Vec::with_capacity(LARGE);
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.connect(server);
    let text = pattern(LARGE);
    guest.write(handle, &text);
    guest.close(handle);
    guest.until("the server", |_| thread.is_finished().then_some(()));
    assert!(thread.join().unwrap() == text);
}

#[test]
fn a_large_download_arrives_whole() {
    let (server, thread) = serve("127.0.0.1:0", |mut stream| {
        stream.write_all(&pattern(LARGE)).unwrap();
    });
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.connect(server);
    let all = guest.read_to_end(handle);
    assert!(all == pattern(LARGE));
    thread.join().unwrap();
}

#[test]
fn a_server_that_does_not_read_stops_the_guest() {
    let (server, thread) = serve("127.0.0.1:0", |stream| stream);
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.connect(server);
    let mut stream = thread.join().unwrap();
    let text = pattern(64 << 20);
    let mut sent = 0;
    let mut quiet = 0;
    guest.until("the window to shut", |sockets| {
        let socket = sockets.get_mut::<Socket>(handle);
        let count = socket.send_slice(&text[sent..]).unwrap();
        sent += count;
        quiet = if count == 0 { quiet + 1 } else { 0 };
        // The network, the kernel's buffers and the guest's own are full.
        (quiet > 50).then_some(())
    });
    assert!(sent < 32 << 20, "{sent} bytes were taken and nobody read them");
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    guest.write(handle, &text[sent..]);
    guest.close(handle);
    guest.until("the reader", |_| reader.is_finished().then_some(()));
    assert!(reader.join().unwrap() == text);
}

#[test]
fn a_guest_that_does_not_read_stops_the_server() {
    let (server, thread) = serve("127.0.0.1:0", |mut stream| {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let text = pattern(64 << 20);
        let mut sent = 0;
        while let Ok(count) = stream.write(&text[sent..]) {
            sent += count;
        }
        stream.set_write_timeout(None).unwrap();
        (stream, sent)
    });
    let mut guest = Guest::new(&UserConfig::default());
    let handle = guest.connect(server);
    guest.until("the server to be stopped", |_| thread.is_finished().then_some(()));
    let (mut stream, sent) = thread.join().unwrap();
    assert!(sent < 32 << 20, "{sent} bytes were taken and nobody read them");
    let writer = thread::spawn(move || stream.write_all(&pattern(64 << 20)[sent..]).unwrap());
    assert!(guest.read_to_end(handle) == pattern(64 << 20));
    writer.join().unwrap();
}

#[test]
fn thousands_of_connections_live_at_once() {
    const MANY: usize = 2000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = gateway(listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let mut streams: Vec<_> = (0..MANY).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut number = [0; 4];
            stream.read_exact(&mut number).unwrap();
            stream.write_all(&number).unwrap();
        }
    });
    let mut guest = Guest::new(&UserConfig::default());
    let handles: Vec<_> = (0..MANY).map(|_| guest.call(server, 64)).collect();
    guest.until("all of them to connect", |sockets| {
        handles.iter().all(|handle| sockets.get::<Socket>(*handle).may_send()).then_some(())
    });
    for (index, handle) in handles.iter().enumerate() {
        let number = (index as u32).to_be_bytes();
        assert_eq!(guest.sockets.get_mut::<Socket>(*handle).send_slice(&number), Ok(4));
    }
    guest.until("all answers", |sockets| {
        handles.iter().all(|handle| sockets.get::<Socket>(*handle).recv_queue() == 4).then_some(())
    });
    for (index, handle) in handles.iter().enumerate() {
        let mut number = [0; 4];
        guest.sockets.get_mut::<Socket>(*handle).recv_slice(&mut number).unwrap();
        assert_eq!(number, (index as u32).to_be_bytes());
    }
    thread.join().unwrap();
}

#[test]
fn a_network_that_goes_takes_its_connections_along() {
    let (server, thread) = serve("127.0.0.1:0", |mut stream| stream.read(&mut [0]));
    let mut guest = Guest::new(&UserConfig::default());
    guest.connect(server);
    drop(guest);
    // An end or a reset, but not silence.
    let result = thread.join().unwrap();
    assert!(!matches!(&result, Err(error) if error.kind() == ErrorKind::WouldBlock), "{result:?}");
}
