//! The grammar of flags and of TOML, which is one.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};

use super::*;
use crate::args::{Cli, Command};
use crate::exit::Failure;

/// What flags say.
fn flags(line: &str) -> Result<Definition, clap::Error> {
    match Cli::try_parse_from(line.split(' '))?.command {
        Command::Run(args) => Ok(args.definition),
        other => panic!("not run: {other:?}"),
    }
}

/// What TOML says.
fn toml(text: &str) -> Result<Definition, String> {
    DefinitionFile::parse(Path::new("vm.toml"), text, Path::new("/dir")).map_err(|error| {
        assert_eq!(error.status(), Failure::Usage as u8);
        error.report()
    })
}

/// One of every field.
const FULL: &str = r#"
image = "busybox"
kernel = "/boot/vmlinuz"
initrd = ["/a", "/b"]
cmdline = "quiet"
name = "web"
detach = true
memory = "1G"
disk = ["/disk,format=qcow2", { path = "/with,comma", readonly = true }]
net = ["user", { to = "switch:lab", queues = 2 }]
publish = ["8080:80", "[::]:53:53/udp"]
volume = ["/src:/src:ro"]
cpus = 1
engine = "translator"
serial = "file:/log"
console = "file:/console"
port = ["agent=unix:/agent.sock"]
gdb = "unix:/gdb.sock,wait"
debug-exit = true
test-device = true
no-reboot = true
stdin = true
sandbox = "strict"
no-sandbox = true
stats = true
perf-map = true
direct = "off"
translation-cache = "16M"
command = ["sh", "-c", "exit 7"]
"#;

#[test]
fn a_command_follows_two_dashes() {
    let definition = flags("popf run busybox -- sh -c exit --help").unwrap();
    assert_eq!(definition.image.as_deref(), Some("busybox"));
    assert_eq!(definition.command, ["sh", "-c", "exit", "--help"]);
    assert_eq!((definition.memory(), definition.cpus()), (Size(512 << 20), 1));
}

#[test]
fn kernels_come_with_their_files() {
    let definition = flags("popf run --kernel k --initrd a --initrd b --cmdline -x --memory 1G").unwrap();
    assert_eq!(definition.initrd.len(), 2);
    assert_eq!((definition.cmdline.as_deref(), definition.memory()), (Some("-x"), Size(1 << 30)));
    let definition = flags("popf run --kernel k --serial file:out --debug-exit --no-reboot=false").unwrap();
    assert_eq!(definition.serial, Some(SerialArg::File("out".into())));
    assert_eq!((definition.debug_exit, definition.no_reboot), (Some(true), Some(false)));
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "popf run",
        "popf run busybox --kernel k",
        "popf run busybox --cpus x",
        "popf run busybox --memory lots",
        "popf run busybox --name a/b",
        "popf run busybox --detach=maybe",
        "popf run busybox --serial file:",
        "popf run busybox --serial tty",
        "popf run busybox --engine magic",
    ] {
        let error = flags(line).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(Failure::Usage as u8), "{line}");
    }
}

#[test]
fn fields_that_do_not_go_together_are_named() {
    for (line, field) in [
        ("popf run vm.toml", "image"),
        ("popf run --kernel k -- ls", "command"),
        ("popf run busybox --initrd i", "initrd"),
        ("popf run busybox --stdin", "stdin"),
        ("popf run busybox --cpus 17", "cpus"),
        ("popf run busybox --cpus 0", "cpus"),
        ("popf run busybox --serial null -- ls", "serial"),
        ("popf run busybox --detach -- ls", "command"),
        ("popf run busybox --detach --serial stdio", "serial"),
        ("popf run busybox --detach --stats", "stats"),
        ("popf run busybox --translation-cache 4K", "translation-cache"),
        ("popf run busybox --translation-cache 2G", "translation-cache"),
        ("popf run busybox --translation-cache 1000001", "translation-cache"),
        ("popf run --name web", "image"),
    ] {
        assert_eq!(flags(line).unwrap().check().unwrap_err().field, field, "{line}");
    }
    for line in [
        "popf run busybox --stdin=false --detach --serial null",
        "popf run busybox --detach=false -- ls",
        "popf run --kernel k --initrd i --cpus 1",
    ] {
        assert_eq!(flags(line).unwrap().check(), Ok(()), "{line}");
    }
}

#[test]
fn every_flag_is_a_field_and_every_field_a_flag() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let not_of_the_vm = ["help", "version", "print-definition"];
    let flags: BTreeSet<_> = run
        .get_arguments()
        .map(|argument| argument.get_id().as_str().replace('_', "-"))
        .filter(|id| !not_of_the_vm.contains(&id.as_str()))
        .collect();
    let full = toml(FULL).unwrap();
    let written: toml::Table = full.to_toml().unwrap().parse().unwrap();
    let fields: BTreeSet<_> = written.keys().cloned().collect();
    assert_eq!(flags, fields, "FULL has one of every field");
    assert_eq!(toml(&full.to_toml().unwrap()).unwrap(), full, "written as it is read");
}

