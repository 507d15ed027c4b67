//! The words of a command line, as LVM takes them.

use super::Said;

/// Options with their values, and what is no option.
pub struct Words<'a> {
    pub options: Vec<(&'a str, &'a str)>,
    pub plain: Vec<&'a str>,
}

const WITH_VALUE: [&str; 19] = [
    "--config",
    "--reportformat",
    "--units",
    "-o",
    "-c",
    "-l",
    "-L",
    "--addtag",
    "--deltag",
    "-n",
    "-k",
    "-W",
    "-Z",
    "-V",
    "-S",
    "-a",
    "--poll",
    "--setactivationskip",
    "-U",
];
const FLAGS: [&str; 11] = ["-q", "-y", "-qy", "-s", "-b", "--merge", "--refresh", "-K", "-p", "-f", "--nosuffix"];

impl<'a> Words<'a> {
    pub fn read(program: &str, argv: &'a [String]) -> Result<Self, Said> {
        let (mut options, mut plain) = (Vec::new(), Vec::new());
        let mut rest = argv.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            // `-a` means all to lvs and activation to lvchange; `-T` takes no value of its own in lvcreate.
            let bare = (program == "lvs" && word == "-a") || word == "-T" || word == "-an" || word == "-ay";
            match word {
                "--" => {
                    plain.extend(rest);
                    break;
                }
                _ if bare || FLAGS.contains(&word) => options.push((word, "")),
                _ if WITH_VALUE.contains(&word) => {
                    let value = rest.next().ok_or_else(|| Said(format!("  Option {word} needs a value."), 3))?;
                    options.push((word, value));
                }
                _ if word.starts_with('-') => {
                    return Err(Said(format!("  {program}: unrecognized option '{word}'"), 3));
                }
                _ => plain.push(word),
            }
        }
        Ok(Self { options, plain })
    }
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == option)
    }
    pub fn value(&self, option: &str) -> Option<&'a str> {
        self.options.iter().find(|(name, _)| *name == option).map(|(_, value)| *value)
    }
    pub fn values(&self, option: &str) -> Vec<String> {
        self.options.iter().filter(|(name, _)| *name == option).map(|(_, value)| (*value).to_owned()).collect()
    }
}

/// The name in a path.
pub fn lv(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// A size with its unit.
pub fn bytes(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let shift = match unit {
        "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => panic!("{text} is not a size of the recordings"),
    };
    number.parse::<u64>().map_or_else(|_| panic!("{text}"), |number| number << shift)
}
