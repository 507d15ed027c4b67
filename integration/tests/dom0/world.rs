//! The simulated platform on real volumes of trolls: the seeded guest `mercure` on logical volumes, thick or thin. It does not
//! boot; that its volumes are used is real, and all that LVM does. What is the same for both platforms is in [`integration::walk`].

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use hypervisors::sim;
use hypervisors::storage::Copies;
use integration::cli::Said;
use integration::command::run;
use integration::dom0::{Dom0, Toolstack, ring};
use integration::walk::{Stage, ending};
use serde_json::Value;

/// Where the world lies in trolls.
pub const DIR: &str = "/var/lib/sim";

/// Bytes of each file that a guest writes: many chunks of a snapshot.
const FILE_BYTES: u32 = 300_000;

/// Size of the root volume, in bytes.
const ROOT_BYTES: u64 = 448 << 20;
const TABLE: &str = "label: gpt\nsize=404MiB, name=\"/\"\nsize=40MiB, name=\"/home\"\n";

const INVENTORY: &str = r#"version = 1
[hosts]
trolls = { hypervisor = "sim", state = "/var/lib/sim" }
[guests.mercure]
host = "trolls"
disks = { "/srv/mail" = "detach", xvda2 = "swap" }
upgrade = { recipe = "debian", to = "trixie" }
checks = [{ kind = "imap" }, { kind = "http" }, { kind = "smtp", rcpt = "probe@mercure" }]
"#;

/// Fills the volumes with what was seeded, and lets the guest have them as hypervisors/src/sim/lvm.rs describes. $1: `thick`
/// or `thin`. $2: `divided` gives the root volume the partitions of /share/table, which has its size.
const FILL: &str = r#"
# At once, and after a power cut.
modprobe loop
echo loop > /etc/modules-load.d/loop.conf
mkdir -p /var/lib/sim
tar -xpf /share/world.tar -C /var/lib/sim
cd /var/lib/sim/volumes
rm -f *.json
[ "$1" = thick ] || lvcreate -q -y --type thin-pool -L 1g -n pool vg1
make() {
    if [ "$2" = thick ]; then
        lvcreate -q -y -W y -L "$3" -n "$1" vg1
    else
        lvcreate -q -y -V "$3" --thinpool pool -n "$1" vg1
    fi
}
plug() {
    ln -s "$(losetup --find --show --direct-io=on --partscan "/dev/vg1/$1")" "$1.device"
}
make mercure "$1" 448m
make mercure-mail "$1" 32m
make mercure-swap "$1" 16m
rmdir mercure-swap
mkswap -q -L swap /dev/vg1/mercure-swap
plug mercure-swap
if [ "$2" = divided ]; then
    dd if=/share/table of=/dev/vg1/mercure bs=1M count=1 status=none
    dd if=/share/table of=/dev/vg1/mercure bs=1M skip=447 seek=447 status=none
    echo 'PARTLABEL=/home /home ext4 defaults 0 2' >> mercure/etc/fstab
fi
for volume in mercure mercure-mail; do
    mv "$volume" seeded
    mkdir "$volume"
    plug "$volume"
    device=$(readlink "$volume.device")
    if [ -e "${device}p1" ]; then
        mkfs.ext4 -q "${device}p1"
        mkfs.ext4 -q "${device}p2"
        mount "${device}p1" "$volume"
        mkdir "$volume/home"
        mount "${device}p2" "$volume/home"
    else
        mkfs.ext4 -q "$device"
        mount "$device" "$volume"
    fi
    cp -a seeded/. "$volume"
    rm -r seeded
done
sync
"#;

