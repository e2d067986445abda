//! popf without privileges, without a network, and without a KVM device in sight.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::{image, run};

/// Becomes nobody, in namespaces of its own whose network is empty and whose /dev has just what every program
/// expects.
const SCRIPT: &str = "\
    set -e
    mkdir \"$1/dev\"
    for name in null zero urandom; do touch \"$1/dev/$name\"; mount --bind \"/dev/$name\" \"$1/dev/$name\"; done
    mount --rbind \"$1/dev\" /dev
    test ! -e /dev/kvm
    cd /
    exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs env -i XDG_CACHE_HOME=\"$1/cache\" \
        \"$1/popf\" run busybox -- sh -c 'uname -s; ls /dev/kvm 2>&1; exit 5'";

#[test]
fn nobody_without_network_and_kvm() {
    let user = Command::new("id").arg("-u").output().unwrap();
    if user.stdout != b"0\n" {
        eprintln!("skipped: only root can become nobody; the other tests have just run without privileges");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_popf"), path.join("popf")).unwrap();
    // What nobody finds is there to be read, and no more.
    let images = image().kernel.parent().and_then(|image| image.parent()).unwrap();
    let cache = path.join("cache/popf");
    fs::create_dir_all(&cache).unwrap();
    let copied = Command::new("cp").arg("-a").arg(images).arg(cache.join("images")).status().unwrap();
    assert!(copied.success());
    let made = Command::new("chmod").args(["-R", "a+rX"]).arg(path).status().unwrap();
    assert!(made.success());
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", SCRIPT, "sh"]).arg(path);
    let ended = run(&mut command, &[]);
    if ended.stderr.starts_with("unshare: ") {
        eprintln!("skipped: this root may not make namespaces: {}", ended.stderr);
        return;
    }
    let expected = "Linux\nls: /dev/kvm: No such file or directory\n";
    assert_eq!((ended.status, ended.text().as_str()), (5, expected), "{}", ended.stderr);
}
