//! What is measured. A workload takes the host a few tenths of a second, cold: what a person feels of a guest is
//! mostly code that runs for the first time.

/// What a workload leans on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The guest's kernel.
    System,
    /// Integers, in ring 3.
    Integer,
    /// Floating point, in ring 3.
    Float,
    /// Memory.
    Memory,
}

impl Group {
    pub const ALL: [Self; 4] = [Self::System, Self::Integer, Self::Float, Self::Memory];

    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Integer => "integer",
            Self::Float => "floating point",
            Self::Memory => "memory",
        }
    }
}

/// Something a shell does.
pub struct Workload {
    pub name: &'static str,
    pub group: Group,
    /// What the shell, busybox's, is told. What it writes must be the same everywhere. The shell has programs of its own that come before others of
    /// that name.
    pub line: &'static str,
}

const fn system(name: &'static str, line: &'static str) -> Workload {
    Workload { name, group: Group::System, line }
}

const fn integer(name: &'static str, line: &'static str) -> Workload {
    Workload { name, group: Group::Integer, line }
}

const fn float(name: &'static str, line: &'static str) -> Workload {
    Workload { name, group: Group::Float, line }
}

const fn memory(name: &'static str, line: &'static str) -> Workload {
    Workload { name, group: Group::Memory, line }
}

/// Packages beyond the essential ones that the list needs.
pub const PACKAGES: &str = "busybox-static,bzip2,gcc,libc6-dev,libpython3-stdlib,openssl,python3-minimal,sqlite3,stress-ng,tcc,xz-utils";

/// What is read into the page cache before anything is measured, as the shell's patterns.
pub const READS: &[&str] = &[
    "/bench/*",
    "/usr/bin/*",
    "/usr/lib/x86_64-linux-gnu/lib[a-s]*.so*",
    "/usr/lib/gcc/x86_64-linux-gnu/*/cc1",
    "/usr/lib/python3.11/*.py",
    "/usr/lib/python3.11/encodings/*.py",
    "/usr/include/*.h",
];

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    system("getppid", "./work getppid 2000000"),
    system("yield", "./work yield 600000"),
    system("clock", "./work clock 6000000"),
    system("signal", "./work signal 100000"),
    system("fault", "./work fault 50000"),
    system("pipe", "./work pipe 200000"),
    system("ping-pong", "./work ping-pong 30000"),
    system("fork", "./work fork 2500"),
    system("exec", "./work exec 300"),
    system("map", "./work map 200000"),
    system("protect", "./work protect 100000"),
    system("read-4k", "./work read 500000"),
    system("bytes", "busybox dd if=/dev/zero of=/dev/null bs=1 count=300000 2>/dev/null"),
    system("subshells", "i=0; while [ $i -lt 300 ]; do (true); x=$(echo $i); i=$((i + 1)); done; echo $x"),
    system(
        "files",
        "mkdir /tmp/f; for i in 1 2 3 4 5; do for j in 1 2 3 4 5 6 7 8 9; do echo $i >/tmp/f/$i$j; done; done; \
                     for i in 1 2 3 4 5 6; do busybox find /usr/share /usr/include -name '*.h' | busybox wc -l; done; rm -r /tmp/f",
    ),
    integer("calls", "./work calls 38"),
    integer("dispatch", "./work dispatch 50000000"),
    integer("branches", "./work branches 50000000"),
    integer("shell", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; echo $i"),
    integer("md5", "busybox head -c 40000000 /dev/zero | busybox md5sum"),
    integer("sha256", "busybox head -c 40000000 /dev/zero | busybox sha256sum"),
    integer("sha256-file", "busybox sha256sum text text text text text"),
    integer("openssl-sha256", "busybox head -c 50000000 /dev/zero | openssl dgst -sha256"),
    integer(
        "openssl-aes",
        "busybox head -c 50000000 /dev/zero | openssl enc -aes-256-cbc -K 00 -iv 00 2>/dev/null | busybox tail -c 16",
    ),
    integer(
        "openssl-rsa",
        "i=0; while [ $i -lt 20 ]; do openssl dgst -sha256 -sign key.pem run.sh | busybox md5sum; i=$((i + 1)); done",
    ),
    integer("gzip", "busybox head -c 2500000 text | /usr/bin/gzip -c | /usr/bin/gzip -dc | busybox md5sum"),
    integer("bzip2", "busybox head -c 2000000 text | /usr/bin/bzip2 -c | busybox md5sum"),
    integer("xz", "busybox head -c 300000 text | /usr/bin/xz -c | /usr/bin/xz -dc | busybox md5sum"),
    integer("python", "python3 loop.py"),
    integer("sqlite", "sqlite3 :memory: <table.sql"),
    integer("gcc", "gcc -O2 -S -o /tmp/out.s compile.c && busybox md5sum </tmp/out.s"),
    integer("gcc-long", "gcc -O2 -S -o /tmp/out.s long.c && busybox md5sum </tmp/out.s"),
    integer(
        "tcc",
        "for i in $(busybox seq 40); do tcc -c -o /tmp/out.o compile.c; done; busybox md5sum </tmp/out.o",
    ),
    integer("sort", "busybox head -c 2000000 text | sort | uniq -c | sort -n | busybox md5sum"),
    integer("stress-ng", "stress-ng --quiet --cpu 1 --cpu-method int64 --cpu-ops 400 --verify --seed 1"),
    float("awk", "awk 'BEGIN { for (i = 1; i < 1500000; i++) s += 1 / i; print s }'"),
    float("matrix", "./work matrix 400"),
    float("x87", "./work x87 15000000"),
    float("stress-ng-fft", "stress-ng --quiet --cpu 1 --cpu-method fft --cpu-ops 400 --verify --seed 1"),
    memory("copy", "./work copy 400"),
    memory("chase", "./work chase 10000000"),
    memory("touch", "./work touch 512"),
];