#[test]
fn flags_say_what_fields_say() {
    let line = "popf run --kernel /boot/vmlinuz --initrd /a --initrd /b --cmdline quiet --name web -d -m 1G \
                --disk /disk,format=qcow2 --net user --net switch:lab,queues=2 -p 8080:80 -p [::]:53:53/udp \
                -v /src:/src:ro --cpus 1 --engine translator --serial file:/log --console file:/console \
                --port agent=unix:/agent.sock --gdb unix:/gdb.sock,wait --debug-exit --test-device --no-reboot -i --sandbox strict --no-sandbox --stats \
                --perf-map --direct off --translation-cache 16M";
    let definition = flags(line).unwrap();
    let full = toml(FULL).unwrap();
    // A path with a comma cannot be said by a flag.
    let disk = definition.disk.clone();
    assert_eq!(disk, full.disk[..1]);
    assert_eq!(definition, Definition { image: None, command: Vec::new(), disk, ..full });
}

#[test]
fn flags_overrule_fields_and_lists_are_replaced() {
    let base = toml(FULL).unwrap();
    assert_eq!(Definition::default().over(base.clone()), base);
    let line = "popf run --name db --detach=false --memory 2G --initrd /c x -- ls";
    let over = flags(line).unwrap().over(base.clone());
    let expected = Definition {
        image: Some("x".into()),
        name: Some("db".parse().unwrap()),
        detach: Some(false),
        memory: Some(Size(2 << 30)),
        initrd: vec!["/c".into()],
        command: vec!["ls".into()],
        ..base
    };
    assert_eq!(over, expected);
    let all = toml(FULL).unwrap();
    assert_eq!(all.clone().over(over), all);
}

#[test]
fn errors_point_at_line_and_field() {
    for (text, words) in [
        ("image = 'busybox'\nmemry = '1G'\n", &["vm.toml:2: ", "unknown field `memry`", "memry = '1G'"][..]),
        ("\n\nmemory = 'lots'\n", &["vm.toml:3: ", "512M", "in: memory = 'lots'"]),
        ("memory = -1", &["vm.toml:1: ", "-1"]),
        ("memory = [1]", &["vm.toml:1: ", "512M"]),
        ("image = 7", &["vm.toml:1: ", "expected a string"]),
        ("detach = 'yes'", &["vm.toml:1: ", "expected a boolean"]),
        ("cpus = 300", &["vm.toml:1: ", "u8"]),
        ("name = '../web'", &["vm.toml:1: ", "letters, digits"]),
        ("initrd = 'one'", &["vm.toml:1: ", "sequence"]),
        ("image = 'a'\ndisk = [\n'a',\n'b,snap']", &["vm.toml:4: ", "no option \"snap\"", "in: 'b,snap'"]),
        ("[[disk]]\npath = 'a'\nread-only = true", &["vm.toml:3: ", "unknown field `read-only`"]),
        ("image = 'a'\nimage = 'b'", &["vm.toml:2: ", "duplicate key"]),
        ("image = ", &["vm.toml:1: "]),
        ("[vm]\nimage = 'a'", &["vm.toml:1: ", "unknown field `vm`"]),
    ] {
        let error = toml(text).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{text:?}: no {word:?} in {error}");
        }
    }
    assert_eq!(toml("memory = 1048576").unwrap().memory, Some(Size(1 << 20)));
    assert_eq!(toml("").unwrap(), Definition::default());
}

#[test]
fn paths_are_seen_from_where_the_definition_lies() {
    let text = "kernel = 'k'\ninitrd = ['i', '/j']\nserial = 'file:s'\ndisk = ['d', '/e,snapshot']
                volume = ['v:/v']\nconsole = 'file:c'\nport = ['a=unix:p']\ngdb = 'unix:g'";
    let definition = toml(text).unwrap();
    assert_eq!(definition.disk[0].path, PathBuf::from("/dir/d"));
    assert_eq!(definition.disk[1].path, PathBuf::from("/e"));
    assert_eq!(definition.volume[0].host, PathBuf::from("/dir/v"));
    assert_eq!(definition.kernel, Some("/dir/k".into()));
    assert_eq!(definition.initrd, [PathBuf::from("/dir/i"), "/j".into()]);
    assert_eq!(definition.serial, Some(SerialArg::File("/dir/s".into())));
    assert_eq!(definition.console, Some(SerialArg::File("/dir/c".into())));
    assert_eq!(definition.port, ["a=unix:/dir/p".parse().unwrap()]);
    assert_eq!(definition.gdb, Some("unix:/dir/g".parse().unwrap()));
}

#[test]
fn a_misfit_is_found_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.toml");
    std::fs::write(&path, "# A comment.\nimage = 'busybox'\n\nkernel = 'k'\n").unwrap();
    let (file, definition) = DefinitionFile::read(&path).unwrap();
    let misfit = definition.check().unwrap_err();
    assert_eq!(file.place(&misfit), format!("{}:2", path.display()));
    let elsewhere = Misfit { field: "cpus", message: String::new() };
    assert_eq!(file.place(&elsewhere), path.display().to_string());
}

#[test]
fn what_is_no_definition_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("binary"), [0xff; 16]).unwrap();
    std::fs::File::create(path("large")).unwrap().set_len(1 << 40).unwrap();
    for (name, reason) in
        [("nothing", "No such file"), ("", "no definition"), ("large", "no definition"), ("binary", "UTF-8")]
    {
        let error = DefinitionFile::read(&path(name)).unwrap_err();
        assert!(error.report().contains(reason), "{}", error.report());
        assert_eq!(error.status(), Failure::NoInput as u8);
    }
}
