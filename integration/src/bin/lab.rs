//! `lab up|down|status|run|clean`: the native lab by hand.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use integration::lab::Lab;
use integration::lab::guest::{Guest, MERCURE, TINY};

const USAGE: &str = "usage: lab [--number N] up [mercure] [tiny]   build lab N (0) with these guests (mercure)
       lab [--number N] down                   take it down, leaving nothing
       lab [--number N] status                 what of it is on the machine
       lab [--number N] run COMMAND…           run a command with LAB, LIBVIRT_DEFAULT_URI, UPGRADECTL_INVENTORY
                                               and UPGRADECTL_STATE set for it
       lab clean                               take every lab down and remove the images";

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
            let guests = if names.is_empty() { vec![MERCURE] } else { guests(names)? };
            lab.up(&guests)?;
            explain(&lab, &guests);
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
            let status = Command::new(program)
                .args(rest)
                .env("LAB", lab.dir())
                .env("LIBVIRT_DEFAULT_URI", lab.uri())
                .env("UPGRADECTL_INVENTORY", lab.inventory())
                .env("UPGRADECTL_STATE", lab.state())
                .status()
                .with_context(|| format!("starting {program}"))?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }
        ["clean"] => {
            for number in 0..integration::lab::LABS {
                Lab::numbered(number)?.down()?;
            }
            integration::lab::image::forget_all()?;
            integration::lab::register::Register::of_this_machine().remove()?;
        }
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn guests(names: &[&str]) -> Result<Vec<Guest>> {
    let known = |name: &&str| [MERCURE, TINY].into_iter().find(|guest| guest.name == *name).context(USAGE);
    names.iter().map(known).collect()
}

fn explain(lab: &Lab, guests: &[Guest]) {
    println!("inventory  {}", lab.inventory().display());
    println!("libvirt    virsh -c '{}'", lab.uri());
    for guest in guests {
        let (key, address) = (lab.key(), lab.address(guest.host));
        println!("{:<10} ssh -i {} root@{address}", guest.name, key.display());
    }
    println!("try        lab run upgradectl plan clone {}", guests[0].name);
}
