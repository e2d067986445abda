//! Claims, what they leave, and what is left of those that were killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn record(name: &Name, kept: bool) -> Record {
    Record {
        name: name.clone(),
        image: "debian".to_owned(),
        memory: 1 << 30,
        cpus: 1,
        ports: Vec::new(),
        pid: std::process::id(),
        started: 5,
        detached: false,
        kept,
        ended: None,
    }
}

fn registry(root: &Path) -> Registry {
    Registry::at(root.join("run"), root.join("vms"))
}

fn names(registry: &Registry) -> Vec<(String, bool)> {
    let entries = registry.list().unwrap();
    entries.into_iter().map(|entry| (entry.record.name.to_string(), entry.running)).collect()
}

#[test]
fn directories_follow_the_environment() {
    let with = |variables: &[(&str, &str)]| {
        let registry = Registry::from_environment(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        });
        let web = name("web");
        (registry.runtime.directory(&web), registry.kept.map(|kept| kept.state.directory(&web)))
    };
    let fallback = PathBuf::from(format!("/tmp/popf-{}/web", host::process::user_id()));
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(with(&[]), (fallback.clone(), None));
    assert_eq!(
        with(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "relative")]),
        (fallback, path("/h/.local/share/popf/vms/web"))
    );
    assert_eq!(
        with(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_DATA_HOME", "/d")]),
        ("/r/popf/web".into(), path("/d/popf/vms/web"))
    );
}

#[test]
fn a_kept_vm_is_known_after_its_end_and_another_is_not() {
    let root = tempfile::tempdir().unwrap();
    let registry = registry(root.path());
    assert_eq!(names(&registry), []);
    let mut web = registry.claim(&name("web")).unwrap();
    let mut other = registry.claim_generated("debian").unwrap();
    assert_eq!(names(&registry), [], "nothing is said of them yet");
    web.publish(&record(&name("web"), true)).unwrap();
    web.write(crate::DEFINITION, b"image = 'debian'\n").unwrap();
    fs::write(other.state().unwrap().join(crate::CONSOLE_LOG), "hello\n").unwrap();
    let other_name = other.name().clone();
    other.publish(&record(&other_name, false)).unwrap();
    assert_eq!(names(&registry), [(other_name.to_string(), true), ("web".to_owned(), true)]);
    assert!(matches!(registry.claim(&name("web")), Err(Error::Taken { .. })));
    assert!(matches!(registry.remove(&name("web")), Err(Error::Taken { .. })));
    assert_eq!(registry.running(&name("web")).unwrap().path("x"), root.path().join("run/web/x"));

    let end = End { at: 9, how: "powered off".to_owned(), status: 0 };
    web.ended(&record(&name("web"), true), end.clone()).unwrap();
    other.ended(&record(&other_name, false), end.clone()).unwrap();
    drop((web, other));
    let entries = registry.list().unwrap();
    let [Entry { record, running: false }] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(record.ended, Some(end));
    assert!(matches!(registry.running(&name("web")), Err(Error::Stopped { .. })));
    assert!(matches!(registry.running(&other_name), Err(Error::Unknown { .. })));

    let web = registry.claim(&name("web")).unwrap();
    assert_eq!(web.read(crate::DEFINITION).unwrap().as_deref(), Some("image = 'debian'\n"));
    drop(web);
    assert_eq!(names(&registry), [("web".to_owned(), false)], "a run that did not begin changes nothing");
    registry.remove(&name("web")).unwrap();
    assert_eq!(names(&registry), []);
    assert!(matches!(registry.remove(&name("web")), Err(Error::Unknown { .. })));
}

#[test]
fn a_run_that_does_not_begin_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let registry = registry(root.path());
    let mut web = registry.claim(&name("web")).unwrap();
    web.write(crate::DISK, b"...").unwrap();
    drop(web);
    let nothing = || {
        ["run/web", "vms/web", "settings/web"].iter().all(|directory| !root.path().join(directory).exists())
    };
    assert!(nothing());
    let mut web = registry.claim(&name("web")).unwrap();
    web.publish(&record(&name("web"), true)).unwrap();
    web.undo();
    drop(web);
    assert!(nothing());
    registry.claim(&name("web")).unwrap().publish(&record(&name("web"), true)).unwrap();
    registry.claim(&name("web")).unwrap().undo();
    assert_eq!(names(&registry), [("web".to_owned(), false)], "it was there before");
}

