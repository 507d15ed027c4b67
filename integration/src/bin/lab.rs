//! `lab up|down|status|run|clean`: the native lab by hand. `lab dom0 …`: the emulated Xen host.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use integration::dom0::guest::{self, MERCURE};
use integration::dom0::{Dom0, Toolstack, image, session};
use integration::lab::guest as native;
use integration::lab::{Lab, jails, known, redhat, timed, worlds};

const USAGE: &str = "usage: lab [--number N] up [mercure] [tiny]   build lab N (0) with these guests (mercure)
       lab [--number N] jails                  build lab N with a host of jails and a server that is to become one
       lab [--number N] redhat                 build lab N with a guest that gets a new kernel, its hypervisor nobody's
       lab [--number N] down                   take it down, leaving nothing
       lab [--number N] status                 what of it is on the machine
       lab [--number N] run COMMAND…           run a command with LAB, LIBVIRT_DEFAULT_URI, UPGRADECTL_INVENTORY
                                               and UPGRADECTL_STATE set for it
       lab clean                               take every lab down and remove the images

       lab [--number N] dom0 up [libvirt|xl]   a new Xen host trolls, with an empty volume group vg1
       lab dom0 images                         build its images if the cache does not have them
       lab [--number N] dom0 run COMMAND…      run a command in it, its words as they are
       lab [--number N] dom0 ssh [COMMAND]     a shell in it
       lab [--number N] dom0 guest             make, start and wait for a guest, mercure at 10.0.5.12 on vg1/mercure
       lab [--number N] dom0 product           bring $UPGRADECTL_BIN there
       lab [--number N] dom0 power-cut         switch it off as a power cut does
       lab [--number N] dom0 boot [libvirt|xl] and on again, for this toolstack (the one it had)
       lab [--number N] dom0 status            what of it is on the machine
       lab [--number N] dom0 down              take it down, leaving nothing";

fn main() -> Result<ExitCode> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut number = 0;
    if args.first().is_some_and(|arg| arg == "--number") {
        number = args.get(1).context(USAGE)?.parse().context(USAGE)?;
        args.drain(..2);
    }
    let lab = Lab::numbered(number)?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up", names @ ..] => {
            let guests = if names.is_empty() { vec![native::MERCURE] } else { guests(names)? };
            lab.up(&guests)?;
            explain(&lab, &guests);
        }
        ["jails"] => {
            lab.up(&[])?;
            jails::up(&lab, worlds::OLD)?;
            jails::declare(&lab, "upgrade = { recipe = \"freebsd-world\", src = \"/usr/src\" }\n")?;
            explain(&lab, &[jails::JAILHOST, jails::SERVER]);
        }
        ["redhat"] => {
            lab.up(&[redhat::WEB1])?;
            redhat::declare(&lab, redhat::RECIPE)?;
            explain(&lab, &[redhat::WEB1]);
        }
        ["down"] => lab.down()?,
        ["status"] => {
            let there = lab.leftovers();
            println!("{}", if there.is_empty() { "nothing of it is here".to_owned() } else { there.join("\n") });
            if integration::lab::daemon::is_up(&lab) {
                println!("{}", lab.virsh(["list", "--all"])?);
            }
        }
        ["run", program, rest @ ..] => {
            // A lab whose machines ssh has to know is in a namespace in which it does.
            let known = if lab.path("ssh").exists() { known::to(&lab) } else { Vec::new() };
            let words: Vec<&str> =
                known.iter().map(String::as_str).chain([*program]).chain(rest.iter().copied()).collect();
            let status = Command::new(words[0])
                .args(&words[1..])
                .env("LAB", lab.dir())
                .env("LIBVIRT_DEFAULT_URI", lab.uri())
                .env("UPGRADECTL_INVENTORY", lab.inventory())
                .env("UPGRADECTL_STATE", lab.state())
                .status()
                .with_context(|| format!("starting {program}"))?;
            return Ok(exit(status.code()));
        }
        ["dom0", words @ ..] => return dom0(&Dom0::numbered(number)?, words),
        ["clean"] => {
            for number in 0..integration::lab::LABS {
                Lab::numbered(number)?.down()?;
                Dom0::numbered(number)?.down()?;
            }
            integration::cache::forget_all()?;
            integration::lab::register::Register::of_this_machine().remove()?;
        }
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The emulated Xen host by hand.
fn dom0(dom0: &Dom0, words: &[&str]) -> Result<ExitCode> {
    let toolstack = |name: &str| Toolstack::named(name).context(USAGE);
    match words {
        ["up"] => dom0.up(Toolstack::Libvirt)?,
        ["up", name] => dom0.up(toolstack(name)?)?,
        ["images"] => image::built().map(drop)?,
        ["run", argv @ ..] if !argv.is_empty() => {
            let said = dom0.run(argv.iter().copied())?;
            print!("{}", said.stdout);
            eprint!("{}", said.stderr);
            return Ok(exit(Some(said.code)));
        }
        ["ssh", argv @ ..] => {
            let terminal = if argv.is_empty() { "-t" } else { "-T" };
            return Err(session::shell(dom0)?.arg(terminal).args(["root@127.0.0.1", "--"]).args(argv).exec().into());
        }
        ["guest"] => {
            dom0.vg().thick(MERCURE.name, guest::LEAST)?;
            timed("placing mercure", || dom0.place(&MERCURE, MERCURE.name))?;
            dom0.define(&MERCURE, MERCURE.name, true)?;
            timed("starting mercure", || dom0.start(MERCURE.name))?;
            timed("mercure settled", || dom0.wait_for_guest(&MERCURE))?;
        }
        ["product"] => dom0.install_product()?,
        ["power-cut"] => dom0.power_cut()?,
        ["boot"] => dom0.boot(dom0.toolstack()?)?,
        ["boot", name] => dom0.boot(toolstack(name)?)?,
        ["status"] => {
            let there = dom0.leftovers();
            println!("{}", if there.is_empty() { "nothing of it is here".to_owned() } else { there.join("\n") });
        }
        ["down"] => dom0.down()?,
        _ => bail!("{USAGE}"),
    }
    if matches!(words, ["up" | "boot", ..]) {
        println!("console    {}", dom0.path("console.log").display());
        println!("trolls     {}", session::line(dom0)?);
        println!("or         lab --number {} dom0 ssh", dom0.number());
    }
    Ok(ExitCode::SUCCESS)
}

/// A command's exit code as one's own.
fn exit(code: Option<i32>) -> ExitCode {
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn guests(names: &[&str]) -> Result<Vec<native::Guest>> {
    let known =
        |name: &&str| [native::MERCURE, native::TINY].into_iter().find(|guest| guest.name == *name).context(USAGE);
    names.iter().map(known).collect()
}

fn explain(lab: &Lab, guests: &[native::Guest]) {
    println!("inventory  {}", lab.inventory().display());
    println!("libvirt    virsh -c '{}'", lab.uri());
    for guest in guests {
        let (key, address) = (lab.key(), lab.address(guest.host));
        println!("{:<10} ssh -i {} root@{address}", guest.name, key.display());
    }
    println!("try        lab run upgradectl plan clone {}", guests[0].name);
}
