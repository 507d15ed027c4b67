//! A real dom0 behind ssh: trolls holds the volumes, and drives as another host the one that defines and runs the guests,
//! which is itself at 10.0.5.1. Its commands, and libvirt's connection, go through its sshd.

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::tale::{CLONE, Tale, Thickness};
use integration::dom0::{Dom0, Toolstack, ring};

/// trolls by an address of its own.
const FAR: &str = "10.0.5.1";

/// mercure runs there, and so does its clone.
const KEYS: &str = "runs_on = \"far\"
kernel = \"host\"
upgrade = { recipe = \"script\", run = [\"touch\", \"/etc/upgraded\"] }
clone = { ip = [\".16\"] }";

/// The host key is not known yet: nothing is touched. Then it is, and nobody has to be asked.
fn known(tale: &Tale<'_>) -> Result<()> {
    let (dom0, definition) = (tale.dom0, tale.definition()?);
    let said = dom0.upgradectl(["clone", MERCURE.name])?.expect(7)?;
    ensure!(said.stderr.to_lowercase().contains("host key"), "{said}");
    ensure!(tale.definition()? == definition && dom0.domains()?.keys().eq([MERCURE.name]), "{:?}", dom0.domains()?);
    dom0.sh(&format!("sed 's/^/{FAR} /' /etc/ssh/ssh_host_*_key.pub > /root/.ssh/known_hosts")).map(drop)
}

/// Whatever the test did, the next one finds a trolls that knows no hosts.
struct Forgotten<'a>(&'a Dom0);

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        let _ = self.0.output(["rm", "-f", "/root/.ssh/known_hosts"]);
    }
}

/// How often somebody logged in from trolls itself since its boot.
fn logins(dom0: &Dom0) -> Result<u32> {
    let count =
        format!("journalctl --quiet --boot --identifier sshd | grep -c 'Accepted publickey .* from {FAR} ' || :");
    Ok(dom0.sh(&count)?.parse()?)
}

#[test]
fn a_guest_of_a_libvirt_behind_ssh_goes_the_whole_way() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let _forgotten = Forgotten(&dom0);
    let tale = Tale::begin(&dom0, Toolstack::Libvirt, Thickness::Thin, LEAST)?;
    tale.start()?;
    let far = format!("far = {{ hypervisor = \"libvirt\", uri = \"xen+ssh://root@{FAR}/system\" }}");
    tale.inventory_of("hypervisor = \"libvirt\", uri = \"xen:///system\"", &far, KEYS)?;
    known(&tale)?;
    let (original, definition, before) = (MERCURE.address(), tale.definition()?, logins(&dom0)?);

    tale.writes(&original, "before")?;
    let said = tale.verb("clone", &[])?;
    ensure!(said.stdout.contains("on far") && said.stderr.contains(", frozen: created"), "{said}");
    // The commands' connection, and libvirt's own.
    ensure!(logins(&dom0)? >= before + 2, "{} logins, {before} before it", logins(&dom0)?);
    tale.writes(&original, "production")?;
    tale.writes(CLONE, "clone")?;
    ensure!(tale.reads(CLONE)? == "before clone", "{}", tale.reads(CLONE)?);
    for (verb, more) in [("upgrade", None), ("verify", None), ("promote", Some("--yes"))] {
        tale.verb(verb, more.as_slice())?;
    }
    tale.production_has("before clone")?;
    dom0.in_guest(&original, ["test", "-e", "/etc/upgraded"])?.expect(0)?;
    tale.writes(&original, "promoted")?;
    ensure!(tale.autostart()? == "mercure", "{}", tale.autostart()?);

    tale.verb("rollback", &["--yes"])?;
    tale.production_has("before production")?;
    ensure!(tale.definition()? == definition, "{}", tale.definition()?);
    ensure!(tale.reads(CLONE)? == "before clone promoted", "{}", tale.reads(CLONE)?);
    tale.verb("abort", &["--yes"])?;
    tale.production_has("before production")?;
    ensure!(tale.definition()? == definition && tale.autostart()? == "mercure", "{}", tale.definition()?);
    tale.volumes_are("[lvol0_pmspare] mercure pool [pool_tdata] [pool_tmeta]")?;
    ensure!(dom0.domains()?.keys().eq([MERCURE.name]), "{:?}", dom0.domains()?);
    Ok(())
}

#[test]
fn a_guest_of_an_xl_behind_ssh_is_cloned_and_given_up() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Xl)?;
    let _forgotten = Forgotten(&dom0);
    let tale = Tale::begin(&dom0, Toolstack::Xl, Thickness::Thick, LEAST)?;
    tale.start()?;
    let far = format!("far = {{ hypervisor = \"xl\", ssh = {{ address = \"{FAR}\" }} }}");
    tale.inventory_of("hypervisor = \"xl\"", &far, KEYS)?;
    known(&tale)?;
    let (original, definition, before) = (MERCURE.address(), tale.definition()?, logins(&dom0)?);

    tale.writes(&original, "before")?;
    let said = tale.verb("clone", &[])?;
    ensure!(said.stdout.contains("on far") && said.stderr.contains(", frozen: created"), "{said}");
    ensure!(logins(&dom0)? > before, "{} logins, {before} before it", logins(&dom0)?);
    tale.writes(&original, "production")?;
    ensure!(tale.reads(CLONE)? == "before", "{}", tale.reads(CLONE)?);
    ensure!(dom0.sh("ls /etc/xen/mercure--*.cfg | wc -l")? == "1", "its definition is a file of xl's");
    ensure!(dom0.domains()?.len() == 2, "{:?}", dom0.domains()?);
    tale.verb("abort", &["--yes"])?;
    tale.production_has("before production")?;
    ensure!(tale.definition()? == definition && tale.autostart()? == "mercure.cfg", "{}", tale.autostart()?);
    ensure!(dom0.sh("ls /etc/xen/*.cfg")? == "/etc/xen/mercure.cfg", "a definition is left");
    tale.volumes_are("mercure")?;
    ensure!(dom0.domains()?.keys().eq([MERCURE.name]), "{:?}", dom0.domains()?);
    Ok(())
}