#[test]
fn the_state_is_locked_for_sessions_with_another_runtime_directory() {
    let root = tempfile::tempdir().unwrap();
    let (here, there) =
        (registry(root.path()), Registry::at(root.path().join("r2"), root.path().join("vms")));
    let mut web = here.claim(&name("web")).unwrap();
    web.publish(&record(&name("web"), true)).unwrap();
    assert!(matches!(there.claim(&name("web")), Err(Error::Taken { .. })));
    assert!(matches!(there.remove(&name("web")), Err(Error::Taken { .. })));
    drop(web);
    there.claim(&name("web")).unwrap();
}

/// Not a test of its own: the process that other tests start, race and kill. It claims what the environment says,
/// says how that went, and stays until its input ends.
#[test]
#[ignore = "run by other tests"]
fn helper() {
    let Ok(root) = std::env::var("VMS_TEST_ROOT") else { return };
    let registry = registry(Path::new(&root));
    let claim = match std::env::var("VMS_TEST_NAME") {
        Ok(text) => registry.claim(&name(&text)),
        Err(_) => registry.claim_generated("race"),
    };
    let mut line = String::new();
    match claim {
        Ok(mut claim) => {
            let name = claim.name().clone();
            claim.write(crate::DISK, b"...").unwrap();
            fs::write(claim.path(crate::CONTROL_SOCKET), "").unwrap();
            claim.publish(&record(&name, std::env::var("VMS_TEST_KEPT").is_ok())).unwrap();
            println!("\nhelper: {name}");
            std::io::stdin().read_line(&mut line).unwrap();
        }
        Err(Error::Taken { .. }) => println!("\nhelper: taken"),
        Err(error) => println!("\nhelper: {error}"),
    }
}

fn start(root: &Path, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "registry::tests::helper", "--ignored", "--nocapture"])
        .env("VMS_TEST_ROOT", root)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a helper has to say.
fn said(child: &mut Child) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.map(|line| line.unwrap()).find_map(|line| line.strip_prefix("helper: ").map(str::to_owned)).unwrap()
}

#[test]
fn what_a_killed_process_leaves_is_recognised() {
    let root = tempfile::tempdir().unwrap();
    let registry = registry(root.path());
    let mut kept = start(root.path(), &[("VMS_TEST_NAME", "web"), ("VMS_TEST_KEPT", "1")]);
    let mut thrown_away = start(root.path(), &[]);
    let other = said(&mut thrown_away);
    assert_eq!(said(&mut kept), "web");
    assert_eq!(names(&registry), [(other.clone(), true), ("web".to_owned(), true)]);
    assert!(matches!(registry.claim(&name("web")), Err(Error::Taken { .. })));
    for child in [&mut kept, &mut thrown_away] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(root.path().join("run/web").exists(), "killed as it was");
    assert_eq!(names(&registry), [("web".to_owned(), false)]);
    for directory in ["run/web".to_owned(), format!("run/{other}"), format!("vms/{other}")] {
        assert!(!root.path().join(&directory).exists(), "{directory}");
    }
    assert_eq!(registry.list().unwrap()[0].record.ended, None);
    let mut web = registry.claim(&name("web")).unwrap();
    assert_eq!(web.read(crate::DISK).unwrap().as_deref(), Some("..."));
    assert!(!web.path(crate::CONTROL_SOCKET).exists());
    assert_eq!(web.state().unwrap(), root.path().join("vms/web"));
}

#[test]
fn of_several_that_want_a_name_one_gets_it() {
    let root = tempfile::tempdir().unwrap();
    // While others look, which takes the same locks.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                registry(root.path()).list().unwrap();
            }
        });
        let mut racers: Vec<_> = (0..6).map(|_| start(root.path(), &[("VMS_TEST_NAME", "web")])).collect();
        let mut words: Vec<_> = racers.iter_mut().map(said).collect();
        words.sort();
        assert_eq!(words, ["taken", "taken", "taken", "taken", "taken", "web"]);
        for racer in &mut racers {
            drop(racer.stdin.take());
            assert!(racer.wait().unwrap().success());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(names(&registry(root.path())), []);
}
