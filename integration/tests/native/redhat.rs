//! A guest of the Red Hat family gets its new kernel, nobody's hypervisor to help: a real dnf and rpm, real reboots; the kernel and
//! VMware's tools are played.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::cli::{Said, Upgradectl};
use integration::lab::look::until;
use integration::lab::redhat::{self, NEW, OLD, RECIPE, WEB1};
use integration::lab::{Lab, Standing, guest, known};
use integration::verb::{Verb, event};

struct Trial {
    lab: Standing,
    product: Upgradectl,
}

impl Trial {
    fn new(lines: &str) -> Result<Self> {
        let lab = Lab::numbered(1)?.standing(&[WEB1])?;
        redhat::declare(&lab, lines)?;
        let product = Upgradectl::in_lab(&lab)?.under(known::to(&lab));
        Ok(Self { lab, product })
    }
    fn says(&self, line: &str, code: i32) -> Result<Said> {
        self.product.run(line.split(' '))?.expect(code)
    }
    fn on(&self, script: &str) -> Result<String> {
        self.lab.ssh(&self.lab.address(WEB1.host), ["sh", "-c", script])
    }
    /// What an exclude, a boot loader and a hook leave behind, if they do.
    fn files(&self) -> Result<String> {
        self.on(
            "cat /etc/dnf/dnf.conf /etc/yum.conf /boot/grub2/grubenv; stat -c '%n %a %U %Y' /etc/yum.conf /etc/dnf/dnf.conf; \
             ls -A --ignore=app.conf.rpmnew /etc /etc/yum.repos.d /etc/systemd/system /etc/systemd/system/multi-user.target.wants /var/lib/upgradectl 2>&1; true",
        )
    }
    fn kernel(&self) -> Result<String> {
        Ok(self.on("uname -r")?.trim().to_owned())
    }
    /// The report's own file, with what else dnf and yum are told.
    fn excludes(&self) -> Result<()> {
        let text = include_str!("../../../src/recipe/yum/tests/nifty-yum.conf").replace("gpgcheck=1", "gpgcheck=0");
        self.on(&format!("cat > /etc/yum.conf << 'END'\n{text}END\ncp /etc/yum.conf /etc/dnf/dnf.conf; touch -d 2011-07-01 /etc/yum.conf"))?;
        Ok(())
    }
}

/// By the switch that looks past excludes: the whole way, then back, then on to the end; its tools fail the first time.
#[test]
fn a_kernel_comes_goes_and_stays() -> Result<()> {
    let trial = Trial::new(RECIPE)?;
    trial.excludes()?;
    let before = trial.files()?;

    let said = trial.says("clone web1 --yes", 7)?;
    ensure!(said.stderr.contains("--accept-loss") && said.stderr.contains("backup"), "{said}");
    let said = trial.says("clone web1 --accept-loss", 6)?;
    ensure!(
        said.to_string().contains("kernel.*") && said.to_string().contains("packages of web1 as they were"),
        "{said}"
    );
    trial.says("clone web1 --accept-loss --yes", 0)?;
    ensure!(trial.files()? == before, "cloning changes nothing: {}", trial.files()?);

    trial.on("echo 1 > /root/tools-fail")?;
    let said = trial.says("upgrade web1 --yes", 0)?;
    ensure!(trial.kernel()? == NEW, "{said}");
    ensure!(trial.on("lsmod | grep -c -e vmxnet3 -e pvscsi -e vmmemctl")?.trim() == "3", "its modules are loaded");
    let boots = trial.on("grep -c . /root/boots; cat /boot/grub2/grubenv /var/lib/upgradectl/tools/log")?;
    // The first, one whose tools failed, one whose tools did not, and the one that has them.
    ensure!(boots.starts_with("4\n") && boots.contains(&format!("saved_entry=/boot/vmlinuz-{OLD}")), "{boots}");
    ensure!(
        trial.on("cat /usr/lib/lab-base/version; cat /etc/app.conf; ls /etc/app.conf*")?.contains("app.conf.rpmnew")
    );
    ensure!(trial.on("cat /etc/dnf/dnf.conf")?.contains("\nexclude=kernel.*\n"), "the exclude was never off");

    let said = trial.says("conffiles list web1", 0)?;
    ensure!(said.stdout.contains("/etc/app.conf") && said.stdout.contains("kept      app"), "{said}");

    trial.says("verify web1", 0)?;
    let said = trial.says("promote web1", 9)?;
    ensure!(said.stderr.contains("the guest itself is upgraded"), "{said}");

    let said = trial.says("abort web1 --yes", 0)?;
    ensure!(trial.kernel()? == OLD, "{said}");
    ensure!(trial.files()? == before, "every file is as it was:\n{}\nbefore:\n{before}", trial.files()?);
    ensure!(said.stdout.contains("history undo") || said.stderr.contains("history undo"), "what stays is told: {said}");

    // Its new kernel is installed, and was not booted yet.
    trial.says("clone web1 --accept-loss --yes", 0)?;
    trial.says("upgrade web1 --yes", 0)?;
    trial.says("verify web1", 0)?;
    trial.says("commit web1 --yes", 0)?;
    ensure!(trial.on("grubby --default-kernel")?.trim() == format!("/boot/vmlinuz-{NEW}"));
    ensure!(!trial.on("ls -A /var/lib")?.contains("upgradectl"), "nothing of it stays");
    Ok(())
}

