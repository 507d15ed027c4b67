//! `dump-restore.txt`: real streams of Linux's dump and restore, of ext4 on loop devices, which needs root.

use super::compare::Rule;
use super::recording::{Case, Recording};
use super::stage::Stage;
use super::{NotApplying, replay};

const NOT_APPLYING: &[NotApplying] = &[
    ("newfs -U /dev/vtbd1 >/dev/null", "prepares the recording's machine"),
    ("newfs -U /dev/vtbd2 >/dev/null", "prepares the recording's machine"),
    (
        "newfs -U -j /dev/vtbd2 | tail -3",
        "prepares the recording's machine; what follows is replayed on a file system said to have a journal",
    ),
    ("snapinfo /src", "nothing asks it, and it had nothing to say"),
    (
        "su -m nobody -c \"dump -0aL -f /dev/null /src\"",
        "the stage is closed to other users; dump without root is in the page as unproven",
    ),
    (
        "restore -rf /data/d0 & restore -rf /data/d0 & wait",
        "replayed below: its recording has three restores in one, of which none says which it was",
    ),
    (
        "for d in /data/x5 /data/x6; do (cd $d; find . -xdev | wc -l); done; cd /src; find . -xdev | wc -l",
        "asserted below",
    ),
    (
        "TMPDIR=/data/t5 restore -rf /data/d0 & TMPDIR=/data/t6 restore -rf /data/d0 & wait",
        "replayed below: two programs, one status each",
    ),
];

/// How long the large file of the second tree is.
const BIG: u64 = 20_807 * 1024;

const RULES: &[Rule] = &[dates, numbers, blanks];

/// Dates as ctime(3) and ls(1) write them.
fn dates(line: &str) -> String {
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let Some(at) = words.iter().position(|word| months.contains(word)) else { return line.to_owned() };
    let is_long = at > 0 && days.iter().any(|day| words[at - 1].ends_with(day)) && words.len() > at + 3;
    let (from, to) = if is_long { (at - 1, at + 4) } else { (at, (at + 3).min(words.len())) };
    format!("{} DATE {}", words[..from].join(" "), words[to..].join(" "))
}

/// Sizes, rates, inode numbers and counts, where a line tells them: digits become `#`.
fn numbers(line: &str) -> String {
    let trimmed = line.trim_start();
    if let Some(rest) = trimmed.strip_prefix("DUMP: finished in ") {
        return format!("DUMP: finished {}", if rest.contains("second") { "" } else { rest });
    }
    // Whose names stand there depends on the directory's order; that they stand there does not.
    for front in ["name: ", "parent name ", "sibling name: "] {
        if trimmed.starts_with(front) {
            return front.to_owned();
        }
    }
    let told = [
        "DUMP: estimated",
        "DUMP: DUMP:",
        "total ",
        "expected next file",
        "inode number",
        "Checksum error",
        "write error",
        "abort? [yn] resync",
        "/dev/vtbd2 ",
        "Filesystem",
    ];
    let is_listing =
        trimmed.split(' ').any(|word| word.len() == 10 && word.ends_with(['x', '-']) && word.starts_with(['-', 'd']));
    let is_table =
        line.starts_with("   ") && trimmed.split('\t').next().is_some_and(|first| first.parse::<u64>().is_ok());
    let is_count = trimmed.parse::<u64>().is_ok();
    let is_difference = line.contains(" differ: ");
    let is_lost =
        line.ends_with(": not found on tape") || line.ends_with("cannot create file: No space left on device");
    if !(told.iter().any(|front| trimmed.starts_with(front))
        || is_listing
        || is_table
        || is_count
        || is_difference
        || is_lost)
    {
        return line.to_owned();
    }
    let mut told = String::new();
    for letter in trimmed.chars() {
        match letter {
            letter if letter.is_ascii_digit() => {
                if !told.ends_with('#') {
                    told.push('#');
                }
            }
            letter => told.push(letter),
        }
    }
    // cmp's word for a byte.
    told.replace("differ: byte", "differ: char")
}

