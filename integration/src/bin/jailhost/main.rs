//! The fake jail host: stand-ins for the programs of a FreeBSD 13.2, one program of many names.
//!
//! It is called by a link whose name is the program's (`jailhost install DIR` makes them), or as `jailhost NAME ARGUMENT…`.
//! What each stand-in does of the real one, what holds it to the real one and how it is made to fail: `integration/jailhost/README.md`.
//!
//! Nothing here is linked into the product, and nothing of the product is used here: two readings of one manual page that
//! agree are worth more than one. Where a stand-in does not know what the real one would do it says so and exits 70, and
//! never guesses.

mod host;

mod faults;
mod persona;
mod say;

mod disks;
mod jails;
mod networks;
mod tools;
mod worlds;

use std::path::Path;
use std::process::ExitCode;

use host::Host;

/// What a program is: its arguments, without its own name, to its exit status.
type Program = fn(&Host, &[String]) -> u8;

/// Every stand-in, by the name it is called by.
const PROGRAMS: &[(&str, Program)] = &[
    ("cap_mkdb", worlds::databases::cap_mkdb),
    ("chflags", tools::chflags::main),
    ("df", disks::mount::df),
    ("dump", disks::dump::main),
    ("etcupdate", worlds::etcupdate::main),
    ("find", tools::find::main),
    ("freebsd-version", tools::release::freebsd_version),
    ("fstyp", disks::mount::fstyp),
    ("ifconfig", networks::ifconfig::main),
    ("jail", jails::jail::main),
    ("jexec", jails::jexec::main),
    ("jls", jails::jls::main),
    ("ls", tools::ls::main),
    ("make", worlds::make::main),
    ("mergemaster", worlds::mergemaster::main),
    ("mksnap_ffs", disks::snapshots::mksnap_ffs),
    ("mount", disks::mount::mount),
    ("netstat", networks::routes::netstat),
    ("newaliases", worlds::databases::newaliases),
    ("pkg", worlds::pkg::main),
    ("pkg-static", worlds::pkg::main),
    ("pwd_mkdb", worlds::databases::pwd_mkdb),
    ("restore", disks::restore::main),
    ("rm", tools::rm::main),
    ("route", networks::routes::route),
    ("service", jails::service::main),
    ("services_mkdb", worlds::databases::services_mkdb),
    ("sha256", tools::sha256::main),
    ("sockstat", networks::sockstat::main),
    ("stat", tools::stat::main),
    ("sysctl", tools::sysctl::main),
    ("sysrc", tools::sysrc::main),
    ("tunefs", disks::mount::tunefs),
    ("umount", disks::mount::umount),
    ("uname", tools::release::uname),
    ("zfs", disks::zfs::main),
];

/// In which release a program appeared, where there are older hosts. Unproven.
const SINCE: &[(&str, u32)] = &[
    ("etcupdate", 10),
    ("freebsd-version", 10),
    ("jexec", 5),
    ("jls", 5),
    ("mksnap_ffs", 5),
    ("pkg", 9),
    ("pkg-static", 9),
    ("service", 8),
    ("sysrc", 10),
    ("zfs", 7),
];

fn main() -> ExitCode {
    let mut arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let own = arguments.remove(0);
    let mut name = Path::new(&own).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "jailhost" {
        if arguments.is_empty() {
            say::err("usage: jailhost install DIRECTORY | jailhost PROGRAM [ARGUMENT …]\n");
            return ExitCode::from(64);
        }
        name = arguments.remove(0);
    }
    match name.as_str() {
        "install" => return install(&arguments),
        "lay" => {
            say::i_am("lay");
            return on_host(|host| worlds::lay::main(host, &arguments));
        }
        _ => {}
    }
    let Some((name, program)) = PROGRAMS.iter().find(|(known, _)| *known == name) else {
        say::err(&format!("jailhost: no stand-in for {name}\n"));
        return ExitCode::from(64);
    };
    say::i_am(name);
    on_host(|host| {
        // A program that came later is not there.
        if SINCE.iter().any(|(of, since)| of == name && host.persona.major() < *since) {
            say::err(&format!("sh: {name}: not found\n"));
            return 127;
        }
        match faults::meet(host, name, &arguments) {
            Some(status) => status,
            None => program(host, &arguments),
        }
    })
}

fn on_host(run: impl Fn(&Host) -> u8) -> ExitCode {
    match Host::open() {
        Ok(host) => ExitCode::from(run(&host)),
        Err(wrong) => {
            say::err(&format!("jailhost: {wrong}\n"));
            ExitCode::from(70)
        }
    }
}

/// Puts a link for every program into a directory.
fn install(arguments: &[String]) -> ExitCode {
    let [directory] = arguments else {
        say::err("usage: jailhost install DIRECTORY\n");
        return ExitCode::from(64);
    };
    let link = || -> std::io::Result<()> {
        let own = std::env::current_exe()?;
        std::fs::create_dir_all(directory)?;
        for name in PROGRAMS.iter().map(|(name, _)| *name).chain(["jailhost"]) {
            let at = Path::new(directory).join(name);
            match std::fs::remove_file(&at) {
                Err(wrong) if wrong.kind() != std::io::ErrorKind::NotFound => return Err(wrong),
                _ => {}
            }
            std::os::unix::fs::symlink(&own, &at)?;
        }
        Ok(())
    };
    match link() {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            say::err(&format!("jailhost: {directory}: {wrong}\n"));
            ExitCode::FAILURE
        }
    }
}
