//! Host and agent against each other, on this host: the agent as it is put into a guest listens on a Unix socket
//! here, and runs programs here.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent::protocol::{INPUT_WINDOW, Kind, PAYLOAD_LIMIT, Request, Size, head};
use agent::{Error, Event, Program, Session};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The agent as a process of this host.
struct Agent {
    directory: tempfile::TempDir,
    process: Child,
}

impl Agent {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("agent");
        fs::write(&program, images::AGENT).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let stdin = || Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let process = loop {
            match Command::new(&program).arg("inherited").stdin(stdin()).spawn() {
                Ok(process) => break process,
                // Busy as long as a process that another test is starting holds the file as it was written.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        Self { directory, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("socket")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn session(&self, program: &Program) -> Session {
        Session::start(self.connect(), program).unwrap()
    }

    /// Runs a shell script to its end.
    fn run(&self, script: &str) -> Ended {
        Ended::of(self.session(&self.shell(script)))
    }

    fn shell(&self, script: &str) -> Program {
        let directory = self.directory.path().into();
        Program { arguments: strings(&["sh", "-c", script]), directory, ..Program::default() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// What a program wrote, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    output: Vec<u8>,
    errors: Vec<u8>,
    how: Event,
}

impl Ended {
    fn of(mut session: Session) -> Self {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        loop {
            match session.receiver.next_event().unwrap() {
                Event::Output(bytes) => output.extend(bytes),
                Event::Errors(bytes) => errors.extend(bytes),
                how => return Self { output, errors, how },
            }
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.output).unwrap()
    }
}

fn strings(list: &[&str]) -> Vec<std::ffi::OsString> {
    list.iter().map(Into::into).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie's state is Z; its parent will see to it.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// What a program is, by the file that it writes its number to.
fn pid_from(path: &std::path::Path) -> String {
    let read = || fs::read_to_string(path).unwrap_or_default();
    wait_until("the program starts", || read().ends_with('\n'));
    read().trim().to_owned()
}

#[test]
fn output_errors_and_status_arrive() {
    let agent = Agent::start();
    let ended = agent.run("echo out; echo err >&2; exit 7");
    let (output, errors) = (b"out\n".to_vec(), b"err\n".to_vec());
    assert_eq!(ended, Ended { output, errors, how: Event::Exited(7) });
    assert_eq!(agent.run("kill -TERM $$").how, Event::Killed(15));
    assert_eq!(agent.run("exec true").how, Event::Exited(0));
}

#[test]
fn what_cannot_be_run_is_refused() {
    let agent = Agent::start();
    let refusal = |arguments: &[&str], directory: &str| {
        let program =
            Program { arguments: strings(arguments), directory: directory.into(), ..Program::default() };
        match agent.session(&program).receiver.next_event() {
            Err(Error::Refused(refusal)) => refusal,
            other => panic!("{arguments:?}: {other:?}"),
        }
    };
    use agent::protocol::Refusal::{Directory, NotExecutable, NotFound};
    assert_eq!(refusal(&["popf-no-such-program"], "/"), NotFound);
    assert_eq!(refusal(&["/nonexistent/program"], "/"), NotFound);
    assert_eq!(refusal(&["/etc/passwd"], "/"), NotExecutable);
    assert_eq!(refusal(&["true"], "/nonexistent"), Directory);
}

#[test]
fn what_cannot_be_asked_for_is_refused_here() {
    let agent = Agent::start();
    let refused = |program: &Program| {
        let error = Session::start(agent.connect(), program).unwrap_err();
        assert!(matches!(error, Error::Program(_)), "{error:?}");
    };
    let program = |arguments: &[&str]| Program { arguments: strings(arguments), ..Program::default() };
    refused(&program(&["a\0b"]));
    refused(&program(&["echo", &"x".repeat(PAYLOAD_LIMIT)]));
    let variable = |name: &str| Program { environment: vec![(name.into(), "".into())], ..program(&["env"]) };
    refused(&variable("A=B"));
    refused(&variable(""));
}

#[test]
fn environment_and_directory_are_as_asked() {
    let agent = Agent::start();
    let mut program = agent.shell("pwd; echo $HOME $TERM \"$ODD\"; env | grep -c ^HOME=");
    program.environment = vec![
        ("HOME".into(), "/elsewhere".into()),
        ("TERM".into(), "vt52".into()),
        ("ODD".into(), "a=b  c".into()),
    ];
    let ended = Ended::of(agent.session(&program));
    assert_eq!(ended.text(), format!("{}\n/elsewhere vt52 a=b  c\n1\n", agent.directory.path().display()));
}

#[test]
fn input_passes_whole_and_ends() {
    let agent = Agent::start();
    let session = agent.session(&agent.shell("exec cat"));
    // Many windows full, of which no byte is like its neighbour's neighbours.
    let sent: Vec<u8> = (0u32..5 << 20).map(|index| (index ^ index >> 8 ^ index >> 16) as u8).collect();
    let mut sender = session.sender.clone();
    let feeder = thread::spawn({
        let sent = sent.clone();
        move || {
            sender.write_all(&sent).unwrap();
            sender.end_input().unwrap();
        }
    });
    let ended = Ended::of(session);
    feeder.join().unwrap();
    assert_eq!(ended.how, Event::Exited(0));
    assert!(ended.output == sent, "{} bytes came back of {}", ended.output.len(), sent.len());
}

#[test]
fn a_program_that_reads_nothing_can_be_signalled() {
    let agent = Agent::start();
    let session = agent.session(&agent.shell("exec sleep 1000"));
    let mut sender = session.sender.clone();
    // The pipe fills, then the window; the writer waits, and is told when all is over.
    let feeder = thread::spawn(move || while sender.write_all(&[0; 4096]).is_ok() {});
    session.sender.signal(15).unwrap();
    assert_eq!(Ended::of(session).how, Event::Killed(15));
    feeder.join().unwrap();
}

#[test]
fn input_that_nobody_reads_is_dropped() {
    let agent = Agent::start();
    let status = Command::new("mkfifo").arg(agent.path("fifo")).status().unwrap();
    assert!(status.success());
    let session = agent.session(&agent.shell("exec <&-; read line < fifo"));
    let (mut sender, fifo) = (session.sender.clone(), agent.path("fifo"));
    // On a thread of its own: what the agent has dropped is told to whoever receives.
    let writer = thread::spawn(move || {
        sender.write_all(&vec![0; 4 * INPUT_WINDOW]).unwrap();
        fs::write(fifo, "go\n").unwrap();
    });
    assert_eq!(Ended::of(session).how, Event::Exited(0));
    writer.join().unwrap();
}

#[test]
fn a_terminal_has_its_size_and_its_signals() {
    let agent = Agent::start();
    let mut program = agent.shell("stty size; read line; stty size; echo $line; exec sleep 1000");
    program.terminal = Some(Size { rows: 33, columns: 101 });
    let mut session = agent.session(&program);
    let mut seen = String::new();
    let mut see = |session: &mut Session, what: &str| {
        while !seen.contains(what) {
            match session.receiver.next_event().unwrap() {
                Event::Output(bytes) => seen.push_str(std::str::from_utf8(&bytes).unwrap()),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen.clear();
    };
    see(&mut session, "33 101\r\n");
    session.sender.resize(Size { rows: 24, columns: 80 }).unwrap();
    session.sender.write_all(b"hello\n").unwrap();
    see(&mut session, "24 80\r\nhello\r\n");
    // Ctrl-C.
    session.sender.write_all(b"\x03").unwrap();
    assert_eq!(Ended::of(session).how, Event::Killed(2));
}

#[test]
fn all_output_arrives_before_the_end() {
    let agent = Agent::start();
    let ended = agent.run("yes errors | head -c 3000000 >&2 & yes | head -c 3000000; wait");
    assert_eq!((ended.output.len(), ended.errors.len()), (3_000_000, 3_000_000));
    assert_eq!(ended.how, Event::Exited(0));
}

#[test]
fn whoever_still_holds_the_output_is_not_waited_for() {
    let agent = Agent::start();
    let start = Instant::now();
    let ended = agent.run("sleep 1000 & echo $! > pid; echo done");
    assert_eq!((ended.text(), ended.how.clone()), ("done\n", Event::Exited(0)));
    assert!(start.elapsed() < LIMIT);
    let pid = pid_from(&agent.path("pid"));
    assert!(is_alive(&pid), "what was put into the background goes on");
    Command::new("kill").arg(pid).status().unwrap();
}

#[test]
fn a_program_ends_with_its_peer() {
    let agent = Agent::start();
    // It ignores the first signal, and a child of it does not even know.
    let session =
        agent.session(&agent.shell("trap '' HUP; sleep 1000 & echo $$ > pid; echo $! > child; wait"));
    let (pid, child) = (pid_from(&agent.path("pid")), pid_from(&agent.path("child")));
    assert!(is_alive(&pid) && is_alive(&child));
    drop(session);
    wait_until("the program ends", || !is_alive(&pid) && !is_alive(&child));
}

#[test]
fn a_peer_that_takes_no_output_holds_up_nobody_else() {
    let agent = Agent::start();
    let silent = agent.session(&agent.shell("exec yes"));
    for _ in 0..3 {
        assert_eq!(agent.run("echo here").text(), "here\n");
    }
    drop(silent);
}

#[test]
fn many_sessions_go_on_at_once() {
    let agent = Agent::start();
    // More than are served at once; each ends by itself, so the last find room.
    let sessions: Vec<_> = (0..100)
        .map(|index| agent.session(&agent.shell(&format!("read line; echo {index} $line"))))
        .collect();
    for session in &sessions {
        session.sender.clone().write_all(b"ping\n").unwrap();
    }
    for (index, session) in sessions.into_iter().enumerate() {
        assert_eq!(Ended::of(session).text(), format!("{index} ping\n"));
    }
}

#[test]
fn peers_that_do_not_keep_to_the_protocol_are_dropped() {
    let agent = Agent::start();
    let request = {
        let mut request = Request::head(None, 2).to_vec();
        request.extend(b"/\0sleep\x001000\0");
        [&head(Kind::Exec, request.len()), request.as_slice()].concat()
    };
    let frame = |kind, payload: &[u8]| [&head(kind, payload.len()), payload].concat();
    let after_request = |rest: &[u8]| [request.as_slice(), rest].concat();
    for (what, bytes) in [
        ("no known kind", vec![99, 0, 0, 0]),
        ("too long a frame", vec![Kind::Exec as u8, 1, 0, 1]),
        ("input before the request", frame(Kind::Input, b"x")),
        ("another request", after_request(&request)),
        ("a frame of the guest's", after_request(&frame(Kind::Output, b"x"))),
        ("a size of three bytes", after_request(&frame(Kind::Resize, b"xyz"))),
        ("no such signal", after_request(&frame(Kind::Signal, &[65]))),
        ("more input than the window", after_request(&frame(Kind::Input, &[0; PAYLOAD_LIMIT]).repeat(3))),
        ("input after its end", after_request(&[frame(Kind::Input, b""), frame(Kind::Input, b"x")].concat())),
    ] {
        let mut stream = agent.connect();
        // The agent may hang up before it has everything.
        _ = stream.write_all(&bytes);
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}"),
        }
    }
    for payload in
        [&b""[..], b"\x02\0\0\0\0\0\0\0/\0", b"\x01\0\0\0\0\0\x01\0/\0sh", b"\x01\x02\0\0\0\0\0\0/\0"]
    {
        let mut stream = agent.connect();
        stream.write_all(&frame(Kind::Exec, payload)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [Kind::Refused as u8, 1, 0, 0, 1], "{payload:?}");
    }
    assert_eq!(agent.run("echo alive").text(), "alive\n");
}

#[test]
fn whoever_connects_and_says_nothing_is_dropped() {
    let agent = Agent::start();
    let start = Instant::now();
    let mut rest = Vec::new();
    agent.connect().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert!(start.elapsed() >= Duration::from_secs(5), "it is given time");
}

/// A guest that lies.
#[test]
fn an_agent_that_does_not_keep_to_the_protocol_is_not_believed() {
    for answer in [
        vec![99, 0, 0, 0],
        vec![Kind::Output as u8, 1, 0, 1],
        [head(Kind::Exited, 2).as_slice(), b"xx"].concat(),
        [head(Kind::Input, 1).as_slice(), b"x"].concat(),
        [head(Kind::Taken, 4).as_slice(), &1u32.to_le_bytes()].concat(),
        [head(Kind::Taken, 4).as_slice(), &u32::MAX.to_le_bytes()].concat(),
        [head(Kind::Refused, 1).as_slice(), &[77]].concat(),
    ] {
        let (host, mut guest) = UnixStream::pair().unwrap();
        guest.write_all(&answer).unwrap();
        let mut session = Session::start(host, &Program::default()).unwrap();
        let error = session.receiver.next_event().unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{answer:?}: {error:?}");
        let mut sender = session.sender.clone();
        assert!(sender.write_all(&vec![0; INPUT_WINDOW + 1]).is_err(), "nobody waits for such a guest");
    }
    let (host, guest) = UnixStream::pair().unwrap();
    let mut session = Session::start(host, &Program::default()).unwrap();
    drop(guest);
    assert!(matches!(session.receiver.next_event(), Err(Error::Lost(_))));
}