/// How many blanks are in a row depends on the widest number of a column.
fn blanks(line: &str) -> String {
    line.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What the recording's script had laid into /src, which it does not show.
fn first_tree(stage: &Stage) {
    stage.sh(
        "cd $JAILHOST_ROOT/src; mkdir -m 775 .snap; chgrp 5 .snap
         mkdir etc bin home home/u; mkdir etc/X11; echo a > etc/aliases; mkdir etc/authpf
         for i in $(seq 25); do mkdir etc/d$i; done
         for i in $(seq 731); do echo $i > etc/d1/$i; done
         echo 'the rc' > etc/rc; chflags schg $JAILHOST_ROOT/src/etc/rc; : > etc/old; touch -d 2006-01-02 etc/old
         head -c 22136 /dev/urandom > bin/cp; head -c 169824 /dev/urandom > bin/sh; ln bin/sh bin/sh.hard; chmod 555 bin/*
         head -c 9000000 /dev/urandom > home/u/big; truncate -s 50M home/u/sparse; echo nodump > home/u/nodump
         head -c 40000 /dev/urandom | dd of=home/u/sparse conv=notrunc status=none
         chflags nodump $JAILHOST_ROOT/src/home/u/nodump; cd etc; for i in $(seq 21); do : > z$i; done",
    );
}

/// The tree of the second half: a large file, then three hundred small ones, the large one so long that the recorded
/// offsets fall into the places the recording was about.
fn second_tree(stage: &Stage) {
    let lay = |big: u64| {
        stage.sh(&format!(
            "cd $JAILHOST_ROOT/src; /bin/rm -rf * .snap; mkdir -m 775 .snap; chgrp 5 .snap; mkdir home home/u bin
             head -c 9000 /dev/urandom > bin/sh; head -c 9000 /dev/urandom > bin/cp; ln bin/sh bin/sh.hard
             head -c {big} /dev/urandom > home/u/big; for i in $(seq 300); do echo $i > \"home/u/f $i\"; done
             cd $JAILHOST_ROOT/data; mkdir -p x1 x2 x3 x4 x5 x6 t5 t6; dump -0aL -f d0 /dev/vtbd2 2> /dev/null"
        ));
        let stream = std::fs::read(stage.root().join("data/d0")).expect("a dump");
        // The first header of a small file: a record of an inode whose size is that of "204\n".
        let header = |record: &[u8]| {
            record[24..28] == 60012u32.to_le_bytes() && record[0] == 2 && record[40..48] == 4u64.to_le_bytes()
        };
        let at =
            stream.chunks(1024).enumerate().filter(|(_, record)| record.len() == 1024 && header(record)).nth(204 - 100);
        at.expect("the file's header").0 as u64 * 1024
    };
    // The recorded zeros begin within the header of the 204th. The size is right for what mke2fs makes today; where it makes
    // something else, the difference is made up for, in more than one step as a large file has headers of its own in between.
    let (mut big, wanted) = (BIG, 21_856_960 / 1024 * 1024);
    for _ in 0..4 {
        match lay(big) {
            at if at == wanted => return,
            at => big = big + wanted - at,
        }
    }
    panic!("no size of the large file puts the header at {wanted}; the last was {big}");
}

fn before(stage: &Stage, case: &Case) {
    match case.command.as_str() {
        "dump -0uaL -C 16 -f - /src | restore -rf -" => stage.sh("cd $JAILHOST_ROOT/src && rm -rf ../data/rs && mkdir ../data/rs"),
        "dump -1uaL -C 16 -f - /src | restore -rf -" => {
            // A dump of the same second would have every file in it.
            stage.sh("sleep 1.1; cd $JAILHOST_ROOT/src/etc && echo 1 > new && echo 2 > new2")
        }
        "dump -0aL -f /dev/null /dev/vtbd2" => stage.sh("mkdir -m 775 $JAILHOST_ROOT/src/.snap; chgrp 5 $JAILHOST_ROOT/src/.snap"),
        "mount /src; cp -Rp /etc /src/; mount | grep src" => {
            stage.sh("cd $JAILHOST_ROOT/src && chflags -R noschg . && /bin/rm -rf * && sed -i '/vtbd2/s/soft-updates/soft-updates,journaled-soft-updates/; /vtbd2/s/$/ unmounted/' $JAILHOST_STATE/filesystems")
        }
        "cd /data/x1 && restore -rf /data/d0" => {
            second_tree(stage);
            String::new()
        }
        "cd /data/x4 && restore -rf /data/d0" => stage.sh("cd $JAILHOST_ROOT/data/x4 && mkdir -p home/u && echo > bin"),
        "cd /data/x2 && head -c 11028480 /data/d0 | restore -ryf -"
        | "cd /data/x3 && (head -c 21856960 /data/d0; head -c 20480 /dev/zero; tail -c +21877441 /data/d0) | restore -rf -" => {
            stage.sh("cd $JAILHOST_ROOT/data && /bin/rm -rf x2 x3; mkdir x2 x3")
        }
        "cd /mnt2 && restore -rf /data/d0" => {
            stage.image("/mnt2", 8);
            stage.sh("mkdir $JAILHOST_ROOT/mnt2/.snap")
        }
        _ => String::new(),
    };
    // Its restore goes where the recording's script had gone to.
    if case.command.starts_with("dump -") && case.command.ends_with("restore -rf -") {
        stage.go("/data/rs");
    } else {
        stage.go("/");
    }
}

#[test]
fn dump_and_restore_are_as_recorded() {
    if !nix::unistd::geteuid().is_root() {
        panic!("needs root, for loop devices: leave it out with -E 'not test(/needs_root/)'");
    }
    let recording = Recording::read("dump-restore.txt");
    let stage = Stage::new();
    stage.directories(&["/data/rs", "/data/.snap"]);
    let device = stage.image("/src", 96);
    let filesystems = format!(
        "/dev/vtbd0p2 / ext2fs local -\ndevfs /dev devfs - -\n/dev/vtbd1 /data ufs local,soft-updates -\n/dev/vtbd2 /src ufs local,soft-updates {device}\n"
    );
    stage.state("filesystems", &filesystems);
    stage.write("/etc/fstab", "/dev/vtbd1 /data ufs rw 0 0\n/dev/vtbd2 /src ufs rw 0 0\n");
    stage.write("/etc/dumpdates", "");
    stage.program("jot", "exec seq \"$1\"");
    first_tree(&stage);
    replay(&stage, &recording, NOT_APPLYING, RULES, before);
    two_at_once(&stage);
}

/// The two cases of two restores of one dump.
fn two_at_once(stage: &Stage) {
    stage.go("/");
    // The first has its stream's beginning when the second comes, and the rest of it when that has ended.
    let both = |tmpdir: &str| {
        let (first, second) = (tmpdir.replace('N', "5"), tmpdir.replace('N', "6"));
        let script = format!(
            "cd $JAILHOST_ROOT/data; /bin/rm -rf s5 s6 x5 x6; mkdir x5 x6
             (cd x5; (head -c 200000 ../d0; while test ! -e ../s6; do sleep 0.01; done; tail -c +200001 ../d0) | \
                TMPDIR={first} restore -rf - 2> ../e5; echo $? > ../s5) &
             (cd x6; while test -z \"$(/bin/ls {first} | grep rstdir)\"; do sleep 0.01; done
                TMPDIR={second} restore -rf ../d0 2> ../e6; echo $? > ../s6) &
             wait; cat s5 s6; find x5 | wc -l; find x6 | wc -l; find ../src | wc -l"
        );
        let numbers: Vec<u32> = stage.sh(&script).lines().map(|line| line.trim().parse().expect("a number")).collect();
        let (said, _) = stage.try_sh("cat $JAILHOST_ROOT/data/e5 $JAILHOST_ROOT/data/e6");
        (
            numbers,
            said.lines().filter(|line| !line.contains("/dev/tty")).map(|line| format!("{line}\n")).collect::<String>(),
        )
    };
    let (numbers, said) = both("$JAILHOST_ROOT/tmp/");
    let [first, second, trees @ ..] = numbers.as_slice() else { panic!("{numbers:?}") };
    assert_eq!((*first, *second), (0, 1), "one says that all is well, one fails: {said}");
    assert!(trees[0] <= 3 && trees[1] <= 3 && trees[2] > 300, "and neither has the tree: {trees:?}");
    assert!(said.contains("cannot create directory database: File exists"), "{said}");
    assert!(said.contains("restore: /tmp//rstdir"), "{said}");

    let (numbers, said) = both("$JAILHOST_ROOT/data/tN");
    let [0, 0, first, second, source] = numbers.as_slice() else { panic!("{numbers:?}: {said}") };
    assert!(first == second && *first == source + 1, "both have it, and restoresymtable: {numbers:?}");
    let lines: Vec<String> = said.lines().map(numbers_of).collect();
    assert_eq!(lines, ["expected next file #, got #", "expected next file #, got #"]);
}

fn numbers_of(line: &str) -> String {
    numbers(line)
}

/// `processes = "real"`, `network = "real"`, in a network and a mount namespace of their own.
#[test]
fn jails_can_be_real() {
    let stage = Stage::new();
    stage.state("persona", "processes = \"real\"\nnetwork = \"real\"\n");
    let conf = "exec.start = \"sleep 1000 & echo started > /tmp/was\"; exec.stop = \"echo stopped > /tmp/was\"; exec.clean; mount.devfs;\n\
        ServerA { path = /data/jails/ServerA; host.hostname = a.example; ip4.addr = \"vtnet0|10.0.2.112/32\"; stop.timeout = 2; }\n";
    stage.write("/etc/jail.conf", conf);
    stage.directories(&["/data/jails/ServerA/dev", "/data/jails/ServerA/tmp", "/data/jails/ServerA/bin"]);
    stage.sh(
        "cd $J; for program in sh sleep cat; do cp /bin/$program bin/; done
         for library in $(ldd /bin/sh /bin/sleep /bin/cat | grep -o '/lib[^ ]*' | sort -u); do mkdir -p .$(dirname $library); cp -L $library .$library; done",
    );
    let script = "ip link add vtnet0 type bridge && ip link set vtnet0 addrgenmode none up
        jail -c ServerA > /dev/null || exit 1
        ip -4 -o addr show vtnet0; ifconfig vtnet0 | grep -w inet; jexec ServerA /bin/cat /tmp/was; test -c $J/dev/null && echo devfs
        /bin/ls -l /proc/*/root 2> /dev/null | grep -c jails/ServerA
        jail -r ServerA; cat $J/tmp/was; ip -o addr show vtnet0 | grep -c 10.0.2.112; ls $J/dev | wc -l
        /bin/ls -l /proc/*/root 2> /dev/null | grep -c jails/ServerA; true";
    let (output, status) = stage.try_sh(&format!("unshare --net --mount bash -c '{script}'"));
    assert_eq!(status, 0, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].contains("10.0.2.112/32"), "{output}");
    assert_eq!(
        lines[1..],
        [
            "\tinet 10.0.2.112 netmask 0xffffffff broadcast 10.0.2.112",
            "started",
            "devfs",
            "1",
            "ServerA: removed",
            "stopped",
            "0",
            "0",
            "0"
        ]
    );
}

/// `snapshot = "copy"`: what is written while the dump goes on is not in it.
#[test]
fn a_snapshot_can_be_a_copy() {
    let stage = Stage::new();
    let device = stage.image("/src", 32);
    stage.state("filesystems", &format!("/dev/vtbd2 /src ufs local,soft-updates {device}\n"));
    stage.state("persona", "snapshot = \"copy\"\n");
    stage.directories(&["/data/t"]);
    // The reader begins to read when the file has changed: the stream is longer than a pipe.
    stage.sh("cd $JAILHOST_ROOT/src && mkdir .snap && head -c 2000000 /dev/zero | tr '\\0' a > big && echo before > z");
    let script = "cd $JAILHOST_ROOT/data/t && dump -0aL -f - /dev/vtbd2 2> ../said | (head -c 1024 > ../first
        echo after > ../../src/z; sync -f ../../src/z; cat ../first - | restore -rf - 2> /dev/null); cat z ../said";
    let (output, _) = stage.try_sh(script);
    assert!(output.starts_with("before\n") && output.contains("DUMP IS DONE"), "{output}");
    assert_eq!(
        stage.sh("/bin/ls $JAILHOST_STATE | grep -c snapshot; losetup -a | grep -c $JAILHOST_STATE; true"),
        "0\n0\n",
        "the copy is gone"
    );
}
