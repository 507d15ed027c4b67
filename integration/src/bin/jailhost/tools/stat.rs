//! `stat -f FORMAT FILE …` with the fields `%N %Y %HT %T %z %u %g %Su %Sg %p %Lp %Sp %f %Sf %i %l %m %c %d`, and `-n`, `-L`. GNU's `-c` is
//! GNU's business.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;

use super::{chflags, ls};
use crate::host::Host;
use crate::say;

const USAGE: &str = "usage: stat [-FLnq] [-f format | -l | -r | -s | -x] [-t timefmt] [file|handle ...]\n";

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut rest = arguments.iter();
    let (mut format, mut follow, mut end, mut quiet) = (None, false, "\n", false);
    let mut files = Vec::new();
    while let Some(argument) = rest.next() {
        let letters = argument.strip_prefix('-').filter(|letters| !letters.is_empty() && files.is_empty());
        let Some(letters) = letters else {
            files.push(argument);
            continue;
        };
        if letters.starts_with(['c', '-']) {
            return say::wrong(&say::reason(&std::process::Command::new("/usr/bin/stat").args(arguments).exec()));
        }
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'L' => follow = true,
                'n' => end = "",
                'q' => quiet = true,
                'f' => {
                    let own: String = letters.by_ref().collect();
                    format = if own.is_empty() { rest.next().cloned() } else { Some(own) };
                }
                'F' | 'l' | 'r' | 's' | 'x' | 't' | 'h' | 'H' => return say::not_played(&format!("-{letter}")),
                letter => return say::illegal(letter, USAGE),
            }
        }
    }
    let Some(format) = format else { return say::not_played("stat without -f") };
    let mut status = 0;
    for file in files {
        let at = host.path(file);
        let of = if follow { at.metadata() } else { at.symlink_metadata() };
        match of {
            Ok(of) => match filled(&format, file, &at, &of) {
                Ok(text) => say::out(&format!("{text}{end}")),
                Err(field) => return say::not_played(&format!("%{field}")),
            },
            Err(wrong) => {
                if !quiet {
                    say::err(&format!("stat: {file}: stat: {}\n", say::reason(&wrong)));
                }
                status = 1;
            }
        }
    }
    status
}

fn filled(format: &str, name: &str, at: &std::path::Path, of: &std::fs::Metadata) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let mut field: String = rest.next().map(String::from).unwrap_or_default();
        if ["H", "L", "M", "S", "O", "D", "U", "X"].contains(&field.as_str()) {
            field.extend(rest.next());
        }
        text += &match field.as_str() {
            "%" => "%".to_owned(),
            "n" => "\n".to_owned(),
            "t" => "\t".to_owned(),
            "N" => name.to_owned(),
            "Y" | "SY" => std::fs::read_link(at).map(|to| to.display().to_string()).unwrap_or_default(),
            "HT" => kind(of).0.to_owned(),
            "T" => kind(of).1.to_owned(),
            "z" => of.len().to_string(),
            "u" => of.uid().to_string(),
            "g" => of.gid().to_string(),
            "Su" => ls::user(of.uid()),
            "Sg" => ls::group(of.gid()),
            "p" | "Op" => format!("{:o}", of.mode()),
            "Lp" => format!("{:o}", of.mode() & 0o7777),
            "Sp" => ls::mode(of),
            "f" | "Of" => bits(&chflags::flags(at)).to_string(),
            "Sf" => match chflags::flags(at).join(",") {
                flags if flags.is_empty() => "-".to_owned(),
                flags => flags,
            },
            "i" => of.ino().to_string(),
            "l" => of.nlink().to_string(),
            "b" => of.blocks().to_string(),
            "m" => of.mtime().to_string(),
            "c" => of.ctime().to_string(),
            "a" => of.atime().to_string(),
            "d" => of.dev().to_string(),
            "r" => of.rdev().to_string(),
            _ => return Err(field),
        };
    }
    Ok(text)
}

/// In words, and as `ls -F` marks it.
fn kind(of: &std::fs::Metadata) -> (&'static str, &'static str) {
    let kind = of.file_type();
    match () {
        () if kind.is_dir() => ("Directory", "/"),
        () if kind.is_symlink() => ("Symbolic Link", "@"),
        () if kind.is_fifo() => ("Fifo File", "|"),
        () if kind.is_socket() => ("Socket", "="),
        () if kind.is_block_device() => ("Block Device", ""),
        () if kind.is_char_device() => ("Character Device", ""),
        () => ("Regular File", ""),
    }
}

/// `st_flags`, of `sys/stat.h`.
fn bits(flags: &[String]) -> u32 {
    let known = [
        ("nodump", 1),
        ("uchg", 2),
        ("uappnd", 4),
        ("opaque", 8),
        ("uunlnk", 16),
        ("uarch", 0x800),
        ("arch", 0x1_0000),
        ("schg", 0x2_0000),
        ("sappnd", 0x4_0000),
        ("sunlnk", 0x10_0000),
        ("snapshot", 0x20_0000),
    ];
    known.iter().filter(|(name, _)| flags.iter().any(|flag| flag == name)).map(|(_, bit)| bit).sum()
}