/// By the file, where yum is too old: killed for good between exclude off and exclude on, and cut off from power there.
#[test]
fn an_exclude_comes_back_for_certain() -> Result<()> {
    let trial = Trial::new(RECIPE)?;
    trial.excludes()?;
    redhat::age(&trial.lab)?;
    let conf = || trial.on("sha256sum /etc/yum.conf; stat -c '%a %U %Y' /etc/yum.conf; ls /etc | grep yum.conf");
    let before = conf()?;
    trial.says("clone web1 --accept-loss --yes", 0)?;
    // A kernel's transaction that takes its time.
    trial.on("printf '#!/bin/sh\\ncase $* in *update*kernel*) sleep 15;; esac\\nexec /usr/local/lib/lab/yum \"$@\"\\n' > /usr/local/bin/yum")?;

    for power_cut in [false, true] {
        let mut verb =
            Verb::begin("upgrade web1 --yes", &mut trial.product.command(["upgrade", "web1", "--yes", "--json"]))?;
        verb.until(event("step_finished", "yum.exclude", "comment line 12 of /etc/yum.conf out"))?;
        ensure!(trial.on("sed -n 12p /etc/yum.conf")?.trim() == "#exclude=kernel.*");
        verb.kill()?;
        if power_cut {
            trial.lab.virsh(["destroy", WEB1.name])?;
            guest::start(&trial.lab, WEB1.name)?;
            let address = trial.lab.address(WEB1.host);
            guest::wait_for_ssh(&trial.lab, &address, Duration::from_secs(90))?;
            guest::wait_settled(&trial.lab, &address, Duration::from_secs(90))?;
        }
        // What the guest would do by itself in a quarter of an hour, at once.
        let tick = trial.on("ls -d /var/lib/upgradectl/leased/*/tick")?;
        trial.on(&format!("sh {} now", tick.trim()))?;
        ensure!(conf()? == before, "{}", conf()?);
    }

    let said = trial.says("resume web1", 0)?;
    ensure!(trial.kernel()? == NEW, "{said}");
    ensure!(conf()? == before, "{}", conf()?);
    trial.says("abort web1 --yes", 0)?;
    ensure!(trial.kernel()? == OLD && conf()? == before, "{}", conf()?);
    Ok(())
}

/// A new kernel whose tools cannot be built at all: the old one comes up by itself, with the network that the new one has not.
#[test]
fn tools_that_cannot_be_applied_lead_back_to_the_old_kernel() -> Result<()> {
    let trial = Trial::new(RECIPE)?;
    trial.on("echo 99 > /root/tools-fail")?;
    trial.says("clone web1 --accept-loss --yes", 0)?;
    let said = trial.says("upgrade web1 --yes", 8)?;
    ensure!(said.stderr.contains("could not be applied, 3 times") && said.stderr.contains("no headers"), "{said}");
    until(Duration::from_secs(60), || {
        let kernel = trial.kernel()?;
        ensure!(kernel == OLD, "{kernel} runs");
        Ok(())
    })?;
    // Mended, it goes on.
    trial.on("rm /root/tools-fail")?;
    trial.says("upgrade web1 --yes", 0)?;
    ensure!(trial.kernel()? == NEW);
    trial.says("verify web1", 0)?;
    let boots: u32 = trial.on("grep -c . /root/boots")?.trim().parse().context("a number of boots")?;
    ensure!(boots >= 6, "{boots} boots");
    Ok(())
}