/// What [`World::around`] looks at. $1: root of production.
const LOOK: &str = r#"
cd /var/lib/sim
echo "volumes $(lvs --noheadings --separator ' ' -o lv_name,lv_tags,origin vg1 | sort | grep -v -e '--' | tr '\n' ';')"
echo "loops $(losetup --noheadings --list | wc -l)"
echo "mounts $(findmnt --noheadings --list --output TARGET | grep -c -e ^/var/lib/sim -e ^/proc/.*/fd)"
for file in definitions/*; do echo "$file $(sha256sum < "$file")"; done
cd "$1"
echo "release $(tr '\n' ' ' < etc/os-release)"
find . -xdev ! -name 'root-*' ! -path './var/lib/upgradectl*' ! -path ./.jobs.json ! -path . ! -path ./lost+found \
    -printf 'file%p %M %U:%G %l\n'
find . -xdev -type f ! -name 'root-*' ! -path './var/lib/upgradectl*' ! -path ./.jobs.json -printf '%p %T@\n' | sed 's/^/time/'
find . -xdev -type f ! -name 'root-*' ! -path './var/lib/upgradectl*' ! -path ./.jobs.json -print0 | xargs -0 sha256sum |
    sed 's/\([^ ]*\)  \(.*\)/sum\2 \1/'
"#;

/// A world on trolls.
pub struct World {
    pub dom0: Dom0,
}

/// A disk of so many bytes with this partition table, a script of sfdisk(8), at /share/table: trolls cannot make one.
///
/// # Errors
/// sfdisk refuses.
pub fn share_table(dom0: &Dom0, bytes: u64, table: &str) -> Result<()> {
    let file = dom0.share("table");
    std::fs::File::create(&file)?.set_len(bytes)?;
    run("sfdisk").arg("--quiet").arg(&file).input(table.as_bytes().to_vec()).output().map(drop)
}

impl World {
    /// The seeded world on volumes of this kind; `clone`: more of the guest's clone table.
    ///
    /// # Errors
    /// trolls does not stand, or the world cannot be made.
    pub fn new(thick: bool, clone: &str, more: &str) -> Result<Self> {
        Self::made(thick, false, clone, more)
    }

    /// The same; the guest's root volume is a disk with partitions, / and /home.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn divided(thick: bool, more: &str) -> Result<Self> {
        Self::made(thick, true, "", more)
    }

    fn made(thick: bool, divided: bool, clone: &str, more: &str) -> Result<Self> {
        let dom0 = ring::standing(Toolstack::Libvirt)?;
        let copies = if thick { Copies::Dependents } else { Copies::Peers };
        let dir = tempfile::tempdir()?;
        let world = sim::seed_with(&dir.path().join("world"), copies)?;
        world.configure(|config| config.volume_group = Some("vg1".into()))?;
        run("tar").arg("-C").arg(world.dir()).args(["-cpf"]).arg(dom0.share("world.tar")).arg(".").output()?;
        if divided {
            share_table(&dom0, ROOT_BYTES, TABLE)?;
        }
        let (kind, layout) = (if thick { "thick" } else { "thin" }, if divided { "divided" } else { "whole" });
        dom0.output(["sh", "-euc", FILL, "sh", kind, layout])?;
        let inventory = format!("{INVENTORY}clone = {{ ip = [\".16\"]{clone} }}\n{more}");
        dom0.upload("/etc/upgradectl/inventory.toml", inventory)?;
        dom0.install_product()?;
        Ok(Self { dom0 })
    }

    /// The same with a strategy.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn by(strategy: &str, thick: bool) -> Result<Self> {
        Self::new(thick, &format!(", strategy = \"{strategy}\""), "")
    }

    fn json(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.dom0.output(["cat", &format!("{DIR}/{path}")])?).with_context(|| path.to_owned())
    }

    /// Where a running guest's root is mounted: by the definition that it runs by, whatever its volume is called now.
    ///
    /// # Errors
    /// It does not run.
    pub fn root_of(&self, guest: &str) -> Result<String> {
        let power = self.json(&format!("power/{guest}.json"))?;
        let live: Value = serde_json::from_str(power["live"].as_str().context("a running guest")?)?;
        let root = live["disks"].as_array().and_then(|disks| disks.iter().find(|disk| disk["name"] == "/"));
        let volume = root.and_then(|root| root["volume"].as_str()).context("a root disk")?;
        Ok(format!("{DIR}/volumes/{volume}"))
    }

    /// Ends a guest as the sim's `destroy` does, behind the product's back: its disks go while it writes.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self, guest: &str) -> Result<()> {
        let root = self.root_of(guest)?;
        let power = self.json(&format!("power/{guest}.json"))?;
        let live: Value = serde_json::from_str(power["live"].as_str().context("a running guest")?)?;
        let disks = live["disks"].as_array().into_iter().flatten().filter_map(|disk| disk["volume"].as_str());
        let disks: Vec<&str> = disks.collect();
        // -f: the journal is written, and nothing more.
        self.dom0.sh(&format!(
            "cd {DIR}/volumes
             for part in {root}/home {root}; do
                 ! mountpoint -q $part || xfs_io -x -c 'shutdown -f' $part
             done
             for volume in {}; do
                 [ ! -d $volume ] || umount --recursive $volume
                 losetup --detach $(readlink $volume.device)
                 rm $volume.device
             done",
            disks.join(" ")
        ))?;
        let off = serde_json::json!({ "autostart": power["autostart"], "boots": power["boots"], "power": "off" });
        self.dom0.upload(&format!("{DIR}/power/{guest}.json"), off.to_string())
    }

    /// Whether a volume's file system has a journal to be replayed.
    ///
    /// # Errors
    /// It is none.
    pub fn needs_recovery(&self, volume: &str) -> Result<bool> {
        Ok(self.dom0.output(["dumpe2fs", "-h", &format!("/dev/vg1/{volume}")])?.contains("needs_recovery"))
    }

    /// Runs a script in the directory of a running guest's root.
    ///
    /// # Errors
    /// It failed.
    pub fn inside(&self, guest: &str, script: &str) -> Result<String> {
        let root = self.root_of(guest)?;
        self.dom0.sh(&format!("cd {root}; {script}"))
    }
}

/// The steps of a verb that took the most time, longest first.
fn slowest(said: &Said) -> Vec<String> {
    let steps = said.events().unwrap_or_default().into_iter().filter(|event| event["event"] == "step_finished");
    let mut steps: Vec<(f64, String)> = steps
        .filter_map(|event| Some((event["elapsed_s"].as_f64()?, event["step"]["title"].as_str()?.to_owned())))
        .collect();
    steps.sort_by(|one, other| other.0.total_cmp(&one.0));
    steps.into_iter().take(4).map(|(took, title)| format!("{took:6.1} s  {title}")).collect()
}

impl Stage for World {
    fn ctl(&self, args: &[&str]) -> Result<Said> {
        let begun = Instant::now();
        let said = self.dom0.upgradectl(args.iter().copied())?;
        // Longer than the verb itself took, by what ssh and a start of the program take in trolls.
        let took = begun.elapsed().as_secs_f64();
        let down = ending(&said).ok().and_then(|ending| ending["outage_s"].as_f64());
        let down = down.map(|down| format!(", production down {down:.1} s")).unwrap_or_default();
        eprintln!("{took:6.1} s  {}{down}", said.line);
        for step in slowest(&said) {
            eprintln!("          {step}");
        }
        Ok(said)
    }
    fn write(&self, guest: &str, name: &str) -> Result<()> {
        self.inside(
            guest,
            &format!("yes {name} 2> /dev/null | head -c {FILE_BYTES} | tee root-{name} > root-last; sync -f ."),
        )
        .map(drop)
    }
    fn read(&self, guest: &str) -> Result<Vec<String>> {
        let found = self.inside(
            guest,
            &format!(
                "for file in root-*; do
                     [ -e $file ] || continue
                     name=${{file#root-}} word=$(head -n 1 $file)
                     [ $name != last ] || echo last=$word
                     if [ $name = last ] || [ $name = $word ]; then
                         if yes $word 2> /dev/null | head -c {FILE_BYTES} | cmp -s - $file; then
                             [ $name = last ] || echo $name
                             continue
                         fi
                     fi
                     echo !$name
                 done"
            ),
        )?;
        let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
        found.sort();
        Ok(found)
    }
    fn volumes(&self) -> Result<Vec<String>> {
        let listed = self.dom0.output([
            "lvs",
            "--all",
            "--noheadings",
            "--separator",
            " ",
            "--options",
            "lv_name,lv_tags",
            "--select",
            "lv_name!=pool && lv_role!=private",
            "vg1",
        ])?;
        let mut volumes: Vec<String> = listed.lines().map(|line| line.trim().to_owned()).collect();
        volumes.sort();
        Ok(volumes)
    }
    fn definition(&self, guest: &str) -> Result<String> {
        self.dom0.output(["cat", &format!("{DIR}/definitions/{guest}.json")])
    }
    fn around(&self) -> Result<BTreeMap<String, String>> {
        let text = self.dom0.output(["sh", "-euc", LOOK, "sh", &self.root_of("mercure")?])?;
        let mut around: BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once(' ').unwrap_or((line, "")))
            .map(|(name, what)| (name.into(), what.into()))
            .collect();
        let power = self.json("power/mercure.json")?;
        for key in ["power", "autostart", "nics", "units"] {
            around.insert(key.into(), power[key].to_string());
        }
        ensure!(around.len() > 100, "{text}");
        Ok(around)
    }
}
